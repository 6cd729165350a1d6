"""The sharded checkpoint store of a training run."""
