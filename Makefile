# Two commands set everything up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3.11
# The CPU build, installed first: plain `torch` would pull gigabytes of CUDA packages. With a GPU: make TORCH=torch demo
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
# One torch thread per test process: two processes share two cores better than four threads do
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: help demo test browser check format types dashboard docs clean

help:  ## list what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@touch $@

$(VENV)/.run: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

demo: $(VENV)/.run  ## stream the bundled clip into the default model, ask, record
	$(BIN)/hermes-lab run --record runs/demo --overwrite

dashboard: $(VENV)/.run  ## open the dashboard on localhost
	$(BIN)/hermes-lab dashboard

test: $(VENV)/.dev  ## run all tests but those that drive a browser
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not browser" $(PYTEST)

browser: $(VENV)/.dev  ## drive the dashboard in a headless Chromium (apt install chromium, or CHROMIUM=/path)
	$(TEST_ENV) $(BIN)/python -m pytest tests/browser $(PYTEST)

check: $(VENV)/.dev  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev  ## rewrite files in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## build the documentation into site/, warnings as errors
	$(BIN)/python scripts/docs_cli.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache
