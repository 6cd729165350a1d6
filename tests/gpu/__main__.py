"""``make gpu-test``: the tests of a machine with a GPU; elsewhere one line, exit code 0."""

import sys
from pathlib import Path

import pytest
import torch

if __name__ == "__main__":
    if not torch.cuda.is_available():
        print("no GPU is here: nothing was tested")
        sys.exit(0)
    folder = str(Path(__file__).resolve().parent)
    sys.exit(pytest.main(["-m", "gpu", "-v", "--durations=0", folder, *sys.argv[1:]]))
