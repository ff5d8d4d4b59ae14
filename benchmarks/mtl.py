"""The study of studies/mtl.yaml on thinned labels of rendered faces, in one command that can be continued.

    python benchmarks/mtl.py RENDERS/index.parquet --out work/mtl --seeds 3 [--set base.training.epochs=1 ...]
    python benchmarks/mtl.py work/base/index.parquet --images work/base/images --variants ferplus --out work/mtl

Thins the training labels (`thirds`: each task missing on its own third of the frames; `disjoint`: each labelled for
one task only) by pieces of videos; the validation labels stay complete. `ferplus` reads what examples/base.py wrote:
6,000 real faces labelled for expression only, and every other rendered frame, labelled for the other two. For each
seed: the study, then its three single-task models as teachers of a student (studies/mtl_soft.yaml). Prints a table for
docs/log.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl

from triaffect.data.index import load_index, provenance, save_index
from triaffect.data.predictions import load_predictions, save_predictions
from triaffect.labels import LABEL_COLUMNS, PREDICTION_COLUMNS, TASKS
from triaffect.metrics.scores import compare, score
from triaffect.metrics.tuning import tune

FRAME = pl.col("frame")
STEPS = "single-task-steps"
PIECE = 10
"""Frames in a row that lose the same labels."""


MORE = ("mgda-features", "alignedmtl-features")
COMPARE = "compare=[[multi-task, single-task]]"
CHANGES = {
    "thirds": [],
    # A third of the images a task: as many steps take three times the epochs. Gradients on features never meet.
    "disjoint": [
        *(f"runs.{task}-steps.training.epochs=24" for task in TASKS),
        *(f"runs.{name}=null" for name in ("upgrad", "upgrad-features", *MORE)),
        COMPARE,
    ],
    # Real faces are grey; 8,000 images have two tasks, 6,000 the third.
    "ferplus": [
        "base.model.grey=true",
        *(f"runs.{task}-steps.training.epochs={epochs}" for task, epochs in zip(TASKS, (14, 19, 14), strict=True)),
        *(f"runs.{name}=null" for name in ("upgrad", "upgrad-features", "pcgrad", "dwa", *MORE)),
        COMPARE,
    ],
}
"""What a variant changes in the study."""


def thin(index: pl.DataFrame, variant: str, seed: int = 0) -> pl.DataFrame:
    """Remove training labels: of three kinds of pieces, each loses one task, or keeps only one."""
    piece = index.select(pl.struct("video", FRAME // PIECE).rank("dense")).to_series().to_numpy() - 1
    kind = np.random.default_rng(seed).permutation(np.arange(piece.max() + 1) % 3)[piece]
    holes = []
    for i, task in enumerate(TASKS):
        labelled = kind != i if variant == "thirds" else kind == i
        present = pl.Series(labelled) | (index["split"] != "train")
        holes += [pl.when(present).then(pl.col(name)).alias(name) for name in LABEL_COLUMNS[task]]
    return index.with_columns(holes)


def real(index: pl.DataFrame, votes: Path) -> pl.DataFrame:
    """Expressions of real faces (the strict majority's class), valence-arousal and action units of rendered ones."""
    share = pl.concat_list(PREDICTION_COLUMNS["expr"])
    winner = pl.read_parquet(votes).filter(share.list.max() > 0.5)
    winner = winner.select("image", winner=share.list.arg_max().cast(pl.Int8))
    faces = index.filter(pl.col("image").str.starts_with("ferplus/aligned"))
    faces = faces.join(winner, on="image", how="left", maintain_order="left")
    faces = faces.with_columns(pl.coalesce("expression", "winner").alias("expression")).filter(
        pl.col("expression") >= 0
    )
    train = faces.filter(pl.col("split") == "train").drop("winner").sample(6_000, seed=0)
    renders = index.filter(pl.col("image").str.starts_with("renders-a"), (pl.col("split") == "val") | (FRAME % 2 == 0))
    renders = renders.with_columns(expression=pl.lit(None, pl.Int8))
    return pl.concat([train, faces.filter(pl.col("split") == "val").drop("winner"), renders])


def run(index: Path, images: str, folder: Path, seed: int, jobs: int, changes: list[str]) -> dict[str, Path]:
    """The study and the student for one seed; model -> predictions of the validation split."""
    from triaffect.inference.predict import predict
    from triaffect.study.study import run_study

    changes = [*changes, f"base.training.seed={seed}"]
    rows, soft = load_index(index), []
    counted = rows.filter(pl.col("split") == "train").select("expression", "AU1").drop_nulls().height
    left_out = [] if counted else ["runs.co-annotation-counted=null", "runs.matching-counted=null"]
    results = run_study("mtl", str(index), images, folder / "study", changes=[*changes, *left_out], jobs=jobs)
    for task in TASKS:
        soft.append(str(folder / f"soft_{task}.parquet"))
        if not Path(soft[-1]).exists():
            teacher = folder / "study" / "runs" / task
            train = rows.filter(pl.col("split") == "train")
            save_predictions(predict(teacher, train, images, progress=False), soft[-1])
    changes = [c for c in changes if c.startswith("base.")] + [f"base.data.soft={json.dumps(soft)}"]
    taught = run_study("mtl_soft", str(index), images, folder / "soft", changes=changes)
    made = {model.name: folder / "study" / model.predictions for model in results.models}
    return {**made, "soft-labels": folder / "soft" / taught.models[0].predictions}


def table(made: list[dict[str, Path]], index: Path) -> str:
    """Means over seeds, and differences to the single-task models of as many steps.

    A star: the first seed's interval over videos leaves 0 out. The last column has the three scores after
    post-processing fitted on other videos (`triaffect tune`, cross-fitted; the first seed).
    """
    labels = load_index(index, "val")
    lines = ["| model | valence-arousal | expression | action units | total | tuned |", "|---|---|---|---|---|---|"]
    names = [name for name in made[0] if name.removesuffix("-steps") not in TASKS]
    references = [load_predictions(paths[STEPS]) for paths in made]
    for name in names:
        per_seed = []
        for reference, paths in zip(references, made, strict=True):
            predictions = load_predictions(paths[name])
            scores = score(predictions, labels, resamples=0)
            paired = compare(predictions, reference, labels, resamples=1000 if paths is made[0] else 1)
            per_seed.append((paired, {**scores.tasks, "total": scores.total}))
        cells = []
        for task in (*TASKS, "total"):
            low, high = per_seed[0][0].intervals[task]
            star = "*" if low > 0 or high < 0 else ""
            gap = np.mean([paired.difference[task] for paired, _ in per_seed])
            cell = f"{np.mean([value[task] for _, value in per_seed]):.3f}"
            cells.append(cell if name == STEPS else f"{cell} ({gap:+.3f}{star})")
        tuned = tune(load_predictions(made[0][name]), labels).cross_fitted.tasks
        cells.append(" · ".join(f"{tuned[task]:.3f}" for task in TASKS))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs all variants and seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("index")
    parser.add_argument("--images")
    parser.add_argument("--out", default="work/mtl")
    parser.add_argument("--variants", nargs="+", default=["thirds", "disjoint"], choices=list(CHANGES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--set", nargs="*", default=[], help="keys of the study, such as base.training.epochs=1")
    options = parser.parse_args()
    index = load_index(options.index)
    images = options.images or provenance(options.index)["images"]
    for variant in options.variants:
        folder = Path(options.out, variant)
        path = folder / f"{variant}.parquet"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            votes = Path(options.index).with_name("votes.parquet")
            thinned = real(index, votes) if variant == "ferplus" else thin(index, variant)
            save_index(thinned, path, root=options.index, images=images, format="table")
        changes = [*options.set, *CHANGES[variant]]
        made = [run(path, images, folder / f"seed{seed}", seed, options.jobs, changes) for seed in range(options.seeds)]
        print(f"\n### {variant}, {options.seeds} seeds\n\n{table(made, path)}\n")


if __name__ == "__main__":
    main()
