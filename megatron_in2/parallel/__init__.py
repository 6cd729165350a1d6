"""The only rooms that touch Megatron-Core's global state: processes, groups, device, seeds."""
