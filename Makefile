PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2

# Where this is set, as in many images, every process of vLLM's compiles its modules anew: half of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-all clients soak lint format surface lock floor dist docs bench-quick clean

help:
	@echo "make demo    a real question through both halves of PipeSD on this machine, and its figures"
	@echo "make setup   create .venv, install everything, build the embedded models (skips what is done)"
	@echo "make bench-quick  scenario 1 and fast-edge, the main rivals, one seed: under 10 minutes"
	@echo "make test    set up what is missing, check the code, run the tests that a change needs"
	@echo "make test-all  the same with slow tests and real clients"
	@echo "make clients   the official clients of all protocols, and LangChain, on the real stack"
	@echo "make soak      ten minutes of 200 clients, then an hour of chats with a fault every few seconds: errors, memory, sockets, files"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make format  let ruff fix and format"
	@echo "make surface  check every name of vLLM that the plugin uses, in the installed vLLM and in 0.33's sources"
	@echo "make lock    renew the pinned versions in requirements/"
	@echo "make floor   run the unit tests with the oldest versions that pyproject.toml allows"
	@echo "make dist    build what is published, check it, try it in clean environments (uploads nothing)"
	@echo "make docs    the documents as a site, in site/"
	@echo "make clean   remove .venv and this folder's caches (the compiled llama.cpp stays in your cache folder)"

# Runs tools/setup.py, or says that there is no Python which could.
SETUP = @$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
		echo "make: Python 3.11 or newer is needed as $(PYTHON): install it," \
		     "or name another one with 'make $@ PYTHON=/path/to/python3'." >&2; exit 1; }; \
	$(PYTHON) tools/setup.py

setup:
	$(SETUP) all

demo:
	$(SETUP) demo
	@$(BIN)/pipesd demo

lock floor:
	$(SETUP) $@

docs: setup
	$(BIN)/mkdocs build

dist:
	@$(PYTHON) tools/dist.py

bench-quick: setup
	$(BIN)/pipesd bench run --scenario scenario-1 --scenario fast-edge --datasets humaneval --seeds 1 --prompts 2 \
		--tokens 48 --policies cloud,vanilla:published,pipesd,adaptive --out bench-quick
	$(BIN)/pipesd bench report bench-quick

test: setup lint
	$(PYTEST) -m "not slow and not client"

test-all: setup lint
	$(PYTEST)

clients: setup
	$(PYTEST) -m client

soak: setup
	$(BIN)/pipesd bench gateway --dtype float32 --json soak-gateway.json
	$(BIN)/pipesd bench soak --json soak.json --picture soak.png

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

surface: setup
	@$(BIN)/python tools/surface.py

clean:
	rm -rf .venv *.egg-info benchmarks/*.egg-info build benchmarks/build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
