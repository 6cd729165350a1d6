"""The metrics file on a disk that is full."""

import resource
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.training.callbacks.metrics_log import MetricsLog
from megatron_in2.training.config import CheckpointConfig, LoggingConfig, TrainConfig
from tests.training.conftest import read_metrics


def test_a_metrics_file_that_cannot_grow_is_named_and_keeps_its_lines(tmp_path: Path) -> None:
    config = TrainConfig(
        checkpoint=CheckpointConfig(dir=str(tmp_path)), logging=LoggingConfig(tensorboard=False)
    )
    log = MetricsLog(config, resumed_step=0)
    log.write(1, loss=2.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(InputError, match=r"metrics\.jsonl could not be written: "):
            log.write(2, loss=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.close()
    MetricsLog(config, resumed_step=1).close()  # a resumed run drops what is half-written
    assert sorted(read_metrics(tmp_path)) == [1]
