"""The wordings of a user's message inside a base's own chat template."""

from typing import Literal

from megatron_in2.templates.base import Wording
from megatron_in2.templates.film import FILM

WordingName = Literal["film", "plain"]

WORDINGS: dict[WordingName, Wording] = {
    "film": FILM.wording,
    "plain": Wording("plain", "Context:\n{context}\n\n{instruction}", "{instruction}"),
}
