"""``in2 plan``: its table, and what it refuses."""

from tests.conftest import ROOT, RunTool, assert_refused


def test_layouts_are_ranked_or_refused(run_here: RunTool) -> None:
    config = ("--config", ROOT / "configs" / "film7b.yaml")
    shown = run_here("plan", *config, "--gpus", 128, "--gpu-type", "a100-80g", "--formulas")
    assert shown.returncode == 0, shown.stderr
    assert "by formula" in shown.stdout
    assert "| 2 | 1 | 2 | 32 | none |" in shown.stdout
    assert_refused(run_here("plan", *config, "--gpus", 128, "--gpu-type", "abacus"), "abacus")
    assert_refused(run_here("plan", *config, "--gpus", 7, "--gpu-type", "h100"), "7 GPUs")
