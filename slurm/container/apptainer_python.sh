#!/usr/bin/env bash
# Python inside an Apptainer image: name this file in IN2_PYTHON, and the image in IN2_APPTAINER.
#
# The repository, IN2_MOUNTS and the working directory are visible inside. Signals reach the rank:
# Apptainer passes them on to the process that it started.
set -euo pipefail

: "${IN2_APPTAINER:?names the image that slurm/container/megatron_in2.def makes}"
binds="$PWD${IN2_MOUNTS:+,$IN2_MOUNTS}"
exec apptainer exec --nv --bind "$binds" --pwd "$PWD" "$IN2_APPTAINER" python "$@"
