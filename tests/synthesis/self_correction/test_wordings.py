"""The sentences of verification: told apart, and found again in a reply."""

from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.self_correction.wordings import load_verifications


def test_a_reply_is_parted_at_its_verifications() -> None:
    found = load_verifications(None)
    wrong, right = found.of_wrong("a", 0), found.of_right("a")
    assert found.answers("Rome.") == ["Rome."]
    assert found.answers(f"Rome. {wrong} Paris. {right}") == ["Rome.", "Paris."]
    assert found.answers(f"Paris. {right}") == ["Paris."]
    assert found.answers(f"{wrong} Paris.") == ["", "Paris."]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("right: [Yes.]", "the lists 'right' and 'wrong'"),
        ("right: []\nwrong: [No.]", "'right' must be a list"),
        ("right: [1]\nwrong: [No.]", "'right' holds 1"),
        ("right: [It holds.]\nwrong: [I doubt that. It holds.]", "cannot be told apart"),
        ("right: [", "not readable as YAML"),
    ],
)
def test_bad_wordings_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as raised:
        load_verifications(path)
    assert str(path) in str(raised.value)
