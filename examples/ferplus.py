"""FER+ as images and a table that `triaffect train` reads; any labelled data set works in the same way.

    python examples/ferplus.py ferplus_trainval.npz work/ferplus
    triaffect train --config ferplus --out work/ferplus/run
    triaffect predict work/ferplus/run work/ferplus/index.csv --split val --images work/ferplus/images --out p.parquet
    python examples/ferplus.py --check p.parquet ferplus_trainval.npz work/ferplus

The .npz contains `images` (N, 48, 48), `votes` (N, 10), `split` and `labels`. FER+'s contempt becomes Other; images
whose class is "unknown" or "not a face" are skipped. An image is used if more than half of its votes agree (the
strict majority) or, with --all, if one class leads.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import simplejpeg

from triaffect.data.index import load_index
from triaffect.data.predictions import load_predictions
from triaffect.io import atomic_path
from triaffect.labels import EXPRESSIONS, PREDICTION_COLUMNS

OURS = {name.lower(): code for code, name in enumerate(EXPRESSIONS)} | {"contempt": EXPRESSIONS.index("Other")}


def accuracy(predictions: Path, index: Path) -> str:
    """The accuracy, as FER+ is reported; `triaffect score` prints the F1 of each class."""
    rows = load_index(index, "val").join(load_predictions(predictions), on="image", how="inner")
    winner = rows.select(PREDICTION_COLUMNS["expr"]).to_numpy().argmax(1)
    right = winner == rows["expression"].to_numpy()
    return f"accuracy {right.mean():.4f} on {len(rows)} validation images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--all", action="store_true", help="train on every image with a leading class")
    parser.add_argument("--check", type=Path, help="print the accuracy of these predictions instead")
    arguments = parser.parse_args()
    if arguments.check:
        print(accuracy(arguments.check, arguments.out / "index.csv"))
        return

    data = np.load(arguments.npz, allow_pickle=False)
    images, votes = data["images"], data["votes"].astype(int)
    split = np.array(["train", "val"])[data["split"]]
    codes = np.array([OURS.get(str(name), -1) for name in data["labels"]])
    winner = votes.argmax(1)
    strict = votes.max(1) * 2 > votes.sum(1)
    leading = (votes == votes.max(1, keepdims=True)).sum(1) == 1
    # Validation images always need the strict majority.
    selected = np.where((split == "train") & arguments.all, leading, strict) & (codes[winner] >= 0)

    rows = []
    for i in np.flatnonzero(selected):
        name = f"{split[i]}/{i:05d}.jpg"
        path = arguments.out / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(simplejpeg.encode_jpeg(images[i][..., None], 95, "GRAY", "444"))
        # Each image is of another person: it is its own video, the unit of the intervals.
        rows.append((name, f"{i:05d}", split[i], int(codes[winner[i]])))
    types = {"image": pl.String, "video": pl.String, "split": pl.String, "expression": pl.Int8}
    table = pl.DataFrame(rows, schema=types, orient="row")
    with atomic_path(arguments.out / "index.csv") as tmp_path:
        table.write_csv(tmp_path)
    print(table.group_by("split").len().sort("split"))


if __name__ == "__main__":
    main()
