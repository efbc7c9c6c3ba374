# `make demo` and `make test` are all the set-up a fresh machine needs: Python 3.11 or 3.12, git and make.
SHELL := /bin/bash
PYTHON := $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
READY := .venv/.ready
WORKERS ?= 3
CYCLES ?= 200
READINGS ?= 1000000
SEED ?= 1
VERY_LATE ?= 0
INPUTS ?= 1000000
HOURS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test soak fuzz mutants bench bench-quick check format lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Kilowatch needs Python 3.11 or 3.12 on the PATH (found neither)." >&2; exit 2; }
	@echo "Building .venv with $$($(PYTHON) --version) from pinned, hash-checked versions ..."
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## Simulate a fleet, stream it, materialise the assets, print the KPI table
	@$(BIN)/kilowatch demo

test: $(READY) ## Lint, check types and imports, run every test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

soak: fuzz ## Fuzz, and kill the stream 200 times over a million readings; figures go to docs/reliability.md
	@$(BIN)/python -m tests.faults.soak --cycles $(CYCLES) --readings $(READINGS) --seed $(SEED) \
		--very-late $(VERY_LATE)

fuzz: $(READY) ## Put a million inputs from hell through the decoding; figures go to docs/reliability.md
	@$(BIN)/python -m tests.faults.fuzz --inputs $(INPUTS) --seed $(SEED)

mutants: $(READY) ## Change metering/ in small ways, by chance, and see whether a test fails (MUTANTS=1000 SEED=2)
	@$(BIN)/python -m tests.mutants --mutants $(MUTANTS) --seed $(SEED)

bench: $(READY) ## Measure speed against other engines; figures go to docs/performance.md (ROWS=file,kafka: some)
	@$(BIN)/python -m tests.benchmarks --rows "$(ROWS)" $(if $(HOURS),--hours $(HOURS)) $(if $(BEFORE),--before)

bench-quick: $(READY) ## Show how speed has drifted from the recorded figures, in under 2 minutes (RECORD=1: record)
	@$(BIN)/python -m tests.benchmarks --quick --rows "$(ROWS)" $(if $(RECORD),--record)

check: $(READY) ## Lint, check types and imports, without tests
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: ## Pin every dependency with hashes (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --extra dev pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --group bench -o tests/benchmarks/rivals.lock

clean: ## Remove the environment and caches
	rm -rf .venv .venv-bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
