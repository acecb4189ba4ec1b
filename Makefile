# The whole life of the project in one file; `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help venv train test test-slow test-workflow lint lock clean

PYTHON ?= python3
ARGS ?= --dataname pbmc68k_reduced --overwrite
BIN := .venv/bin
# A file whose SHA-256 is not in the lock is refused.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
# Makes a map of nine cells, so that numba compiles and keeps now, not in the first run, what the
# report of every run needs. It takes about 15 s.
COMPILE := import numpy; from annotation import projection; \
    projection.umap(numpy.eye(9), n_neighbors=3, seed=1)

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

venv: .venv/.installed  ## Create .venv and install exactly requirements.lock (again when it changes)

.venv/.installed: requirements.lock
	$(PYTHON) -m venv --clear .venv
	$(INSTALL) -r requirements.lock
	$(BIN)/python -m pip check
	$(BIN)/python -c "$(COMPILE)"
	touch $@

train: venv  ## Run train.py; its flags: make train ARGS="--dataname Young --n_clusters 11"
	$(BIN)/python train.py $(ARGS)

lint: venv  ## Check style (ruff), types (mypy), and the scripts (shellcheck)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck scripts/*.sh .ci/run

test: lint  ## Check style and types, then run the default tests, two files at a time
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: venv  ## Run the longer tests, two files at a time
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile

test-workflow: venv  ## Install Snakemake into .venv, run the workflow's tests (skipped without it)
	$(INSTALL) -r requirements.lock -r workflow/requirements.lock
	$(BIN)/python -m pytest tests/test_workflow.py

# setuptools is listed because tensorflow asks for it, and `pip freeze` alone may leave it out. uv, in
# an environment of its own, looks up the SHA-256 of each file of the frozen versions, for every
# platform, and warns of a version that its authors have withdrawn (yanked): it gets into no lock.
lock:  ## Re-make both locks in a clean environment: requirements-dev.txt, then workflow/ on top
	dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	$(PYTHON) -m venv "$$dir/venv"; \
	install() { "$$dir/venv/bin/python" -m pip install --quiet --upgrade "$$@"; }; \
	freeze() { "$$dir/venv/bin/python" -m pip freeze --all --exclude pip | LC_ALL=C sort -f; }; \
	$(PYTHON) -m venv "$$dir/tools"; "$$dir/tools/bin/python" -m pip install --quiet uv; \
	hashed() { "$$dir/tools/bin/uv" pip compile --no-deps --generate-hashes --no-header --no-annotate \
	    --python "$$dir/venv/bin/python" --output-file "$$2" "$$1" > /dev/null 2> "$$dir/warnings" \
	    && ! grep -i yanked "$$dir/warnings" || { cat "$$dir/warnings" >&2; exit 1; }; }; \
	head=$$("$$dir/venv/bin/python" -c 'import platform as p; \
	    print(f"# Made by `make lock` with Python {p.python_version()} on {p.system()} {p.machine()}.")'); \
	install setuptools -r requirements-dev.txt; \
	freeze > "$$dir/lock"; \
	install -r "$$dir/lock" -r workflow/requirements.txt; \
	freeze | { grep -vxFf "$$dir/lock" || true; } > "$$dir/workflow"; \
	if grep -nE '^-|://| @ ' "$$dir/lock" "$$dir/workflow"; then \
	    echo "not a plain pin: see above" >&2; exit 1; fi; \
	hashed "$$dir/lock" "$$dir/lock.hashed"; hashed "$$dir/workflow" "$$dir/workflow.hashed"; \
	{ echo "$$head"; cat "$$dir/lock.hashed"; } > requirements.lock; \
	{ echo "$$head"; echo "# On top of ../requirements.lock: what workflow/requirements.txt adds to it."; \
	  cat "$$dir/workflow.hashed"; } > workflow/requirements.lock

clean:  ## Delete .venv and the caches (results/ and data/ stay)
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
