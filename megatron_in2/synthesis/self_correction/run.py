"""One run: samples -> attempts -> verdicts -> samples that verify and correct themselves."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file, sha256_of_file, write_json
from megatron_in2.synthesis.pipeline import only_run
from megatron_in2.synthesis.questions.filters import question_key
from megatron_in2.synthesis.rejects import Rejects, listed_rejects
from megatron_in2.synthesis.self_correction.attempts_file import AttemptsFile, Tasks
from megatron_in2.synthesis.self_correction.config import SelfCorrectionConfig
from megatron_in2.synthesis.self_correction.judging import AttemptJudge, Judge, Parted
from megatron_in2.synthesis.self_correction.mixing import Judged, Use, choose_uses
from megatron_in2.synthesis.self_correction.report import AttemptReport
from megatron_in2.synthesis.self_correction.samples import (
    corrected_record,
    sample_line,
    verified_record,
)
from megatron_in2.synthesis.self_correction.tasks import AttemptDrawer, Drawn, Task
from megatron_in2.synthesis.self_correction.teacher import Teacher
from megatron_in2.synthesis.self_correction.wordings import load_verifications

_Use = tuple[Task, Drawn, Use | None, str | None]
_DRAWING = ("tries", "temperature", "top_p", "max_new_tokens", "seed")  # attempts depend on them


@dataclass(frozen=True)
class SelfCorrection:
    """The result of a run: its report as JSON values."""

    output: Path
    report: dict[str, Any]
    dropped: Counter[str]


def make_self_corrections(
    config: SelfCorrectionConfig,
    drawer: AttemptDrawer,
    samples: Path,
    tasks: Tasks,
    output: Path,
    overwrite: bool = False,
    teacher: Teacher | None = None,
) -> SelfCorrection:
    """Draw attempts at samples, judge them, and write samples that verify and correct them.

    Writes ``output`` and, with the same name plus a suffix, ``.attempts.jsonl`` (kept: a killed
    run continues from it, and other shares need no new attempts), ``.rejects.jsonl`` and
    ``.report.json``. Equal settings give equal bytes.

    Args:
        config: the settings.
        drawer: draws attempts from the model to be trained.
        samples: the file that ``tasks`` reads.
        tasks: reads the samples anew.
        output: JSON lines.
        overwrite: replace an output that exists; attempts are kept.
        teacher: the second model, where the settings need one.

    Raises:
        InputError: an unusable setting, sample or output, or shares that no sample allows.
    """
    if output.exists() and not overwrite:
        raise InputError(f"{output} already exists: pass --overwrite or name another output")
    settings = {name: value for name, value in asdict(config).items() if name in _DRAWING}
    drawn_by = {"samples_sha256": sha256_of_file(samples), **settings, **drawer.identity}
    total = sum(1 for _ in tasks())  # a bad sample is known before the first attempt
    with only_run(output):
        attempts = AttemptsFile(output, drawn_by)
        attempts.complete(tasks, total, drawer)
        with listed_rejects(output) as rejects:
            run = _Run(config, teacher, tasks, attempts, rejects)
            report = run.write(output)
        values = {**report.values(), "dropped": dict(sorted(rejects.counts.items()))}
        write_json(output.with_name(f"{output.name}.report.json"), values)
    return SelfCorrection(output, values, rejects.counts)


class _Run:
    """Judges all attempts, chooses what each sample becomes, and writes it."""

    def __init__(
        self,
        config: SelfCorrectionConfig,
        teacher: Teacher | None,
        tasks: Tasks,
        attempts: AttemptsFile,
        rejects: Rejects,
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._attempts = attempts
        self._rejects = rejects
        self._teacher = teacher
        self._judge: Judge = AttemptJudge(config.judge, config.least_f1)
        if config.judge == "model":
            assert teacher is not None
            self._judge = teacher
        self._verifications = load_verifications(config.wordings)
        self._report = AttemptReport(config.bins)

    def write(self, output: Path) -> AttemptReport:
        """Write the output; equal attempts and settings give equal bytes."""
        judged: dict[str, Judged] = {}
        for each in self._judged():
            if each.id in judged:
                raise InputError(f"sample {each.id!r:.80} occurs twice: give each an id of its own")
            judged[each.id] = each
        config = self._config
        uses = choose_uses(
            list(judged.values()), config.wrong_share, config.plain_share, config.seed
        )
        if not uses:
            raise InputError(
                f"no sample can be made: of {len(judged)} samples {self._having('wrong', judged)} "
                f"have a wrong attempt and {self._having('right', judged)} a right one, "
                f"--wrong-share {config.wrong_share:g} and --plain-share {config.plain_share:g} "
                "need both: change the shares (attempts are kept), --judge or --temperature"
            )
        with atomic_file(output) as stream:
            for task, drawn, use, explanation in self._explained(judged, uses):
                if use == "corrected" and self._config.correct_by == "writer" and not explanation:
                    self._rejects.drop(task.sample.id, "writer gave no correction")
                    use = None
                self._report.uses[use or "left out"] += 1
                if use is not None:
                    found = judged[task.sample.id]
                    record = self._record(task, drawn, found, use, explanation)
                    stream.write(sample_line(record, task, output))
        return self._report

    def _pairs(self) -> Iterator[tuple[Task, Drawn]]:
        return zip(self._tasks(), self._attempts.read(), strict=True)

    def _parted(self) -> Iterator[Parted]:
        for task, drawn in self._pairs():
            problem = task.problem or self._judge.problem(task.reference) or drawn.problem
            texts = () if problem else drawn.texts
            replies = tuple(tuple(self._verifications.answers(text)) for text in texts)
            self._report.unusable["cut off at --max-new-tokens"] += drawn.cut_off
            yield Parted(task, replies, problem)

    def _judged(self) -> Iterator[Judged]:
        """Judge the attempts at every sample; count them, and list what cannot be used."""
        for parted, verdicts in self._judge.verdicts(self._parted()):
            sample = parted.task.sample
            if parted.problem is not None:
                self._rejects.drop(sample.id, parted.problem)
                yield Judged(sample.id)
                continue
            right, wrong, seen = [], [], set()
            for place, reply in enumerate(parted.replies):
                first, last = verdicts[reply[0]], verdicts[reply[-1]]
                if problem := _unusable(reply, first, last):
                    self._report.unusable[problem] += 1
                    continue
                self._report.count(sample.evidence_position, first is True, last is True)
                if first:
                    right.append(place)
                elif (words := question_key(reply[0])) not in seen:
                    seen.add(words)
                    wrong.append(place)
            if not right and not wrong:
                self._rejects.drop(sample.id, "no usable attempt")
            yield Judged(sample.id, tuple(right), tuple(wrong))

    def _explained(self, judged: Mapping[str, Judged], uses: Mapping[str, Use]) -> Iterator[_Use]:
        """Yield each sample with its attempts, its use and, of a writer, what was wrong."""
        pairs, again = itertools.tee(self._pairs())

        def last_attempts() -> Iterator[tuple[Task, str | None]]:
            for task, drawn in again:
                is_corrected = uses.get(task.sample.id) == "corrected"
                attempts = self._used(drawn, judged[task.sample.id]) if is_corrected else [None]
                yield task, attempts[-1]

        explained: Iterable[tuple[Task, str | None]] = ((task, None) for task, _ in again)
        if self._config.correct_by == "writer":
            assert self._teacher is not None
            explained = self._teacher.corrections(last_attempts())
        for (task, drawn), (_, explanation) in zip(pairs, explained, strict=True):
            yield task, drawn, uses.get(task.sample.id), explanation

    def _used(self, drawn: Drawn, judged: Judged) -> list[str]:
        """Return the wrong attempts of a corrected sample."""
        places = judged.wrong[: self._config.corrections]
        return [self._verifications.answers(drawn.texts[place])[0] for place in places]

    def _record(
        self, task: Task, drawn: Drawn, judged: Judged, use: Use, explanation: str | None
    ) -> dict[str, Any]:
        if use == "verified":
            attempt = self._verifications.answers(drawn.texts[judged.right[0]])[0]
            return verified_record(task, attempt, self._verifications)
        if use == "corrected":
            attempts = self._used(drawn, judged)
            return corrected_record(task, attempts, self._verifications, explanation)
        return task.record

    @staticmethod
    def _having(what: str, judged: dict[str, Judged]) -> int:
        return sum(bool(getattr(each, what)) for each in judged.values())


def _unusable(reply: Sequence[str], first: bool | None, last: bool | None) -> str | None:
    """Return why a reply is not used, or None."""
    if not question_key(reply[0]):
        return "empty attempt"
    return "the judge gave no verdict" if first is None or last is None else None
