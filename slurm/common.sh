# shellcheck shell=bash
# Shared by the scripts here, which source it from the repository's root: site, launch of steps.

readonly BAD_INPUT=2 # exit code of every tool: the user has to fix something

log() { echo "[$(date +%FT%T)${SLURM_JOB_ID:+ job $SLURM_JOB_ID}] $*"; }

refuse() {
    log "$*" >&2
    exit "$BAD_INPUT"
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
