#!/usr/bin/env bash
# Installs megatron_in2 into an NGC PyTorch image; the Dockerfile and megatron_in2.def call it.
#
#   slurm/container/install.sh SOURCE
#
# torch, and all that is built against it and the image's CUDA, stay as the image has them: pip is
# told their versions as constraints, in place of the image's own constraints on every package.
set -euo pipefail

source=$1
keep=$(mktemp)
python -m pip list --format=freeze |
    grep -iE '^(torch|torchvision|triton|pytorch-triton|numpy|(transformer|flash)[-_][a-z0-9_-]+)==' >"$keep"
PIP_CONSTRAINT=$keep python -m pip install --no-cache-dir "${source}[evaluation]"
rm "$keep"

# What Megatron-Core 0.16.1 is made for; found out here, and not by the first job.
python - <<'CHECK'
from importlib.metadata import version

import torch
from packaging.version import Version

engine = Version(version("transformer_engine")).base_version
assert torch.version.cuda, "torch has no CUDA: is this an NGC PyTorch image?"
assert Version("2.9") <= Version(engine) < Version("2.12"), f"Transformer Engine {engine}"
print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, Transformer Engine {engine}")
CHECK
in2 --version
