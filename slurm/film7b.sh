#!/usr/bin/env bash
# Trains FILM-7B on 16 nodes of 8 GPUs. After a fault the ranks start again inside the allocation,
# or the job requeues itself; both resume.
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
readonly END_SECONDS=5 # that other ranks get to say why one has ended
readonly ALONE_TRIES=3 # nodes on which the plan is tried
logs=""                # of this job, once its checkpoint.dir is known
stopping=""            # the signal on which this job saves and ends
attempt=0              # starts of the ranks in this allocation before the present one

# --- where everything is -------------------------------------------------------------------------

cd "${IN2_ROOT:-$SLURM_SUBMIT_DIR}"
[ -f slurm/common.sh ] || {
    echo "$PWD is not the repository: submit from its root or set IN2_ROOT" >&2
    exit 2
}
source slurm/common.sh
source slurm/recovery.sh
load_site
((${IN2_NODES:-1} >= 1 && ${IN2_NODES:-1} <= SLURM_JOB_NUM_NODES)) ||
    refuse "IN2_NODES=$IN2_NODES is not a part of the job's $SLURM_JOB_NUM_NODES nodes"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
tasks_per_node=${SLURM_NTASKS_PER_NODE:-$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))}
node_count=${IN2_NODES:-$SLURM_JOB_NUM_NODES} # of them, for the ranks; the others are spare
ranks=$((node_count * tasks_per_node))
fit=("${nodes[@]}") # nodes that can be used
again=()             # options of srun where an earlier step of this job may not have ended
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

# Prints a port of this node, usually the ranks' first one, on which nothing listens. Another start
# begins elsewhere, in case that something takes the port between this look and its use.
free_port() {
    local place=$((SLURM_JOB_ID + 97 * ${SLURM_RESTART_COUNT:-0} + 31 * attempt))
    while (exec 3<>"/dev/tcp/127.0.0.1/$((20000 + place % 10000))") 2>/dev/null; do
        place=$((place + 1))
    done
    echo $((20000 + place % 10000))
}

# Runs a command in one process; a node may be broken, then another one is tried. Runs in the
# background: bash handles a signal only when the command in the foreground has ended.
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

# Waits for the end of a process, also when signals interrupt wait; returns its exit code. bash's own
# message about a process that was killed is left out.
await() {
    while kill -0 "$1" 2>/dev/null; do wait "$1" 2>/dev/null || true; done
    wait "$1" 2>/dev/null
}

# Runs a command as the rank of every task of some nodes, with a log for each node; the first rank
# that fails ends the step. Rank 0's output also goes to the job's own log.
run_ranks() { # NAME NODES COMMAND..., with commas between the nodes
    local name=$1 on code=0 step output guard
    IFS=, read -ra on <<<"$2"
    MASTER_ADDR=$(address_of "${on[0]}")
    MASTER_PORT=$(free_port)
    export MASTER_ADDR MASTER_PORT IN2_ENDINGS="$logs/$name-endings"
    export IN2_SICK_NODES="$logs/sick-nodes" IN2_ATTEMPT=$attempt
    touch "$logs/$name-started"
    rm -rf "$IN2_ENDINGS"
    mkdir -p "$IN2_ENDINGS"
    "${launch[@]}" "${again[@]}" --job-name="$name-$attempt" --nodelist="$2" \
        --nodes="${#on[@]}" --ntasks="$((${#on[@]} * tasks_per_node))" \
        --ntasks-per-node="$tasks_per_node" \
        --label --open-mode=append --output="$logs/$name-node-%n.log" \
        slurm/rank.sh "$python" "${@:3}" &
    step=$!
    (
        trap '' TERM USR1
        tail --follow=name --retry --lines=0 --pid="$step" "$logs/$name-node-0.log" 2>/dev/null |
            sed --unbuffered --quiet 's/^ *0*0: //p'
    ) &
    output=$!
    end_soon "$step" "$name-$attempt" &
    guard=$!
    await "$step" || code=$?
    kill "$guard" 2>/dev/null || true
    await "$output" || true
    return "$code"
}

# --- the job -------------------------------------------------------------------------------------

log "start $((${SLURM_RESTART_COUNT:-0} + 1)): $ranks ranks on $SLURM_JOB_NODELIST"

# A base in Hugging Face's form is imported once; the run and its restarts then start from that.
if [ -n "${IN2_BASE:-}" ] && [ ! -e "$init" ]; then
    log "importing $IN2_BASE"
    run_alone tools/convert_checkpoint.py hf-to-megatron --input="$IN2_BASE" --output="$init" &
    await $! || settle_alone import $?
fi

# One process checks configuration, data and checkpoint, and prints what is left to do.
plan=$(mktemp)
trap 'rm -f "$plan"' EXIT
run_alone tools/cluster_check.py plan --world-size="$ranks" ${IN2_TRACE:+--trace} "${options[@]}" \
    >"$plan" &
await $! || settle_alone plan $?
read -r done_steps total_steps checkpoint_dir <"$plan"
if [ "$done_steps" -ge "$total_steps" ]; then
    log "the run is finished: step $done_steps of $total_steps is in $checkpoint_dir"
    exit 0
fi

logs="$checkpoint_dir/slurm/$SLURM_JOB_ID"
mkdir -p "$logs"
first_checkpoint=$(newest_checkpoint) # when the present start of the ranks began
idle_here=0                           # starts in a row in this allocation without a new one
if [ -f "$logs/nodes" ]; then report_lost_nodes "$(<"$logs/nodes")"; fi
echo "$SLURM_JOB_NODELIST" >"$logs/nodes"
rm -f "$logs/sick-nodes"
log "step $done_steps of $total_steps is done; logs by node in $logs"

joined() { local IFS=, && echo "$*"; }

# Checks all nodes, spare ones too, unless this is done; then trains. Returns 1 if the ranks are to
# be started again.
start_ranks() {
    if [ -z "$checked" ]; then
        run_ranks check "$(joined "${fit[@]}")" tools/cluster_check.py nodes \
            --nodes="$(joined "${fit[@]}")" --world-size="$ranks" \
            --sick-nodes="$logs/sick-nodes" ${IN2_CHECK_TIMEOUT:+--timeout="$IN2_CHECK_TIMEOUT"} \
            "${options[@]}" || { settle check $? && return 1; }
        checked=yes
    fi
    [ -z "$stopping" ] || settle check "$REQUEUE"
    run_ranks train "$(joined "${fit[@]:0:node_count}")" tools/train.py "${options[@]}" ||
        { settle train $? && return 1; }
}

checked=""
until start_ranks; do :; done
log "done"
