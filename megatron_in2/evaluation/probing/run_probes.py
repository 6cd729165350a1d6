"""The probes that a training run answers while it trains."""

from pathlib import Path

import numpy as np

from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line
from megatron_in2.evaluation.probing.encoding import ProbeEncoder
from megatron_in2.evaluation.probing.score import (
    answer_of_label,
    position_of_label,
    task_of_label,
    units_of_labels,
)
from megatron_in2.evaluation.probing.tasks import find_task
from megatron_in2.files import read_json_lines
from megatron_in2.training.checks.preflight import RunInputs
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.generation.probe_set import AskedProbe, ProbeSet


def read_probe_set(config: TrainConfig, inputs: RunInputs) -> ProbeSet | None:
    """Read the probes of ``logging.probe``, encoded with the template of the training data.

    Returns:
        The probes; None where the run has none.

    Raises:
        InputError: the file is none of probes, a probe is longer than a row, or it is written with
            another template than the training data.
    """
    if not config.logging.probe:
        return None
    path = Path(config.logging.probe)
    lines = list(read_json_lines(path))
    if not lines:
        raise InputError(f"logging.probe={path} holds no probes")
    for where, record in lines:
        if not isinstance(record.get("prompt"), str):
            raise InputError(f"{where}: field 'prompt' is missing or not text")
    template = inputs.datasets[0].manifest.template_object()
    encoder = ProbeEncoder(inputs.tokenizer, template, config.data.tokenizer_model)
    units = units_of_labels(lines)
    tasks = [find_task(task_of_label(line, None)) for line in lines]
    answers = [answer_of_label(line) for line in lines]
    return ProbeSet(
        probes=[_asked(line, encoder, config, units) for line in lines],
        end_id=encoder.end_id,
        pad_id=inputs.datasets[0].manifest.pad_id,
        text_of=inputs.tokenizer.decode,
        score=lambda place, text: tasks[place].is_right(answers[place], text),
    )


def _asked(line: Line, encoder: ProbeEncoder, config: TrainConfig, units: int) -> AskedProbe:
    where, record = line
    prompt, answer = encoder.ids(line)
    multiple = config.parallel.sample_multiple
    needed = -(-(len(prompt) + config.logging.probe_new_tokens) // multiple) * multiple
    if needed > config.data.seq_length:
        raise InputError(
            f"{where}: prompt and answer take {needed} tokens, data.seq_length="
            f"{config.data.seq_length}: build shorter probes, or lower logging.probe_new_tokens"
        )
    place = position_of_label(line) / record.get("units", units)
    return AskedProbe(np.array(prompt, np.int64), answer, place)
