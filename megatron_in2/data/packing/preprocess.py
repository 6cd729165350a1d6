"""One preprocessing run: sample files -> encoded samples -> packed rows, two splits."""

import json
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from megatron_in2.data.packed.manifest import (
    FORMAT_VERSION,
    PARTS,
    Manifest,
    part_path,
    read_manifest,
    write_manifest,
)
from megatron_in2.data.packing.config import PreprocessConfig, require_free
from megatron_in2.data.packing.designs import DESIGNS
from megatron_in2.data.packing.encode import CompactSample
from megatron_in2.data.packing.inputs import input_bytes, read_chunks
from megatron_in2.data.packing.pack import WindowPacker, padded_length
from megatron_in2.data.packing.partial_output import PartialOutput
from megatron_in2.data.packing.workers import EncodedChunk, EncodeOptions, Reject, encoded_chunks
from megatron_in2.data.packing.writer import Counts, PackedWriter, RowShape
from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_text
from megatron_in2.progress import progress_bar
from megatron_in2.templates.base import Template
from megatron_in2.templates.fit import require_fit
from megatron_in2.templates.ids import end_id
from megatron_in2.templates.load import load_template
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer

REJECTS = "_rejects.jsonl"
_NEUTRAL = {"workers", "overwrite"}  # settings on which the output does not depend


def preprocess(config: PreprocessConfig) -> dict[str, Manifest]:
    """Pack samples into indexed datasets.

    A run that was killed continues from its last complete block when it is started again.

    Returns:
        The manifest of each split written: ``train`` and, where asked for, ``valid``.

    Raises:
        InputError: an unusable setting or sample; the message names file and line.
    """
    config.validate()
    tokenizer = load_tokenizer(config.tokenizer_model)
    template = load_template(config.template, tokenizer, config.wording)
    require_fit(template, tokenizer)
    prefixes = config.prefixes()
    partial = PartialOutput(config.output_prefix, _fingerprint(config, tokenizer, template))
    try:
        with partial.opened() as state:
            if not partial.published_before():
                require_free(list(prefixes.values()), config.overwrite)
                with _PackingRun(config, tokenizer, template, partial, state) as run:
                    run.consume()
                    run.publish()
    except OSError as error:
        if error.filename in map(str, config.input):
            raise
        raise InputError(
            f"cannot write {config.output_prefix}: {error.strerror or error}; make room or name "
            "another --output-prefix (the same command continues from the last complete block)"
        ) from error
    return {name: read_manifest(prefix) for name, prefix in prefixes.items()}


def _fingerprint(config: PreprocessConfig, tokenizer: Tokenizer, template: Template) -> str:
    settings = {
        item.name: str(getattr(config, item.name))
        for item in fields(config)
        if item.name not in _NEUTRAL
    }
    stats = [path.stat() for path in config.input]
    settings["files"] = str([(stat.st_size, stat.st_mtime_ns) for stat in stats])
    settings["hashes"] = f"{tokenizer.sha256} {template.sha256} {FORMAT_VERSION}"
    return sha256_of_text(json.dumps(settings, sort_keys=True))


class _PackingRun:
    """The state of a run: both splits, the rejects, the counts, and where it can continue."""

    def __init__(
        self,
        config: PreprocessConfig,
        tokenizer: Tokenizer,
        template: Template,
        partial: PartialOutput,
        state: dict[str, Any] | None,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._template = template
        self._journal = partial
        self._shard = config.part
        self._chunks: int = state["chunks"] if state else 0
        self._consumed: int = state["consumed"] if state else 0
        self._notes = Counter(state["notes"] if state else {})
        self._rejected = Counter(state["rejected"] if state else {})
        self._in_block = 0
        self._stack = ExitStack()
        self._splits: dict[str, _Split] = {}
        for name, prefix in config.prefixes().items():
            split_state = state["splits"][name] if state else None
            self._splits[name] = _Split(
                partial.folder / prefix.name, config, tokenizer, split_state
            )
            self._stack.callback(self._splits[name].writer.files.close)
        self._seen = {
            key for split in self._splits.values() for key in split.writer.files.id_hashes()
        }
        self._rejects_path = part_path(partial.folder / config.output_prefix.name, REJECTS)
        self._rejects = open(self._rejects_path, "a", encoding="utf-8")  # noqa: SIM115
        self._stack.callback(self._rejects.close)
        self._rejects.truncate(state["rejects_bytes"] if state else 0)

    def __enter__(self) -> "_PackingRun":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def consume(self) -> None:
        """Pack all samples that the run has not packed yet."""
        config = self._config
        truncates = config.overlong == "truncate-context"
        options = EncodeOptions(
            config.tokenizer_model,
            self._template,
            DESIGNS[config.design],
            config.generic_system,
            config.seq_length if truncates else 0,
            config.verify_joins,
        )
        total = input_bytes(config.input, self._shard)
        progress = progress_bar(
            total=total, initial=self._consumed, desc="preprocess", unit="B", unit_scale=True
        )
        chunks = read_chunks(config.input, self._shard, self._chunks)
        started, tokens = time.monotonic(), 0
        with progress, closing(encoded_chunks(chunks, options, config.workers)) as encoded:
            for chunk in encoded:
                tokens += self._take(chunk)
                progress.set_postfix_str(
                    f"{tokens / (time.monotonic() - started):,.0f} tokens/s", refresh=False
                )
                progress.update(min(chunk.consumed, total - progress.n))
        self._checkpoint()

    def _take(self, chunk: EncodedChunk) -> int:
        """Pack a chunk's samples; return how many tokens they have."""
        tokens = 0
        for result in chunk.samples:
            if isinstance(result, Reject):
                self._reject(result)
                continue
            where, identity, sample = result
            if sample.id_hash in self._seen:
                message = f"field 'id': {identity!r:.60} stands on an earlier line too"
                record = json.dumps({"id": identity}, ensure_ascii=False)
                self._reject(Reject(where, "duplicate id", message, record))
                continue
            self._seen.add(sample.id_hash)
            self._split_of(sample).add(where, identity, sample)
            tokens += sample.length
        self._notes += chunk.notes
        self._chunks += 1
        self._consumed += chunk.consumed
        self._in_block += len(chunk.samples)
        if self._in_block >= self._config.block:
            self._checkpoint()
        return tokens

    def _split_of(self, sample: CompactSample) -> "_Split":
        chosen = sample.id_hash / 2**64 < self._config.validation_fraction
        return self._splits["valid" if chosen else "train"]

    def _reject(self, reject: Reject) -> None:
        if self._config.on_error == "stop":
            raise InputError(f"{reject.where}: {reject.message}")
        self._rejected[reject.reason] += 1
        self._rejects.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")

    def _checkpoint(self) -> None:
        """Write all that was read, force it to disk, and say so in the partial."""
        for split in self._splits.values():
            split.flush()
        self._rejects.flush()
        self._journal.record(
            {
                "chunks": self._chunks,
                "consumed": self._consumed,
                "notes": self._notes,
                "rejected": self._rejected,
                "rejects_bytes": self._rejects_path.stat().st_size,
                "splits": {name: split.writer.checkpoint() for name, split in self._splits.items()},
            }
        )
        self._in_block = 0

    def publish(self) -> None:
        """Seal both splits and give all files their names.

        Raises:
            InputError: a split got no sample.
        """
        names: list[str] = []
        for name, split in self._splits.items():
            if not split.writer.counts.rows:
                raise InputError(
                    f"no sample for the {name} split: give more samples or another "
                    f"--validation-fraction than {self._config.validation_fraction}"
                )
        for name, prefix in self._config.prefixes().items():
            growing = self._splits[name].writer.files
            growing.finish()
            write_manifest(growing.prefix, self._manifest(self._splits[name].writer.counts))
            names += [part_path(prefix, part).name for part in PARTS]
        if self._config.on_error == "skip":
            names.append(part_path(self._config.output_prefix, REJECTS).name)
        manifests = [part_path(prefix, ".json").name for prefix in self._config.prefixes().values()]
        self._journal.publish(names + manifests[::-1])

    def _manifest(self, counts: Counts) -> Manifest:
        config, tokenizer, template = self._config, self._tokenizer, self._template
        return Manifest(
            tokenizer=config.tokenizer_model,
            tokenizer_sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            bos_id=tokenizer.bos_id,
            eos_id=end_id(template, tokenizer),
            pad_id=tokenizer.pad_id,
            template=template.name,
            template_sha256=template.sha256,
            template_wording=template.values(),
            design=config.design,
            seq_length=config.seq_length,
            pad_multiple=config.pad_multiple,
            shard=self._shard.label if self._shard.count > 1 else None,
            rejected=dict(self._rejected),
            notes=dict(self._notes),
            **counts.values(),
        )


class _Split:
    """One split on its way to rows: its packer and its writer."""

    def __init__(
        self,
        prefix: Path,
        config: PreprocessConfig,
        tokenizer: Tokenizer,
        state: dict[str, Any] | None,
    ) -> None:
        shape = RowShape(config.seq_length, config.pad_multiple)
        self.writer = PackedWriter(prefix, shape, tokenizer, state)
        self._config = config
        window = 1 if config.no_packing else config.window
        self._packer = WindowPacker(config.seq_length, config.pad_multiple, window)

    def add(self, where: str, identity: str, sample: CompactSample) -> None:
        """Pack a sample, or drop it for a counted reason."""
        length = padded_length(sample.length, self._config.pad_multiple)
        if length > self._config.seq_length:
            if self._config.overlong == "error":
                raise InputError(
                    f"{where}: sample {identity!r} has {sample.length} tokens ({length} "
                    f"padded), more than --seq-length {self._config.seq_length}: use longer rows "
                    "or --overlong drop or truncate-context"
                )
            self.writer.counts.dropped["overlong"] += 1
            return
        for row in self._packer.add(sample):
            self.writer.add_row(row)

    def flush(self) -> None:
        """Write the rows of what the packer still holds."""
        for row in self._packer.flush():
            self.writer.add_row(row)
