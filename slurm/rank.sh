#!/usr/bin/env bash
# Runs one task of a job step and records its exit code; film7b.sh starts it by srun.
#
# Slurm delivers a signal to every process of a step. SIGURG, which processes ignore unless they
# ask for it, is turned into SIGUSR1 for the rank alone, so that the helper processes
# that are writing a checkpoint are not ended. $SLURMD_NODENAME in an argument is replaced by the
# node's name, for data under a different path on each node.
set -uo pipefail

export IN2_LAUNCHER=$$ # the rank dies when this process does
trap : TERM USR1
trap 'kill -USR1 "$rank" 2>/dev/null' URG
# shellcheck disable=SC2016  # the literal name is what is replaced
"${@//'$SLURMD_NODENAME'/$SLURMD_NODENAME}" &
rank=$!
while kill -0 "$rank" 2>/dev/null; do # a trapped signal ends wait early
    wait "$rank"
done
wait "$rank"
code=$?
if [ "$code" -ne 0 ] && [ -n "${IN2_ENDINGS:-}" ]; then
    echo "$SLURM_PROCID $SLURM_NODEID $SLURMD_NODENAME $code" \
        >"$IN2_ENDINGS/$(date +%s.%N)-rank-$SLURM_PROCID"
fi
exit "$code"
