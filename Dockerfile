# An image with kdtune for experiments/rayjob.yaml, and for Slurm with Apptainer (experiments/slurm.sh).
#
#   docker build -t REGISTRY/kdtune:TAG .    # CPUs; with GPUs the next line
#   docker build --build-arg BASE=rayproject/ray:2.60.0-py311-gpu -t REGISTRY/kdtune:TAG .
#
# Linted with hadolint, but never built.

ARG BASE=python:3.11-slim
# hadolint ignore=DL3006
FROM ${BASE}

# an address with wheels of torch without CUDA makes the image for CPUs smaller
ARG INDEX=
USER 0
WORKDIR /opt/kdtune
COPY pyproject.toml README.md LICENSE ./
COPY docs/glossary.md docs/glossary.md
COPY kdtune kdtune
# KubeRay's probes need wget
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir ${INDEX:+--extra-index-url "$INDEX"} '.[timm,cluster]' \
    && (id kdtune 2>/dev/null || useradd --create-home --uid 1100 kdtune)
ENV PATH=/opt/venv/bin:$PATH RAY_USAGE_STATS_ENABLED=0
USER 1100
WORKDIR /home/kdtune
CMD ["kdtune"]
