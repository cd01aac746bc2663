# Two images: `docker build --target cpu .` and `docker build --target cuda .` (torch from the package index brings its own CUDA).
ARG PYTHON=python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254

FROM ${PYTHON} AS wheels
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY modelguard modelguard
COPY plugins plugins
RUN pip wheel --no-cache-dir --no-deps -w /wheels . ./plugins/modelguard-*/

FROM ${PYTHON} AS base
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 modelguard && mkdir /work && chown modelguard /work
COPY constraints.txt /usr/share/modelguard/
WORKDIR /work
ENTRYPOINT ["modelguard"]
CMD ["--help"]

FROM base AS cpu
RUN pip install -c /usr/share/modelguard/constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install -c /usr/share/modelguard/constraints.txt /wheels/*.whl
USER 10001

FROM base AS cuda
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install -c /usr/share/modelguard/constraints.txt /wheels/*.whl
USER 10001
