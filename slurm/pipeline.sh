#!/usr/bin/env bash
# Submits all stages as a chain of jobs, each after the success of the previous one: synthesis
# (an array of shards), preprocessing (an array) and merging, import, training, export, probing.
#
#   IN2_HOME=/runs/film7b IN2_BASE=/models/Mistral-7B-Instruct-v0.2 \
#       IN2_SYNTHESIS=configs/in2_film.yaml slurm/pipeline.sh [options of tools/train.py]
#
# IN2_ROUNDS=2 trains on the model's own attempts (Partial Answer Masking), in so many rounds:
# attempts of the base, packing, training, export; attempts of the exported model, and so on, each
# round in IN2_HOME/round-N. IN2_ATTEMPTS has options of "synthesize_in2.py self-correction".
#
# Run it on a login node from the repository's root. Run it again after a failure: stages whose
# output exists are skipped. docs/cluster.md has the variables.
set -euo pipefail

cd "$(dirname "$0")/.."
source slurm/common.sh

[ -n "${IN2_HOME:-}" ] || refuse "set IN2_HOME: the directory for all outputs of the pipeline"
[ -f "${IN2_SYNTHESIS:-}" ] || refuse "IN2_SYNTHESIS=${IN2_SYNTHESIS:-} names no synthesis config"
base=${IN2_BASE:-${IN2_MODEL:-}} # IN2_MODEL is the older name
[ -d "$base" ] || refuse "IN2_BASE=$base names no Hugging Face model and no checkpoint"
rounds=${IN2_ROUNDS:-0}
[[ $rounds =~ ^[0-9]$ ]] || refuse "IN2_ROUNDS=$rounds: use 0 (none) to 9"
if [ "$rounds" -gt 0 ]; then
    [ "${IN2_DESIGN:=partial-answer-masking}" = partial-answer-masking ] ||
        refuse "IN2_ROUNDS needs the design partial-answer-masking: leave IN2_DESIGN=$IN2_DESIGN out"
    ! is_checkpoint "$base" ||
        refuse "IN2_ROUNDS draws attempts from IN2_BASE=$base, a checkpoint of ours: export it first"
fi
unset IN2_BASE IN2_ROUND
export IN2_ROOT=$PWD IN2_HOME IN2_SYNTHESIS IN2_MODEL=$base
export IN2_SHARDS=${IN2_SHARDS:-16} IN2_TOKENIZER=${IN2_TOKENIZER:-$(tokenizer_of "$base")}
export IN2_SEQ_LENGTH=${IN2_SEQ_LENGTH:-32768}
export IN2_VALIDATION_FRACTION=${IN2_VALIDATION_FRACTION:-0.002}
export IN2_ATTEMPTS=${IN2_ATTEMPTS:-} IN2_MAX_COST=${IN2_MAX_COST:-}
export IN2_SEED=${IN2_SEED:-1234} IN2_DESIGN=${IN2_DESIGN:-answer}
export IN2_PROBE_TOKENS=${IN2_PROBE_TOKENS:-32000} IN2_PROBE_POSITIONS=${IN2_PROBE_POSITIONS:-100}
export IN2_PROBE_TASKS=${IN2_PROBE_TASKS:-document code database association}
export IN2_PROBE_FILLS=${IN2_PROBE_FILLS-0.25 0.5 0.75} # of the window, beside the whole
export IN2_PROBE_BINS=${IN2_PROBE_BINS:-15} IN2_PROBE_BATCH=${IN2_PROBE_BATCH:-8}
read -ra data_options <<<"${IN2_SBATCH_DATA:-}"
read -ra model_options <<<"${IN2_SBATCH_MODEL:-}"
read -ra train_options <<<"${IN2_SBATCH_TRAIN:-}"
logs="$IN2_HOME/logs"
mkdir -p "$logs"

# Two chains would write the same files: only one may be in the queue, and be submitted, at a time.
exec 9>>"$logs/jobs"
flock --nonblock 9 || refuse "another pipeline.sh submits jobs for IN2_HOME=$IN2_HOME: wait for it"
queue=$(squeue --noheader --format=%F) || refuse "squeue failed: submit again when Slurm answers"
queued=$(grep --line-regexp --fixed-strings --file="$logs/jobs" <<<"$queue" | sort -u | xargs) || true
[ -z "$queued" ] || refuse "IN2_HOME=$IN2_HOME has jobs in the queue: wait for them, or scancel $queued"
: >"$logs/jobs"

# Submits a job that depends on others; prints its number. If one of them fails, it is cancelled.
submit() {
    local name=$1${IN2_ROUND:+-$IN2_ROUND} after=$2
    shift 2
    sbatch --parsable --job-name="in2-$name" --output="$logs/$name-%j.out" --open-mode=append \
        --kill-on-invalid-dep=yes ${after:+--dependency=afterok:$after} "$@" |
        cut --delimiter=';' --fields=1 | tee --append "$logs/jobs" # the cluster's name may follow
}

stage() { # NAME AFTER FUNCTION OPTIONS-OF-SBATCH...
    submit "$1" "$2" "${@:4}" slurm/stage.sh "$3"
}

if [ -n "${IN2_PILOT:-}" ]; then # some questions only, to be read before the rest is paid for
    export IN2_PILOT
    pilot=$(stage pilot "" pilot "${data_options[@]}")
    echo "pilot      job $pilot"
    echo "it prints to $logs/pilot-$pilot.out; then submit without IN2_PILOT: its answers are kept"
    exit 0
fi

shards=(--array="0-$((IN2_SHARDS - 1))")
chain=() # the jobs' names and numbers, in turn
all=()   # the numbers

note() { # NAME NUMBER
    chain+=("$1${IN2_ROUND:-}" "$2")
    all+=("$2")
}

# Submits the packing of samples, and the training on them with its export.
learn() { # JOB-OF-THE-SAMPLES JOB-OF-THE-START OPTIONS-OF-TRAINING...
    local samples=$1 start=$2 home="$IN2_HOME${IN2_ROUND:+/round-$IN2_ROUND}"
    shift 2
    dataset=$(stage preprocessing "$samples" preprocessing "${shards[@]}" "${data_options[@]}")
    if [ "$IN2_SHARDS" -gt 1 ]; then
        dataset=$(stage merging "$dataset" merge "${data_options[@]}")
    fi
    note dataset "$dataset"
    if [ -z "$start" ]; then
        start=$(stage import "" import "${model_options[@]}")
        note import "$start"
    fi
    export IN2_DATA="$home/data/in2" IN2_VALIDATION="$home/data/in2_valid"
    export IN2_INIT IN2_OUTPUT="$home/checkpoints"
    training=$(submit training "$dataset:$start" "${train_options[@]}" slurm/film7b.sh \
        --runtime.seed "$IN2_SEED" "$@")
    note training "$training"
    IN2_INIT=$IN2_OUTPUT # of another round
    export=$(stage export "$training" export_model "${model_options[@]}")
    note export "$export"
}

synthesis=$(stage synthesis "" synthesis "${shards[@]}" "${data_options[@]}")
note synthesis "$synthesis"
IN2_INIT="$IN2_HOME/init"
if is_checkpoint "$base"; then IN2_INIT=$base; fi
if [ "$rounds" -eq 0 ]; then
    learn "$synthesis" "" "$@"
else
    export IN2_ROUND
    model="" # whose attempts are drawn: the base, then that of the round before
    for ((IN2_ROUND = 1; IN2_ROUND <= rounds; IN2_ROUND++)); do
        attempts=$(stage attempts "$synthesis${model:+:$model}" attempts "${shards[@]}" \
            "${model_options[@]}")
        note attempts "$attempts"
        learn "$attempts" "$model" "$@"
        model=$export
    done
    IN2_ROUND=$rounds
fi
probing=$(stage probing "$export" probing "${model_options[@]}")
note probing "$probing"

printf '%-10s job %s\n' "${chain[@]}"
echo "logs in $logs; cancel all: scancel ${all[*]}"
