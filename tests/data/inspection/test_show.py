"""Inspecting: rows as text."""

import pytest

from megatron_in2.data.inspection.show import GREEN, PLAIN, as_text, view_row
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer
from tests.data.conftest import Pack, WriteSamples, text_sample


@pytest.fixture
def data(pack: Pack, write_samples: WriteSamples) -> PackedDataset:
    context = "Paris is <b>in</b> France.\n" + "Filler line.\n" * 100
    first = {**text_sample(0, context, "Where is Paris?", "In France."), "evidence": [[0, 24]]}
    return pack(write_samples([first, text_sample(1, None, "Say hi.", "hi")]), seq_length=1024)


def test_trained_text_is_marked(data: PackedDataset, tokenizer: Tokenizer) -> None:
    views = view_row(data[0], data.manifest, tokenizer)
    text = as_text(0, views, colour=False, full=True)
    assert "⟦In France.⟧⟦</s>⟧" in text
    assert "⟦hi⟧⟦</s>⟧" in text
    assert f"<s>{FILM.prompt('Say hi.', None)}" in text
    coloured = as_text(0, views, colour=True, full=False)
    assert f"{GREEN}In France.{PLAIN}" in coloured
    assert "characters…]" in coloured
    assert [view.learnt_tokens for view in views] == [4, 2]
    assert [(view.length + view.padding) % 16 for view in views] == [0, 0]
    assert views[0].evidence_position == pytest.approx(12 / 1327, abs=1e-3)
    assert views[1].evidence_position is None
