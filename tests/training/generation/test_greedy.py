"""Drafts in rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.training.generation.drafts import AnswerDraft
from megatron_in2.training.generation.greedy import draft_rows

PAD, END, LENGTH = 9, 0, 32


@given(
    prompts=st.lists(st.integers(1, 26), min_size=1, max_size=9),
    size=st.integers(1, 6),
    multiple=st.sampled_from([1, 2, 4, 8]),
)
def test_rows_hold_each_draft_once(prompts: list[int], size: int, multiple: int) -> None:
    drafts = [AnswerDraft(np.full(count, 1), [2] * size, END) for count in prompts]
    asked = list(range(0, len(drafts), 2))
    found = []
    for row in draft_rows(drafts, asked, LENGTH, multiple, PAD):
        assert sum(row.lengths) == len(row.tokens) == len(row.loss_mask) == LENGTH
        assert all(length % multiple == 0 for length in row.lengths)
        assert len(row.records) == len(row.lengths)
        ends = np.cumsum(row.lengths)
        for owner, length, end in zip(row.records["row"], row.lengths, ends, strict=True):
            tokens, mask = row.tokens[end - length : end], row.loss_mask[end - length : end]
            if owner < 0:
                assert set(tokens) == {PAD}
                assert not mask.any()
                continue
            count = prompts[owner]
            found.append(owner)
            assert tokens[: count + size].tolist() == [1] * count + [2] * size
            assert set(tokens[count + size :]) <= {PAD}
            assert np.flatnonzero(mask).tolist() == list(range(count, count + size))
    assert sorted(found) == asked


def test_no_draft_is_one_row_of_filling() -> None:
    (row,) = draft_rows([], [], LENGTH, 1, PAD)
    assert row.lengths == [LENGTH]
    assert not row.loss_mask.any()
