"""Claim: 1,000 resamples of 564 videos over 2.8 M frames, three tasks, in under 5 s and 1 GB on top of the tables.

    python benchmarks/scoring.py [frames] [videos]

The tables are made up and in different row orders. The time is that of `score` on tables in memory.
Memory is measured on Linux only.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from common import block, table

from triaffect.labels import ACTION_UNITS, EXPRESSIONS
from triaffect.metrics.scores import score


def tables(frames: int, videos: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    video = np.sort(rng.integers(0, videos, frames))
    key = pl.DataFrame({"video": video, "frame": np.arange(frames, dtype=np.int32)}).select(
        image=pl.format("{}-30-1920x1080/{}.jpg", "video", pl.col("frame").cast(pl.String).str.zfill(5)),
        video=pl.format("{}-30-1920x1080", "video"),
        frame="frame",
        split=pl.lit("val"),
        exists=pl.lit(True),
    )

    def with_gaps(values: np.ndarray, rate: float) -> pl.Series:
        is_labelled = pl.Series(rng.random(frames) > rate)
        return pl.select(pl.when(is_labelled).then(pl.Series(values))).to_series()

    va = rng.uniform(-1, 1, (frames, 2))
    index = key.with_columns(
        valence=with_gaps(va[:, 0], 0.2),
        arousal=with_gaps(va[:, 1], 0.2),
        expression=with_gaps(rng.integers(0, 8, frames, dtype=np.int8), 0.45),
        **{name: with_gaps(rng.integers(0, 2, frames, dtype=np.int8), 0.2) for name in ACTION_UNITS},
    )
    columns = {name.lower(): rng.random(frames, dtype=np.float32) for name in EXPRESSIONS}
    columns |= {name: rng.random(frames, dtype=np.float32) for name in ACTION_UNITS}
    columns |= {name: (va[:, i] * 0.5).astype(np.float32) for i, name in enumerate(("valence", "arousal"))}
    return key.select("image").with_columns(**columns).sample(fraction=1, shuffle=True, seed=seed), index


def memory(field: str) -> float:
    """Return the GB of this process: `VmRSS` now, `VmHWM` at its peak; NaN if the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith(field)), float("nan"))


def main(frames: int = 2_800_000, videos: int = 564) -> None:
    predictions, index = tables(frames, videos)
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which making the tables has raised
    before, start, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    scores = score(predictions, index)
    seconds, cpu, peak = time.perf_counter() - start, time.process_time() - cpu, memory("VmHWM")
    row = (f"{frames:,}", videos, f"{seconds:.2f}", f"{cpu:.2f}", f"{before:.2f}", f"{peak - before:.2f}")
    header = ("frames", "videos", "seconds", "of CPU", "tables, GB", "on top, GB")
    text = table(header, [row]) + f"\n\n{scores.table().splitlines()[-1]}"
    block("Scoring", f"python benchmarks/scoring.py {' '.join(sys.argv[1:])}".strip(), text)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
