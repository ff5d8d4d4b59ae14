"""FER+ as images and a table that `triaffect train` reads: any labelled data set can come in this way.

    python examples/ferplus.py ferplus_trainval.npz work/ferplus
    triaffect train --config recipes/ferplus.yaml --out work/ferplus/run

The .npz holds `images` (N, 48, 48), `votes` (N, 10) of the crowd, `split` and `labels`. FER+'s contempt becomes Other;
images whose winner is "unknown" or "not a face" are left out. An image is kept where more than half of its votes agree
(the strict majority), or, with --all, where one class simply leads.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import simplejpeg

from triaffect.files import replacing
from triaffect.labels import EXPRESSIONS

OURS = {name.lower(): code for code, name in enumerate(EXPRESSIONS)} | {"contempt": EXPRESSIONS.index("Other")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--all", action="store_true", help="train on every image with a leading class")
    arguments = parser.parse_args()

    data = np.load(arguments.npz, allow_pickle=False)
    images, votes = data["images"], data["votes"].astype(int)
    split = np.array(["train", "val"])[data["split"]]
    codes = np.array([OURS.get(str(name), -1) for name in data["labels"]])
    winner = votes.argmax(1)
    strict = votes.max(1) * 2 > votes.sum(1)
    leading = (votes == votes.max(1, keepdims=True)).sum(1) == 1
    # Judged on the strict majority in either case.
    kept = np.where((split == "train") & arguments.all, leading, strict) & (codes[winner] >= 0)

    rows = []
    for i in np.flatnonzero(kept):
        name = f"{split[i]}/{i:05d}.jpg"
        path = arguments.out / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(simplejpeg.encode_jpeg(images[i][..., None], 95, "GRAY", "444"))
        rows.append((name, split[i], int(codes[winner[i]])))
    table = pl.DataFrame(rows, schema={"image": pl.String, "split": pl.String, "expression": pl.Int8}, orient="row")
    with replacing(arguments.out / "index.csv") as beside:
        table.write_csv(beside)
    print(table.group_by("split").len().sort("split"))


if __name__ == "__main__":
    main()
