"""Everything around the steps: reports, validation, checkpoints, signals, traces."""
