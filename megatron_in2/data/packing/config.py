"""The settings of a preprocessing run, and what is refused before it starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_in2.choices import as_option, require_choices
from megatron_in2.data.packed.manifest import part_path
from megatron_in2.data.packing.encoding.designs import GENERIC_SYSTEM, DesignName
from megatron_in2.errors import InputError
from megatron_in2.files import MAX_LINE_BYTES
from megatron_in2.shards import Shard
from megatron_in2.templates.load import BASE
from megatron_in2.templates.wordings import WordingName

Overlong = Literal["error", "drop", "truncate-context"]
OnError = Literal["stop", "skip"]
MASK_SUFFIX = "_loss_mask"


@dataclass(frozen=True)
class PreprocessConfig:
    """One preprocessing run.

    Args:
        input: sample files (JSON lines, .gz, .zst, parquet): text, chat, parts, recipe samples.
        output_prefix: prefix P of the dataset's files; validation goes to P + _valid.
        tokenizer_model: a Hugging Face directory, a tokenizer.json, a SentencePiece file, or
            mistral-v1.
        seq_length: row length in tokens.
        template: base (the chat template beside the tokenizer; film where there is none), film,
            chatml, a YAML file of one's own, or a directory with a template.
        wording: of a user's message inside a base's own chat template: film | plain.
        design: which parts are trained on: answer | prompt-erasing | partial-answer-masking |
            all-assistant-turns.
        generic_system: what prompt-erasing puts in the place of a system message; empty: nothing.
        pad_multiple: every sample is padded to a multiple of so many tokens, which serves
            every TP x CP whose product, times 2 under CP, divides it.
        seed: of the order in which samples are packed.
        no_packing: give every sample a row of its own.
        validation_fraction: share of samples, by their id's hash, kept for validation.
        overlong: what to do with a sample longer than a row: error | drop | truncate-context
            (cuts fillers; what has none to cut is dropped).
        on_error: what to do with a record that cannot be used: stop | skip (counted by reason
            and written to P_rejects.jsonl).
        verify_joins: share of recipes whose joined ids are compared with their whole text's.
        shard: which part of the input is taken, from 0: every ``num_shards``-th chunk.
        num_shards: machines that share the input.
        max_line_bytes: longer lines of the input are refused without being held in memory.
        block: samples (in rows: a quarter of it) after which the work so far is safe: a killed
            run continues there.
        workers: processes that encode; the output does not depend on their number.
        overwrite: replace a dataset that exists.
    """

    input: list[Path]
    output_prefix: Path
    tokenizer_model: str
    seq_length: int
    template: str = BASE
    wording: WordingName = "film"
    design: DesignName = "answer"
    generic_system: str = GENERIC_SYSTEM
    pad_multiple: int = 16
    seed: int = 0
    no_packing: bool = False
    validation_fraction: float = 0.0
    overlong: Overlong = "error"
    on_error: OnError = "stop"
    verify_joins: float = 0.001
    shard: int = 0
    num_shards: int = 1
    max_line_bytes: int = MAX_LINE_BYTES
    block: int = 32_768
    workers: int = 1
    overwrite: bool = False

    def validate(self) -> None:
        """Check the settings.

        Raises:
            InputError: naming the option, its value and the remedy.
        """
        require_choices(self, as_option)
        _ = self.part  # raises where there is no such shard
        for name in ("pad_multiple", "workers", "block", "max_line_bytes"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} {getattr(self, name)}: must be 1 or more")
        if self.seq_length < self.pad_multiple or self.seq_length % self.pad_multiple:
            raise InputError(
                f"--seq-length {self.seq_length} must be a multiple of --pad-multiple "
                f"{self.pad_multiple}"
            )
        if not 0.0 <= self.validation_fraction < 1.0:
            raise InputError(
                f"--validation-fraction {self.validation_fraction}: must be from 0 to below 1"
            )
        if not 0.0 <= self.verify_joins <= 1.0:
            raise InputError(f"--verify-joins {self.verify_joins}: must be from 0 to 1")
        if self.output_prefix.name.endswith(MASK_SUFFIX):
            raise InputError(
                f"--output-prefix {self.output_prefix}: a name may not end in {MASK_SUFFIX}, "
                "as the mask of another dataset does"
            )
        for path in self.input:
            if path.is_dir():
                raise InputError(f"{path} is a directory; name the files in it")
            if not path.is_file():
                raise InputError(f"{path} does not exist")

    @property
    def part(self) -> Shard:
        """The part of the input that is taken."""
        return Shard(self.shard, self.num_shards)

    def prefixes(self) -> dict[str, Path]:
        """Return the prefix of each split that is written."""
        splits = {"train": self.output_prefix}
        if self.validation_fraction:
            splits["valid"] = validation_prefix(self.output_prefix)
        return splits


def validation_prefix(prefix: Path) -> Path:
    """Return the prefix of the validation split that belongs to a training prefix."""
    return part_path(prefix, "_valid")


def require_free(config: PreprocessConfig) -> None:
    """Check that no dataset exists where one will be written, or that it may be replaced.

    Raises:
        InputError: one exists, or a validation split does that would not belong to the new one.
    """
    prefixes = config.prefixes()
    for prefix in prefixes.values():
        require_absent(prefix, config.overwrite)
    other = validation_prefix(config.output_prefix)
    if "valid" not in prefixes and part_path(other, ".json").exists():
        raise InputError(
            f"{other} is the validation split of another run, and its samples would be trained "
            "on: remove it, or pass --validation-fraction"
        )


def require_absent(prefix: Path, overwrite: bool) -> None:
    """Check that no dataset exists at a prefix, or that it may be replaced.

    Raises:
        InputError: one exists.
    """
    if part_path(prefix, ".json").exists() and not overwrite:
        raise InputError(f"a dataset exists at {prefix}: pass --overwrite to replace it")
