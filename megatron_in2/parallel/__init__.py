"""Processes, groups, devices and seeds. Only this package touches Megatron-Core's global state."""
