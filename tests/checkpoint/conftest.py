"""Saving is tested on the trainer's tiny run."""

from tests.training.conftest import (  # noqa: F401 - fixtures
    base_config,
    dataset,
    train,
    write_config,
)
