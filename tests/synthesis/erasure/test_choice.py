"""The best strategy of a kind: most right answers first, then the cheaper ones."""

from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.synthesis.erasure.choice import StrategyScore, best_strategy


def _score(right: int, cost: float = 0.0, tokens: int = 0) -> StrategyScore:
    return StrategyScore(right, 10, 10, cost, tokens)


def test_ties_go_to_the_cheaper() -> None:
    assert best_strategy({"a": _score(7, 2.0), "b": _score(8, 9.0)}) == "b"
    assert best_strategy({"a": _score(8, 2.0), "b": _score(8, 1.0)}) == "b"
    assert best_strategy({"a": _score(8, 0.0, 90), "b": _score(8, 0.0, 20)}) == "b"
    assert best_strategy({"a": _score(8), "b": _score(8)}) == "a"
    assert best_strategy({"a": _score(0, 1.0), "b": _score(0)}) is None
    assert best_strategy({}) is None


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 5)), min_size=1, max_size=6))
def test_no_strategy_is_better_than_the_one_chosen(found: list[tuple[int, int]]) -> None:
    scores = {str(i): _score(right, float(cost)) for i, (right, cost) in enumerate(found)}
    name = best_strategy(scores)
    if name is None:
        assert all(right == 0 for right, _ in found)
    else:
        right, cost = found[int(name)]
        assert not any(r > right or (r == right and c < cost) for r, c in found)
