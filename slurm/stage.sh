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
home="$IN2_HOME${IN2_ROUND:+/round-$IN2_ROUND}" # of a round's own outputs
samples="$IN2_HOME/samples" data="$home/data" probes="$home/probes"

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

# Draws attempts at this task's samples: from the base, later from the model of the round before.
# A task that starts again continues from the attempts that it has kept.
attempts() {
    local model=$IN2_MODEL file=in2.jsonl options
    if [ "$IN2_ROUND" -gt 1 ]; then model="$IN2_HOME/round-$((IN2_ROUND - 1))/huggingface"; fi
    if [ "$IN2_SHARDS" -gt 1 ]; then file="in2.$number.jsonl"; fi
    read -ra options <<<"$IN2_ATTEMPTS"
    is_done "$home/samples/$file" ||
        tool synthesize_in2 self-correction --model "$model" --samples "$samples/$file" \
            --output "$home/samples/$file" --seed "$((IN2_SEED + IN2_ROUND))" "${options[@]}"
}

preprocessing() {
    local inputs=("$home/samples/in2.jsonl") output="$data/in2" part=()
    # An attempt makes a sample longer than its recipe was composed for.
    if [ -n "${IN2_ROUND:-}" ]; then part+=(--overlong truncate-context); fi
    if [ "$IN2_SHARDS" -gt 1 ]; then
        inputs=("$home/samples"/in2.?????-of-"${number#*-of-}.jsonl")
        output="$data/shards/in2.$number" part+=(--shard "$shard" --num-shards "$IN2_SHARDS")
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
    is_done "$home/huggingface" ||
        tool convert_checkpoint megatron-to-hf --input "$home/checkpoints" \
            --output "$home/huggingface"
}

# Every task whose pieces there are, over several fills of the window: curves with error bars over
# the sets, a table of all tasks, a map of fill by position for each task, and a page of all of it.
probing() {
    local pieces=${IN2_PIECES:-$IN2_HOME/pieces} scores="$home/scores" task
    local full=() every=() answers=()
    is_done "$pieces" ||
        tool probe pieces --config "$IN2_SYNTHESIS" --output "$pieces"
    for task in $IN2_PROBE_TASKS; do
        if [ -e "$pieces/$(pieces_of "$task")" ]; then
            probe_task "$task" "$pieces"
        else
            log "$task is not probed: $pieces lacks $(pieces_of "$task"); the published pieces" \
                "have it (IN2_PIECES)"
        fi
    done
    tool probe compare --reports "${every[@]}" --output "$scores/table.md"
    tool probe plot --reports "${full[@]}" --output "$scores/curves.png" --paper-averages
    tool evaluate report --html "$scores/report.html" --reports "${every[@]}" --answers "${answers[@]}"
}

pieces_of() {
    case $1 in
        document | association) echo document_sentences.jsonl ;;
        code) echo code_functions.jsonl ;;
        database) echo database_entities.jsonl ;;
        facts) echo facts.jsonl ;;
        *) refuse "IN2_PROBE_TASKS names $1: use document, code, database, association or facts" ;;
    esac
}

# Probes one task; adds to the lists of probing().
probe_task() {
    local task=$1 pieces=$2 labels name fills reports=()
    read -ra fills <<<"$IN2_PROBE_FILLS"
    is_done "$probes/$task.jsonl" ||
        tool probe build --task "$task" --pieces "$pieces" --output "$probes" \
            --tokenizer-model "$IN2_TOKENIZER" --template "$home/huggingface" \
            --context-tokens "$IN2_PROBE_TOKENS" --positions "$IN2_PROBE_POSITIONS" \
            --fills "${fills[@]}" 1
    for labels in "$probes/$task"-fill-*.jsonl "$probes/$task.jsonl"; do
        [ -e "$labels" ] || continue
        name=$(basename "$labels" .jsonl)
        tool probe generate --model "$home/huggingface" --probes "$labels" \
            --batch-size "$IN2_PROBE_BATCH" --output "$home/predictions/$name.jsonl"
        tool probe score --labels "$labels" --predictions "$home/predictions/$name.jsonl" \
            --output "$scores/$name.json" --bins "$IN2_PROBE_BINS" \
            --name "$(basename "$IN2_HOME")${IN2_ROUND:+-$IN2_ROUND}"
        reports+=("$scores/$name.json")
    done
    tool probe plot --heat-map --reports "${reports[@]}" --output "$scores/$task-fills.png" ||
        log "$task has no map: its fills have other positions; raise IN2_PROBE_POSITIONS"
    every+=("${reports[@]}") full+=("$scores/$task.json")
    answers+=("$probes/$task.jsonl" "$home/predictions/$task.jsonl")
}

log "$1${SLURM_ARRAY_TASK_ID:+, shard $number}"
"$1"
log "$1 is done"
