# The service, for one kind of machine:
#   docker build --target cpu -t varserve-service:cpu .
#   docker build --target gpu -t varserve-service:gpu .
# A test runs the steps of the cpu target, as they stand here, outside of any container.

FROM python:3.12-slim AS tools
WORKDIR /build
RUN python -m venv /opt/build
ENV PATH=/opt/build/bin:$PATH \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy
COPY requirements/build.txt requirements/
RUN python -m pip install -q --no-cache-dir --no-deps --require-hashes -r requirements/build.txt


FROM tools AS wheels
COPY LICENSE ./
COPY client client
COPY service service
RUN python -m pip wheel -q --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels ./client ./service


# What changes rarely and weighs most comes before the wheels, so that a change of the sources reuses it.
FROM tools AS cpu-packages
RUN python -m venv --without-pip /opt/varserve
COPY requirements/service-cpu.txt requirements/
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install -q --python /opt/varserve --no-deps --require-hashes -r requirements/service-cpu.txt
COPY --from=wheels /wheels /wheels
RUN uv pip install -q --python /opt/varserve --no-cache --no-deps --no-index /wheels/*.whl


FROM tools AS gpu-packages
RUN python -m venv --without-pip /opt/varserve
COPY requirements/service-gpu.txt requirements/
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install -q --python /opt/varserve --no-deps --require-hashes -r requirements/service-gpu.txt
COPY --from=wheels /wheels /wheels
RUN uv pip install -q --python /opt/varserve --no-cache --no-deps --no-index /wheels/*.whl


FROM python:3.12-slim AS runtime
# The root file system may be read-only: whatever wants to write finds /tmp.
ENV PATH=/opt/varserve/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
# A number, so that Kubernetes can tell that it is not root. It needs no account.
USER 65532:65532
EXPOSE 8500
# It finds the port in VARSERVE_HEALTH_PORT, else VARSERVE_PORT, and asks in plaintext: with a certificate, set the first.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m \
    CMD ["varserve-service", "health"]
# An init comes first: a signal to the first process is lost as long as that has no handler for it.
ENTRYPOINT ["dumb-init", "--", "varserve-service"]
# In plaintext, since an image has no certificate: whoever runs it keeps others off its network, or gives it one
# (VARSERVE_TLS_CERT, VARSERVE_TLS_KEY), which wins over --insecure.
CMD ["serve", "--host", "0.0.0.0", "--insecure", "--model-repository", "/models"]


FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-packages /opt/varserve /opt/varserve


# The last one, so that a build without --target makes it.
FROM runtime AS cpu
COPY --from=cpu-packages /opt/varserve /opt/varserve
