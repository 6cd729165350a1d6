"""The model card of an export: where the weights come from, and how they were trained."""

from pathlib import Path
from typing import Any

import yaml

from megatron_in2.architectures.registry import architecture_of
from megatron_in2.checkpoint.folder import STATE, read_config, read_datasets, read_model_config
from megatron_in2.files import read_json
from megatron_in2.templates.base import Template, Turn
from megatron_in2.templates.fit import exactness_problem
from megatron_in2.templates.load import TEMPLATE_FILE
from megatron_in2.templates.own import OwnTemplate, text_of_parts
from megatron_in2.templates.rendering import DAY_TOLD
from megatron_in2.templates.text import InstructionTemplate
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.files import CONFIG


def model_card(step: Path, template: Template | None, tokenizer: Tokenizer) -> str:
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


def _prompts(template: Template | None, tokenizer: Tokenizer) -> list[str]:
    """Say how this model is prompted, and what the chat template gives."""
    if template is None:
        whose = "FILM's; use the one that the base was published with"
        if CONFIG in tokenizer.files:
            whose = "the base's own"
        return [
            f"The weights were not trained by megatron_in2. The exported chat template is {whose}."
        ]
    turn = _one_turn(template, tokenizer)
    parts = [
        f"Trained with template `{template.name}` (`{TEMPLATE_FILE}`, SHA-256 "
        f"{template.sha256[:12]}). One turn is written:",
        f"```text\n{turn}\n```",
    ]
    if (problem := exactness_problem(template, tokenizer)) is not None:
        return [
            *parts,
            f"`apply_chat_template` does not give all token ids of training: {problem}.",
        ]
    if isinstance(template, OwnTemplate):
        parts.append(
            "This is the base's own chat template. It was told "
            f'`date_string="{DAY_TOLD}"` and `enable_thinking=False` in training; give '
            "`apply_chat_template` the same where it knows these."
        )
    parts.append(
        "`apply_chat_template` of the tokenizer beside it gives the token ids of training. A "
        "prompt with a context is a user's message of this form:"
    )
    return [*parts, f"```text\n{template.wording.message('{instruction}', '{context}')}\n```"]


def _one_turn(template: Template, tokenizer: Tokenizer) -> str:
    """Return one turn as the chat template of the export renders it."""
    if not isinstance(template, InstructionTemplate):
        return text_of_parts(template.parts(None, [Turn("...", "...")]))
    names = [tokenizer.bos_id, tokenizer.eos_id]
    begin, end = ("" if index is None else tokenizer.piece(index) for index in names)
    space = "" if tokenizer.prompt_border == "newline" else " "
    return f"{begin}{template.turn('...')}{space}...{template.answer_end}{end}"


def _block(value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return f"```yaml\n{text}```"
