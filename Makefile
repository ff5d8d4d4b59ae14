# make demo: everything on the bundled sample; make test: the tests. Each first installs what it needs into .venv.
# PYTHON chooses the interpreter (make test PYTHON=python3.13); another version than before makes .venv anew.
PYTHON ?= python3
# The interpreter itself: a pyenv shim of a version that is not active does not run, so pyenv's versions are searched.
INTERPRETER := $(shell $(PYTHON) -c 'import sys; print(sys.executable)' 2>/dev/null || \
    ls $$(pyenv root 2>/dev/null)/versions/*/bin/$(PYTHON) 2>/dev/null | sort -V | tail -1)
VERSION := $(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
INSTALLED := .venv/installed-$(VERSION)
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := .venv/bin/python -m
# Without stored bytecode, each process that imports torch needs twice the time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-core docs bench lock clean check-python
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	.venv/bin/triaffect demo --out demo

test: $(INSTALLED)
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	TRIAFFECT_ALL_EXTRAS=1 $(RUN) pytest -n 2

# The tests without optional packages (no torch), in an environment for each Python.
test-core: .venv-core-$(VERSION)/installed
	.venv-core-$(VERSION)/bin/python -m pytest -n 2

# The documentation site, into site/; a warning is an error.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

# Writes docs/performance.md; an hour on a quiet machine.
bench: $(INSTALLED)
	$(RUN:-m=) benchmarks/run.py

check-python:
	@test -n "$(VERSION)" || { echo "make: no interpreter $(PYTHON); name one with PYTHON=" >&2; exit 2; }

# uv is installed into the project if it is missing, so that a system Python marked as externally managed stays untouched.
.uv/bin/uv:
	$(INTERPRETER) -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .uv uv

$(INSTALLED): pyproject.toml requirements.lock | check-python $(filter .uv/bin/uv,$(UV))
	test -e $@ || $(UV) venv --quiet --clear --python $(INTERPRETER) .venv
	$(UV) pip install --quiet --python .venv/bin/python -r requirements.lock
	$(UV) pip install --quiet --python .venv/bin/python --no-deps -e .
	touch $@

.venv-core-$(VERSION)/installed: pyproject.toml requirements.lock | check-python $(filter .uv/bin/uv,$(UV))
	test -e $@ || $(UV) venv --quiet --clear --python $(INTERPRETER) .venv-core-$(VERSION)
	$(UV) pip install --quiet --python .venv-core-$(VERSION)/bin/python -c requirements.lock -e . --group dev
	touch $@

# No index lines: the lock file names no registry host.
lock: | $(filter .uv/bin/uv,$(UV))
	$(UV) pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --all-extras --group dev --group docs \
	    pyproject.toml -o requirements.lock --custom-compile-command "make lock"

clean:
	rm -rf .venv .venv-core-* .uv demo site
