"""The model card of an export: where the weights come from, and how they were trained."""

from pathlib import Path
from typing import Any

import yaml

from megatron_in2.architectures.registry import architecture_of
from megatron_in2.checkpoint.folder import DATASET, STATE, read_config, read_model_config
from megatron_in2.files import read_json


def model_card(step: Path) -> str:
    """Return the text of ``README.md``, with Hugging Face's header, for an exported step."""
    family = architecture_of(read_model_config(step)).title
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---",
        f"# Exported from {step.name}",
        f"A {family} model from megatron_in2 (IN2: information-intensive training, "
        "arXiv 2404.16811). `apply_chat_template` of the tokenizer beside it gives the token ids "
        "that training gave; text is `[INST] ... [/INST]` after the begin-of-sequence.",
    ]
    if (step / STATE).is_file():
        parts += ["## State of the run", _block(read_json(step / STATE))]
    parts += ["## Configuration of the run", _block(read_config(step))]
    if (step / DATASET).is_file():
        parts += ["## Manifest of the training rows", _block(read_json(step / DATASET))]
    return "\n\n".join(parts) + "\n"


def _block(value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return f"```yaml\n{text}```"
