"""How often a model corrects its own wrong attempts, and how often it spoils right ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_in2.evaluation.probing.tasks import find_task
from megatron_in2.files import read_json_lines
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.study import Study

CORRECTION_HEADS = (
    *("first answers right", "final answers right"),
    *("wrong attempts corrected", "right attempts spoiled"),
)


@dataclass(frozen=True)
class CorrectionCounts:
    """Replies by whether their first and their final answer are right."""

    both: int = 0
    corrected: int = 0  # only the final answer is right
    spoiled: int = 0  # only the first answer is right
    neither: int = 0

    def cells(self) -> tuple[str, str, str, str]:
        """Return shares with counts, in the order of the heads."""
        wrong, right = self.corrected + self.neither, self.both + self.spoiled
        everything = right + wrong
        return (
            _share(right, everything),
            _share(self.both + self.corrected, everything),
            _share(self.corrected, wrong),
            _share(self.spoiled, right),
        )


def count_corrections(
    study: Study, seeds: Sequence[SeedFolder], panel: str, arm: str, measure: str
) -> CorrectionCounts:
    """Count an arm's replies on one measure, which may correct themselves, over all seeds.

    The first answer is what the measure judges.
    """
    found = dict.fromkeys(((True, True), (False, True), (True, False), (False, False)), 0)
    for seed in seeds:
        probes = read_json_lines(seed.probes(measure))
        replies = read_json_lines(seed.replies(panel, arm, measure))
        for (_, probe), (_, reply) in zip(probes, replies, strict=True):
            text = str(reply["samples"][0])
            asked, wanted = study.measures[measure], probe["completion"]
            is_right = find_task(probe["task"]).is_right
            answers = asked.judged(probe, text), asked.final(text)
            first, final = (is_right(wanted, answer) == 1 for answer in answers)
            found[first, final] += 1
    return CorrectionCounts(*found.values())


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f} ({part:,} of {whole:,})" if whole else "-"
