# shellcheck shell=bash
# Shared by the scripts here, which source it from the repository's root: site, launch of steps.

readonly BAD_INPUT=2 # exit code of every tool: the user has to fix something

log() { echo "[$(date +%FT%T)${SLURM_JOB_ID:+ job $SLURM_JOB_ID}] $*"; }

refuse() {
    log "$*" >&2
    exit "$BAD_INPUT"
}

# Whether a directory is a checkpoint, or a folder with one.
is_checkpoint() {
    [ -f "$1/complete.json" ] || compgen -G "$1/iter_*/complete.json" >/dev/null
}

# The tokenizer of a base: the directory of a Hugging Face model, or what a checkpoint keeps.
tokenizer_of() {
    local step=$1 place
    if is_checkpoint "$1"; then
        [ -f "$1/complete.json" ] ||
            step=$(dirname "$(compgen -G "$1/iter_*/complete.json" | sort | tail -n 1)")
        for place in "$step/tokenizer" "$step/tokenizer.model"; do
            if [ -e "$place" ]; then break; fi
        done
        step=$place
    fi
    echo "$step"
}

load_site() {
    local site=${IN2_SITE:-slurm/site.env}
    if [ -f "$site" ]; then
        set +u # environment modules and virtual environments read unset variables
        # shellcheck source=slurm/site.env.example
        source "$site"
        set -u
    elif [ -n "${IN2_SITE:-}" ]; then
        refuse "IN2_SITE=$IN2_SITE does not exist"
    fi
    export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
    # shellcheck disable=SC2034  # for the scripts that source this file
    python=${IN2_PYTHON:-python}
    launch=(srun)
    if [ -n "${IN2_CONTAINER:-}" ]; then
        launch+=("--container-image=$IN2_CONTAINER" "--container-workdir=$PWD"
            "--container-mounts=$PWD:$PWD${IN2_MOUNTS:+,$IN2_MOUNTS}")
    fi
}
