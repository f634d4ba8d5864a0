# The serving image: ONNX Runtime, no torch, not root. Build: docker build -t resight .
# For a GPU: docker build --build-arg EXTRA=gpu --build-arg BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 .
# (that base needs python3.11 or newer with venv; see docs/deploy.md).
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRA=cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY adapt ./adapt
COPY cli ./cli
COPY models ./models
COPY service ./service
RUN python3 -m venv /opt/resight \
    && /opt/resight/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRA}]"

FROM ${BASE}
RUN useradd --system --uid 10001 --home-dir /var/lib/resight --create-home resight
COPY --from=build /opt/resight /opt/resight
ENV PATH=/opt/resight/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RESIGHT_DATA_DIR=/var/lib/resight \
    RESIGHT_REGISTRY=/var/lib/resight/models \
    RESIGHT_LISTEN=0.0.0.0:50051 \
    RESIGHT_HTTP=0.0.0.0:9464
USER resight
VOLUME /var/lib/resight
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://' + os.environ['RESIGHT_HTTP'] + '/healthz', timeout=2)"]
ENTRYPOINT ["resight"]
CMD ["serve"]
