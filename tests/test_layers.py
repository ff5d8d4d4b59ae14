"""The order of the house: what each layer may import, and what importing it loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import triaffect

PACKAGE = Path(triaffect.__file__).parent
# Lower layers first; a module imports its own layer and the ones before it.
ORDER = ["ground", "data", "metrics", "report", "render", "training", "inference", "study", "cli"]
GROUND = {"labels", "io", "text", "images", "jobs", "__init__"}


def layer(module):
    name = module.removeprefix("triaffect").removeprefix(".").split(".")[0]
    return name if name in ORDER else "ground"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# The public names of triaffect/__init__.py come from every layer, and are imported on first use.
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    own = layer("triaffect." + parts[0])
    assert own != "ground" or parts[0] in GROUND, f"{path} stands in no layer"
    for name in imported(path):
        if name.startswith("triaffect"):
            assert ORDER.index(layer(name)) <= ORDER.index(own), f"{own} imports {name}"
        if name.split(".")[0] == "lightning":
            assert path.name == "trainer.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def loaded(code):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split("\n")[-2].split()}


def test_importing_the_package_loads_nothing():
    heavy = {"numpy", "polars", "scipy", "matplotlib", "cv2", "torch", "jsonargparse", "yaml"}
    assert not loaded("import triaffect") & heavy
    assert not loaded("from triaffect.cli.main import main; main(['--help'])") & heavy


@pytest.mark.parametrize("layer", ["data", "metrics", "report"])
def test_reading_and_judging_never_load_torch(layer):
    modules = [f"triaffect.{layer}.{p.stem}" for p in sorted((PACKAGE / layer).glob("*.py")) if p.stem != "__init__"]
    assert "torch" not in loaded("\n".join(f"import {name}" for name in [f"triaffect.{layer}", *modules]))


def test_the_configuration_is_read_without_torch():
    assert "torch" not in loaded("import triaffect.training.config")


def test_every_public_name_has_a_home():
    for name in triaffect.__all__:
        assert getattr(triaffect, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        triaffect.nonsense  # noqa: B018
