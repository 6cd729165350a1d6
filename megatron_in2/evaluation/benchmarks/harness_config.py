"""What to run through lm-evaluation-harness: the configuration of ``in2 evaluate run``."""

from dataclasses import dataclass, field
from pathlib import Path

from megatron_in2.choices import as_option, require_choices, wrong_choice
from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import BENCHMARKS
from megatron_in2.evaluation.benchmarks.suites import RULER_LENGTHS, SUITES
from megatron_in2.templates.wordings import WordingName


@dataclass(frozen=True)
class HarnessConfig:
    """What to run.

    Args:
        model: Hugging Face checkpoint.
        tasks: benchmarks by name.
        data: folder with NAME.jsonl in the rows of the hub's data set, instead of the hub;
            gsm8k takes its examples from gsm8k.train.jsonl. For suites: DATA/SUITE is a copy of
            the hub's repository, and DATA/kilt holds HELMET's files.
        essays: RULER's haystack instead of the hub's: a text file, JSON lines with ``text``, or a
            folder of .txt files; any prose of more tokens than the longest prompt.
        squad: SQuAD's dev-v2.0.json for RULER instead of a download.
        hotpotqa: HotpotQA's hotpot_dev_distractor_v1.json for RULER instead of a download.
        limit: samples of each task; 0 takes all.
        batch_size: samples at a time.
        template: writes the prompts of our tasks: film, chatml, a YAML file, an export's
            directory, or base: the model's own chat template; empty takes the one that the model
            was trained with, else its own, or FILM's where it has none.
        wording: of a user's message inside a base's own chat template.
        lengths: of the prompts of RULER, BABILong and HELMET, in tokens.
        max_length: most tokens of a prompt and its answer together; 0 takes the model's window.
            LongBench's longer inputs lose their middle.
    """

    model: Path
    tasks: list[str]
    data: Path | None = None
    essays: Path | None = None
    squad: Path | None = None
    hotpotqa: Path | None = None
    limit: int = 0
    batch_size: int = 1
    template: str = ""
    wording: WordingName = "film"
    lengths: list[int] = field(default_factory=lambda: [32768])
    max_length: int = 0

    def __post_init__(self) -> None:
        require_choices(self, as_option)
        for name in ("limit", "max_length"):
            if getattr(self, name) < 0:
                raise InputError(f"{as_option(name, getattr(self, name))}: give 0 or more")
        for name in self.tasks:
            if name not in BENCHMARKS and name not in SUITES:
                raise wrong_choice(as_option("tasks", name), (*BENCHMARKS, *SUITES))
        for length in self.lengths:
            if length not in RULER_LENGTHS:
                raise InputError(f"--lengths {length}: use {', '.join(map(str, RULER_LENGTHS))}")
        for name in ("essays", "squad", "hotpotqa"):
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise InputError(f"{as_option(name, path)} does not exist")
            if path is not None and "ruler" not in self.tasks:
                raise InputError(f"{as_option(name, path)} is for RULER: add --tasks ruler")
