#!/usr/bin/env bash
# Trains FILM-7B on 16 nodes of 8 GPUs. The job requeues itself and resumes if it is ended early.
#
#   sbatch slurm/film7b.sh
#   IN2_DATA=/data/in2 IN2_BASE=/models/Mistral-7B-Instruct-v0.2 IN2_OUTPUT=/runs/film7b \
#       sbatch --partition=gpu slurm/film7b.sh --optimizer.lr 2e-6
#
# Options of sbatch go before the script's name and win over the lines below; options of
# tools/train.py go after it. docs/cluster.md has the variables, the set-up of a new site and the
# troubleshooting. srun starts one task a GPU, and the task is the rank.
#SBATCH --job-name=film7b
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

readonly REQUEUE=75    # exit code of tools/train.py: stopped by a signal, and saved
readonly SICK_NODES=69 # of tools/cluster_check.py and train.py: it has listed nodes to avoid
readonly ALONE_TRIES=3 # nodes on which the plan is tried
logs=""                # of this job, once its checkpoint.dir is known
stopping=""            # the signal on which this job saves and ends

# --- where everything is -------------------------------------------------------------------------

cd "${IN2_ROOT:-$SLURM_SUBMIT_DIR}"
[ -f slurm/common.sh ] || {
    echo "$PWD is not the repository: submit from its root or set IN2_ROOT" >&2
    exit 2
}
source slurm/common.sh
load_site

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
tasks_per_node=${SLURM_NTASKS_PER_NODE:-$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))}
[[ "$(scontrol show node --oneliner "${nodes[0]}")" =~ NodeAddr=([^ ]+) ]] || true
export MASTER_ADDR=${BASH_REMATCH[1]:-${nodes[0]}}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

options=(--config "${IN2_CONFIG:-configs/film7b.yaml}")
if [ -n "${IN2_DATA:-}" ]; then options+=("--data.train=$IN2_DATA"); fi
if [ -n "${IN2_VALIDATION:-}" ]; then options+=("--data.validation=$IN2_VALIDATION"); fi
init=${IN2_INIT:-}
if [ -n "${IN2_BASE:-}" ]; then
    [ -z "$init" ] || refuse "IN2_BASE and IN2_INIT both name what the run starts from: set one"
    init=$IN2_BASE
    if ! is_checkpoint "$IN2_BASE"; then
        [ -f "$IN2_BASE/config.json" ] ||
            refuse "IN2_BASE=$IN2_BASE is no checkpoint and has no config.json"
        [ -n "${IN2_OUTPUT:-}" ] ||
            refuse "set IN2_OUTPUT: IN2_BASE=$IN2_BASE is imported to \$IN2_OUTPUT.base"
        init=$IN2_OUTPUT.base
    fi
fi
if [ -n "$init" ]; then options+=("--checkpoint.init_from=$init"); fi
if [ -n "${IN2_OUTPUT:-}" ]; then options+=("--checkpoint.dir=$IN2_OUTPUT"); fi
options+=("$@")

launch+=(--kill-on-bad-exit=1 --distribution=block:block
    --cpus-per-task=$((SLURM_CPUS_ON_NODE / tasks_per_node)))

# --- running steps -------------------------------------------------------------------------------

# The early signal before the time limit (USR1), and preemption or requeue (TERM): the ranks
# save and end. See rank.sh for SIGURG.
stop() {
    stopping=$1
    log "SIG$1: the ranks save and end"
    scancel --signal=URG "$SLURM_JOB_ID" || true
}
trap 'stop USR1' USR1
trap 'stop TERM' TERM

# Prints a port of this node, the first one of the job, on which nothing listens. Another start
# begins elsewhere, in case that something takes the port between this look and its use.
free_port() {
    local place=$((SLURM_JOB_ID + 97 * ${SLURM_RESTART_COUNT:-0}))
    while (exec 3<>"/dev/tcp/127.0.0.1/$((20000 + place % 10000))") 2>/dev/null; do
        place=$((place + 1))
    done
    echo $((20000 + place % 10000))
}

# Runs a command in one process; a node may be broken, then another one is tried.
run_alone() {
    local place code
    for ((place = 0; place < ALONE_TRIES && place < SLURM_JOB_NUM_NODES; place++)); do
        code=0
        "${launch[@]}" --relative="$place" --nodes=1 --ntasks=1 --ntasks-per-node=1 \
            slurm/rank.sh "$python" "$@" || code=$?
        if [ "$code" -eq 0 ]; then return 0; fi
        log "$1 $2 failed on ${nodes[place]} with exit code $code" >&2
        if [ "$code" -eq "$BAD_INPUT" ] || [ "$code" -gt 128 ]; then break; fi
    done
    return "$code"
}

# Waits for the end of a process, also when signals interrupt wait; returns its exit code.
await() {
    while kill -0 "$1" 2>/dev/null; do wait "$1" || true; done
    wait "$1"
}

# Runs a command as the rank of every task, with a log for each node; the first rank that ends
# fails ends the step. Rank 0's output also goes to the job's own log.
run_ranks() {
    local name=$1 code=0 step
    shift
    MASTER_PORT=$(free_port)
    export MASTER_PORT IN2_ENDINGS="$logs/$name-endings" IN2_SICK_NODES="$logs/sick-nodes"
    touch "$logs/$name-started"
    rm -rf "$IN2_ENDINGS"
    mkdir -p "$IN2_ENDINGS"
    "${launch[@]}" --label --open-mode=append --output="$logs/$name-node-%n.log" \
        slurm/rank.sh "$python" "$@" &
    step=$!
    (
        trap '' TERM USR1
        tail --follow=name --retry --lines=0 --pid="$step" "$logs/$name-node-0.log" 2>/dev/null |
            sed --unbuffered --quiet 's/^ *0*0: //p'
    ) &
    await "$step" || code=$?
    await $! || true
    return "$code"
}

ended_with() { compgen -G "$IN2_ENDINGS/*@$1" >/dev/null; }

newest_checkpoint() {
    find "$checkpoint_dir" -path '*/iter_*/complete.json' 2>/dev/null | sort | tail -n 1
}

# --- when a step ends early ----------------------------------------------------------------------

# Requeues or ends the job after a step that failed; does not return.
settle() {
    local name=$1 code=$2
    if [ -n "$stopping" ] || ended_with "$REQUEUE"; then
        log "$name: stopped${stopping:+ by SIG$stopping}; newest checkpoint: $(newest_checkpoint)"
    else
        name_the_failure "$name" "$code"
    fi
    if ended_with "$BAD_INPUT"; then
        refuse "$name: bad input: fix it and submit again; not requeued"
    fi
    requeue
}

# Ends or requeues a job whose plan or import has failed; does not return.
settle_alone() {
    local name=$1 code=$2
    if [ "$code" -eq "$BAD_INPUT" ]; then
        refuse "the $name found bad input: nothing was started, nothing is requeued"
    elif [ -n "$stopping" ]; then
        log "the $name was stopped by SIG$stopping"
    elif [ "${SLURM_RESTART_COUNT:-0}" -ge "${IN2_MAX_REQUEUES:-3}" ]; then
        log "the $name failed again: giving up (IN2_MAX_REQUEUES)" >&2
        exit "$code"
    fi
    requeue
}

# Names the rank that ended first, shows its last lines, and names nodes that Slurm has lost.
name_the_failure() {
    local name=$1 code=$2 file rank number node ending hang
    log "$name failed with exit code $code" >&2
    hang=$(find "$checkpoint_dir/hangs" -name verdict.txt -newer "$logs/$name-started" \
        2>/dev/null | tail -n 1) || true
    if [ -n "$hang" ]; then
        log "$(<"$hang")" >&2
        return
    fi
    for file in "$IN2_ENDINGS"/*; do
        [ -f "$file" ] || break
        IFS=@ read -r _ rank number node ending <<<"${file##*/}"
        if [ "$ending" -gt 128 ]; then
            log "rank $rank on $node was killed by SIG$(kill -l $((ending - 128)))" >&2
        else
            log "rank $rank on $node ended first, with exit code $ending" >&2
        fi
        # A rank that could not run the check makes its node unfit; otherwise rank 0 lists them.
        if [ "$name" = check ] && [ "$rank $ending" != "0 $SICK_NODES" ]; then
            echo "$node" >>"$logs/sick-nodes"
        fi
        if [ "$rank" -ne 0 ]; then # rank 0's output is already in this log
            grep "^ *0*$rank: " "$logs/$name-node-$number.log" | tail -n 10 >&2 || true
        fi
        break
    done
    report_lost_nodes "$SLURM_JOB_NODELIST" >&2
}

report_lost_nodes() {
    sinfo --noheader --Node --nodes="$1" --states=down,drain,fail,no_respond \
        --format='%N is %T: %E' | sort --unique | while read -r line; do log "lost: $line"; done || true
}

# Puts this job back in the queue, unless Slurm is already ending it; does not return.
requeue() {
    local state idle=0
    trap '' TERM USR1 # the requeue sends TERM to this script and to the commands it runs
    state=$(patiently squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) || state=unknown
    if [ "$state" != RUNNING ] && [ "$state" != unknown ]; then
        log "Slurm has ended this start itself (state $state)"
        exit "$REQUEUE"
    fi
    if [ -n "$logs" ]; then
        if [ "$(newest_checkpoint)" = "$first_checkpoint" ]; then
            idle=$(cat "$logs/idle" 2>/dev/null || true)
            # A start that was stopped from outside says nothing about the run.
            idle=$((${idle:-0} + $([ -n "$stopping" ] && echo 0 || echo 1)))
        fi
        echo "$idle" 2>/dev/null >"$logs/idle" || log "$logs/idle cannot be written"
    fi
    if [ "$idle" -gt "${IN2_MAX_REQUEUES:-3}" ]; then
        log "no new checkpoint in $idle starts: giving up (IN2_MAX_REQUEUES)" >&2
        exit 1
    fi
    require_other_nodes
    log "requeueing"
    scontrol requeue "$SLURM_JOB_ID" || { sleep 10 && scontrol requeue "$SLURM_JOB_ID"; } ||
        log "Slurm does not requeue this job: submit it again"
    # The list of excluded nodes can only be changed while the job is pending, as it is from here
    # on; it cannot start again before this script has ended.
    if [ -n "$logs" ] && [ -s "$logs/sick-nodes" ]; then exclude "$(paste --serial --delimiters=, "$logs/sick-nodes")"; fi
    exit "$REQUEUE"
}

# Runs a command of Slurm until it succeeds: the controller may be down for a while.
patiently() {
    local try
    for ((try = 1; try <= ${IN2_CONTROLLER_TRIES:-60}; try++)); do
        if "$@"; then return 0; fi
        sleep 10
    done
    return 1
}

# Ends the job if it must run on nodes that are unfit: with them excluded it would wait for ever.
require_other_nodes() {
    local node
    [[ "$(scontrol show job --oneliner "$SLURM_JOB_ID")" =~ ReqNodeList=([^ \(]+) ]] || return 0
    while read -r node; do
        if scontrol show hostnames "${BASH_REMATCH[1]}" | grep --quiet --line-regexp "$node"; then
            log "$node is unfit and --nodelist demands it: repair it or leave it out" >&2
            exit 1
        fi
    done < <(sort --unique "$logs/sick-nodes" 2>/dev/null)
}

exclude() {
    local all=$1
    if [[ "$(scontrol show job --oneliner "$SLURM_JOB_ID")" =~ ExcNodeList=([^ \(]+) ]]; then
        all="${BASH_REMATCH[1]},$1"
    fi
    log "excluding $1"
    scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$all" || log "Slurm did not exclude $1"
}

# --- the job -------------------------------------------------------------------------------------

log "start $((${SLURM_RESTART_COUNT:-0} + 1)): $SLURM_NTASKS ranks on $SLURM_JOB_NODELIST"

# A base in Hugging Face's form is imported once; the run and its restarts then start from that.
if [ -n "${IN2_BASE:-}" ] && [ ! -e "$init" ]; then
    log "importing $IN2_BASE"
    run_alone tools/convert_checkpoint.py hf-to-megatron --input="$IN2_BASE" --output="$init" ||
        settle_alone import $?
fi

# One process checks configuration, data and checkpoint, and prints what is left to do.
plan=$(run_alone tools/cluster_check.py plan --world-size="$SLURM_NTASKS" "${options[@]}") ||
    settle_alone plan $?
read -r done_steps total_steps checkpoint_dir <<<"$plan"
if [ "$done_steps" -ge "$total_steps" ]; then
    log "the run is finished: step $done_steps of $total_steps is in $checkpoint_dir"
    exit 0
fi

logs="$checkpoint_dir/slurm/$SLURM_JOB_ID"
mkdir -p "$logs"
first_checkpoint=$(newest_checkpoint)
if [ -f "$logs/nodes" ]; then report_lost_nodes "$(<"$logs/nodes")"; fi
echo "$SLURM_JOB_NODELIST" >"$logs/nodes"
rm -f "$logs/sick-nodes"
log "step $done_steps of $total_steps is done; logs by node in $logs"

run_ranks check tools/cluster_check.py nodes --nodes="$(IFS=, && echo "${nodes[*]}")" \
    --sick-nodes="$logs/sick-nodes" ${IN2_CHECK_TIMEOUT:+--timeout="$IN2_CHECK_TIMEOUT"} \
    "${options[@]}" || settle check $?
[ -z "$stopping" ] || settle check "$REQUEUE"

run_ranks train tools/train.py "${options[@]}" || settle train $?
log "done"
