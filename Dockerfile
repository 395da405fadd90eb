# Two images:
#   docker build --target cpu  -t plumbline:cpu .
#   docker build --target cuda -t plumbline:cuda .     (the host needs the driver and the container toolkit)
# The service runs as user 10001, needs no capabilities, and writes only to /data, /models and /tmp, so the root file
# system can be read-only. /models contains the demo product:
#   docker run --rm -p 127.0.0.1:8000:8000 -e PLUMBLINE_INSECURE=1 plumbline:cpu
# PLUMBLINE_INSECURE=1 is for this demonstration: the port is published on this machine only. Otherwise create a key first
# (docs/security.md): without one the service does not listen on the network of its container.

# The digest of the index, which names an image for each platform. Change it together with the tag.
ARG PYTHON_IMAGE=python:3.12.14-slim-trixie@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea

FROM ${PYTHON_IMAGE} AS venv
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/plumbline
WORKDIR /src

# The dependencies: large layers that a change of the source does not touch. `make requirements` writes the lists.
FROM venv AS dependencies-cpu
COPY requirements/cpu.txt ./
RUN /opt/plumbline/bin/pip install --require-hashes --requirement cpu.txt

FROM venv AS dependencies-cuda
COPY requirements/cuda.txt ./
RUN /opt/plumbline/bin/pip install --require-hashes --requirement cuda.txt

# The packages of this repository. Training is not part of the images, because they do not contain torch.
FROM venv AS packages
COPY requirements/build.txt ./
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes --requirement build.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY client ./client
COPY service ./service
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels ./client . \
    && /opt/plumbline/bin/pip install --no-deps --no-index --prefix /opt/packages /wheels/*.whl \
    && rm /opt/packages/bin/plumbline-train

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Plumbline" \
      org.opencontainers.image.description="Visual anomaly inspection for production lines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12.14-slim-trixie"
RUN groupadd --gid 10001 plumbline \
    && useradd --uid 10001 --gid plumbline --no-create-home --shell /usr/sbin/nologin plumbline \
    && install --directory --owner plumbline --group plumbline /data /models /keys
COPY LICENSE NOTICE /usr/share/doc/plumbline/
# Before VOLUME: a new volume starts with this content.
COPY --chown=10001:10001 models/washer /models/washer
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
# PLUMBLINE_SHUTDOWN_DELAY_S + PLUMBLINE_SHUTDOWN_TIMEOUT_S + 10 s before SIGKILL.
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
COPY --from=dependencies-cuda /opt/plumbline /opt/plumbline
COPY --from=packages /opt/packages /opt/plumbline

# The last stage is the default of a build without --target.
FROM runtime AS cpu
ENV PLUMBLINE_PROVIDER=cpu
COPY --from=dependencies-cpu /opt/plumbline /opt/plumbline
COPY --from=packages /opt/packages /opt/plumbline
