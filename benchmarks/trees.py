"""Write an annotation tree of any size in the layout of Aff-Wild2, to measure `triaffect index`.

Run: `python benchmarks/trees.py FOLDER [--videos 564] [--frames 4800]`
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from triaffect.labels import ACTION_UNITS, EXPRESSIONS


def write(folder: str | Path, videos: int, frames: int, seed: int = 0) -> int:
    """Write `annotations/` (three tasks, two splits) and `cropped_aligned/` with hard-linked files in place of crops.

    About half of the expressions and a tenth of the rest are missing, 4 % of the crops are, and a quarter of the videos
    lacks each task; lengths lie between a tenth and nearly twice `frames`.

    Returns:
        Lines written.
    """
    folder, rng, lines = Path(folder), np.random.default_rng(seed), 0
    headers = {"VA": "valence,arousal", "EXPR": ",".join(EXPRESSIONS), "AU": ",".join(ACTION_UNITS)}
    names = {"VA": "VA_Estimation", "EXPR": "EXPR_Recognition", "AU": "AU_Detection"}
    (folder / "cropped_aligned").mkdir(parents=True)
    crop = folder / "crop.jpg"
    crop.write_bytes(b"")
    for video in range(videos):
        split = "Train_Set" if rng.random() < 0.7 else "Validation_Set"
        length = int(frames * rng.uniform(0.1, 1.9))
        for task in headers:
            rows = max(length + int(rng.integers(-1, 3)), 1)
            missing = rng.random(rows) < (0.45 if task == "EXPR" else 0.1)
            if task == "VA":
                walk = np.clip(np.cumsum(rng.normal(0, 0.02, (rows, 2)), 0), -1, 1)
                text = ["-5,-5" if m else f"{v:.3f},{a:.3f}" for m, (v, a) in zip(missing, walk.tolist(), strict=True)]
            else:
                width, last = (12, 2) if task == "AU" else (1, 8)
                codes = np.where(missing[:, None], -1, rng.integers(0, last, (rows, width)))
                text = [",".join(map(str, row)) for row in codes.tolist()]
            if rng.random() < 0.75 or not (lines or task != "AU"):
                file = folder / "annotations" / f"{names[task]}_Challenge" / split / f"{video + 1}-30-640x360.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("\n".join([headers[task], *text]) + "\n")
                lines += rows
        home = folder / "cropped_aligned" / f"{video + 1}-30-640x360"
        home.mkdir()
        for frame in np.flatnonzero(rng.random(length) > 0.04) + 1:
            if frame % 50000 == 1 or not crop.exists():  # a file has only so many links
                crop = home / f"{frame:05d}.jpg"
                crop.write_bytes(b"")
            else:
                os.link(crop, home / f"{frame:05d}.jpg")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--videos", type=int, default=564)
    parser.add_argument("--frames", type=int, default=4800)
    options = parser.parse_args()
    print(f"{write(options.folder, options.videos, options.frames):,} lines")
