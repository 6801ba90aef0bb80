# Three machines, and the same steps as the Makefile on each. docs/ci/README.md says how they are used and what was tried.
#
#   ci      CI and `make test`: no GPU, no compiler
#   gpu     an x86-64 host with a GPU: export, full TensorRT of NVIDIA's image, TensorRT-RTX
#   jetson  what the device kit of a bundle needs, and nothing else: no PyTorch, none of this repository
#
#   docker build --target ci --tag sttm-export-ci .
#   docker run --rm sttm-export-ci                                        # make test
#   docker run --rm sttm-export-ci sttm-export models
#
#   docker build --target gpu --tag sttm-export-gpu .
#   docker run --rm --gpus all sttm-export-gpu                            # sttm-export doctor
#   docker run --rm --gpus all -v "$PWD/my-bundle:/work/my-bundle" sttm-export-gpu \
#     sttm-export build my-bundle --target x86-trt1016
#
#   docker build --target jetson --tag sttm-export-jetson .               # on the Jetson: the image is for aarch64
#   docker run --rm --runtime nvidia --group-add "$(getent group render | cut -d: -f3)" -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro \
#     -v "$PWD/my-bundle:/bundle" sttm-export-jetson                      # bash /bundle/device/build.sh

# An engine runs with the TensorRT that built it, so these two follow the target: `sttm-export targets` shows its image.
ARG TENSORRT_IMAGE=nvcr.io/nvidia/tensorrt:26.05-py3
ARG JETSON_IMAGE=nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel


FROM python:3.12-slim AS ci

# Debian has one version of make for each of its releases; a pin would break with the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 dev \
    && install --directory --owner 1000 --group 1000 /home/dev/.cache /home/dev/sttm-export

# By number, so that a host can tell it is not root.
USER 1000
WORKDIR /home/dev/sttm-export
ENV PATH=/home/dev/sttm-export/.venv/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1

# PyPI's torch for Linux brings CUDA along, which this image cannot use. PyTorch's CPU index, given as
# --build-arg EXTRA_INDEX_URL=…, makes it 3.6 GB smaller; PyTorch's "Get Started" page names that index.
ARG EXTRA_INDEX_URL=""

# The dependencies are their own layer: what follows changes daily, they do not. pip's downloads stay outside the image.
COPY --chown=1000:1000 pyproject.toml README.md LICENSE Makefile ./
COPY --chown=1000:1000 sttm_export/__init__.py sttm_export/__init__.py
COPY --chown=1000:1000 models models
COPY --chown=1000:1000 calibration calibration
RUN --mount=type=cache,target=/home/dev/.cache/pip,uid=1000,gid=1000 \
    PIP_EXTRA_INDEX_URL="${EXTRA_INDEX_URL}" make .venv/.installed

COPY --chown=1000:1000 . .
# Copied files are newer than the stamp, and the editable install already serves them.
RUN touch .venv/.installed

LABEL org.opencontainers.image.title="sttm-export, CI" \
      org.opencontainers.image.description="Export and test of STTM bundles on a machine without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0"
# Last, so that a new revision costs no layer.
ARG REVISION=""
LABEL org.opencontainers.image.revision="${REVISION}"

CMD ["make", "test"]


FROM ${TENSORRT_IMAGE} AS gpu

# Images of Ubuntu 24.04 have a user 1000 already, those of 22.04 have none.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && if user="$(id -nu 1000 2>/dev/null)"; then userdel --remove "${user}"; fi \
    && useradd --create-home --uid 1000 dev \
    && install --directory --owner 1000 --group 1000 /home/dev/.cache /home/dev/sttm-export /work

USER 1000
WORKDIR /home/dev/sttm-export
# An empty PIP_CONSTRAINT lifts the pins that some of NVIDIA's images set for their own samples.
ENV PATH=/home/dev/sttm-export/.venv/bin:${PATH} \
    PIP_CONSTRAINT="" \
    PYTHONDONTWRITEBYTECODE=1

ARG EXTRA_INDEX_URL=""

COPY --chown=1000:1000 pyproject.toml README.md LICENSE Makefile ./
COPY --chown=1000:1000 sttm_export/__init__.py sttm_export/__init__.py
COPY --chown=1000:1000 models models
COPY --chown=1000:1000 calibration calibration
# The venv sees the image's own `tensorrt`: a newer one from PyPI would build engines that this target cannot load.
RUN --mount=type=cache,target=/home/dev/.cache/pip,uid=1000,gid=1000 \
    PIP_EXTRA_INDEX_URL="${EXTRA_INDEX_URL}" make .venv/.installed EXTRAS=export,rtx VENV_FLAGS=--system-site-packages

COPY --chown=1000:1000 sttm_export sttm_export
RUN touch .venv/.installed

LABEL org.opencontainers.image.title="sttm-export, GPU host" \
      org.opencontainers.image.description="Export of STTM bundles, and engines with TensorRT and TensorRT-RTX" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG REVISION=""
LABEL org.opencontainers.image.revision="${REVISION}"

# NVIDIA's entry point stays: it makes the CUDA of the image work with older drivers.
WORKDIR /work
CMD ["sttm-export", "doctor"]


FROM ${JETSON_IMAGE} AS jetson

# The image's Ubuntu decides which NumPy is right for its Python.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-numpy \
    && rm -rf /var/lib/apt/lists/* \
    && if user="$(id -nu 1000 2>/dev/null)"; then userdel --remove "${user}"; fi \
    && useradd --create-home --uid 1000 --groups video dev

# Looked for, not imported: TensorRT's driver libraries come from the host, when the container starts.
RUN python3 -c "import importlib.util as u, sys; sys.exit(u.find_spec('tensorrt') is None and 'no tensorrt for Python')"

USER 1000
WORKDIR /bundle
ENV PATH=/usr/src/tensorrt/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1

LABEL org.opencontainers.image.title="sttm-export, Jetson" \
      org.opencontainers.image.description="Runs the device kit of an STTM bundle: checks, builds, compares" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG REVISION=""
LABEL org.opencontainers.image.revision="${REVISION}"

CMD ["bash", "/bundle/device/build.sh"]
