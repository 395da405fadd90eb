# Two images:
#   docker build --target cpu  -t plumbline:cpu .
#   docker build --target cuda -t plumbline:cuda .     (the host needs the driver and the container toolkit)
# The service runs as user 10001, needs no capabilities, and writes only to /data and /tmp, so the root file system can be
# read-only.

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/plumbline
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
# Dependencies first: their layer is large and rarely changes.
COPY deploy/docker/dependencies.py ./
COPY client/pyproject.toml ./client/
RUN python dependencies.py > dependencies.txt \
    && /opt/plumbline/bin/pip install --constraint constraints.txt --requirement dependencies.txt
COPY client ./client
COPY service ./service
COPY training ./training
RUN /opt/plumbline/bin/pip install --no-deps ./client .

FROM build AS build-cuda
RUN python dependencies.py cuda > dependencies-cuda.txt \
    && /opt/plumbline/bin/pip install --constraint constraints.txt --requirement dependencies-cuda.txt

FROM python:${PYTHON_VERSION}-slim AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Plumbline" \
      org.opencontainers.image.description="Visual anomaly inspection for production lines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12-slim"
RUN groupadd --gid 10001 plumbline \
    && useradd --uid 10001 --gid plumbline --no-create-home --shell /usr/sbin/nologin plumbline \
    && install --directory --owner plumbline --group plumbline /data /models
# Two malloc arenas instead of eight per core, because each arena keeps the memory of its peak use.
ENV PATH=/opt/plumbline/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    PLUMBLINE_MODELS=/models \
    PLUMBLINE_DATA=/data \
    PLUMBLINE_HOST=0.0.0.0 \
    PLUMBLINE_PORT=8000
WORKDIR /data
VOLUME ["/models", "/data"]
EXPOSE 8000
# On SIGTERM, readiness becomes 503, the queue drains, then the process exits. Allow more than
# PLUMBLINE_SHUTDOWN_TIMEOUT_S before SIGKILL.
STOPSIGNAL SIGTERM
USER 10001:10001
# The slim image has no curl. "Healthy" means that all required products are served, not only that the port is open.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PLUMBLINE_PORT'] + '/health/ready', timeout=2)"]
ENTRYPOINT ["plumbline"]
CMD ["serve"]

FROM runtime AS cuda
# The container toolkit reads these variables.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PLUMBLINE_PROVIDER=cuda
COPY --from=build-cuda /opt/plumbline /opt/plumbline

# The last stage is the default of a build without --target.
FROM runtime AS cpu
ENV PLUMBLINE_PROVIDER=cpu
COPY --from=build /opt/plumbline /opt/plumbline
