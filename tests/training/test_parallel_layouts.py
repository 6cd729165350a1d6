"""Every layout gives the losses and gradient norms of one process, in float32."""

from pathlib import Path

import pytest

from tests.training.conftest import STEPS, Train

TOLERANCE = 1e-5  # relative


def _options(tensor: int, pipeline: int, context: int, sequence: bool) -> list[str]:
    return [
        f"--parallel.tensor={tensor}",
        f"--parallel.pipeline={pipeline}",
        f"--parallel.context={context}",
        f"--parallel.sequence={str(sequence).lower()}",
    ]


@pytest.mark.parametrize(
    ("tensor", "pipeline", "context", "sequence", "world"),
    [
        pytest.param(2, 1, 1, False, 2, id="TP2", marks=pytest.mark.slow),
        pytest.param(2, 1, 1, True, 2, id="TP2+SP"),
        pytest.param(1, 2, 1, False, 2, id="PP2"),
        pytest.param(1, 1, 2, False, 2, id="CP2"),
        pytest.param(1, 1, 1, False, 2, id="DP2"),
        pytest.param(2, 1, 1, False, 4, id="TP2xDP2", marks=pytest.mark.slow),
        pytest.param(1, 2, 1, False, 4, id="PP2xDP2", marks=pytest.mark.slow),
        pytest.param(2, 1, 2, True, 4, id="TP2+SPxCP2", marks=pytest.mark.slow),
    ],
)
def test_losses_and_gradient_norms_are_those_of_one_process(
    tensor: int,
    pipeline: int,
    context: int,
    sequence: bool,
    world: int,
    tmp_path: Path,
    train: Train,
    reference: tuple[Path, dict],
) -> None:
    options = _options(tensor, pipeline, context, sequence)
    metrics = train(tmp_path / "run", *options, nproc=world)
    expected = reference[1]
    assert sorted(metrics) == sorted(expected) == list(range(1, STEPS + 1))
    for step, line in metrics.items():
        assert line["answer_tokens"] == expected[step]["answer_tokens"]
        assert line["loss"] == pytest.approx(expected[step]["loss"], rel=TOLERANCE)
        assert line["grad_norm"] == pytest.approx(expected[step]["grad_norm"], rel=TOLERANCE)


def test_the_loss_falls(reference: tuple[Path, dict]) -> None:
    losses = [line["loss"] for line in reference[1].values()]
    assert losses[-1] < losses[0] - 0.2
