"""One preprocessing run: sample files -> encoded samples -> packed rows, two splits."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.data.packed.describe import counts_of, encoding_of
from megatron_in2.data.packed.manifest import (
    FORMAT_VERSION,
    PADDING_KIND,
    PARTS,
    Manifest,
    part_path,
    read_manifest,
    write_manifest,
)
from megatron_in2.data.packing.collect import REJECTS, Collection
from megatron_in2.data.packing.config import PreprocessConfig, require_free
from megatron_in2.data.packing.content import content_of
from megatron_in2.data.packing.encoding.designs import DESIGNS
from megatron_in2.data.packing.encoding.stores import CheckedStores
from megatron_in2.data.packing.partial_output import PartialOutput
from megatron_in2.data.packing.rows.balance import UNIT_ROWS
from megatron_in2.data.packing.rows.plan import RowShape
from megatron_in2.data.packing.rows.pool import SamplePool
from megatron_in2.data.packing.rows.writer import Packing, write_rows
from megatron_in2.data.packing.workers import EncodeOptions
from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_text
from megatron_in2.templates.base import Template
from megatron_in2.templates.fit import require_fit
from megatron_in2.templates.load import load_template
from megatron_in2.tokenizers.base import Tokenizer, token_dtype
from megatron_in2.tokenizers.load import load_tokenizer

SAMPLES_A_ROW = 4  # about so many, where only the order of magnitude counts
_NEUTRAL = {"input", "workers", "overwrite"}  # the output does not depend on them, or by content


def preprocess(config: PreprocessConfig) -> dict[str, Manifest]:
    """Pack samples into indexed datasets.

    A run that was killed continues from its last complete block when it is started again.

    Returns:
        The manifest of each split written: ``train`` and, where asked for, ``valid``.

    Raises:
        InputError: an unusable setting or sample; the message names file and line.
    """
    config.validate()
    run = _PackingRun(config)
    try:
        run.run()
    except OSError as error:
        if error.filename in map(str, config.input):
            raise
        raise InputError(
            f"cannot write {config.output_prefix}: {error.strerror or error}; free some space or "
            "name another --output-prefix (the same command continues from the last complete block)"
        ) from error
    return {name: read_manifest(prefix) for name, prefix in config.prefixes().items()}


class _PackingRun:
    """A run: what it works with, and its steps."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._config = config
        self._tokenizer = load_tokenizer(config.tokenizer_model)
        self._template = load_template(config.template, self._tokenizer, config.wording)
        require_fit(self._template, self._tokenizer)
        self._stores = CheckedStores(self._tokenizer)
        self._inputs = {str(path): content_of(path) for path in config.input}
        fingerprint = _fingerprint(config, self._tokenizer, self._template, self._inputs)
        self._partial = PartialOutput(
            config.output_prefix, fingerprint, config.overwrite, self._stores.are_current
        )

    def run(self) -> None:
        """Collect, write and publish, each from where an earlier start stopped."""
        config = self._config
        with self._partial.opened() as state:
            if self._partial.published_before():
                return
            require_free(config)
            with Collection(
                config, self._partial, self._stores, (state or {}).get("collected")
            ) as collection:
                if not collection.is_complete:
                    collection.collect(self._encode_options())
                    self._require_unchanged()
            self._require_samples(collection)
            written = dict((state or {}).get("written", {}))
            names: list[str] = []
            for name, prefix in config.prefixes().items():
                self._write_split(name, prefix, collection, written)
                names += [part_path(prefix, part).name for part in PARTS]
            if config.on_error == "skip":
                names.append(part_path(config.output_prefix, REJECTS).name)
            manifests = [part_path(prefix, ".json").name for prefix in config.prefixes().values()]
            self._partial.publish(names + manifests[::-1], self._stores.found)

    def _encode_options(self) -> EncodeOptions:
        config = self._config
        return EncodeOptions(
            config.tokenizer_model,
            self._template,
            DESIGNS[config.design],
            config.generic_system,
            config.seq_length,
            config.overlong == "truncate-context",
            config.verify_joins,
        )

    def _require_unchanged(self) -> None:
        """Check that the inputs are still what the run began with.

        Raises:
            InputError: one has changed while it was read.
        """
        for path in self._config.input:
            if content_of(path) != self._inputs[str(path)]:
                raise InputError(f"{path} changed while it was read: run again when it is complete")

    def _require_samples(self, collection: Collection) -> None:
        """Check that every split has a sample; splits of shards may be empty.

        Raises:
            InputError: one is empty.
        """
        for name, sizes in collection.sizes.items():
            packed = sizes["samples"] - sum(collection.dropped[name].values())
            if not packed and self._config.part.count == 1:
                raise InputError(
                    f"no sample for the {name} split: give more samples or another "
                    f"--validation-fraction than {self._config.validation_fraction}"
                )

    def _write_split(
        self, name: str, prefix: Path, collection: Collection, written: dict[str, int]
    ) -> None:
        """Write one split's rows and its manifest into the partial folder."""
        config = self._config
        growing = self._partial.folder / prefix.name
        kinds, codes = _sorted_kinds(collection.kinds)
        pool = SamplePool(
            growing, collection.sizes[name]["samples"], list(collection.store_numbers), codes
        )

        def checkpoint(rows: int) -> None:
            written[name] = rows
            state = {"collected": collection.state(), "written": written}
            self._partial.record(state, self._stores.found)

        tokenizer = self._tokenizer
        packing = Packing(
            RowShape(config.seq_length, config.pad_multiple),
            config.seed,
            not config.no_packing,
            tokenizer.pad_id,
            np.dtype(token_dtype(tokenizer.vocab_size)),
        )
        ids = self._stores.opened.ids
        sequences, hashes = write_rows(
            growing, pool, packing, ids, checkpoint, written.get(name, 0), self._rows_per_block()
        )
        pool.close()
        counts = counts_of(sequences, kinds)
        write_manifest(growing, self._manifest(name, collection, counts), hashes)

    def _rows_per_block(self) -> int:
        return max(self._config.block // SAMPLES_A_ROW, 1)

    def _manifest(self, name: str, collection: Collection, counts: dict[str, Any]) -> Manifest:
        config, tokenizer, template = self._config, self._tokenizer, self._template
        return Manifest(
            **encoding_of(config.tokenizer_model, tokenizer, template),
            design=config.design,
            seq_length=config.seq_length,
            pad_multiple=config.pad_multiple,
            shard=config.part.label if config.part.count > 1 else None,
            rejected=dict(collection.rejected),
            notes=dict(collection.notes),
            dropped=dict(collection.dropped[name]),
            packing=not config.no_packing,
            seed=config.seed,
            unit_rows=UNIT_ROWS,
            inputs=self._inputs,
            stores=self._stores.found,
            **counts,
        )


def _fingerprint(
    config: PreprocessConfig,
    tokenizer: Tokenizer,
    template: Template,
    inputs: dict[str, dict[str, Any]],
) -> str:
    """Return a hash of all that the output depends on, but for the segment stores."""
    settings = {
        item.name: str(getattr(config, item.name))
        for item in fields(config)
        if item.name not in _NEUTRAL
    }
    settings["inputs"] = json.dumps(inputs)
    settings["hashes"] = f"{tokenizer.sha256} {template.sha256} {FORMAT_VERSION}"
    return sha256_of_text(json.dumps(settings, sort_keys=True))


def _sorted_kinds(kinds: list[str]) -> tuple[list[str], np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return kinds by name behind padding's, and the new code of each old one."""
    ordered = [PADDING_KIND, *sorted(kinds[1:])]
    return ordered, np.array([ordered.index(kind) for kind in kinds], np.uint8)
