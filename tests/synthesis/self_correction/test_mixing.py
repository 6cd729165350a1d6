"""The mixture: shares are kept, no sample is used twice or for what it cannot be."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.synthesis.self_correction.mixing import Judged, choose_uses

KINDS = {"right": ((0,), ()), "wrong": ((), (0,)), "both": ((0,), (1,)), "none": ((), ())}
SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9])


@given(st.lists(st.sampled_from(list(KINDS)), max_size=80), st.one_of(SHARES, st.just(1.0)), SHARES)
def test_shares_are_kept(kinds: list[str], wrong_share: float, plain_share: float) -> None:
    judged = [Judged(str(place), *KINDS[kind]) for place, kind in enumerate(kinds)]
    uses = choose_uses(judged, wrong_share, plain_share, seed=1)
    for each in judged:
        assert uses.get(each.id) != "verified" or each.right
        assert uses.get(each.id) != "corrected" or each.wrong
    counts = Counter(uses.values())
    with_attempt = counts["corrected"] + counts["verified"]
    assert abs(counts["corrected"] - wrong_share * with_attempt) <= 1
    assert abs(counts["plain"] - plain_share * len(uses)) <= 1
    assert choose_uses(judged, wrong_share, plain_share, seed=1) == uses
    # One more sample with an attempt would break a share, or there is none.
    more = with_attempt + 2
    has = {kind: sum(bool(getattr(each, kind)) for each in judged) for kind in ("right", "wrong")}
    usable = sum(bool(each.right or each.wrong) for each in judged)
    assert (
        more > usable
        or more * wrong_share > has["wrong"]
        or more * (1 - wrong_share) > has["right"]
        or more > (1 - plain_share) * len(judged)
    )


def test_the_seed_chooses() -> None:
    judged = [Judged(str(place), (0,), (1,)) for place in range(40)]
    one, other = (choose_uses(judged, 0.5, 0.5, seed) for seed in (1, 2))
    assert one != other
    assert Counter(one.values()) == Counter(other.values())
