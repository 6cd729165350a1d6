"""Foreign text made safe to print."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.data.inspection.text import LINES, escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Zürich, 東京, 🙂", "plain, Zürich, 東京, 🙂"),
        ("\x1b[31m\x07\x9b", r"\x1b[31m\x07\x9b"),
        ("a\u202eb\u2066c\u200fd", r"a\u202eb\u2066c\u200fd"),
        ("no\u00a0break, क्\u200dष", "no\u00a0break, क्\u200dष"),
        ("line\nnext\tcell\r", r"line\nnext\tcell\r"),
        ("\ud800\ue000\u2028", r"\ud800\ue000\u2028"),
    ],
)
def test_what_moves_a_cursor_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_lines_stay_lines_where_wanted() -> None:
    assert escaped("line\nnext\tcell\r", LINES) == "line\nnext\tcell\\r"


@given(st.text())
def test_nothing_unprintable_is_left(text: str) -> None:
    left = escaped(text).translate(dict.fromkeys(map(ord, "\u200c\u200d")))
    assert all(each.isprintable() or each.isspace() for each in left)
    assert not set(left) & set("\n\r\t\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
