"""Every family under every layout, float32: transformers' loss and gradients, one process's steps.

The vocabulary is a prime, so tensor-parallel ranks share it only when it is padded. Samples are
longer than the original positions of scaled frequencies. Some global batches have a single answer
token, or none. Ranks start once a layout and train all families in turn.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from megatron_in2.architectures.registry import tensor_table
from megatron_in2.checkpoint.folder import read_model_config
from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.conversion.megatron_reader import MegatronReader
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packed.order import rows_at
from megatron_in2.parallel.launch import run_local_ranks
from megatron_in2.tokenizers.base import Tokenizer
from tests.families import FAMILIES, save_model

RANKS = Path(__file__).with_name("family_ranks.py")
STEPS = 20
# (tensor, pipeline, context, sequence parallelism, processes)
LAYOUTS = {
    "one process": (1, 1, 1, False, 1),
    "TP2": (2, 1, 1, False, 2),
    "TP2+SP": (2, 1, 1, True, 2),
    "PP2": (1, 2, 1, False, 2),
    "CP2": (1, 1, 2, False, 2),
    "DP2": (1, 1, 1, False, 2),
}
Imported = dict[str, tuple[Path, Path]]
Expected = dict[str, tuple[float, dict[str, torch.Tensor]]]
Trained = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Imported:
    """Of each family transformers' model and this project's step."""
    found = {}
    for place, name in enumerate(FAMILIES):
        folder = tmp_path_factory.mktemp(f"family{place}")
        source = save_model(name, folder / "hf", small_tokenizer.path)
        found[name] = (source, import_checkpoint(source, folder / "megatron").step)
    return found


@pytest.fixture(scope="module")
def expected(imported: Imported, sparse_dataset: Path, base_config: dict) -> Expected:
    """transformers' loss and gradients over the first global batch, each sample by itself."""
    batch = np.arange(base_config["schedule"]["global_batch_rows"])
    samples = list(_samples(PackedDataset(sparse_dataset), batch))
    assert max(len(tokens) for tokens, _ in samples) > 4 * 64  # original positions of the scaled
    found = {}
    for name, (source, _) in imported.items():
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        loss_sum = torch.zeros(())
        for tokens, answers in samples:
            logits = model(tokens.unsqueeze(0)).logits[0, answers - 1]
            loss_sum = loss_sum + torch.nn.functional.cross_entropy(
                logits, tokens[answers], reduction="sum"
            )
        loss = loss_sum / sum(len(answers) for _, answers in samples)
        loss.backward()
        found[name] = (loss.item(), {key: each.grad for key, each in model.named_parameters()})
    return found


def _samples(rows: PackedDataset, batch: np.ndarray):
    """Each sample's tokens and the places of those that are trained on; none without any."""
    for index in rows_at(batch, len(rows), 1234, rows.manifest.unit_rows).tolist():
        row, start = rows[index], 0
        for padded, record in zip(row.lengths, row.records, strict=True):
            end = start + int(record["length"])
            answers = np.flatnonzero(row.loss_mask[start:end])
            if len(answers):
                yield torch.from_numpy(row.tokens[start:end]), answers
            start += padded


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    imported: Imported,
    sparse_dataset: Path,
    base_config: dict,
) -> Trained:
    """Train every family so many steps in a layout, once; return the folder of the results."""
    done: dict[tuple[str, int], Path] = {}

    def train(layout: str, steps: int) -> Path:
        if (layout, steps) not in done:
            output = tmp_path_factory.mktemp("trained")
            files = [
                _write_config(output, place, step, layout, sparse_dataset, base_config)
                for place, (_, step) in enumerate(imported.values())
            ]
            command = [sys.executable, str(RANKS), str(output), str(steps), *files]
            assert run_local_ranks(command, LAYOUTS[layout][-1]) == 0
            done[layout, steps] = output
        return done[layout, steps]

    return train


def _write_config(
    output: Path, place: int, step: Path, layout: str, rows: Path, base: dict[str, Any]
) -> str:
    tensor, pipeline, context, sequence, _ = LAYOUTS[layout]
    config = {
        **base,
        "model": asdict(read_model_config(step)),
        "data": {**base["data"], "train": str(rows), "validation": ""},
        "parallel": {
            "tensor": tensor,
            "pipeline": pipeline,
            "context": context,
            "sequence": sequence,
        },
        "optimizer": {"lr": 1e-3},
        "schedule": {**base["schedule"], "steps": STEPS},
        "checkpoint": {"dir": str(output / f"run{place}"), "init_from": str(step)},
    }
    file = output / f"{place}.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


@pytest.mark.parametrize(
    "layout",
    [
        "one process",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("TP2", "TP2+SP", "PP2", "CP2", "DP2")
        ),
    ],
)
def test_loss_and_every_gradient_are_transformers(
    layout: str, imported: Imported, expected: Expected, trained: Trained
) -> None:
    output = trained(layout, 0)
    for place, (name, (_, step)) in enumerate(imported.items()):
        folder = output / str(place)
        assert (folder / "fresh").read_text() == "ok"
        loss, worst = json.loads((folder / "steps.json").read_text())["first"], 0.0
        assert loss == pytest.approx(expected[name][0], rel=1e-5), name
        gradients = _tensors(folder / "gradients", step)
        assert gradients.keys() == expected[name][1].keys()
        for key, theirs in expected[name][1].items():
            largest = theirs.abs().max()
            assert largest > 0, f"{name}, {key}: gradient is all zero"
            difference = float((gradients[key] - theirs).abs().max() / largest)
            assert difference <= 1e-4, (name, key)
            worst = max(worst, difference)
        print(f"{layout:11} {name:18} {loss / expected[name][0] - 1:8.1e} {worst:8.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one process"])
def test_twenty_steps_are_those_of_one_process(
    layout: str, imported: Imported, trained: Trained
) -> None:
    one, output = trained("one process", STEPS), trained(layout, STEPS)
    for place, (name, (_, step)) in enumerate(imported.items()):
        lines, wanted = (
            json.loads((folder / str(place) / "steps.json").read_text())["steps"]
            for folder in (output, one)
        )
        assert len(lines) == len(wanted) == STEPS
        assert wanted[6] == [0.0, 0.0]  # the batch without an answer token
        worst = [0.0, 0.0]
        for line, expected_line in zip(lines, wanted, strict=True):
            assert line == pytest.approx(expected_line, rel=1e-5), name
            for which, (a, b) in enumerate(zip(line, expected_line, strict=True)):
                worst[which] = max(worst[which], abs(a / b - 1) if b else 0.0)
        # A rank that saved what it held of the others' weights before their last update would be
        # a learning rate off, 1e-3, in half of the numbers.
        weights, whole = (
            _tensors(folder / str(place) / "weights", step) for folder in (output, one)
        )
        for key, tensor in weights.items():
            assert (tensor - whole[key]).abs().max() < 1e-4, (name, key)
        print(f"{layout:11} {name:18} {worst[0]:8.1e} {worst[1]:8.1e}")


def _tensors(saved: Path, step: Path) -> dict[str, torch.Tensor]:
    """Read tensors of a step's shapes by transformers' names."""
    config = read_model_config(step)
    reader = MegatronReader(saved, config)
    return {
        name: tensor
        for mapping in tensor_table(config)
        for name, tensor in zip(mapping.names, mapping.split(reader.read(mapping)), strict=True)
    }
