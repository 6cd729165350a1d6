"""What a manifest says of a dataset: who encoded it, and what its rows hold."""

from typing import Any

import numpy as np

from megatron_in2.data.packed.row_files import Sequences
from megatron_in2.templates.base import Template
from megatron_in2.templates.ids import end_id
from megatron_in2.tokenizers.base import Tokenizer


def encoding_of(name: str, tokenizer: Tokenizer, template: Template) -> dict[str, Any]:
    """Return the manifest's fields about the tokenizer and the template.

    Args:
        name: what the tokenizer was called.
        tokenizer: it.
        template: of the samples.
    """
    return {
        "tokenizer": name,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": end_id(template, tokenizer),
        "pad_id": tokenizer.pad_id,
        "template": template.name,
        "template_sha256": template.sha256,
        "template_wording": template.values(),
    }


def counts_of(sequences: Sequences, kinds: list[str]) -> dict[str, Any]:
    """Return the manifest's counts of what rows hold, by the manifest's names.

    Args:
        sequences: of the rows.
        kinds: names behind the kind codes.
    """
    samples = sequences.samples[sequences.samples["length"] > 0]
    number = np.bincount(samples["kind"], minlength=len(kinds))
    trained = np.bincount(samples["kind"], samples["learnt_tokens"], len(kinds)).astype(np.int64)
    present = np.flatnonzero(number)
    return {
        "kinds": kinds,
        "rows": len(sequences.rows),
        "samples": len(samples),
        "tokens": int(samples["length"].sum(dtype=np.int64)),
        "learnt_tokens": int(trained.sum()),
        "samples_by_kind": {kinds[code]: int(number[code]) for code in present},
        "learnt_by_kind": {kinds[code]: int(trained[code]) for code in present},
    }
