"""The benchmark of the paper's mixture, at a size of seconds: it packs, measures and cleans up."""

import re
from pathlib import Path

import pytest

from tests.conftest import RunTool, assert_refused


@pytest.mark.slow
def test_a_small_mixture_is_packed_and_measured(run_tool: RunTool, tmp_path: Path) -> None:
    folder = tmp_path / "film"
    result = run_tool("benchmarks/film_mixture", "--folder", folder, "--scale", 0.0005)
    assert result.returncode == 0, result.stderr
    assert "0.0005: 875 samples" in result.stdout
    shares = re.search(r"step's trained tokens \| (\S+) to (\S+) \|", result.stdout)
    assert shares is not None
    assert 0.15 <= float(shares[1]) <= float(shares[2]) <= 0.45
    variation = re.search(r"64-row step, coefficient of variation \| (\S+) \|", result.stdout)
    assert variation is not None
    assert float(variation[1]) <= 0.08
    assert not folder.exists()
    assert_refused(
        run_tool("benchmarks/film_mixture", "--folder", folder, "--scale", 1000),
        "--scale 1000.0 takes about 79000 GB",
    )
