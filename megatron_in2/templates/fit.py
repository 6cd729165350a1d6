"""Which templates go with which tokenizers."""

from megatron_in2.errors import InputError
from megatron_in2.templates.base import Template
from megatron_in2.templates.text import PLACEHOLDERS, InstructionTemplate, chat_template_problem
from megatron_in2.tokenizers.base import Tokenizer


def require_fit(template: Template, tokenizer: Tokenizer) -> None:
    """Check that a template can be trained with a tokenizer.

    Raises:
        InputError: its marks would be encoded as text that the tokenizer has control tokens for,
            or no chat template could give the trained ids.
    """
    if not isinstance(template, InstructionTemplate):
        return
    where = f"template {template.name} with the tokenizer {tokenizer.path}"
    texts = [*(getattr(template, name) for name in PLACEHOLDERS), template.answer_end]
    for token in tokenizer.control_ids:
        if any(token in text for text in texts):
            raise InputError(
                f"{where}: {token} is a control token there and would be trained on as text: use "
                "the base's own chat template (--template base), or a template without it"
            )
    if tokenizer.prompt_border == "newline" and not template.chat.endswith("\n"):
        raise InputError(
            f"{where}: its prompts must end in a line break, or the tokenizer reads the end of a "
            "prompt and the begin of an answer as one: use the base's own chat template "
            "(--template base), or a template that ends in a line break, such as chatml"
        )


def exactness_problem(template: Template, tokenizer: Tokenizer) -> str | None:
    """Say what of a template ``apply_chat_template`` does not give the trained ids of.

    Returns:
        One clause; None where it gives those of every prompt.
    """
    if not isinstance(template, InstructionTemplate):
        return None
    if tokenizer.prompt_border == "unknown":
        return (
            "training encoded prompts and answers apart, and this tokenizer may join what it reads "
            "on both sides of their border"
        )
    return chat_template_problem(template)
