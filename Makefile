# The whole life of the project in one file; `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help venv train test test-slow lint lock clean

PYTHON ?= python3
ARGS ?= --dataname pbmc68k_reduced --overwrite
BIN := .venv/bin

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

venv: .venv/.installed  ## Create .venv and install exactly requirements.lock (again when it changes)

.venv/.installed: requirements.lock
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

train: venv  ## Run train.py; its flags: make train ARGS="--dataname Young --n_clusters 11"
	$(BIN)/python train.py $(ARGS)

lint: venv  ## Check the code's style: ruff's rules and its formatting; the scripts, with shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck scripts/*.sh .ci/run

test: lint  ## Check the style, then run the default tests, two files at a time
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: venv  ## Run the longer tests
	$(BIN)/python -m pytest -m slow

# setuptools is listed because tensorflow asks for it, and `pip freeze` alone may leave it out.
lock:  ## Re-make requirements.lock from requirements-dev.txt in a clean environment
	dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	$(PYTHON) -m venv "$$dir/venv"; \
	"$$dir/venv/bin/python" -m pip install --quiet --upgrade setuptools -r requirements-dev.txt; \
	{ "$$dir/venv/bin/python" -c 'import platform as p; \
	    print(f"# Made by `make lock` with Python {p.python_version()} on {p.system()} {p.machine()}.")'; \
	  "$$dir/venv/bin/python" -m pip freeze --all --exclude pip | LC_ALL=C sort -f; \
	} > "$$dir/lock"; \
	if grep -nE '^-|://| @ ' "$$dir/lock"; then echo "not a plain pin: see above" >&2; exit 1; fi; \
	cp "$$dir/lock" requirements.lock

clean:  ## Delete .venv and the caches (results/ and data/ stay)
	rm -rf .venv .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
