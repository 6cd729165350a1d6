"""The model card of an export: where the weights come from, and how they were trained."""

from pathlib import Path
from typing import Any

import yaml

from megatron_in2.architectures.registry import architecture_of
from megatron_in2.checkpoint.folder import STATE, read_config, read_datasets, read_model_config
from megatron_in2.files import read_json
from megatron_in2.templates.base import InstructionTemplate
from megatron_in2.templates.chat_template import chat_template_problem
from megatron_in2.templates.load import TEMPLATE_FILE
from megatron_in2.tokenizers.base import Tokenizer


def model_card(step: Path, template: InstructionTemplate | None, tokenizer: Tokenizer) -> str:
    """Return the text of ``README.md``, with Hugging Face's header, for an exported step.

    Args:
        step: the complete step.
        template: what it was trained with; None for one that was not trained.
        tokenizer: the step's.
    """
    family = architecture_of(read_model_config(step)).title
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---",
        f"# Exported from {step.name}",
        f"A {family} model from megatron_in2 (IN2: information-intensive training, "
        "arXiv 2404.16811).",
        "## Prompts",
        *_prompts(template, tokenizer),
    ]
    if (step / STATE).is_file():
        parts += ["## State of the run", _block(read_json(step / STATE))]
    parts += ["## Configuration of the run", _block(read_config(step))]
    for number, dataset in enumerate(datasets := read_datasets(step), start=1):
        place = f" {number} of {len(datasets)}" if len(datasets) > 1 else ""
        parts += [f"## Dataset{place}: {dataset['prefix']}, weight {dataset['weight']:g}"]
        parts += [_block(dataset["manifest"])]
    return "\n\n".join(parts) + "\n"


def _prompts(template: InstructionTemplate | None, tokenizer: Tokenizer) -> list[str]:
    """Say how this model is prompted, and what the chat template gives."""
    if template is None:
        return [
            "The weights were not trained by megatron_in2. The exported chat template is FILM's; "
            "use the one that the base was published with."
        ]
    begin, end = tokenizer.piece(tokenizer.bos_id), tokenizer.piece(tokenizer.eos_id)
    turn = f"{begin}{template.turn('...')} ...{template.answer_end}{end}"
    parts = [
        f"Trained with template `{template.name}` (`{TEMPLATE_FILE}`, SHA-256 "
        f"{template.sha256[:12]}). One turn is written:",
        f"```text\n{turn}\n```",
    ]
    if not tokenizer.splits_at_spaces:
        parts.append(
            "Training encoded prompt and answer apart. This tokenizer may join what it reads on "
            "both sides of the border, so encode them apart as well."
        )
    elif (problem := chat_template_problem(template)) is not None:
        parts.append(
            "`apply_chat_template` gives the token ids of training for chats only: in this "
            f"template {problem}."
        )
    else:
        parts.append(
            "`apply_chat_template` of the tokenizer beside it gives the token ids of training. A "
            "prompt with a context is a user's message of this form:"
        )
        prompt = template.prompt("{instruction}", "{context}")
        start, stop = template.user_span(prompt)
        parts.append(f"```text\n{prompt[start:stop]}\n```")
    return parts


def _block(value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return f"```yaml\n{text}```"
