"""One run: samples -> attempts -> verdicts -> samples that verify and correct themselves."""

import json
import os
from collections import Counter
from collections.abc import Iterator
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
from megatron_in2.synthesis.self_correction.judging import AttemptJudge
from megatron_in2.synthesis.self_correction.mixing import Judged, choose_uses
from megatron_in2.synthesis.self_correction.report import AttemptReport
from megatron_in2.synthesis.self_correction.samples import corrected_record, verified_record
from megatron_in2.synthesis.self_correction.tasks import AttemptDrawer, Drawn, Task
from megatron_in2.synthesis.self_correction.wordings import load_verifications

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
            run = _Run(config, tasks, attempts, rejects)
            report = run.write(output)
        values = {**report.values(), "dropped": dict(sorted(rejects.counts.items()))}
        write_json(output.with_name(f"{output.name}.report.json"), values)
    return SelfCorrection(output, values, rejects.counts)


class _Run:
    """Judges all attempts, chooses what each sample becomes, and writes it."""

    def __init__(
        self, config: SelfCorrectionConfig, tasks: Tasks, attempts: AttemptsFile, rejects: Rejects
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._attempts = attempts
        self._rejects = rejects
        self._judge = AttemptJudge(config.judge, config.least_f1)
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
            for task, drawn in self._pairs():
                use = uses.get(task.sample.id)
                self._report.uses[use or "left out"] += 1
                if use is not None:
                    record = self._record(task, drawn, judged[task.sample.id], use)
                    stream.write(json.dumps(_moved(record, task, output), ensure_ascii=False))
                    stream.write("\n")
        return self._report

    def _pairs(self) -> Iterator[tuple[Task, Drawn]]:
        return zip(self._tasks(), self._attempts.read(), strict=True)

    def _judged(self) -> Iterator[Judged]:
        """Judge the attempts at every sample; count them, and list what cannot be used."""
        for task, drawn in self._pairs():
            identity = task.sample.id
            problem = task.problem or self._judge.problem(task.reference) or drawn.problem
            if problem is not None:
                self._rejects.drop(identity, problem)
                yield Judged(identity)
                continue
            self._report.unusable["cut off at --max-new-tokens"] += drawn.cut_off
            right, wrong, seen = [], [], set()
            for place, text in enumerate(drawn.texts):
                first, *more = self._verifications.answers(text)
                if not question_key(first):
                    self._report.unusable["empty attempt"] += 1
                    continue
                is_right = self._judge.is_right(first, task.reference)
                is_right_finally = self._judge.is_right((first, *more)[-1], task.reference)
                self._report.count(task.sample.evidence_position, is_right, is_right_finally)
                if is_right:
                    right.append(place)
                elif (words := question_key(first)) not in seen:
                    seen.add(words)
                    wrong.append(place)
            if not right and not wrong:
                self._rejects.drop(identity, "no usable attempt")
            yield Judged(identity, tuple(right), tuple(wrong))

    def _record(self, task: Task, drawn: Drawn, judged: Judged, use: str) -> dict[str, Any]:
        def first(place: int) -> str:
            return self._verifications.answers(drawn.texts[place])[0]

        if use == "verified":
            return verified_record(task, first(judged.right[0]), self._verifications)
        if use == "corrected":
            places = judged.wrong[: self._config.corrections]
            return corrected_record(task, [first(each) for each in places], self._verifications)
        return task.record

    @staticmethod
    def _having(what: str, judged: dict[str, Judged]) -> int:
        return sum(bool(getattr(each, what)) for each in judged.values())


def _moved(record: dict[str, Any], task: Task, output: Path) -> dict[str, Any]:
    """Return a recipe whose store is named from where the output is."""
    if "store" not in record or "segments" not in record:
        return record
    folder = Path(task.where.rpartition(":")[0]).parent
    return {**record, "store": os.path.relpath(folder / record["store"], output.parent)}
