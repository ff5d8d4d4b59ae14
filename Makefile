# make demo: the main job on the bundled sample; make test: the tests. Each installs what it needs into .venv first.
PYTHON ?= python3
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := .venv/bin/python -m

.PHONY: demo test bench lock clean
.DELETE_ON_ERROR:

demo: .venv/installed
	.venv/bin/triaffect demo --out demo

test: .venv/installed
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(RUN) pytest -n 2

# Writes docs/performance.md; an hour on a quiet machine.
bench: .venv/installed
	$(RUN:-m=) benchmarks/run.py

# uv goes beside the project where it is missing, so that a system Python marked as externally managed stays untouched.
.uv/bin/uv:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .uv uv

.venv/installed: pyproject.toml requirements.lock | $(filter .uv/bin/uv,$(UV))
	test -x .venv/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip install --quiet --python .venv/bin/python -r requirements.lock
	$(UV) pip install --quiet --python .venv/bin/python --no-deps -e .
	touch $@

# No index lines: the lock file names no registry host.
lock:
	$(UV) pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --all-extras --group dev \
	    pyproject.toml -o requirements.lock --custom-compile-command "make lock"

clean:
	rm -rf .venv .uv demo
