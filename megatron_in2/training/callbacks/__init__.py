"""What acts beside the steps: reports, validation, checkpoints, signals, traces."""
