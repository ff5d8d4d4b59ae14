"""The fastest engine for a model on this machine: measured once, in two seconds at most, and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

from triaffect.inference.backends import TOLERANCE, Crops, Engine, Network, difference, made_up_crops, open_file
from triaffect.io import InputError, write_text

SECONDS = 2.0
"""How long the self-test may take."""


def fastest(file: Path, threads: int | None = None, cache: Path | None = None) -> Network:
    """Opens the engine that took the least time for one crop and for each of eight in the self-test.

    Args:
        file: An exported `.onnx` file.
        threads: Only this number of threads.
        cache: Where outcomes are kept; `engines.json` in the user's cache folder where left out. A file that is broken
            or cannot be written costs nothing but the next test.

    Returns:
        The engine, with its threads and micro-batch set.
    """
    cache = cache or _cache()
    known, key = _read(cache), f"{_key(file)} {threads or ''}".strip()
    # Whatever a broken or foreign cache may hold.
    with contextlib.suppress(InputError, KeyError, TypeError, ValueError):
        return _open(file, **known[key])
    chosen, choice = _test(file, threads)
    with contextlib.suppress(OSError, InputError):
        write_text(cache, json.dumps({**known, key: choice}, indent=1))
    return chosen


def _open(file: Path, engine: str, threads: int, precision: str | None, batch: int) -> Network:
    if not (isinstance(threads, int) and isinstance(batch, int) and threads > 0 and batch > 0):
        raise ValueError
    opened = open_file(file, engine, threads, precision)
    opened.batch = batch
    return opened


def _test(file: Path, threads: int | None) -> tuple[Network, dict[str, Any]]:
    end = perf_counter() + SECONDS
    reference = open_file(file, "onnx", threads)
    crops = made_up_crops(32, reference.size)
    best, chosen = float("inf"), reference
    choice: dict[str, Any] = {"engine": "onnx", "threads": threads or 1, "precision": None}
    # The likeliest first, for the time may run out.
    for number in [threads] if threads else [n for n in (1, 2, 4, 8) if n <= cpus()]:
        for kind in (None, "bf16", "f32") if find_spec("openvino") else (None,):
            if perf_counter() > end - SECONDS / 4:  # the rest is for the micro-batch
                continue
            candidate: dict[str, Any] = {"threads": number, "precision": kind}
            candidate["engine"] = "openvino" if kind else "onnx"
            try:
                engine = _open(file, **candidate, batch=32)
            except InputError:
                continue
            if difference(engine, reference, crops[:8]) > TOLERANCE:
                continue
            time = _seconds(engine, crops[:1], 0.04) + _seconds(engine, crops[:8], 0.08) / 8
            if time < best:
                best, chosen, choice = time, engine, candidate
    times: dict[int, float] = {}
    for batch in (1, 2, 4, 8, 16, 32):
        if not times or perf_counter() < end:
            times[batch] = _seconds(chosen, crops[:batch], 0.05) / batch
    # The smallest that is nearly as good as the best: it waits for fewer crops.
    chosen.batch = min(batch for batch, time in times.items() if time <= 1.05 * min(times.values()))
    return chosen, {**choice, "batch": chosen.batch}


def cpus() -> int:
    """Hardware threads that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds(engine: Engine, crops: Crops, budget: float) -> float:
    """The least time of a call: other programs can only add to it."""
    engine(crops)  # the first call of a shape prepares it
    times: list[float] = []
    end = perf_counter() + budget
    while len(times) < 3 or perf_counter() < end:
        start = perf_counter()
        engine(crops)
        times.append(perf_counter() - start)
    return min(times)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path("~/.cache").expanduser()
    return Path(home, "triaffect", "engines.json")


def _read(cache: Path) -> dict[str, Any]:
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _key(file: Path) -> str:
    """Model, versions and processor: what the outcome hangs on."""
    state = hashlib.sha256(f"{platform.machine()} {cpus()} {SECONDS}".encode())
    for part in (file, file.parent / "model.safetensors"):
        if part.is_file():
            state.update(part.read_bytes())
    for package in ("onnxruntime", "openvino"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            state.update(metadata.version(package).encode())
    with contextlib.suppress(OSError):
        # The flags tell what the name does not: machines of one name differ in what is switched on.
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()[:30]
        state.update(" ".join(line for line in lines if line.startswith(("model name", "flags", "Features"))).encode())
    return state.hexdigest()[:24]
