"""Small data that many tests read, and what is left out where an optional package is not installed."""

import ast
import os
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

# Before torch is imported: two workers on two threads must not fight over them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import pytest
import simplejpeg

from made_predictions import make  # noqa: F401 (fixture)
from raw_layout import crops, text_file, video_file  # noqa: F401 (fixtures)
from triaffect.labels import ACTION_UNITS

# Module (of ours or not) -> the optional package without which it cannot be imported.
NEEDS = {name: name for name in ("torch", "torchjd", "lightning", "timm", "safetensors", "optuna", "gradio", "embreex")}
NEEDS |= {name: name for name in ("onnx", "openvino", "scipy")}
NEEDS |= dict.fromkeys(("training", "triaffect.training", "triaffect.study", "triaffect.inference.export"), "torch")
NEEDS |= {
    "triaffect.render.renderer": "embreex",
    "triaffect.render.dataset": "embreex",
    "triaffect.render.film": "embreex",
}
NEEDS |= {"triaffect.training.config": "numpy"}
MISSING = {package for package in NEEDS.values() if find_spec(package) is None}


def _imports(path):
    """Modules that a file imports when it is loaded."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_left_out(path):
    for name in _imports(path):
        parts = name.split(".")
        needed = [NEEDS[key] for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in NEEDS]
        if needed and needed[0] in MISSING:
            return True
    return False


collect_ignore = [str(path) for path in Path(__file__).parent.rglob("*.py") if MISSING and _is_left_out(path)]


def pytest_configure():
    if MISSING and os.environ.get("TRIAFFECT_ALL_EXTRAS"):
        raise pytest.UsageError(f"not installed: {', '.join(sorted(MISSING))}; make test needs every extra")


def pytest_report_header():
    if MISSING:
        return f"not installed: {', '.join(sorted(MISSING))}; {len(collect_ignore)} files of tests are left out"
    return None


def _skip_without_optional_packages(item):
    """Skips a test that meets a missing optional package; with all of them installed it fails."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in MISSING:
            pytest.skip(f"needs {package}")
        raise


pytest_runtest_setup = pytest.hookimpl(wrapper=True)(_skip_without_optional_packages)
pytest_runtest_call = pytest.hookimpl(wrapper=True)(_skip_without_optional_packages)


def picture(code, rng, size=48):
    """A square whose colour and stripes show the expression code."""
    pixels = np.full((size, size, 3), 40 + 20 * code, np.uint8)
    pixels[:, :, code % 3] = 230
    pixels[:: 2 + code // 3] //= 2
    return np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def load_example():
    """A function that imports a script of examples/ by its name."""

    def load(name):
        path = Path(__file__).parents[1] / "examples" / f"{name}.py"
        specification = spec_from_file_location(name, path)
        module = module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def frames(tmp_path_factory):
    """A generic index of 72 pictures in 12 videos, two thirds for training; (index path, image root)."""
    root = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    rows = []
    for video in range(12):
        split = "train" if video < 8 else "val"
        for frame in range(1, 7):
            code = (video + frame) % 8
            name = f"v{video:02d}/{frame:05d}.jpg"
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(simplejpeg.encode_jpeg(picture(code, rng), 90))
            units = {au: int((code >> (i % 3)) & 1) for i, au in enumerate(ACTION_UNITS)}
            va = {"valence": code / 3.5 - 1, "arousal": 1 - code / 3.5}
            key = {"image": name, "video": f"v{video:02d}", "frame": frame, "split": split}
            rows.append({**key, "exists": True, **va, "expression": code, **units})
    path = root / "index.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return path, root / "images"
