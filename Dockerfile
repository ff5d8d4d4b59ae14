# The web page and the command line on a CPU. Build it once with a network; it runs without one.
#   docker build -t triaffect .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:7860:7860 triaffect
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY src src
COPY configs configs
COPY studies studies
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c requirements.lock ".[web,openvino]"

FROM python:3.13-slim
COPY --from=build /venv /venv
RUN useradd --create-home --uid 10001 triaffect
USER 10001
WORKDIR /home/triaffect
ENV PATH=/venv/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 7860
HEALTHCHECK --interval=60s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
ENTRYPOINT ["triaffect"]
CMD ["web", "--host", "0.0.0.0"]
