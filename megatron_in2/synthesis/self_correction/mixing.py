"""Which sample becomes what: corrected, verified, plain or left out, by the shares asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_in2.records import id_hash

Use = Literal["corrected", "verified", "plain"]


@dataclass(frozen=True)
class Judged:
    """What the attempts at one sample gave.

    Args:
        id: of the sample.
        right: places of its right attempts.
        wrong: places of its wrong attempts, no two with the same words.
    """

    id: str
    right: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()


def choose_uses(
    judged: Sequence[Judged], wrong_share: float, plain_share: float, seed: int
) -> Mapping[str, Use]:
    """Use as many samples as the two shares allow, each once; those left out are absent.

    Args:
        judged: all samples, those without a usable attempt too: these can only be plain.
        wrong_share: of samples with a correction, among those with an attempt.
        plain_share: of plain samples, among all that are used.
        seed: of the choice.

    Returns:
        The use of each sample by its id; counts are within 1 of the shares.
    """
    ordered = sorted(judged, key=lambda each: id_hash(f"{seed}/{each.id}"))
    only_wrong = [each.id for each in ordered if each.wrong and not each.right]
    only_right = [each.id for each in ordered if each.right and not each.wrong]
    both = [each.id for each in ordered if each.right and each.wrong]
    limits = [
        float(len(only_wrong) + len(only_right) + len(both)),
        (1 - plain_share) * len(ordered),
    ]
    if wrong_share > 0:
        limits.append((len(only_wrong) + len(both)) / wrong_share)
    if wrong_share < 1:
        limits.append((len(only_right) + len(both)) / (1 - wrong_share))
    with_attempt = int(min(limits) + 1e-9)
    corrected = min(round(wrong_share * with_attempt), len(only_wrong) + len(both))
    verified = min(with_attempt - corrected, len(only_right) + len(both))
    # Samples with both kinds of attempts fill whatever is short of its share.
    from_both = max(corrected - len(only_wrong), 0)
    uses: dict[str, Use] = dict.fromkeys([*only_wrong, *both[:from_both]][:corrected], "corrected")
    uses |= dict.fromkeys([*only_right, *both[from_both:]][:verified], "verified")
    plain = round(plain_share / (1 - plain_share) * len(uses))
    rest = [each.id for each in ordered if each.id not in uses]
    return {**uses, **dict.fromkeys(rest[:plain], "plain")}
