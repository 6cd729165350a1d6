"""A run whose steps are all skipped ends and names what to check; no checkpoint is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_in2.checkpoint.folder import complete_steps
from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from tests.conftest import RunTool, assert_refused


@pytest.fixture(scope="module")
def broken_weights(reference: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with one NaN in it, imported from Hugging Face format."""
    folder = tmp_path_factory.mktemp("broken")
    export_checkpoint(reference[0], folder / "export")
    file = folder / "export" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    import_checkpoint(folder / "export", folder / "broken")
    return folder / "broken"


def test_nan_weights_end_the_run_naming_rows_and_remedy(
    tmp_path: Path,
    broken_weights: Path,
    run_tool: RunTool,
    write_config: Callable[[Path], Path],
) -> None:
    config = write_config(tmp_path / "run")
    options = ("--checkpoint.init_from", broken_weights, "--data.validation", "")
    result = run_tool("train", "--config", config, *options)
    assert_refused(result, "step 3", "not finite in 3 steps in a row", "rows [", "optimizer.lr")
    assert "WARNING loss or gradient is not finite, skipped" in result.stdout
    assert not complete_steps(tmp_path / "run")
