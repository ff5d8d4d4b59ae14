"""The second paper's way (Asim 2024, sec. 1.8 to 1.11) and ours, on the same images with the same model.

    python benchmarks/paper_way.py [--images 4096] [--rounds 3] [--folder /tmp/triaffect-benchmarks]

Rewritten from the paper's text: one file lookup per frame, Pillow, transforms per sample, float32,
scikit-learn's measures. Index, one epoch of loading, one of training (ResNet-18, batch 64), and the measures.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import alternate, block, crops, drain, table
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from triaffect.labels import ACTION_UNITS


class CustomDataset(Dataset[Any]):
    """One image per call: opened, resized, flipped, rotated, made a tensor, normalised."""

    def __init__(self, root: Path, names: list[str], targets: np.ndarray | None = None) -> None:
        self.names = [os.path.join(root, name) for name in names if os.path.exists(os.path.join(root, name))]
        self.targets = np.zeros((len(names), 14), np.float32) if targets is None else targets
        self.transform = transforms.Compose(
            [
                transforms.Resize((112, 112)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomRotation(10),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(self.names[i]).convert("RGB")
        return self.transform(image), torch.tensor(self.targets[i])


def loader(root: Path, names: list[str], workers: int, targets: np.ndarray | None = None) -> DataLoader[Any]:
    return DataLoader(CustomDataset(root, names, targets), 64, True, num_workers=workers)


def papers_epoch(root: Path, rows: pl.DataFrame) -> float:
    import torchvision

    targets = rows.select("valence", "arousal", *ACTION_UNITS).to_numpy().astype(np.float32)
    model = torchvision.models.resnet18(num_classes=14)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    batches = loader(root, rows["image"].to_list(), 2, targets)
    start = time.perf_counter()
    for images, target in batches:
        optimizer.zero_grad()
        raw = model(images)
        loss = torch.nn.functional.mse_loss(raw[:, :2], target[:, :2])
        loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(raw[:, 2:], target[:, 2:])
        loss.backward()
        optimizer.step()
        loss.item()
    return len(rows) / (time.perf_counter() - start)


def our_epoch(index: Path, root: Path, folder: Path) -> float:
    from training import ours

    return ours(index, root, folder, "resnet18", epochs=1, tasks=["va", "au"])


def measures(count: int = 280_000) -> tuple[Callable[[], float], Callable[[], float]]:
    from sklearn.metrics import f1_score

    from triaffect.metrics.measures import au_score, expr_score

    rng = np.random.default_rng(0)
    expr, au = rng.random((count, 8)), rng.random((count, 12))
    codes, units = rng.integers(0, 8, count), rng.integers(0, 2, (count, 12)).astype(float)

    def papers() -> float:
        start = time.perf_counter()
        f1_score(codes, expr.argmax(1), average="macro")
        for i in range(12):
            f1_score(units[:, i], au[:, i] > 0.5)
        return count / (time.perf_counter() - start)

    def ours() -> float:
        start = time.perf_counter()
        expr_score(expr, codes.astype(float))
        au_score(au, units)
        return count / (time.perf_counter() - start)

    return papers, ours


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/triaffect-benchmarks"))
    options = parser.parse_args()
    from trees import write

    from triaffect.training.augmentation import Augmentation
    from triaffect.training.config import DataConfig
    from triaffect.training.dataset import FrameDataset
    from triaffect.training.loader import BatchLoader
    from triaffect.training.sampling import EpochSampler

    index, root = crops(options.folder, options.images)
    rows = pl.read_parquet(index)
    train = rows.filter(pl.col("split") == "train")
    tree, part = options.folder / "tree", 20  # the loop runs on a twentieth of the files
    if not tree.exists():
        tree, part = options.folder / "small-tree", 1
    if not tree.exists():
        write(tree, 20, options.images // 8)
    from indexing import loop, ours

    height = ours(tree)

    def frames(way: Callable[[], int], part: int = 1) -> float:
        start = time.perf_counter()
        way()
        return height / part / (time.perf_counter() - start)

    dataset = FrameDataset(train, root, 112, Augmentation(**DataConfig().augmentation))
    batches = BatchLoader(dataset, 64, 2, EpochSampler(len(dataset), shuffle=True))
    papers_measures, our_measures = measures()
    ways = {
        "index|paper": lambda: frames(lambda: loop(tree, part), part),
        "index|ours": lambda: frames(lambda: ours(tree)),
        "loading|paper": lambda: drain(loader(root, train["image"].to_list(), 2), len(train)),
        "loading|ours": lambda: drain(batches, len(train)),
        "training|paper": lambda: papers_epoch(root, train),
        "training|ours": lambda: our_epoch(index, root, options.folder),
        "measures|paper": papers_measures,
        "measures|ours": our_measures,
    }
    medians = alternate(ways, options.rounds)
    text = table(
        ("frames/s", "the paper's way", "triaffect", "ratio"),
        [
            (
                part,
                f"{medians[f'{part}|paper']:,.0f}",
                f"{medians[f'{part}|ours']:,.0f}",
                f"{medians[f'{part}|ours'] / medians[f'{part}|paper']:.1f}",
            )
            for part in ("index", "loading", "training", "measures")
        ],
    )
    block(
        "Side by side with the second paper's way",
        f"python benchmarks/paper_way.py {' '.join(sys.argv[1:])}".strip(),
        text,
    )


if __name__ == "__main__":
    main()
