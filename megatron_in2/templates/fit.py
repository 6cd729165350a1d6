"""Which templates go with which tokenizers."""

from megatron_in2.errors import InputError
from megatron_in2.records import ControlPart
from megatron_in2.templates.base import Template, Turn
from megatron_in2.templates.own import OwnTemplate
from megatron_in2.templates.text import PLACEHOLDERS, InstructionTemplate, chat_template_problem
from megatron_in2.tokenizers.base import Tokenizer, control_id


def require_fit(template: Template, tokenizer: Tokenizer) -> None:
    """Check that a template can be trained with a tokenizer.

    Raises:
        InputError: its marks would be encoded as text that the tokenizer has control tokens for,
            no chat template could give the trained ids, or it is of another tokenizer.
    """
    if isinstance(template, OwnTemplate):
        _require_own_fit(template, tokenizer)
    elif isinstance(template, InstructionTemplate):
        _require_text_fit(template, tokenizer)


def _require_own_fit(template: OwnTemplate, tokenizer: Tokenizer) -> None:
    where = f"the base's chat template with the tokenizer {tokenizer.path}"
    for token in template.control:
        if token not in tokenizer.control_ids:
            raise InputError(
                f"{where}: it writes the control token {token}, which the tokenizer lacks: name "
                "the directory of the same base with --template and --tokenizer-model"
            )
    (first, *_) = template.parts(None, [Turn("user", "assistant")])
    begins = isinstance(first, ControlPart) and control_id(tokenizer, first.token)
    if tokenizer.bos_id is not None and begins != tokenizer.bos_id:
        begin = tokenizer.piece(tokenizer.bos_id)
        raise InputError(
            f"{where}: a conversation does not begin with {begin}, which tokenizer_config.json "
            "names as bos_token: set that to null, or name another --template"
        )


def _require_text_fit(template: InstructionTemplate, tokenizer: Tokenizer) -> None:
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
