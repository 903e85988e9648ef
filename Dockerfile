# One image, both programs: `restore-operator` (the Deployment) and `restorer` (the Jobs it makes, and the command).
# Every byte that pip installs is locked by hash; the base can be pinned by digest:
#   docker build --build-arg BASE=python:3.13-slim-trixie@sha256:... -t database-restore-operator:dev .
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# What the programs need, in a virtual environment without pip: first, because it changes least.
COPY requirements-runtime.txt requirements-build.txt ./
RUN python3 -m venv --without-pip /opt/restore && python3 -m venv /build
RUN /build/bin/pip --python /opt/restore install --no-compile --only-binary :all: --require-hashes -r requirements-runtime.txt
RUN /build/bin/pip install --only-binary :all: --require-hashes -r requirements-build.txt
# The wheel, built with the locked backend and nothing from elsewhere.
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY restorer restorer
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /build/bin/pip --python /opt/restore install --no-compile --no-deps --no-index /wheel/*.whl
# What nothing imports stays behind: the classes of each API that the Kubernetes client brings, twice (the operator asks by path),
# and zstandard for interpreters without C. A path that is gone ends the build, so that this list is looked at again.
RUN cd /opt/restore/lib/python3*/site-packages && rm -r kubernetes/client/api kubernetes/aio/client/api zstandard/_cffi.*.so
# Byte code, because the root file system will be read-only; not of what is generated, of which a handful of modules is used.
RUN ["/opt/restore/bin/python", "-m", "compileall", "-q", "-x", "/(client/models|pygments/lexers)/", "/opt/restore/lib"]

FROM ${BASE}
ARG BASE
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="database-restore-operator" \
      org.opencontainers.image.description="Restores JSON backups into PostgreSQL at the speed of COPY, exactly once" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/${BASE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/restore /opt/restore
# The root file system is mounted read-only: what must be written goes to /tmp, which the pod mounts.
# The user has a name here alone: /etc/passwd does not know its number, nor that of any other user that a cluster may choose.
ENV PATH=/opt/restore/bin:$PATH HOME=/tmp USER=restore PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number, so that runAsNonRoot can be checked without reading /etc/passwd.
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080 9090
ENTRYPOINT ["restore-operator"]
