"""Every layout gives the losses and gradient norms of one process, in float32.

All runs start from one Hugging Face model, imported. Their rows hold samples of unequal lengths;
some global batches have a single answer token, or none, so that whole ranks have none.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_in2.architectures.registry import tensor_table
from megatron_in2.checkpoint.folder import complete_steps, read_model_config
from megatron_in2.conversion.megatron_reader import MegatronReader
from tests.training.conftest import Train

STEPS = 20
TOLERANCE = 1e-5  # relative

Run = Callable[..., dict[int, dict]]


@pytest.fixture(scope="module")
def run(train: Train, imported: Path, sparse_dataset: Path) -> Run:
    """Train twenty steps in a folder, under a layout."""

    def start(folder: Path, *options: str, nproc: int = 1) -> dict[int, dict]:
        return train(
            folder,
            f"--schedule.steps={STEPS}",
            f"--checkpoint.init_from={imported}",
            f"--data.train={sparse_dataset}",
            "--data.validation=",
            "--optimizer.lr=1e-3",
            *options,
            nproc=nproc,
        )

    return start


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Path, dict]:
    """The run on one process: its folder and metrics."""
    folder = tmp_path_factory.mktemp("one") / "run"
    return folder, run(folder)


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
def test_losses_gradient_norms_and_saved_weights_are_those_of_one_process(
    tensor: int,
    pipeline: int,
    context: int,
    sequence: bool,
    world: int,
    tmp_path: Path,
    run: Run,
    one_process: tuple[Path, dict],
) -> None:
    options = _options(tensor, pipeline, context, sequence)
    metrics = run(tmp_path / "run", *options, nproc=world)
    expected = one_process[1]
    assert sorted(metrics) == sorted(expected) == list(range(1, STEPS + 1))
    print(f"largest relative difference {_largest_difference(metrics, expected)}")
    for step, line in metrics.items():
        assert line["answer_tokens"] == expected[step]["answer_tokens"]
        assert line["loss"] == pytest.approx(expected[step]["loss"], rel=TOLERANCE)
        assert line["grad_norm"] == pytest.approx(expected[step]["grad_norm"], rel=TOLERANCE)
    # A rank that saved its outdated copies of the others' weights would be wrong by a
    # learning rate, 1e-3, in half of the numbers.
    weights, whole = _weights(tmp_path / "run"), _weights(one_process[0])
    for name, tensor_of_run in weights.items():
        assert (tensor_of_run - whole[name]).abs().max() < 1e-4, name


def _largest_difference(metrics: dict[int, dict], expected: dict[int, dict]) -> dict[str, float]:
    return {
        name: max(
            abs(line[name] - expected[step][name]) / expected[step][name]
            for step, line in metrics.items()
            if expected[step][name]
        )
        for name in ("loss", "grad_norm")
    }


def _weights(folder: Path) -> dict[tuple[str, int | None], torch.Tensor]:
    """Read the weights of a run's last step, each layer's apart."""
    step = complete_steps(folder)[-1]
    model = read_model_config(step)
    reader = MegatronReader(step, model)
    return {(each.key, each.layer): reader.read(each) for each in tensor_table(model)}


def test_sparse_batches_are_what_they_should_be(one_process: tuple[Path, dict]) -> None:
    metrics = one_process[1]
    assert metrics[3]["answer_tokens"] == 1
    assert metrics[5]["answer_tokens"] == 4
    assert metrics[7]["answer_tokens"] == 0
    for step in (3, 5):
        assert metrics[step]["loss"] > 0
        assert metrics[step]["grad_norm"] > 0


def test_a_global_batch_without_an_answer_contributes_nothing(
    one_process: tuple[Path, dict],
) -> None:
    """No loss, no gradient, no NaN; the step counts, and the run continues."""
    empty = one_process[1][7]
    assert (empty["loss"], empty["grad_norm"], empty["skipped"]) == (0.0, 0.0, False)
    assert all(line["loss"] > 0 for step, line in one_process[1].items() if step != 7)


def test_the_loss_falls(reference: tuple[Path, dict]) -> None:
    losses = [line["loss"] for line in reference[1].values()]
    assert losses[-1] < losses[0] - 0.2
