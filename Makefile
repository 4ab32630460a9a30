# Bessemer: what people type. `make` alone lists it.
# Everything is set up in .venv by itself; no system package is ever installed from here.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 8000
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup demo up check test slow postgres browser conformance soak bench docs clean

help: ## list these targets
	@echo "Bessemer: train models, run them, and answer for them."
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'
	@echo "  make demo CHECK=1 stops after the chat; PORT=8080 chooses the port"

setup: $(READY) ## make .venv with pinned dependencies (the other targets do it by themselves)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Bessemer needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "==> installing $(TORCH) (the largest part; once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '$(TORCH)'
	@echo "==> installing Bessemer and what it is tested with, versions from constraints.txt"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,dev]'
	@touch $(READY)
	@echo "==> ready: $$($(BIN)/bessemer version)"

demo: $(READY) ## from nothing to a taught, measured and served model; Ctrl-C stops the server
	@$(BIN)/bessemer demo --port $(PORT) $(if $(CHECK),--check)

up: $(READY) ## start the server on the home that the demo filled
	@$(BIN)/bessemer up --port $(PORT)

check: $(READY) ## lint, format and types
	@echo "==> ruff"; $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "==> mypy --strict"; $(BIN)/mypy

test: $(READY) ## the default tests, a quarter of an hour on two cores; what is skipped is said
	@echo "==> pytest (without slow ones: make slow)"
	@$(BIN)/pytest -m "not slow" -rs

slow: $(READY) ## the tests that take longer
	@echo "==> pytest, slow ones"
	@$(BIN)/pytest -m slow -rs

postgres: $(READY) ## the default tests again, on a PostgreSQL server of their own
	@echo "==> pytest on PostgreSQL (tests/postgres/README.md)"
	@BESSEMER_TEST_DATABASE=postgres $(BIN)/pytest -m "not slow" -rs

browser: $(READY) ## the tests in a real Chromium
	@echo "==> pytest, in Chromium"
	@$(BIN)/pytest -m browser -rs

conformance: $(READY) ## how much of OpenAI's API its own client finds here, as README says it
	@$(BIN)/python -m tests.conformance

soak: $(READY) ## half an hour of traffic: nothing lost, memory flat
	@$(BIN)/python benchmarks/traffic.py --minutes 30

bench: $(READY) ## print every published number, beside a peer
	@for script in benchmarks/*.py; do echo "==> $$script"; $(BIN)/python $$script || exit 1; done

docs: $(READY) ## write docs/reference again from the code
	@$(BIN)/python docs/generate.py

clean: ## remove .venv and caches; your home folder with its models and runs stays
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
