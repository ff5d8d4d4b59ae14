"""The study of recipes/mtl.yaml on thinned labels of rendered faces, in one command that goes on where it was stopped.

    python benchmarks/mtl.py RENDERS/index.parquet --out work/mtl --seeds 3 [--set base.training.epochs=1 ...]

Thins the training labels (`thirds`: each task missing on its own third of the frames; `disjoint`: each labelled for
one task only) by pieces of videos; the validation labels stay whole. For each seed: the recipe, then its three
single-task models as teachers of a student (recipes/mtl_soft.yaml). Prints a markdown table for docs/log.md: means over
seeds, and the paired difference of the total to the single-task models, with the first seed's interval over videos.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl

from triaffect.annotations.index import index_info, load_index, save_index
from triaffect.annotations.predictions import load_predictions, save_predictions
from triaffect.labels import LABEL_COLUMNS, TASKS
from triaffect.scoring.metrics import paired_bootstrap, score

PIECE = 10
"""Frames in a row that lose the same labels."""


def thin(index: pl.DataFrame, variant: str, seed: int = 0) -> pl.DataFrame:
    """The index with holes in its training labels: of three kinds of pieces, each lacks one task, or has one only."""
    piece = index.select(pl.struct("video", pl.col("frame") // PIECE).rank("dense")).to_series().to_numpy() - 1
    kind = np.random.default_rng(seed).permutation(np.arange(piece.max() + 1) % 3)[piece]
    holes = []
    for i, task in enumerate(TASKS):
        kept = kind != i if variant == "thirds" else kind == i
        known = pl.Series(kept) | (index["split"] != "train")
        holes += [pl.when(known).then(pl.col(name)).alias(name) for name in LABEL_COLUMNS[task]]
    return index.with_columns(holes)


def run(index: Path, images: str, folder: Path, seed: int, jobs: int, changes: list[str]) -> dict[str, Path]:
    """The recipe and the student for one seed; model -> predictions of the validation split."""
    from triaffect.learning.inference import predict
    from triaffect.learning.study import study

    changes = [*changes, f"base.training.seed={seed}"]
    rows, soft = load_index(index), []
    counted = rows.filter(pl.col("split") == "train").select("expression", "AU1").drop_nulls().height
    left_out = [] if counted else ["runs.co-annotation-counted=null", "runs.matching-counted=null"]
    found = study("mtl", str(index), images, folder / "study", changes=[*changes, *left_out], jobs=jobs)
    for task in TASKS:
        soft.append(str(folder / f"soft_{task}.parquet"))
        if not Path(soft[-1]).exists():
            teacher = folder / "study" / "runs" / task
            train = rows.filter(pl.col("split") == "train")
            save_predictions(predict(teacher, train, images, progress=False), soft[-1])
    changes = [c for c in changes if c.startswith("base.")] + [f"base.data.soft={json.dumps(soft)}"]
    taught = study("mtl_soft", str(index), images, folder / "soft", changes=changes)
    made = {model["name"]: folder / "study" / model["predictions"] for model in found["models"]}
    return {**made, "soft-labels": folder / "soft" / taught["models"][0]["predictions"]}


def table(made: list[dict[str, Path]], index: Path) -> str:
    """Means over seeds, and the difference of the total to that of the single-task models."""
    labels = load_index(index, "val")
    names = ("model", "valence-arousal", "expression", "action units", "total", "less single-task")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    scores = {
        name: [score(load_predictions(each[name]), labels, resamples=0) for each in made]
        for name in made[0]
        if name.removesuffix("-steps") not in TASKS
    }
    base = scores["single-task"]
    for name, each in scores.items():
        cells = [f"{np.mean([s.tasks[task] for s in each]):.3f}" for task in TASKS]
        spread = f" ± {np.std([s.total for s in each], ddof=1):.3f}" if len(each) > 1 else ""
        sides = [load_predictions(made[0][side]) for side in (name, "single-task")]
        low, high = paired_bootstrap(*sides, labels).intervals["total"]
        gap = np.mean([a.total - b.total for a, b in zip(each, base, strict=True)])
        total = f"{np.mean([s.total for s in each]):.3f}{spread}"
        lines.append(f"| {name} | {' | '.join(cells)} | {total} | {gap:+.3f} [{low:+.3f}, {high:+.3f}] |")
    return "\n".join(lines)


def main() -> None:
    """Runs all variants and seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("index")
    parser.add_argument("--images")
    parser.add_argument("--out", default="work/mtl")
    parser.add_argument("--variants", nargs="+", default=["thirds", "disjoint"], choices=["thirds", "disjoint"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--set", nargs="*", default=[], help="keys of the recipe, such as base.training.epochs=1")
    given = parser.parse_args()
    whole = load_index(given.index)
    images = given.images or index_info(given.index)["images"]
    for variant in given.variants:
        folder = Path(given.out, variant)
        path = folder / f"{variant}.parquet"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            save_index(thin(whole, variant), path, root=given.index, images=images, format="table")
        steps = [f"runs.{task}-steps.training.epochs=24" for task in TASKS] if variant == "disjoint" else []
        changes = [*given.set, *steps]
        made = [run(path, images, folder / f"seed{seed}", seed, given.jobs, changes) for seed in range(given.seeds)]
        print(f"\n### {variant}, {given.seeds} seeds\n\n{table(made, path)}\n")


if __name__ == "__main__":
    main()
