"""The first half of a run: reads and encodes all samples and keeps them in pools on disk."""

import json
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

from megatron_in2.data.packed.manifest import PADDING_KIND, part_path
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.encoding.encode import CompactSample
from megatron_in2.data.packing.encoding.inputs import input_bytes, read_chunks
from megatron_in2.data.packing.encoding.samples import UNKNOWN_FIELD
from megatron_in2.data.packing.encoding.stores import CheckedStores
from megatron_in2.data.packing.partial_output import PartialOutput
from megatron_in2.data.packing.rows.fit import padded_length
from megatron_in2.data.packing.rows.pool import GrowingPool
from megatron_in2.data.packing.workers import EncodedChunk, EncodeOptions, Reject, encoded_chunks
from megatron_in2.errors import InputError
from megatron_in2.progress import progress_bar

REJECTS = "_rejects.jsonl"
MAX_UNKNOWN_FIELDS = 50  # that are counted by name
MAX_KINDS = 255  # a kind's code is one byte; 0 is padding's


class Collection:
    """The pools of a run's splits, what was counted on the way, and where it can continue.

    ``dropped`` counts samples by split and reason; ``store_numbers`` are in the order in which
    the stores were met, ``kinds`` too, padding's first.

    Args:
        config: the run's settings.
        partial: the run's folder.
        stores: the run's segment stores.
        state: what :meth:`state` returned last, to continue from there.
    """

    def __init__(
        self,
        config: PreprocessConfig,
        partial: PartialOutput,
        stores: CheckedStores,
        state: dict[str, Any] | None,
    ) -> None:
        self._config = config
        self._partial = partial
        self._stores = stores
        known = state or {}
        self.is_complete: bool = known.get("is_complete", False)
        self._chunks: int = known.get("chunks", 0)
        self._consumed: int = known.get("consumed", 0)
        self.notes = Counter(known.get("notes", {}))
        self.rejected = Counter(known.get("rejected", {}))
        self.kinds: list[str] = known.get("kinds", [PADDING_KIND])
        names = known.get("stores", [])
        self.store_numbers: dict[str, int] = {name: place for place, name in enumerate(names)}
        self.dropped: dict[str, Counter[str]] = {}
        self.sizes: dict[str, dict[str, int]] = {}
        self._pools: dict[str, GrowingPool] = {}
        self._stack = ExitStack()
        for name, prefix in config.prefixes().items():
            self.dropped[name] = Counter(known.get("dropped", {}).get(name, {}))
            self.sizes[name] = known.get("sizes", {}).get(name, {})
            pool = GrowingPool(partial.folder / prefix.name, **self.sizes[name])
            self._pools[name] = self._stack.enter_context(closing(pool))
        self._seen = {key for pool in self._pools.values() for key in pool.id_hashes()}
        self._rejects_path = part_path(partial.folder / config.output_prefix.name, REJECTS)
        self._rejects = self._stack.enter_context(
            open(self._rejects_path, "a", encoding="utf-8")  # noqa: SIM115
        )
        self._rejects.truncate(known.get("rejects_bytes", 0))
        self._in_block = 0

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def collect(self, options: EncodeOptions) -> None:
        """Encode all samples that are not in the pools yet.

        Raises:
            InputError: a sample or a file cannot be used.
        """
        config = self._config
        total = input_bytes(config.input, config.part)
        progress = progress_bar(
            total=total, initial=self._consumed, desc="samples", unit="B", unit_scale=True
        )
        chunks = read_chunks(config.input, config.part, self._chunks, config.max_line_bytes)
        started, tokens = time.monotonic(), 0
        with progress, closing(encoded_chunks(chunks, options, config.workers)) as encoded:
            for chunk in encoded:
                tokens += self._take(chunk)
                progress.set_postfix_str(
                    f"{tokens / (time.monotonic() - started):,.0f} tokens/s", refresh=False
                )
                progress.update(min(chunk.consumed, total - progress.n))
        self.is_complete = True
        self.checkpoint()

    def _take(self, chunk: EncodedChunk) -> int:
        """Keep a chunk's samples; return how many tokens they have."""
        for store in chunk.stores:
            self._stores.require_sound(store)
        tokens = 0
        for result in chunk.samples:
            if isinstance(result, Reject):
                self._reject(result)
                continue
            where, identity, sample = result
            if (problem := self._problem(identity, sample)) is not None:
                record = json.dumps({"id": identity}, ensure_ascii=False)
                self._reject(Reject(where, problem[0], problem[1], record))
                continue
            self._seen.add(sample.id_hash)
            self._keep(where, identity, sample)
            tokens += sample.length
        for note, count in chunk.notes.items():
            self.notes[self._bounded(note)] += count
        self._chunks += 1
        self._consumed += chunk.consumed
        self._in_block += len(chunk.samples)
        if self._in_block >= self._config.block:
            self.checkpoint()
        return tokens

    def _bounded(self, note: str) -> str:
        """Return the note, or one for all where unknown fields have too many names."""
        if note in self.notes or not note.startswith(UNKNOWN_FIELD):
            return note
        names = sum(known.startswith(UNKNOWN_FIELD) for known in self.notes)
        return note if names < MAX_UNKNOWN_FIELDS else f"{UNKNOWN_FIELD}of other names"

    def _problem(self, identity: str, sample: CompactSample) -> tuple[str, str] | None:
        """Return (reason, message) for a sample that does not fit the others."""
        if sample.id_hash in self._seen:
            return "duplicate id", f"field 'id': {identity!r:.60} is on an earlier line too"
        if sample.kind not in self.kinds and len(self.kinds) > MAX_KINDS:
            return "too many kinds", (
                f"field 'kind': {sample.kind!r:.60} is one more than the {MAX_KINDS} kinds that a "
                "dataset can have; a kind names a group of samples"
            )
        return None

    def _keep(self, where: str, identity: str, sample: CompactSample) -> None:
        """Put a sample in its split's pool, or drop it for a counted reason."""
        config = self._config
        is_valid = sample.id_hash / 2**64 < config.validation_fraction
        name = "valid" if is_valid else "train"
        length = padded_length(sample.length, config.pad_multiple)
        if length > config.seq_length:
            if config.overlong == "error":
                at_least = "" if sample.runs else "at least "
                raise InputError(
                    f"{where}: sample {identity!r} has {at_least}{sample.length} tokens ({length} "
                    f"padded), more than --seq-length {config.seq_length}: use longer rows "
                    "or --overlong drop or truncate-context"
                )
            self.dropped[name]["overlong"] += 1
            self._pools[name].append_dropped(sample.id_hash)
            return
        if sample.kind not in self.kinds:
            self.kinds.append(sample.kind)
        self._pools[name].append(sample, self.kinds.index(sample.kind), self.store_numbers)

    def _reject(self, reject: Reject) -> None:
        if self._config.on_error == "stop":
            raise InputError(f"{reject.where}: {reject.message}")
        self.rejected[reject.reason] += 1
        self._rejects.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")

    def checkpoint(self) -> None:
        """Force all that was read to disk, and say so in the partial folder."""
        self.sizes = {name: pool.sync() for name, pool in self._pools.items()}
        self._rejects.flush()
        self._partial.record({"collected": self.state()}, self._stores.found)
        self._in_block = 0

    def state(self) -> dict[str, Any]:
        """Return, as plain values, what a killed run continues from."""
        return {
            "is_complete": self.is_complete,
            "chunks": self._chunks,
            "consumed": self._consumed,
            "notes": self.notes,
            "rejected": self.rejected,
            "rejects_bytes": self._rejects_path.stat().st_size,
            "kinds": self.kinds,
            "stores": list(self.store_numbers),
            "dropped": self.dropped,
            "sizes": self.sizes,
        }
