# What a newcomer and CI run. Needs python3 >= 3.10 and make; everything else goes into .venv.
#
#   make demo    export LLaVA-Video-7B's vision side with random weights, engines included, and say where it lies
#   make test    lint, types and the whole test suite
#   make lint    ruff and mypy alone
#   make clean   remove .venv, demo/ and caches
#
# PYTHON=python3.12 takes another Python. PyPI's torch for Linux brings CUDA along; with PyTorch's CPU index in
# PIP_EXTRA_INDEX_URL (PyTorch's "Get Started" page names it) pip takes the small build, which is all that is needed here.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo/llava-video-7b

.PHONY: demo test lint clean

# Random weights find everything alike: at the published spatial threshold the quadtree alone would meet the budget and
# nothing be left to merge across frames.
demo: $(STAMP)
	@clip=$$($(BIN)/python -m sttm_export.runtime.sample_clips bikes) && set -x && \
	$(BIN)/sttm-export --model llava-video-7b --budget 0.5 --random-weights 0 --spatial-threshold 0.97 \
		--clip "$$clip" --output $(DEMO) --force
	@printf '\nBundle: %s\nReport: %s\n' "$(CURDIR)/$(DEMO)" "$(CURDIR)/$(DEMO)/report.html"

# One thread a worker: workers that each use every core only wait for one another.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then set -x; $(BIN)/mypy; else \
		echo 'mypy: skipped on Python 3.10, whose last NumPy has other annotations; use 3.11 or later to check types.'; fi

# Editable, so that only a change of the dependencies asks for another install.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,dev,rtx]'
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find sttm_export tests -name __pycache__ -type d -prune -exec rm -rf {} +
