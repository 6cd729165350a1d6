"""``in2 convert``: there, back and proven; what it refuses."""

from pathlib import Path

from megatron_in2.files import read_json
from tests.conftest import RunTool, assert_refused
from tests.conversion.conftest import MakeModel
from tests.conversion.test_convert import assert_same_tensors


def test_commands_convert_and_verify(
    tmp_path: Path, make_model: MakeModel, run_here: RunTool
) -> None:
    source = make_model(tmp_path / "hf", heads=8, groups=2, positions=9000)
    megatron, back, proof = tmp_path / "megatron", tmp_path / "back", tmp_path / "proof.json"
    result = run_here(
        "convert_checkpoint",
        *("hf-to-megatron", "--input", source, "--output", megatron, "--verify"),
    )
    assert result.returncode == 0, result.stderr
    assert "8 heads in 2 groups, vocabulary 1,003, rope_theta 1e+06" in result.stdout
    assert "verified: 21 tensors equal bit for bit" in result.stdout
    result = run_here(
        "convert_checkpoint",
        *("megatron-to-hf", "--input", megatron, "--output", back, "--from", "0"),
        *("--shard-gigabytes", 0.0002, "--verify", "--report", proof),
    )
    assert result.returncode == 0, result.stderr
    figures = read_json(proof)
    assert figures["tensors"] == 21
    assert figures["last_position"] == 8999
    assert figures["largest_logit"] > 1
    assert figures["largest_difference"] <= 1e-4 * figures["largest_logit"]
    assert_same_tensors(source, back)


def test_command_refuses_bad_input(tmp_path: Path, run_here: RunTool) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    refused = run_here(
        "convert_checkpoint", "hf-to-megatron", "--input", tmp_path, "--output", tmp_path / "out"
    )
    assert_refused(refused, "config.json", "model_type='mixtral'", "MistralForCausalLM")
    refused = run_here(
        "convert_checkpoint",
        *("hf-to-megatron", "--input", tmp_path, "--output", tmp_path / "out"),
        *("--dtype", "float32"),
    )
    assert_refused(refused, "--dtype is an option of megatron-to-hf")
    assert not (tmp_path / "out").exists()
