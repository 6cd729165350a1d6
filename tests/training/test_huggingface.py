"""The trainer's first step against Hugging Face's, in float32: the loss and every gradient.

The vocabulary has 1,003 pieces, which two tensor-parallel ranks can share only when padded.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import MistralForCausalLM

from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packed.order import rows_at
from megatron_in2.parallel.launch import run_local_ranks

RANKS = Path(__file__).with_name("gradient_ranks.py")
Expected = tuple[float, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def expected(huggingface_model: Path, dataset: Path, base_config: dict) -> Expected:
    """Hugging Face's loss and gradients of the first global batch, each sample by itself."""
    rows = PackedDataset(dataset)
    model = MistralForCausalLM.from_pretrained(huggingface_model, dtype=torch.float32)
    loss_sum, answer_tokens = torch.zeros(()), 0
    batch = np.arange(base_config["schedule"]["global_batch_rows"])
    for index in rows_at(batch, len(rows), seed=1234).tolist():
        row, start = rows[index], 0
        for padded, record in zip(row.lengths, row.records, strict=True):
            tokens = torch.from_numpy(row.tokens[start : start + int(record["length"])])
            answers = np.flatnonzero(row.loss_mask[start : start + int(record["length"])])
            start += padded
            if len(answers):  # the padding at the row's end has none
                logits = model(tokens.unsqueeze(0)).logits[0, answers - 1]
                losses = torch.nn.functional.cross_entropy(logits, tokens[answers], reduction="sum")
                loss_sum = loss_sum + losses
                answer_tokens += len(answers)
    loss = loss_sum / answer_tokens
    loss.backward()
    return loss.item(), {name: each.grad for name, each in model.named_parameters()}


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param((1, 1, 1, False, 1), id="one process"),
        pytest.param((2, 1, 1, True, 2), id="TP2+SP"),
        pytest.param((2, 1, 1, False, 2), id="TP2", marks=pytest.mark.slow),
        pytest.param((1, 2, 1, False, 2), id="PP2", marks=pytest.mark.slow),
        pytest.param((1, 1, 2, False, 2), id="CP2", marks=pytest.mark.slow),
        pytest.param((1, 1, 1, False, 2), id="DP2", marks=pytest.mark.slow),
    ],
)
def test_loss_and_every_gradient_are_hugging_faces(
    layout: tuple[int, int, int, bool, int],
    tmp_path: Path,
    write_config: Callable[[Path], Path],
    imported: Path,
    expected: Expected,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tensor, pipeline, context, sequence, world = layout
    output = tmp_path / "gradients"
    output.mkdir()
    options = [
        *("--config", str(write_config(tmp_path / "run"))),
        *("--parallel.tensor", str(tensor), "--parallel.pipeline", str(pipeline)),
        *("--parallel.context", str(context), "--parallel.sequence", str(sequence).lower()),
        *("--checkpoint.init_from", str(imported)),
        *("--optimizer.clip_grad", "0"),  # clipping would scale what is compared
    ]
    command = [sys.executable, str(RANKS), str(output), *options]
    assert run_local_ranks(command, world) == 0
    loss = float(capfd.readouterr().out.rpartition("loss ")[2])
    export_checkpoint(output, tmp_path / "huggingface")
    gradients = load_file(tmp_path / "huggingface" / "model.safetensors")
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert gradients.keys() == expected[1].keys()
    worst = 0.0
    for name, theirs in expected[1].items():
        largest = theirs.abs().max()
        assert largest > 0, f"{name}: gradient is all zero"
        worst = max(worst, float((gradients[name] - theirs).abs().max() / largest))
        assert (gradients[name] - theirs).abs().max() <= 1e-4 * largest, name
    print(f"loss {loss / expected[0] - 1:.1e}, worst gradient {worst:.1e}")
