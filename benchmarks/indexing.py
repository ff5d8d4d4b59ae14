"""Claim: the index of 2.6 M frames, with every check, takes at most 2.5 times what listing and reading the files takes.

    python benchmarks/indexing.py [FOLDER] [--videos 564] [--frames 4800] [--rounds 3]

FOLDER holds a tree of benchmarks/trees.py, written if it does not exist (minutes, 3 million links). Compared with a
lower bound (list the folders, read the text), with numpy without checks, and with the second paper's loop on a
twentieth of the videos, times 20.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from common import alone, alternate, block, table
from trees import write


def lower_bound(folder: Path) -> int:
    size = sum(len(path.read_bytes()) for path in folder.glob("annotations/*/*/*.txt"))
    return size + sum(len(os.listdir(home)) for home in (folder / "cropped_aligned").iterdir())


def ours(folder: Path) -> int:
    from triaffect.data.index import read_annotations

    return read_annotations(folder / "annotations", folder / "cropped_aligned").index.height


def plain(folder: Path) -> int:
    """What a few lines of numpy do: the numbers, and which frames have a crop; no check, no join, no names."""
    count, crops_by_video, arrays = 0, {}, []
    for home in (folder / "cropped_aligned").iterdir():
        crops_by_video[home.name] = np.array([int(name[:5]) for name in os.listdir(home) if name[0] != "."])
    for path in folder.glob("annotations/*/*/*.txt"):
        kind = np.float32 if path.parts[-3].startswith("VA") else np.int8
        values = np.loadtxt(path, kind, delimiter=",", skiprows=1, ndmin=2)
        crops, exists = crops_by_video.get(path.stem, np.zeros(0, int)), np.zeros(len(values) + 1, bool)
        exists[crops[crops <= len(values)]] = True
        arrays.append((values, exists[1:]))
        count += len(values)
    return count


def loop(folder: Path, part: int = 20) -> int:
    """The way of the second paper: one line at a time, and one file lookup per frame."""
    rows: list[list[object]] = []
    for path in sorted(folder.glob("annotations/*/*/*.txt"))[::part]:
        with open(path) as file:
            next(file)
            for i, line in enumerate(file, 1):
                image = os.path.join(folder, "cropped_aligned", path.stem, f"{i:05d}.jpg")
                values = [float(value) for value in line.strip().split(",")]
                if os.path.exists(image) and not any(value in (-5, -1) for value in values):
                    rows.append([image, *values])
    return len(rows) * part


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="/tmp/triaffect-benchmarks/tree")
    parser.add_argument("--videos", type=int, default=564)
    parser.add_argument("--frames", type=int, default=4800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way")
    options = parser.parse_args()
    folder = Path(options.folder)
    if options.way:
        start = time.perf_counter()
        count = {"bound": lower_bound, "plain": plain, "ours": ours, "loop": loop}[options.way](folder)
        print(json.dumps({"seconds": time.perf_counter() - start, "count": count}))
        return
    if not folder.exists():
        write(folder, options.videos, options.frames)
    last: dict[str, dict[str, float]] = {}

    def run(way: str) -> float:
        last[way] = alone(__file__, str(folder), "--way", way)
        return last[way]["seconds"] * (20 if way == "loop" else 1)

    medians = alternate({way: (lambda way=way: run(way)) for way in ("bound", "plain", "ours", "loop")}, options.rounds)
    names = {
        "bound": "list folders, read text",
        "plain": "numpy.loadtxt and listdir, no checks, no table",
        "ours": "`triaffect index`",
        "loop": "a loop with os.path.exists (a twentieth, times 20)",
    }
    rows = [
        (names[way], f"{seconds:.2f}", f"{last[way]['peak']:.2f}", f"{seconds / medians['ours']:.2f}")
        for way, seconds in medians.items()
    ]
    text = table(("way", "seconds", "peak, GB", "time to ours"), rows)
    note = f"\n\n{last['ours']['count']:,.0f} frames; 107 bytes per frame, 40 of them for the image's name."
    block("Index", f"python benchmarks/indexing.py {' '.join(sys.argv[1:])}".strip(), text + note)


if __name__ == "__main__":
    main()
