"""What import-linter (.importlinter) cannot check: what an import loads, the size of a file, cycles in benchmarks."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import triaffect

PACKAGE = Path(triaffect.__file__).parent
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def loaded(code):
    """Top-level modules that are loaded after some code has run in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split("\n")[-2].split()}


def test_importing_the_package_loads_nothing():
    heavy = {"numpy", "polars", "scipy", "matplotlib", "cv2", "torch", "jsonargparse", "yaml"}
    assert not loaded("import triaffect") & heavy
    assert not loaded("from triaffect.cli.main import main; main(['--help'])") & heavy


@pytest.mark.parametrize("layer", ["data", "metrics", "report", "inference"])
def test_importing_a_layer_does_not_load_torch(layer):
    modules = [f"triaffect.{layer}.{p.stem}" for p in sorted((PACKAGE / layer).glob("*.py")) if p.stem != "__init__"]
    assert "torch" not in loaded("\n".join(f"import {name}" for name in [f"triaffect.{layer}", *modules]))


def test_reading_a_config_does_not_load_torch():
    assert "torch" not in loaded("import triaffect.training.config")


def test_no_file_has_more_than_400_lines():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: count for path, count in lines.items() if count > 400} == {}


def test_benchmarks_do_not_import_each_other_in_a_circle():
    imports = {path.stem: _imports(path) for path in BENCHMARKS.glob("*.py")}
    graph = {name: modules & imports.keys() for name, modules in imports.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


def _imports(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def test_every_public_name_can_be_imported():
    for name in triaffect.__all__:
        assert getattr(triaffect, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        triaffect.nonsense  # noqa: B018
