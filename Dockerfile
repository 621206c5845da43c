# The studio in a container, for a CPU or an NVIDIA GPU:
#
#   docker build -t latent-studio .                            # torch for a CPU
#   docker build -t latent-studio --build-arg TORCH=cu130 .    # torch for CUDA 13; run it with --gpus all
#   docker run --read-only -p 7860:7860 -v studio:/data latent-studio
#
# It runs as a user of its own, and writes into /data only: visitors' work, fetched models, temporary files.
FROM python:3.12-slim

# What uv's --torch-backend takes: cpu, cu126, cu130, ...
ARG TORCH=cpu
WORKDIR /studio
COPY requirements.txt ./
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --torch-backend "$TORCH" -r requirements.txt \
    && pip uninstall --yes uv

COPY app.py LICENSE ./
COPY pipelines/ pipelines/
COPY demos/ demos/
COPY assets/ assets/
RUN python -m compileall -q app.py pipelines demos \
    && useradd --uid 1000 --no-create-home --home-dir /data studio \
    && install --directory --owner studio --mode 700 /data

ENV HOME=/data \
    TMPDIR=/data \
    HF_HOME=/data/huggingface \
    LATENT_STUDIO_WORK=/data/work \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 7860
USER studio
HEALTHCHECK --start-period=60s --interval=30s --timeout=10s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
CMD ["python", "app.py"]
