"""Checks the nodes of a job before anything costly starts. Does not use Megatron-Core."""
