"""Claim: combining the tasks' gradients on the shared features costs no more than a plain step.

    python benchmarks/balancing.py [--backbone resnet18] [--steps 8] [--rounds 3]

One fixed batch of 64, all three tasks, the full step with its optimiser; combining on the weights takes one backward
pass per task, besides the one through the heads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch
from common import alternate, block, crops, table

from triaffect.labels import TASKS
from triaffect.training.config import TrainConfig
from triaffect.training.dataset import FrameDataset
from triaffect.training.model import AffectModel
from triaffect.training.module import AffectTraining
from triaffect.training.run_folder import make_optimizer, precision

WAYS = {
    "fixed": {},
    "uncertainty": {"method": "uncertainty"},
    "pcgrad, features": {"method": "pcgrad", "at": "features"},
    "upgrad, features": {"method": "upgrad", "at": "features"},
    "imtlg, features": {"method": "imtlg", "at": "features"},
    "upgrad, weights": {"method": "upgrad", "at": "weights"},
    "fixed, cosines each 20th step": {"conflict": True},
}


def stepper(index: Path, root: Path, backbone: str, balancing: dict[str, object], steps: int) -> Callable[[], float]:
    config = TrainConfig.load(
        {
            "data": {"index": str(index), "images": str(root)},
            "model": {"backbone": backbone, "pretrained": False},
            "balancing": balancing,
            "training": {"batch": 64},
        }
    )
    rows = pl.read_parquet(index)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_flush_denormal(True)
    model = AffectModel(backbone, TASKS, size=112).to(device, memory_format=torch.channels_last).train()
    training = AffectTraining(model, config, rows).to(device)
    optimizer = make_optimizer(config.training, list(training.parameters()))
    batch = FrameDataset(rows, root, 112).__getitems__(list(range(64)))
    batch = {key: value.to(device) for key, value in batch.items() if key != "bad"}
    half = precision("auto") == "bf16-mixed"

    def run() -> float:
        start = time.perf_counter()
        for number in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                minimised, _ = training.batch_loss(batch, (0, 0, 0, number))
            minimised.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start) / steps

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/triaffect-benchmarks"))
    options = parser.parse_args()
    index, root = crops(options.folder, 256)
    ways = {name: stepper(index, root, options.backbone, keys, options.steps) for name, keys in WAYS.items()}
    for way in ways.values():
        way()
    medians = alternate(ways, options.rounds)
    lines = [(name, f"{value:.0f}", f"{value / medians['fixed']:.2f}") for name, value in medians.items()]
    text = table(
        (f"balancing ({options.backbone}, 112 px, batch 64)", "ms per step", "relative to a plain step"), lines
    )
    block("Balancing", f"python benchmarks/balancing.py {' '.join(sys.argv[1:])}".strip(), text)


if __name__ == "__main__":
    main()
