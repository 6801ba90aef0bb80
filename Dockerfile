# The machine that CI and `make test` want: no GPU, no compiler, not root.
#
#   docker build --target ci --tag sttm-export-ci .
#   docker run --rm sttm-export-ci                                   # make test
#   docker run --rm sttm-export-ci .venv/bin/sttm-export models

FROM python:3.12-slim AS ci

# PyPI's torch for Linux brings CUDA along, which this image cannot use. PyTorch's CPU index, given as
# --build-arg EXTRA_INDEX_URL=…, makes it 3.6 GB smaller; PyTorch's "Get Started" page names that index.
ARG EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1

# Debian has one version of make for each of its releases; a pin would break with the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 dev

# By number, so that a host can tell it is not root.
USER 1000
WORKDIR /home/dev/sttm-export

# The dependencies are their own layer: what follows changes daily, they do not.
COPY --chown=dev:dev pyproject.toml README.md LICENSE Makefile ./
COPY --chown=dev:dev sttm_export/__init__.py sttm_export/__init__.py
COPY --chown=dev:dev models models
COPY --chown=dev:dev calibration calibration
RUN PIP_EXTRA_INDEX_URL="${EXTRA_INDEX_URL}" make .venv/.installed

COPY --chown=dev:dev . .
# Copied files are newer than the stamp, and the editable install already serves them.
RUN touch .venv/.installed

CMD ["make", "test"]
