"""FLOPs, memory, disk and time of a run, from its configuration alone."""
