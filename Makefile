# Two commands set everything up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3.11
# The CPU build, installed first: plain `torch` would pull gigabytes of CUDA packages. With a GPU: make TORCH=torch demo
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
# Exactly the versions that were tested; `make lock` takes newer ones. The build of torch is not in it.
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -qq --disable-pip-version-check
# One torch thread per test process: two processes share two cores better than four threads do
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: help demo test browser check format dashboard docs matrix fuzz soak kills lock clean

help:  ## list what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	@touch $@

$(VENV)/.run: pyproject.toml $(VENV)/.torch
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.run
	$(PIP) -e ".[docs]"
	@touch $@

demo: $(VENV)/.run  ## stream the bundled clip into the default model, ask, record
	$(BIN)/hermes-lab run --record runs/demo --overwrite

dashboard: $(VENV)/.run  ## open the dashboard on localhost
	$(BIN)/hermes-lab dashboard

test: $(VENV)/.dev  ## run all tests but those that drive a browser
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not browser" $(PYTEST)

browser: $(VENV)/.dev  ## drive the dashboard in a headless Chromium (apt install chromium, or CHROMIUM=/path)
	$(TEST_ENV) $(BIN)/python -m pytest tests/browser $(PYTEST)

check: $(VENV)/.dev  ## lint, formatting, types and the arrows between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev  ## rewrite files in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## build the documentation into site/, warnings as errors
	$(BIN)/python scripts/docs_cli.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

matrix: $(VENV)/.dev  ## run the tests that meet other libraries on their oldest and newest versions
	$(BIN)/python scripts/matrix.py --torch "$(TORCH)" $(MATRIX)

fuzz: $(VENV)/.dev  ## damage what comes from outside at random: make fuzz MINUTES=5 [SEED=0] [ONLY=video,recording]
	$(TEST_ENV) $(BIN)/python scripts/fuzz.py --minutes $(or $(MINUTES),5) --seed "$(SEED)" --only "$(ONLY)"

soak: $(VENV)/.dev  ## stream 100,000 frames and see that nothing grows: make soak [SOAK="--frames 4000"]
	$(TEST_ENV) $(BIN)/python scripts/soak.py $(SOAK)

kills: $(VENV)/.dev  ## kill recording processes 500 times and see that nothing is lost: make kills [KILLS=50] [SEED=0]
	$(TEST_ENV) $(BIN)/python scripts/kills.py --kills $(or $(KILLS),500) --seed $(or $(SEED),0)

lock: $(VENV)/.dev  ## take the newest versions that pyproject.toml allows into constraints.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras \
	  --overrides requirements/overrides.in --no-annotate --no-emit-index-url \
	  --custom-compile-command "make lock" --output-file constraints.txt pyproject.toml requirements/besides.in
	$(BIN)/python scripts/tested_versions.py

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .matrix .pytest_cache .hypothesis .ruff_cache
