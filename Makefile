# Every target installs what it needs first: make quickstart works on a fresh machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# make test SLURM=1 installs Slurm (Debian, as root) for the tests of slurm/.
export SLURM

# Three test files at a time, for many tests wait; all tests of Slurm by one worker.
WORKERS ?= -n 3 --dist loadgroup --no-loadscope-reorder

# Threads that wait for each other must not spin: tests beside them need the cores.
test test-full soak: export OMP_WAIT_POLICY ?= passive

# make quickstart BASE=llama3 gives the model the form of another base; see docs/quickstart.md.
BASE ?= mistral

# make lab STUDY=placement ARGS=--quick runs one seed of a study.
STUDY ?=
ARGS ?=

.PHONY: help quickstart lab venv check docs test test-full soak gpu-test slurm-demo clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(READY) ## all stages in small, from a corpus to a probed model, in runs/quickstart/
	$(BIN)/python tools/quickstart.py --base $(BASE)

lab: $(READY) ## STUDY=placement: what a data design does to a small model, in runs/lab/
	$(BIN)/python tools/lab.py $(STUDY) $(ARGS)

venv: $(READY) ## install only

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

check: $(READY) ## lint and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY) ## write the generated tables of docs/
	$(BIN)/python -m tests.docs.generated

test: check ## lint, types and the tests that fit in 15 minutes
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-full: check ## the long tests too
	$(BIN)/python -m pytest $(WORKERS)

soak: $(READY) ## FAULTS=300 seeded faults; every loss must be that of an undisturbed run
	$(BIN)/python -m tests.soak.soak --faults $(or $(FAULTS),300) --seed $(or $(SEED),1)

gpu-test: $(READY) ## CUDA against the CPU on a machine with a GPU, in 10 minutes
	$(BIN)/python -m tests.gpu

slurm-demo: $(READY) ## the 16-node job, and its requeue, on a virtual Slurm cluster (Debian)
	SLURM=1 $(BIN)/python -m pytest -s -q tests/slurm -k "sixteen or requeued"

clean: ## remove everything that make has created
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
