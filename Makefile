# `make run` and `make test` each work as the only command on a fresh machine: Python ≥ 3.11, make and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test test-long chaos check

run: $(STAMP)  ## scikit-learn's real digits into a one-step generator, on Ray actors on this machine
	@$(BIN)/disback-ray run

test: $(STAMP)  ## the tests, on the CPU
	@$(BIN)/python -m pytest

test-long: $(STAMP)  ## the few tests that take half a minute or more each
	@$(BIN)/python -m pytest -m long

chaos: $(STAMP)  ## the chaos suite's short form: processes and a machine killed under small runs, which have to end with the same weights
	@$(BIN)/python -m benchmarks.chaos --short

check: $(STAMP)  ## format, lint, types, and which way imports point
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

$(STAMP): pyproject.toml constraints.txt
	@echo "making $(VENV) (a few minutes at first)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "disback-ray needs Python 3.11 or newer; name one with PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
