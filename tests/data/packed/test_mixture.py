"""What a mixture says of its steps, and what it calls lumpy."""

import numpy as np
import pytest

from megatron_in2.data.packed.mixture import Mixture


def test_shares_and_variation() -> None:
    mixture = Mixture(["pad", "long", "short"], np.array([[0, 30, 10], [0, 60, 0]]))
    assert mixture.per_step.tolist() == [40, 60]
    assert mixture.variation == pytest.approx(0.2)
    assert mixture.shares("short").tolist() == [0.25, 0.0]
    assert mixture.shares("long", "short").tolist() == [1.0, 1.0]
    assert mixture.total_share("short") == 0.1
    assert mixture.by_size() == ["long", "short"]


def test_steps_that_are_trained_on_nothing() -> None:
    mixture = Mixture(["pad", "long"], np.zeros((3, 2), np.int64))
    assert mixture.variation == 0
    assert mixture.shares("long").tolist() == [0, 0, 0]
    assert mixture.by_size() == mixture.lumps() == []


def test_lumps_are_named() -> None:
    even = np.full((20, 3), 100)
    even[:, 0] = 0
    assert Mixture(["pad", "long", "short"], even).lumps() == []
    uneven = even.copy()
    uneven[::2, 1] = 300
    (lump,) = Mixture(["pad", "long", "short"], uneven).lumps()
    assert lump == "the trained tokens of a step vary by 33% (200 to 400)"
    absent = even.copy()
    absent[:5, 2] = 0
    lumps = Mixture(["pad", "long", "short"], absent).lumps()
    assert lumps[-1] == "25% of the steps have no 'short' samples"
    rare = even.copy()
    rare[:, 2] = 0
    rare[0, 2] = 20  # below a share of 5 %: it cannot be in every step
    assert Mixture(["pad", "long", "short"], rare).lumps() == []
