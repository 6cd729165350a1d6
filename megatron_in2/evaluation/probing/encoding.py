"""The ids of a probe, as training has them: prompt and answer encoded apart."""

from dataclasses import dataclass
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line
from megatron_in2.templates.base import Template, Turn
from megatron_in2.templates.film import FILM
from megatron_in2.templates.ids import end_id, part_ids
from megatron_in2.templates.own import OwnTemplate
from megatron_in2.tokenizers.base import Tokenizer

_NO_ANSWER = "?"  # in the place of an answer that a probe does not have


@dataclass(frozen=True)
class ProbeEncoder:
    """Encodes probes for one model.

    Args:
        tokenizer: the model's.
        template: which it was trained with; None where it is not known.
        home: the directory of the template, for messages.
    """

    tokenizer: Tokenizer
    template: Template | None
    home: str

    @property
    def end_id(self) -> int:
        """The id that ends an answer."""
        return end_id(self.template or FILM, self.tokenizer)

    def ids(self, probe: Line) -> tuple[list[int], list[int]]:
        """Return the ids of prompt and answer; none for a probe that names no true answer.

        Raises:
            InputError: the prompt has control tokens that this model's template does not write.
        """
        where, record = probe
        completion, user = record.get("completion"), record.get("user")
        prompt: str = record["prompt"]
        start, end = user if isinstance(user, list) else (0, len(prompt))
        if isinstance(self.template, OwnTemplate):
            if self.template.prompt_text(prompt[start:end]) == prompt:
                return self._by_own_template(self.template, prompt[start:end], completion)
            marks = prompt[:start] + prompt[end:]
            if token := next((each for each in self.tokenizer.control_ids if each in marks), None):
                raise InputError(
                    f"{where}: the prompt has the control token {token}, but is not written as the "
                    f"template of {self.home} does: build the probes with --template {self.home}"
                )
        begin = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        answer = []
        if isinstance(completion, str):
            answer = [*self.tokenizer.encode(completion), self.tokenizer.eos_id]
        return [*begin, *self.tokenizer.encode(prompt)], answer

    def _by_own_template(
        self, template: OwnTemplate, message: str, completion: Any
    ) -> tuple[list[int], list[int]]:
        has_answer = isinstance(completion, str)
        answer = completion if has_answer else _NO_ANSWER
        *asked, said, stop = template.parts(None, [Turn(message, answer)])
        answer_ids = part_ids((said, stop), self.tokenizer) if has_answer else []
        return part_ids(asked, self.tokenizer), answer_ids
