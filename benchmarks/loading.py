"""How near batches of JPEGs from disk come to what libjpeg-turbo decodes from memory on two threads.

    python benchmarks/loading.py [--images 20000] [--rounds 5] [--folder /tmp/triaffect-benchmarks]

The reference decodes bytes in memory into one buffer; everything else reads files, in a new order each time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import simplejpeg
from common import alternate, block, crops, drain, table
from paper_way import loader as papers_loader
from torch.utils.data import DataLoader

from triaffect.data.image_store import pack
from triaffect.training.augmentation import Augmentation
from triaffect.training.config import DataConfig
from triaffect.training.dataset import FrameDataset
from triaffect.training.loader import BatchLoader
from triaffect.training.sampling import EpochSampler


def decode_only(data: list[bytes], threads: int) -> float:
    def work(thread: int) -> None:
        buffer = np.empty((64, 112, 112, 3), np.uint8)
        for i in range(thread, len(data), threads):
            simplejpeg.decode_jpeg(data[i], "RGB", buffer=buffer[i // threads % 64])

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return len(data) / (time.perf_counter() - start)


def shuffled(dataset: FrameDataset, workers: int) -> BatchLoader:
    return BatchLoader(dataset, 64, workers, EpochSampler(len(dataset), shuffle=True))


def cold(files: Iterable[Path]) -> None:
    """Remove some files from the page cache."""
    for path in files:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/triaffect-benchmarks"))
    options = parser.parse_args()
    index, root = crops(options.folder, options.images)
    rows, count = pl.read_parquet(index), options.images
    packed = options.folder / f"crops{count}.safetensors"
    if not packed.exists():
        pack(rows, root, packed, progress=False)
    data = [(root / name).read_bytes() for name in rows["image"]]
    cached = FrameDataset(rows, root, 112, cache=True)
    drain(BatchLoader(cached, 64, 2), count)
    drawn = Augmentation(**DataConfig(jitter=0.2).augmentation)
    sets = {
        "loose": FrameDataset(rows, root, 112),
        "packed": FrameDataset(rows, packed, 112),
        "cached in memory": cached,
        "loose, augmented": FrameDataset(rows, root, 112, drawn),
        "cached, augmented": FrameDataset(rows, root, 112, drawn, cache=True),
    }
    drain(BatchLoader(sets["cached, augmented"], 64, 2), count)
    processes = DataLoader(sets["loose"], 64, True, num_workers=2, collate_fn=lambda b: b, persistent_workers=True)
    ways: dict[str, Any] = {f"libjpeg-turbo alone|{n}": (lambda n=n: decode_only(data, n)) for n in (1, 2)}
    ways |= {f"{name}|{n}": (lambda s=s, n=n: drain(shuffled(s, n), count)) for name, s in sets.items() for n in (1, 2)}
    for name, files in (("loose", [root / image for image in rows["image"]]), ("packed", [packed])):

        def from_disk(name: str = name, files: list[Path] = files) -> float:
            cold(files)
            return drain(shuffled(sets[name], 2), count)

        ways[f"{name}, cold disk|2"] = from_disk
    ways["loose, torch's DataLoader|2 processes"] = lambda: drain(processes, count)
    part = rows["image"].to_list()[: max(64, count // 5)]
    ways["the second paper's way, augmented|2 processes"] = lambda: drain(papers_loader(root, part, 2), len(part))
    medians = alternate(ways, options.rounds)
    best = medians["libjpeg-turbo alone|2"]
    text = table(
        ("images from", "threads", "images/s", "relative to libjpeg-turbo on 2"),
        [(*name.split("|"), f"{rate:,.0f}", f"{rate / best:.2f}") for name, rate in medians.items()],
    )
    block("Loading", f"python benchmarks/loading.py {' '.join(sys.argv[1:])}".strip(), text)


if __name__ == "__main__":
    main()
