# Every target does its own set-up, in $(VENV), with pip alone. `make help` tells what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:

VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CODE := machine actors config transport sim src tests examples bench requirements

# The first of these that is new enough; `make PYTHON=…` names another.
PYTHONS := $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14)
NEW_ENOUGH := import sys, venv; sys.exit(sys.version_info < (3, 11))

.PHONY: help run test lint fmt lock clean

help: ## tell what there is
	@echo "make TARGET [ARGS=…] [PYTHON=…]"
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 10

run: $(VENV)/.run ## the demo: a practice, a crowd, a crash, and nothing lost
	@echo "==> holdfast demo"
	@$(BIN)/holdfast demo $(ARGS)

test: $(VENV)/.test ## all tests, or those of ARGS
	@echo "==> pytest"
	@$(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(VENV)/.dev ## style, types and import contracts; changes nothing
	@echo "==> ruff check"
	@$(BIN)/ruff check --quiet .
	@echo "==> ruff format"
	@$(BIN)/ruff format --quiet --check . || { echo "not formatted; run: make fmt"; $(BIN)/ruff format --check .; exit 1; }
	@echo "==> mypy"
	@$(BIN)/mypy
	@echo "==> pyright"
	@$(BIN)/pyright
	@echo "==> import contracts"
	@$(BIN)/lint-imports

fmt: $(VENV)/.dev ## format the code and fix what can be fixed
	@echo "==> ruff"
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

lock: $(BIN)/python ## pin what pyproject.toml asks for; UPGRADE=1 moves all pins
	@echo "==> pinning in requirements/"
	@$(PIP) install --upgrade pip
	@$(BIN)/python requirements/lock.py $(if $(UPGRADE),--upgrade)

clean: ## remove what make made; your data stays
	@echo "==> removing $(VENV), caches and builds"
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	@find $(wildcard $(CODE)) -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up: once, and again whenever a lock changes ---------------------

$(BIN)/python:
	@test -d src/holdfast/machine || { echo "src/holdfast/machine is not a link to a folder; clone with git config core.symlinks true"; exit 1; }
	@for python in $(PYTHONS); do \
	  if $$python -c "$(NEW_ENOUGH)" 2>/dev/null; then \
	    echo "==> making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "no Python 3.11 or newer among: $(PYTHONS); name one with make PYTHON=…" >&2; exit 1

$(VENV)/.run: requirements/run.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo "==> installing what it takes to run"
	@$(PIP) install -r requirements/run.txt -r requirements/build.txt
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.test: requirements/test.txt pyproject.toml | $(BIN)/python
	@echo "==> installing what it takes to test"
	@$(PIP) install -r requirements/test.txt
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "==> installing what it takes to check"
	@$(PIP) install -r requirements/dev.txt
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@ $(VENV)/.test $(VENV)/.run # what they take is part of it
