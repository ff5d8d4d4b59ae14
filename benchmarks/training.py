"""Claim: `triaffect train` runs at 90 % of the rate of a bare loop on one fixed batch, or better.

    python benchmarks/training.py [--images 2176] [--rounds 3] [--backbones resnet18 resnet50]

The bare loop has the same model, losses, optimiser and precision, and nothing else: no decoding, no bookkeeping.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import polars as pl
import torch
from common import alternate, block, crops, table

from triaffect.labels import TASKS
from triaffect.training.config import TrainConfig
from triaffect.training.dataset import FrameDataset
from triaffect.training.losses import TaskLosses
from triaffect.training.model import AffectModel
from triaffect.training.run_folder import make_optimizer, precision
from triaffect.training.trainer import train

IMAGES = 142_382
"""Training images of s-Aff-Wild2."""


def settings(index: Path, root: Path, backbone: str, epochs: int, tasks: list[str]) -> TrainConfig:
    return TrainConfig.load(
        {
            "data": {"index": str(index), "images": str(root)},
            "model": {"backbone": backbone, "pretrained": False, "tasks": tasks},
            "training": {"epochs": epochs, "batch": 64},
        }
    )


def ours(
    index: Path, root: Path, folder: Path, backbone: str, epochs: int = 2, tasks: list[str] | None = None
) -> float:
    """Images per second of the last epoch, from `metrics.csv`."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    train(settings(index, root, backbone, epochs, tasks or list(TASKS)), run, progress=False)
    return pl.read_csv(run / "metrics.csv")["images_per_second"][-1]


def bare(index: Path, root: Path, backbone: str, steps: int) -> float:
    config = settings(index, root, backbone, 1, list(TASKS))
    rows = pl.read_parquet(index)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_flush_denormal(True)
    model = AffectModel(backbone, TASKS, size=112).to(device, memory_format=torch.channels_last)
    losses = TaskLosses(TASKS, rows, **vars(config.losses)).to(device)
    optimizer = make_optimizer(config.training, list(model.parameters()))
    batch = FrameDataset(rows, root, 112).__getitems__(list(range(64)))
    batch = {key: value.to(device) for key, value in batch.items() if key != "bad"}
    half = precision("auto") == "bf16-mixed"
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            raw = model(batch["image"])
        losses.total(losses(raw, batch)).backward()
        optimizer.step()

    for _ in range(2):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 64 * steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2176)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/triaffect-benchmarks"))
    options = parser.parse_args()
    index, root = crops(options.folder, options.images)
    steps = options.images * 15 // 16 // 64
    lines = []
    for backbone in options.backbones:
        medians = alternate(
            {
                "bare": lambda backbone=backbone: bare(index, root, backbone, steps),
                "ours": lambda backbone=backbone: ours(index, root, options.folder, backbone),
            },
            options.rounds,
        )
        # chang2022: three single-task runs and a multi-task one, 20 epochs each at most.
        hours = 4 * 20 * IMAGES / medians["ours"] / 3600
        share = f"{medians['ours'] / medians['bare']:.2f}"
        lines.append((backbone, f"{medians['bare']:.1f}", f"{medians['ours']:.1f}", share, f"{hours:,.0f} h"))
    header = ("backbone, 112 px, batch 64", "bare step, images/s", "`train`", "ratio", "a `chang2022` study")
    note = f"\n\nThe study's time is extrapolated: 4 runs of 20 epochs over {IMAGES:,} images, without the evaluations."
    place = torch.cuda.get_device_name() if torch.cuda.is_available() else "on the CPU"
    text = table(header, lines) + note + f" Measured {place}."
    block("Training", f"python benchmarks/training.py {' '.join(sys.argv[1:])}".strip(), text)


if __name__ == "__main__":
    main()
