"""Other starts and settings: weights alone, recomputation, normalisation by sample."""

from pathlib import Path

import pytest

from tests.training.conftest import Train


def test_weights_alone_start_a_new_run(
    tmp_path: Path, train: Train, reference: tuple[Path, dict]
) -> None:
    first = train(tmp_path / "run", "--checkpoint.init_from", reference[0])
    assert first[1]["loss"] < reference[1][1]["loss"] - 0.2
    assert first[1]["learning_rate"] == reference[1][1]["learning_rate"]


@pytest.mark.slow
def test_logits_everywhere_change_nothing(
    tmp_path: Path, train: Train, reference: tuple[Path, dict]
) -> None:
    metrics = train(tmp_path / "run", "--runtime.logits=all")
    for step, line in metrics.items():
        assert line["loss"] == pytest.approx(reference[1][step]["loss"], rel=1e-6)
        assert line["grad_norm"] == pytest.approx(reference[1][step]["grad_norm"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputed_activations_change_nothing(
    recompute: str, tmp_path: Path, train: Train, reference: tuple[Path, dict]
) -> None:
    metrics = train(tmp_path / "run", f"--runtime.recompute={recompute}")
    for step, line in metrics.items():
        assert line["loss"] == pytest.approx(reference[1][step]["loss"], rel=1e-6)
        assert line["grad_norm"] == pytest.approx(reference[1][step]["grad_norm"], rel=1e-6)


@pytest.mark.slow
def test_sample_normalisation_is_the_same_under_context_parallelism(
    tmp_path: Path, train: Train, reference: tuple[Path, dict]
) -> None:
    option = "--optimizer.normalisation=sample"
    one = train(tmp_path / "one", option)
    two = train(tmp_path / "two", option, "--parallel.context=2", nproc=2)
    assert one[1]["loss"] != pytest.approx(reference[1][1]["loss"], rel=1e-4)
    for step, line in two.items():
        assert line["loss"] == pytest.approx(one[step]["loss"], rel=1e-5)
        assert line["grad_norm"] == pytest.approx(one[step]["grad_norm"], rel=1e-5)
