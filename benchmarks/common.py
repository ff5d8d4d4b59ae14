"""What the benchmarks share: alternated runs, memory, crops to read, and tables in Markdown."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl


def alternate(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Run each way once per round, so that a busy minute of the machine affects all; return the medians."""
    values_by_way: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            values_by_way[name].append(way())
    return {name: statistics.median(values) for name, values in values_by_way.items()}


def alone(script: str, *words: str) -> dict[str, float]:
    """Run a script in a new process, read its last line as JSON, and add its peak memory in GB."""
    # ru_maxrss would count the memory that the parent had when it started this process.
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "print(int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]) / 1e6)"
    )
    command = [sys.executable, "-c", code, script, *words]
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    completed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=path)
    *_, line, peak = completed.stdout.strip().splitlines()
    return {**json.loads(line), "peak": float(peak)}


def drain(batches: Iterable[object], count: int) -> float:
    """Items per second of a loader that yields `count` of them."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return count / (time.perf_counter() - start)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def block(title: str, command: str, text: str) -> None:
    """Print one section of docs/performance.md."""
    print(f"## {title}\n\n{text}\n\n`{command}`, {machine()}\n")


def machine() -> str:
    model = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} hardware threads, load {os.getloadavg()[0]:.1f} at the end"


def crops(folder: Path, count: int) -> tuple[Path, Path]:
    """Write `count` crops of 112 px and about 6 KB (the sample's faces with grain) and an index of them, once.

    Returns:
        The index and the image root.
    """
    import simplejpeg

    from triaffect.data.sample import sample
    from triaffect.labels import ACTION_UNITS

    index, root = folder / f"crops{count}.parquet", folder / f"crops{count}"
    if index.exists():
        return index, root
    rng, names = np.random.default_rng(0), []
    faces = [path.read_bytes() for path in sorted(sample(folder / "sample").glob("cropped_aligned/*/*.jpg"))]
    for i in range(count):
        path = root / f"{i // 500}" / f"{i % 500 + 1:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = simplejpeg.decode_jpeg(faces[i % len(faces)]) + rng.normal(0, 3, (112, 112, 3))
        path.write_bytes(simplejpeg.encode_jpeg(pixels.clip(0, 255).astype(np.uint8), 92))
        names.append(str(path.relative_to(root)))
    units = {name: rng.integers(0, 2, count, np.int8) for name in ACTION_UNITS}
    rows = pl.DataFrame(
        {
            "image": names,
            "video": [name.split("/")[0] for name in names],
            "frame": np.arange(count, dtype=np.int32) % 500 + 1,
            "split": ["train" if i >= count // 16 else "val" for i in range(count)],
            "exists": True,
            "valence": rng.uniform(-1, 1, count),
            "arousal": rng.uniform(-1, 1, count),
            "expression": rng.integers(0, 8, count, np.int8),
            **units,
        }
    )
    rows.write_parquet(index)
    return index, root
