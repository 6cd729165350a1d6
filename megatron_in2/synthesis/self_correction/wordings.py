"""The sentences that verify an attempt, and where a reply ends its first attempt."""

from dataclasses import dataclass
from pathlib import Path

from megatron_in2.errors import InputError
from megatron_in2.files import read_yaml
from megatron_in2.records import id_hash

PACKAGED = Path(__file__).with_name("wordings.yaml")


@dataclass(frozen=True)
class Verifications:
    """Sentences that say that an answer is right, and those that say that it is wrong."""

    right: tuple[str, ...]
    wrong: tuple[str, ...]

    def of_right(self, sample_id: str) -> str:
        """Return the sentence that confirms a sample's answer: the same in all runs."""
        return self.right[id_hash(f"{sample_id}/right") % len(self.right)]

    def of_wrong(self, sample_id: str, place: int) -> str:
        """Return the sentence that refuses a sample's attempt of this place, from 0."""
        return self.wrong[id_hash(f"{sample_id}/wrong/{place}") % len(self.wrong)]

    def answers(self, reply: str) -> list[str]:
        """Return what a reply says between its verifications.

        A model that was trained on self-correction verifies and corrects itself in one reply:
        the first is its attempt, the last one its final answer.
        """
        for sentence in (*self.right, *self.wrong):
            reply = reply.replace(sentence, "\0")
        found = [each.strip() for each in reply.split("\0")]
        return [found[0], *filter(None, found[1:])]


def load_verifications(path: Path | None) -> Verifications:
    """Read a file of wordings, the package's where none is named.

    Raises:
        InputError: it has no two lists of sentences, or one sentence says both.
    """
    file = path or PACKAGED
    values = read_yaml(file, "--wordings")
    if not isinstance(values, dict) or set(values) != {"right", "wrong"}:
        raise InputError(f"--wordings {file}: give the lists 'right' and 'wrong', nothing else")
    for name, sentences in values.items():
        if not isinstance(sentences, list) or not sentences:
            raise InputError(f"--wordings {file}: field {name!r} must be a list of sentences")
        for sentence in sentences:
            if not isinstance(sentence, str) or not sentence.strip():
                raise InputError(
                    f"--wordings {file}: field {name!r} holds {sentence!r:.60}: give sentences"
                )
    found = Verifications(*(tuple(each.strip() for each in values[name])
                            for name in ("right", "wrong")))  # fmt: skip
    for one in found.right:
        for other in found.wrong:
            if one in other or other in one:
                raise InputError(
                    f"--wordings {file}: {one!r:.60} and {other!r:.60} cannot be told apart: one "
                    "of them holds the other"
                )
    return found
