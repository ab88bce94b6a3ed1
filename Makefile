# The two commands of the README, each from nothing:   make quickstart   make test
# Which torch is installed is up to pip's settings, and to PIP_FLAGS, which reaches every call of pip:
#   make quickstart PIP_FLAGS="--index-url ADDRESS"          (a CPU or CUDA build, or a mirror)
#   make quickstart PIP_FLAGS="--no-index --find-links DIR"  (offline)

PYTHON ?= python3
PIP_FLAGS ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STARTED := $(shell date +%s)
SO_FAR = $$(( $$(date +%s) - $(STARTED) )) s
# Python compiles what it imports, when it first does, and keeps that: compiling all that is installed takes a minute more.
export PYTHONDONTWRITEBYTECODE :=
INSTALL = $(BIN)/python -m pip install --no-compile $(PIP_FLAGS) -c constraints.txt

.PHONY: quickstart test lint docs clean help

help:
	@echo "make quickstart   set up, make the corpus, train, and judge a model that listens (ARGS=\"seed=1\")"
	@echo "make test         set up, and run the tests (ARGS=\"-k recipe\")"
	@echo "make lint         ruff and mypy"
	@echo "make docs         the documentation, in build/site/"
	@echo "make clean        remove the environment and what was built; data/ and runs/ stay"

quickstart: $(VENV)/.demo
	@echo "set-up took $(SO_FAR)"
	$(BIN)/audiollm train quickstart $(ARGS)
	@echo "make quickstart took $(SO_FAR), its set-up included"

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not browser and not gpu and not distributed" -n 2 $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy audiollm

docs: $(VENV)/.dev
	$(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html"

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone, so that the flags decide which one it is before anything else can ask for another.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("audiollm needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(INSTALL) -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) -e ".[demo,quant,deepspeed,docs,dev]"
	@touch $@ $(VENV)/.demo
