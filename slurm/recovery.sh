# shellcheck shell=bash
# What film7b.sh does when a step has ended early: names the fault, and starts the ranks again inside
# the allocation, requeues the job, or ends it. film7b.sh sources it and sets the variables.
# shellcheck disable=SC2154,SC2034

ended_with() { compgen -G "$IN2_ENDINGS/*@$1" >/dev/null; }

newest_checkpoint() {
    find "$checkpoint_dir" -path '*/iter_*/complete.json' 2>/dev/null | sort | tail -n 1
}

address_of() {
    [[ "$(scontrol show node --oneliner "$1")" =~ NodeAddr=([^ ]+) ]] || true
    echo "${BASH_REMATCH[1]:-$1}"
}

# Ends a step soon after its first rank has failed. The others wait for that one: Slurm would kill
# them after KillWait (30 s), and wait SlurmdTimeout (300 s) for a node that does not answer.
end_soon() { # SRUN NAME
    local step
    until compgen -G "$IN2_ENDINGS/*" >/dev/null; do sleep 0.5; done
    if [[ "$2" = train-* ]] && ended_with "$REQUEUE"; then return; fi # the others save
    sleep "$END_SECONDS"
    step=$(squeue --noheader --steps --jobs="$SLURM_JOB_ID" --format='%i %j' |
        sed --quiet "s/ $2\$//p") || return 0
    if [ -n "$step" ] && scancel --signal=KILL "$step" 2>/dev/null; then
        sleep "$END_SECONDS"
        kill -KILL "$1" 2>/dev/null || true
    fi
}

# --- what is done --------------------------------------------------------------------------------

# Decides after a step that failed. Returns 0 if the ranks are to be started again in this
# allocation; otherwise requeues or ends the job and does not return.
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
    leave_if_ended
    count_start
    if [ -z "$stopping" ] && [ "$idle_here" -le 1 ] && choose_nodes; then
        attempt=$((attempt + 1))
        again=(--overlap) # a step with a lost node never ends
        log "the ranks start again in this allocation, on ${fit[*]:0:node_count}"
        return 0
    fi
    requeue
}

# Ends or requeues a job whose plan or import has failed; does not return.
settle_alone() {
    local name=$1 code=$2
    if [ "$code" -eq "$BAD_INPUT" ]; then
        refuse "the $name found bad input: nothing was started, nothing is requeued"
    fi
    leave_if_ended
    if [ -n "$stopping" ]; then
        log "the $name was stopped by SIG$stopping"
    else
        log "the $name failed: no rank was started"
        if [ "$(failed_alone)" -gt "${IN2_MAX_REQUEUES:-3}" ]; then
            log "the $name failed again: giving up (IN2_MAX_REQUEUES)" >&2
            exit "$code"
        fi
    fi
    requeue
}

# Prints how often the plan or the import has failed in this job, by its log.
failed_alone() {
    local file
    [[ "$(scontrol show job --oneliner "$SLURM_JOB_ID")" =~ StdOut=([^ ]+) ]] || true
    file=${BASH_REMATCH[1]:-/dev/null}
    grep --count 'failed: no rank was started' "$file" || true
}

# Sets fit to the nodes that answer and are sound; fails if they are too few. A controller that has
# just come back does not know its nodes yet: they are asked twice.
choose_nodes() {
    local node answers sick try
    sick=$(cat "$logs/sick-nodes" 2>/dev/null || true)
    for try in 1 2; do
        answers=$(answering_nodes)
        fit=()
        for node in "${nodes[@]}"; do
            if grep --quiet --line-regexp "$node" <<<"$answers" &&
                ! grep --quiet --line-regexp "$node" <<<"$sick"; then
                fit+=("$node")
            fi
        done
        if [ "${#fit[@]}" -ge "$node_count" ] || [ "$try" -eq 2 ]; then break; fi
        sleep 10
    done
    for node in "${nodes[@]}"; do
        grep --quiet --line-regexp "$node" <<<"$answers" || log "lost: $node does not answer" >&2
    done
    [ "${#fit[@]}" -ge "$node_count" ]
}

answering_nodes() {
    local node
    for node in "${nodes[@]}"; do
        (timeout --kill-after=5 30 srun --overlap --nodelist="$node" --nodes=1 --ntasks=1 \
            --ntasks-per-node=1 true </dev/null >/dev/null 2>&1 && echo "$node") &
    done
    wait
}

# Counts the starts in a row that have brought no new checkpoint; ends the job if there are too many.
count_start() {
    local newest idle=0
    newest=$(newest_checkpoint)
    if [ "$newest" = "$first_checkpoint" ]; then
        idle=$(cat "$logs/idle" 2>/dev/null || true)
        # A start that was stopped from outside says nothing about the run.
        if [ -z "$stopping" ]; then
            idle=$((${idle:-0} + 1))
            idle_here=$((idle_here + 1))
        fi
    else
        idle_here=0
    fi
    first_checkpoint=$newest
    echo "${idle:-0}" 2>/dev/null >"$logs/idle" || log "$logs/idle cannot be written"
    if [ "${idle:-0}" -gt "${IN2_MAX_REQUEUES:-3}" ]; then
        log "no new checkpoint in $idle starts: giving up (IN2_MAX_REQUEUES)" >&2
        exit 1
    fi
}

# Ends this script if Slurm is already ending this start of the job.
leave_if_ended() {
    local state
    state=$(patiently squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) || state=unknown
    if [ "$state" != RUNNING ] && [ "$state" != unknown ]; then
        log "Slurm has ended this start itself (state $state)"
        exit "$REQUEUE"
    fi
}

# Puts this job back in the queue; does not return.
requeue() {
    trap '' TERM USR1 # the requeue sends TERM to this script and to the commands it runs
    require_other_nodes
    log "requeueing"
    scontrol requeue "$SLURM_JOB_ID" || { sleep 10 && scontrol requeue "$SLURM_JOB_ID"; } ||
        log "Slurm does not requeue this job: submit it again"
    # The list of excluded nodes can only be changed while the job is pending, as it is from here
    # on; it cannot start again before this script has ended.
    if [ -n "$logs" ] && [ -s "$logs/sick-nodes" ]; then
        exclude "$(sort --unique "$logs/sick-nodes" | paste --serial --delimiters=,)"
    fi
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

# --- what is said --------------------------------------------------------------------------------

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
