# The first call of any target makes .venv and installs the pinned requirements; later calls start at once.
PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup bench test test-slow lint format requirements clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.12 make ... chooses the interpreter; ARGS='...' adds options to bench, test and test-slow"

setup: $(STAMP)  ## make .venv and install everything in it

bench: $(STAMP)  ## train and rank sam and repmode on the phantom (ARGS: any option of zoo.bench)
	$(PY) -m zoo.bench --models sam,repmode $(ARGS)

# One process a core, at most four, each computing with one thread: half the time of one process on two cores.
test: $(STAMP)  ## the fast tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not slow and not gpu" -n logical --maxprocesses 4 --dist loadfile $(ARGS)

# pytest exits with 5 where nothing was selected, which is not a failure here.
test-slow: $(STAMP)  ## the slow tests: kills, a browser, a cluster, the wheel
	$(PY) -m pytest -q -m slow $(ARGS) || { status=$$?; [ $$status -eq 5 ] || exit $$status; }

lint: $(STAMP)  ## style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

format: $(STAMP)  ## put the code in the project's style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

requirements:  ## resolve pyproject.toml into requirements.txt again (needs uv and the network)
	uv pip compile pyproject.toml --extra dev --extra hub --extra cluster --universal --generate-hashes --python-version 3.11 \
		--no-emit-index-url --no-annotate --no-header --output-file requirements.txt $(ARGS)

clean:  ## remove caches and build products (keeps .venv and runs/)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here; install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); inkzoo needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --require-hashes -r requirements.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
