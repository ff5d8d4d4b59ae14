"""A backbone's features of many images, computed once: against decoding alone, and batches and training on them.

    python benchmarks/features.py [--images 100000] [--model triaffect-base] [--folder /tmp/triaffect-benchmarks]

Each step has its own process, whose peak memory is measured, and as many threads as the machine has. The first run
writes the images (0.6 GB for 100,000). Features that an earlier run has finished are computed again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from common import alone, alternate, block, crops, drain, table

BATCH = 512
EPOCHS = 5
WORKERS = 2
"""Decoding threads, the default of `triaffect features`."""


def decode(index: Path, root: Path, model: str, out: Path) -> dict[str, float]:
    """Images per second of decoding and resizing alone, as `features` does it."""
    from triaffect.data.image_store import read_batches
    from triaffect.training.model import load_model

    names, size = pl.read_parquet(index)["image"], load_model(model).size
    return {"rate": drain(read_batches(root, names, size, 128, WORKERS), len(names)), "size": size}


def features(index: Path, root: Path, model: str, out: Path) -> dict[str, float]:
    """Images per second of the whole verb, without starting Python, and bytes of its folder."""
    from triaffect.training.features import extract_features, load_features

    shutil.rmtree(out, ignore_errors=True)
    rows, start = pl.read_parquet(index), time.perf_counter()
    extract_features(model, rows, root, out, workers=WORKERS, device="cpu")
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in out.rglob("*"))
    return {"rate": len(rows) / seconds, "bytes": size, "width": load_features(out)[1].shape[1]}


def batches(index: Path, root: Path, model: str, out: Path) -> dict[str, float]:
    """Rows per second of shuffled batches with their labels, and of copying the same rows and nothing else."""
    from triaffect.training.dataset import FeatureDataset
    from triaffect.training.features import load_features
    from triaffect.training.loader import BatchLoader
    from triaffect.training.sampling import EpochSampler

    rows = pl.read_parquet(index).filter(pl.col("split") == "train")
    dataset, values = FeatureDataset(rows, str(out)), np.asarray(load_features(out)[1])
    sampler = EpochSampler(len(dataset), shuffle=True)

    def copied() -> float:
        order = sampler.keys()
        parts = (values.take(order[i : i + BATCH], 0) for i in range(0, len(order), BATCH))
        return drain(parts, len(order))

    ways: dict[str, Callable[[], float]] = {
        "copied": copied,
        **{f"workers {n}": lambda n=n: drain(BatchLoader(dataset, BATCH, n, sampler), len(dataset)) for n in (0, 2)},
    }
    alternate(ways, 1)
    return alternate(ways, 9)


def train(index: Path, root: Path, model: str, out: Path) -> dict[str, float]:
    """Rows per second of `triaffect train` with a hidden layer in each of three heads, median of the epochs."""
    from triaffect.training.config import TrainConfig
    from triaffect.training.trainer import train as run

    heads = {"pretrained": model, "head": "mlp", "hidden": 128}
    options = {"epochs": EPOCHS, "batch": BATCH, "optimizer": "adamw", "lr": 1e-3, "accelerator": "cpu"}
    config = TrainConfig.load(
        {
            "data": {"index": str(index), "features": str(out)},
            "model": heads,
            "losses": {"expr": "ce", "au": "bce"},
            "training": {**options, "loggers": ["CSVLogger"]},
        }
    )
    folder = out.with_name(f"{out.name}-run")
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    run(config, folder, progress=False)
    epochs = pl.read_csv(folder / "metrics.csv")
    rate, seconds = (statistics.median(epochs[name]) for name in ("images_per_second", "seconds"))
    return {"rate": rate, "epoch": seconds, "whole": time.perf_counter() - start}


STEPS: Mapping[str, Callable[[Path, Path, str, Path], dict[str, float]]] = {
    "decode": decode, "features": features, "batches": batches, "train": train,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--model", default="triaffect-base")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/triaffect-benchmarks"))
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--step", choices=list(STEPS), help="one step in this process; prints JSON")
    options = parser.parse_args()
    index, root = crops(options.folder, options.images)
    out = options.folder / f"features{options.images}"
    if options.step:
        print(json.dumps(STEPS[options.step](index, root, options.model, out)))
        return
    words = ["--images", str(options.images), "--model", options.model, "--folder", str(options.folder)]
    done = {step: alone(__file__, *words, "--step", step) for step in options.steps}
    base, rows = done.get("decode", {}).get("rate", float("nan")), []
    for step, values in done.items():
        shown = {"batches, no thread": "workers 0", "batches, 2 threads": "workers 2", "rows copied": "copied"}
        rates = {name: values[key] for name, key in shown.items()} if step == "batches" else {step: values["rate"]}
        for name, rate in rates.items():
            rows.append([name, f"{rate:,.0f}", f"{rate / base:.3f}", f"{values['peak']:.2f}"])
    notes = []
    if "features" in done:
        of = done["features"]
        notes.append(f"{of['bytes'] / options.images:,.0f} bytes per image on disk ({of['width']} numbers, float16).")
    if "train" in done:
        notes.append(f"An epoch with its validation takes {done['train']['epoch']:.1f} s.")
    text = table(["step", "images/s", "relative to decoding", "peak, GB"], rows)
    block("Features", f"python benchmarks/features.py --images {options.images}", "\n\n".join([text, " ".join(notes)]))


if __name__ == "__main__":
    main()
