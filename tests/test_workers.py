"""Workers of pytest-xdist share out files, not tests."""

import pytest


def test_a_file_is_run_by_one_worker(request: pytest.FixtureRequest) -> None:
    """Else each worker makes the file's fixtures, and two use the machine's one Slurm."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("one process runs all tests")
    assert request.node.nodeid.endswith("@tests/test_workers.py")
