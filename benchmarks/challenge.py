"""What a temporal model, post-processing and filled gaps are worth on rendered videos of unseen people.

    triaffect render --model ict.npz --out faces --videos 80 --frames 100 --seed 190 --size 64 --seconds 0.1 --val 0.4 \
        --ranges examples/base_render_val.yaml
    python benchmarks/challenge.py faces work/challenge

Heads with and without a temporal model are trained on the frozen features of an encoder, all for the same number of
epochs, and the last epoch is kept: nothing is chosen on the scored videos. Post-processing is cross-fitted over
them. Gains are paired, with 95 % intervals over videos.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triaffect.data.index import save_index
from triaffect.data.predictions import fill_gaps
from triaffect.inference.predict import predict
from triaffect.labels import ACTION_UNITS, INDEX_COLUMNS, LABEL_COLUMNS, PREDICTION_COLUMNS, TASKS
from triaffect.metrics.bootstrap import number_sources
from triaffect.metrics.measures import TASK_SCORES
from triaffect.metrics.postprocess import CORRECTIONS, frame_numbers, smooth
from triaffect.metrics.scores import compare, score
from triaffect.metrics.tuning import SIGMAS, tune
from triaffect.training.config import TrainConfig
from triaffect.training.features import extract_features, load_features
from triaffect.training.trainer import train_heads

FPS = 10.0
FOLDS = 5
"""Folds of videos for the post-processing, as in `triaffect tune`."""
VARIANTS = {
    "still": {},
    "attention .3 s": {"temporal": 0.3},
    "attention 1 s": {"temporal": 1.0},
    "attention 3 s": {"temporal": 3.0},
    "transformer 1 s": {"temporal": 1.0, "temporal_model": "transformer"},
    "tcn 1 s": {"temporal": 1.0, "temporal_model": "tcn"},
    "gru 1 s": {"temporal": 1.0, "temporal_model": "gru"},
    "attention .3, 1 and 3 s": {"temporal": [0.3, 1.0, 3.0]},
    "attention by task": {"temporal": {"va": 3.0, "expr": 1.0, "au": 0.3}},
    "attention 1 s, causal": {"temporal": 1.0, "causal": True},
}


def make_index(faces: Path, out: Path) -> Path:
    """Index of the videos that are rendered; labels that the renderer leaves open are missing."""
    truth = pl.concat([pl.read_parquet(file) for file in sorted((faces / ".parts").glob("*.parquet"))])
    missing = [pl.when(pl.col(c) >= 0).then(pl.col(c)).alias(c) for c in ("expression", *ACTION_UNITS)]
    index = truth.with_columns(missing).select(INDEX_COLUMNS)
    save_index(index, out, root=faces, images=faces / "cropped_aligned", format="table")
    return out


def post_processed(table: pl.DataFrame, rows: pl.DataFrame, task: str, smooths: bool, corrects: bool) -> pl.DataFrame:
    """Smoothing, the correction of a task, or both: each fold of the videos with what is best on the others."""
    unit = number_sources(rows["video"])[0]
    labels = table.select("image").join(rows.with_columns(unit), on="image", how="left", maintain_order="left")
    fold, kind, columns = labels["unit"].to_numpy() % FOLDS, CORRECTIONS[task], PREDICTION_COLUMNS[task]
    y = labels.select(pl.col(LABEL_COLUMNS[task]).cast(pl.Float64)).to_numpy()
    target = np.nan_to_num(y[:, 0], nan=-1).astype(int) if task == "expr" else y
    values = table.select(columns).to_numpy().astype(float)
    widths = {sigma: smooth(values, *frame_numbers(table), sigma) for sigma in (SIGMAS[:6] if smooths else (0,))}
    after = values.copy()
    for number in range(FOLDS):
        on, fits = fold != number, {}
        for sigma, x in widths.items():
            fit = kind.fit(x[on], y[on]) if corrects else kind()
            fits[sigma] = TASK_SCORES[task](fit.apply(x[on]), target[on])[task], fit
        best = max(fits, key=lambda sigma, fits=fits: fits[sigma][0])
        after[~on] = fits[best][1].apply(widths[best][~on])
    return table.with_columns(pl.Series(c, after[:, i]) for i, c in enumerate(columns))


def smoothed(table: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Smoothing alone, of every task."""
    for task in TASKS:
        table = post_processed(table, rows, task, smooths=True, corrects=False)
    return table


def steps(tables: list[pl.DataFrame], rows: pl.DataFrame) -> list[str]:
    """What each step of the post-processing gains by itself."""
    lines = []
    for task, name in {"va": "scale and shift", "expr": "class biases", "au": "thresholds"}.items():
        for step, on in {"smoothing": (True, False), name: (False, True), "both": (True, True)}.items():
            gain = compare([post_processed(table, rows, task, *on) for table in tables], tables, rows, tasks=[task])
            low, high = gain.intervals[task]
            lines.append(f"  {task:5} {step:16} {gain.difference[task]:+.3f} [{low:+.3f}, {high:+.3f}]")
    return lines


def line(name: str, tables: list[pl.DataFrame], rows: pl.DataFrame, against: list[pl.DataFrame] | None = None) -> str:
    """Scores, means over the seeds, and the gains over other tables."""
    scores = [score(table, rows, resamples=0).tasks for table in tables]
    text = f"{name:32} " + "  ".join(f"{task} {np.mean([of[task] for of in scores]):.3f}" for task in TASKS)
    if against is not None:
        gain = compare(tables, against, rows)
        spans = (f"{gain.difference[t]:+.3f} [{gain.intervals[t][0]:+.3f}, {gain.intervals[t][1]:+.3f}]" for t in TASKS)
        text += "   gain " + "  ".join(spans)
    return text


def gaps(table: pl.DataFrame, rows: pl.DataFrame, name: str) -> list[str]:
    """Drop runs of crops, and fill them from what is left."""
    rng = np.random.default_rng(0)
    dropped = np.zeros(len(rows), bool)
    for start in np.flatnonzero(rng.random(len(rows)) < 0.03):
        dropped[start : start + int(rng.integers(2, 15))] = True
    dropped &= (rows["frame"] > 1).to_numpy()
    left = table.join(rows.filter(~dropped).select("image"), on="image", how="semi", maintain_order="left")
    filled = {way: fill_gaps(left, rows, way).drop("filled") for way in ("nearest", "linear")}
    missing = rows.filter(dropped)
    share = f"{len(missing):,} of {len(rows):,} crops dropped, in runs of 2 to 14 frames"
    lines = [f"{name}: {share}; scored on the dropped frames"]
    lines.append(line("  with their crops", [table], missing))
    lines.append(line("  nearest", [filled["nearest"]], missing))
    lines.append(line("  linear against nearest", [filled["linear"]], missing, [filled["nearest"]]))
    return lines


def main() -> None:
    """Print the tables and write the predictions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="triaffect-base")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    index = options.out / "index.parquet"
    if not index.is_file():
        make_index(options.faces, index)
    table = pl.read_parquet(index)
    images, rows = options.faces / "cropped_aligned", table.filter(pl.col("split") == "val")
    videos = {split: table.filter(pl.col("split") == split)["video"].n_unique() for split in ("train", "val")}
    features = extract_features(
        options.model, table, images, options.out / "features", workers=0, device="cpu", progress=False
    )
    print(f"{len(table):,} frames; videos {videos}; features {load_features(features)[1].shape[1]}", flush=True)
    made: dict[str, list[pl.DataFrame]] = {}
    predicted = options.out / "predictions"
    predicted.mkdir(exist_ok=True)
    for name in options.variants:
        for seed in range(options.seeds):
            settings: dict[str, Any] = {
                "data": {"index": str(index), "features": str(features), "workers": 0},
                "model": {"pretrained": options.model, "head": "mlp", "hidden": 128, "dropout": 0.3, **VARIANTS[name]}
                | ({"fps": FPS} if VARIANTS[name] else {}),
                "losses": {"va": "ccc", "expr": "weighted_ce", "au": "weighted_bce", "weights": {"expr": 0.2}},
                "training": {"epochs": options.epochs, "batch": 200, "optimizer": "adamw", "lr": 1e-3,
                             "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.1, "select": "last", "seed": seed,
                             "accelerator": "cpu", "threads": 1, "loggers": ["CSVLogger"]},
            }  # fmt: skip
            label = name.replace(" ", "_") + f"-{seed}" * bool(seed)
            file = predicted / f"{label}.parquet"
            if not file.exists():
                run = train_heads(TrainConfig.load(settings), options.out / "runs" / label, joint=True, progress=False)
                predict(run, rows, images, workers=0, device="cpu", progress=False).write_parquet(file)
            made.setdefault(name, []).append(pl.read_parquet(file))
        print(line(name, made[name], rows, made["still"] if name != "still" else None), flush=True)
    after = {name: [smoothed(table, rows) for table in tables] for name, tables in made.items()}
    print("\nagainst still heads with smoothing (width chosen on the other folds of the videos)")
    print(line("still, smoothed", after["still"], rows, made["still"]), flush=True)
    for name in options.variants[1:]:
        print(line(name, made[name], rows, after["still"]), flush=True)
        print(line("  smoothed", after[name], rows, after["still"]), flush=True)
    chosen = [name for name in ("still", "attention by task", "attention .3, 1 and 3 s") if name in made]
    for name in chosen:
        print("\n".join([f"\n{name}, each step by itself, gain over none", *steps(made[name], rows)]), flush=True)
    tuned = {name: [tune(table, rows) for table in made[name]] for name in chosen}
    for name, results in tuned.items():
        print(f"\n{name}, post-processing\n{results[0].table()}", flush=True)
        tables = [[result.predictions for result in of] for of in (results, tuned["still"])]
        print("\n" + line(f"{name}, tuned, against still, tuned", tables[0], rows, tables[1]) + "\n")
    for name in chosen:
        print("\n".join(gaps(made[name][0], rows, name)), flush=True)
    (options.out / "done.json").write_text(json.dumps({"frames": len(table), **videos}))


if __name__ == "__main__":
    main()
