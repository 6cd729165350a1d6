#!/usr/bin/env bash
# One stage of the pipeline, except the training; pipeline.sh submits it. A stage whose output
# exists does nothing.
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

cd "$IN2_ROOT"
source slurm/common.sh
load_site

shard=${SLURM_ARRAY_TASK_ID:-0}
number=$(printf '%05d-of-%05d' "$shard" "$IN2_SHARDS")
samples="$IN2_HOME/samples" data="$IN2_HOME/data" probes="$IN2_HOME/probes"

tool() { "${launch[@]}" --ntasks=1 "$python" "tools/$1.py" "${@:2}"; }

is_done() {
    if [ -e "$1" ]; then log "$1 exists: skipped"; else return 1; fi
}

# Runs synthesis for this task's shard. The money is divided evenly: each shard has its own journal.
synthesize() {
    local options=(--config "$IN2_SYNTHESIS" --output "$samples/in2.jsonl"
        --tokenizer_model "$IN2_TOKENIZER" --seed "$IN2_SEED")
    if [ "$IN2_SHARDS" -gt 1 ]; then
        options+=(--shard "$shard" --num-shards "$IN2_SHARDS")
    fi
    if [ -n "$IN2_MAX_COST" ]; then
        options+=(--max-cost "$(awk "BEGIN { print $IN2_MAX_COST / $IN2_SHARDS }")")
    fi
    tool synthesize_in2 "${options[@]}" "$@"
}

synthesis() {
    local output="$samples/in2.jsonl"
    if [ "$IN2_SHARDS" -gt 1 ]; then output="$samples/in2.$number.jsonl"; fi
    is_done "$output" || synthesize
}

# Asks the first questions of the first shard, one by one: a batch answers hours later.
pilot() {
    synthesize --writer openai --pilot "$IN2_PILOT"
}

preprocessing() {
    local inputs=("$samples/in2.jsonl") output="$data/in2" part=()
    if [ "$IN2_SHARDS" -gt 1 ]; then
        inputs=("$samples"/in2.?????-of-"${number#*-of-}.jsonl")
        output="$data/shards/in2.$number" part=(--shard "$shard" --num-shards "$IN2_SHARDS")
    fi
    is_done "$output.json" ||
        tool preprocess_in2 --input "${inputs[@]}" --output-prefix "$output" \
            --tokenizer-model "$IN2_TOKENIZER" --seq-length "$IN2_SEQ_LENGTH" \
            --design "$IN2_DESIGN" --seed "$IN2_SEED" \
            --validation-fraction "$IN2_VALIDATION_FRACTION" "${part[@]}"
}

merge() {
    local split
    for split in _valid ""; do # the training data last: its presence means that both are
        is_done "$data/in2$split.json" ||
            tool preprocess_in2 merge --output-prefix "$data/in2$split" \
                --inputs "$data"/shards/in2.?????-of-"${number#*-of-}$split.json"
    done
}

import() {
    is_checkpoint "$IN2_MODEL" || is_done "$IN2_HOME/init" ||
        tool convert_checkpoint hf-to-megatron --input "$IN2_MODEL" --output "$IN2_HOME/init"
}

export_model() {
    is_done "$IN2_HOME/huggingface" ||
        tool convert_checkpoint megatron-to-hf --input "$IN2_HOME/checkpoints" \
            --output "$IN2_HOME/huggingface"
}

# Every task that there are pieces for: document, and code and database with the published ones.
probing() {
    local pieces=${IN2_PIECES:-$IN2_HOME/pieces} task
    is_done "$pieces" ||
        tool probe pieces --config "$IN2_SYNTHESIS" --output "$pieces"
    for task in document code database; do
        if compgen -G "$pieces/${task}_*.jsonl" >/dev/null; then probe "$task" "$pieces"; fi
    done
}

probe() { # TASK PIECES
    local labels="$probes/$1.jsonl" answers="$IN2_HOME/predictions/$1.jsonl"
    local score="$IN2_HOME/scores/$1.json"
    is_done "$labels" ||
        tool probe build --task "$1" --pieces "$2" --output "$probes" \
            --tokenizer-model "$IN2_TOKENIZER" --template "$IN2_HOME/huggingface" \
            --context-tokens "$IN2_PROBE_TOKENS" --positions "$IN2_PROBE_POSITIONS"
    tool probe generate --model "$IN2_HOME/huggingface" --probes "$labels" --output "$answers"
    tool probe score --labels "$labels" --predictions "$answers" --output "$score"
    tool probe plot --reports "$score" --output "${score%.json}.png"
}

log "$1${SLURM_ARRAY_TASK_ID:+, shard $number}"
"$1"
log "$1 is done"
