# Each target works by itself on a bare clone: what it needs is installed into .venv, once.

PYTHON ?= python3
# where torch comes from, if not from PyPI, whose torch for Linux brings gigabytes of CUDA: the address of PyTorch's CPU builds
TORCH_INDEX ?=
BIN := .venv/bin
TORCH := $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INSTALLED := .venv/.installed
BENCH_INSTALLED := .venv/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help install install-mario install-surrol demo test test-shapes test-slow test-cuda lint type layers docs bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## make .venv with sparserl (editable) and its tools; PYTHON=python3.12 takes another Python, TORCH_INDEX=URL another torch

# opencv first, with a numpy that has a wheel: without the limits on Python versions pip may take one that has none and fails to build
install-mario: $(INSTALLED) ## Super Mario Bros, which needs a C++ compiler; the package brings Nintendo's game for educational purposes only
	@for name in $$CXX c++ g++ clang++; do command -v $$name >/dev/null && exit; done; echo "Super Mario Bros needs a C++ compiler, and none is there: sudo apt-get install g++" >&2; exit 1
	$(PIP) opencv-python-headless
	$(PIP) --ignore-requires-python gym-super-mario-bros nes-py
	-$(BIN)/python scripts/build_emulator.py  # the same game, faster

install-surrol: $(INSTALLED) ## what environment=surrol_ecm_reach and its like need, and how to clone SurRoL
	$(PIP) --editable '.[surrol]'
	@$(BIN)/python -c 'from sparserl.environments.surrol import CLONING; print("SurRoL itself is on no package index. Clone it where you like, outside of this folder:", CLONING, sep="\n")'

demo: $(INSTALLED) ## train CartPole and print what was kept and what was saved
	$(BIN)/python scripts/demo.py

test: $(INSTALLED) ## the tests, but for the slow ones, on all cores
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-shapes: $(INSTALLED) ## the same tests, with types and shapes checked at every call: twice as long
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --check-every-call

test-slow: $(INSTALLED) ## the slow tests
	$(BIN)/python -m pytest -m slow --check-every-call

test-cuda: $(INSTALLED) ## the tests of training on a GPU, where torch sees one
	$(BIN)/python -m pytest -m cuda

lint: $(INSTALLED) ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(INSTALLED) ## static types
	$(BIN)/mypy

layers: $(INSTALLED) ## that imports go one way
	$(BIN)/lint-imports

docs: $(INSTALLED) ## the generated parts of README.md and docs/
	$(BIN)/python scripts/make_docs.py

bench: $(BENCH_INSTALLED) ## speed, beside that of Stable-Baselines3
	$(BIN)/python scripts/bench.py
	$(BIN)/python scripts/bench_algorithms.py
	$(BIN)/python scripts/bench_compiled.py
	$(BIN)/python scripts/bench_gradients.py
	$(BIN)/python scripts/bench_products.py
	$(BIN)/python scripts/bench_sweeps.py
	-$(BIN)/python scripts/bench_mario.py  # only where the game is installed
	-$(BIN)/python scripts/bench_purejaxrl.py  # only where PUREJAXRL names a clone and JAX_PYTHON a Python with JAX

# torch comes first, so that it may come from an index of its own and is fetched once
$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "sparserl needs Python 3.11 or newer, and '$(PYTHON)' is not there: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sparserl needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=/path/to/python $(MAKECMDGOALS)" % sys.version_info[:2])'
	@echo "installing into .venv: minutes the first time"
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) --editable '.[dev]'
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(PIP) --editable '.[bench]'
	@touch $@
