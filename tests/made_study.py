"""A made-up study folder as `triaffect study` writes it: smooth videos of drawn faces, predictions of some skill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter1d

from triaffect.data.index import save_index
from triaffect.data.predictions import save_predictions
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, INDEX_COLUMNS, PREDICTION_COLUMNS
from triaffect.metrics.fusion import fuse, tune_fusion
from triaffect.metrics.scores import compare, score

# Where the eight expressions lie, and how often each shows its action units.
PLACES = np.array([[0, 0], [-0.5, 0.6], [-0.7, 0.3], [-0.6, 0.8], [0.6, 0.4], [-0.6, -0.2], [0.2, 0.8], [0.3, 0.1]])
UNITS = np.full((8, 12), 0.06)
for code, active in enumerate(["25", "4 7 24 23", "4 10 7", "1 4 25", "6 12 25", "1 4 15", "1 2 25 26", "25 10"]):
    UNITS[code, [ACTION_UNITS.index(f"AU{number}") for number in active.split()]] = 0.85


def draw(path: Path, valence: float, arousal: float, tint: int) -> None:
    """A face of a few strokes, whose mouth and eyes show valence and arousal."""
    picture = Image.new("RGB", (64, 64), (70 + tint, 84, 96))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((8, 5, 56, 61), fill=(222, 188 - tint // 3, 158))
    eye = 2 + 2 * (arousal + 1)
    for x in (23, 41):
        pen.ellipse((x - 4, 27 - eye, x + 4, 27 + eye), fill="white")
        pen.ellipse((x - 2, 25, x + 2, 29), fill=(40, 40, 50))
    bend = 9 * valence
    xs = np.linspace(-11, 11, 9)
    pen.line([(32 + x, 47 + bend / 2 - bend * (x / 11) ** 2) for x in xs], fill=(150, 60, 60), width=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=80)


def labels(videos: int, frames: int, seed: int, split: str, first: int = 0, names: dict[int, str] | None = None):
    """Rows of an index: valence and arousal wander, expression and action units follow them."""
    rng = np.random.default_rng(seed)
    rows = []
    for video in range(first, first + videos):
        name = (names or {}).get(video, f"face{video:04d}")
        va = gaussian_filter1d(rng.normal(0, 1, (frames, 2)), 5, axis=0, mode="nearest") * 2.2
        va = (va + rng.normal([0.05, 0.25], 0.3)).clip(-0.98, 0.98)
        code = ((va[:, None] - PLACES) ** 2).sum(2).argmin(1)
        units = rng.random((len(va), 12)) < UNITS[code]
        frame = np.cumsum(rng.integers(1, 4, frames))
        for i in range(frames):
            row = {"image": f"{name}/{frame[i]:05d}.jpg", "video": name, "frame": int(frame[i]), "split": split}
            row |= {"exists": bool(rng.random() > 0.02), "valence": va[i, 0], "arousal": va[i, 1]}
            row |= {"expression": None if rng.random() < 0.08 else int(code[i])}
            rows.append(row | dict(zip(ACTION_UNITS, units[i].astype(int).tolist(), strict=True)))
    types = {"frame": pl.Int32, "expression": pl.Int8, **dict.fromkeys(ACTION_UNITS, pl.Int8)}
    return pl.DataFrame(rows, schema_overrides=types).select(INDEX_COLUMNS)


def predict(index: pl.DataFrame, skill: dict[str, float], seed: int) -> pl.DataFrame:
    """Predictions of some tasks; skill 0 is chance, 1 nearly perfect. Errors are alike within a video."""
    rng = np.random.default_rng(seed)
    n = index.height
    video = index["video"].rank("dense").to_numpy() - 1
    code = index["expression"].fill_null(0).to_numpy()
    out = {"image": index["image"]}
    if "va" in skill:
        wander = (
            gaussian_filter1d(rng.normal(0, 1, (n, 2)), 3, axis=0) + rng.normal(0, 0.6, (video.max() + 1, 2))[video]
        )
        va = skill["va"] * index.select("valence", "arousal").to_numpy() + (1 - skill["va"]) * 0.7 * wander
        out |= dict(zip(PREDICTION_COLUMNS["va"], va.clip(-1, 1).T, strict=True))
    if "expr" in skill:
        raw = (
            gaussian_filter1d(rng.normal(0, 2.4, (n, 8)), 1.5, axis=0) + rng.normal(0, 0.6, (video.max() + 1, 8))[video]
        )
        raw[np.arange(n), code] += 3.2 * skill["expr"]
        probability = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
        out |= dict(zip(PREDICTION_COLUMNS["expr"], probability.T, strict=True))
    if "au" in skill:
        truth = index.select(ACTION_UNITS).to_numpy()
        raw = 4 * skill["au"] * (truth - 0.5) + rng.normal(0, 1.2, truth.shape) - 0.3
        out |= dict(zip(ACTION_UNITS, (1 / (1 + np.exp(-raw))).T, strict=True))
    return pl.DataFrame(out).with_columns(filled=~index["exists"])


def curves(run: Path, tasks: dict[str, float], epochs: int, seed: int) -> None:
    """`metrics.csv` of a run that learns quickly at first and overfits a little at last."""
    rng = np.random.default_rng(seed)
    epoch = np.arange(1, epochs + 1)
    grown = 1 - np.exp(-epoch / (epochs * rng.uniform(0.15, 0.3)))
    metrics: dict[str, np.ndarray] = {"epoch": epoch}
    for task, best in tasks.items():
        metrics[f"train/loss_{task}"] = 1.1 - 0.9 * grown
        metrics[f"val/loss_{task}"] = 1.15 - 0.6 * grown + 0.2 * (epoch / epochs) ** 3 + rng.normal(0, 0.015, epochs)
        metrics[f"val/{task}"] = best * grown + rng.normal(0, 0.012, epochs)
    for part in ("train/loss", "val/loss"):
        metrics[part] = sum(metrics[f"{part}_{task}"] for task in tasks)
    metrics["val/total"] = sum(metrics[f"val/{task}"] for task in tasks)
    metrics |= {"lr": 1e-3 * np.cos(epoch / epochs), "seconds": 7 + 0 * epoch, "images_per_second": 120.0 + 0 * epoch}
    run.mkdir(parents=True)
    pl.DataFrame(metrics).write_csv(run / "metrics.csv")


def make_study(
    root: Path, frames: int = 40, videos: int = 12, resamples: int = 200, names: dict[int, str] | None = None
) -> Path:
    """Writes the folder, its index and its images; returns the study folder.

    Args:
        root: Where all of it goes.
        frames: A video.
        videos: Of the validation split; twice as many are for training.
        resamples: Behind the intervals.
        names: Names of some videos, by number, instead of face0000 ...
    """
    train = labels(2 * videos, frames, 1, "train")
    val = labels(videos, frames, 2, "val", 2 * videos, names)
    for number, row in enumerate(val.iter_rows(named=True)):
        if row["exists"]:
            draw(root / "images" / row["image"], row["valence"], row["arousal"], number // frames * 13 % 90)
    save_index(pl.concat([train, val]), root / "index.parquet", root=root, images=root / "images", format="table")

    study = root / "study"
    skills = {"va": {"va": 0.55}, "expr": {"expr": 0.8}, "au": {"au": 0.5}}
    files = {name: predict(val, skill, 10 + i) for i, (name, skill) in enumerate(skills.items())}
    files["multi"] = predict(val, {"va": 0.66, "expr": 0.68, "au": 0.62}, 20)
    singles = [files["va"], files["expr"], files["au"]]
    files["single-task"] = singles[0].join(singles[1].drop("filled"), on="image", maintain_order="left")
    files["single-task"] = files["single-task"].join(singles[2].drop("filled"), on="image", maintain_order="left")
    lambdas, tuning = tune_fusion(files["single-task"], files["multi"], val)
    files["fused, paper's λ"] = fuse(files["single-task"], files["multi"])
    files["fused, tuned λ"] = fuse(files["single-task"], files["multi"], lambdas)

    models = []
    kinds = ["single", "single", "single", "multi", "joined", "fusion", "fusion"]
    for i, ((name, table), kind) in enumerate(zip(files.items(), kinds, strict=True)):
        path = f"predictions/{name.replace(' ', '-').replace(chr(39), '')}.parquet"
        save_predictions(table, study / path, {"model": name})
        scores = score(table, val, resamples=resamples)
        about = {"name": name, "kind": kind, "tasks": list(scores.tasks), "predictions": path}
        model = {**about, "scores": scores.to_dict()}
        trained = kind in ("single", "multi")
        if trained:
            run = study / "runs" / name
            curves(run, scores.tasks, 20 if kind == "single" else 26, i)
            (run / "config.yaml").write_text(f"model:\n  backbone: resnet18\n  tasks: {list(scores.tasks)}\n")
        model |= {
            "run": f"runs/{name}" if trained else None,
            "parameters": 11_180_000 + 6_000 * i if trained else None,
            "epochs": (20 if kind == "single" else 26) if trained else None,
            "kept_epoch": (20 if kind == "single" else 24) if trained else None,
            "select": ("last" if kind == "single" else "total") if trained else None,
            "epochs_to_90": None,
            "seconds_per_epoch": 6.82 + 0.11 * i if trained else None,
            "images_per_second": 117.4 - i if trained else None,
            "energy_joules": None,
            "members": list(skills) if kind == "joined" else ["single-task", "multi"] if kind == "fusion" else None,
            "lambdas": lambdas if i == 6 else None,
        }
        models.append(model)

    systems = ["single-task", "multi", "fused, paper's λ", "fused, tuned λ"]
    comparisons = []
    for i, a in enumerate(systems):
        for b in systems[i + 1 :]:
            comparison = compare(files[a], files[b], val, resamples=resamples)
            measures = {}
            for name in ("va", "expr", "au", "total"):
                low, high = comparison.intervals[name]
                difference, p = comparison.difference[name], comparison.p[name]
                measures[name] = {"difference": difference, "low": low, "high": high, "p": p}
            comparisons.append({"a": a, "b": b, "measures": measures})

    tuned = tuning.scores.to_dicts()
    halves = [
        {
            "name": "fusion",
            "task": row["task"],
            "single": row["single"],
            "multi": row["multi"],
            "tuned": row["cross_fitted"],
        }
        | {"share": lambdas[row["task"]], "tuned_on": f"{half} half", "scored_on": f"{other} half"}
        for row in tuned
        for half, other in (("first", "second"), ("second", "first"))
    ]
    (study / "study.yaml").write_text("title: Single-task, multi-task, fused\nruns: [va, expr, au, multi]\n")
    packages = {"triaffect": "0.1.0", "torch": "2.15.0", "timm": "1.0.30", "numpy": "2.4.1", "polars": "1.38.0"}
    results = {
        "title": "Single-task, multi-task and fused models",
        "question": "Does one multi-task model do as well as three single-task models, and does fusion beat both?",
        "answer": [
            "The fusion with tuned λ is ahead of the multi-task model by a clear margin on expressions.",
            "On valence-arousal the multi-task model is ahead of the single-task one, but not for certain.",
        ],
        "study": "study.yaml",
        "index": str(root / "index.parquet"),
        "images": str(root / "images"),
        "split": "val",
        "seconds": 341.2,
        "environment": {
            "command": ["triaffect", "study"],
            "python": "3.11.9",
            "machine": "x86_64",
            "system": "Linux",
            "processor": "x86_64",
            "cpus": 2,
            "devices": [],
            "packages": packages,
        },
        "commands": [
            "triaffect index renders --out index.parquet",
            "triaffect study studies/demo.yaml --index index.parquet --images renders/cropped_aligned --out study",
        ],
        "triaffect": "0.1.0",
        "paper": {
            "source": "Chang et al. 2022",
            "dataset": "s-Aff-Wild2",
            "note": "validation split; a made-up row for the tests",
            "rows": [{"name": "only on the same data", "va": 0.1, "expr": 0.2, "au": 0.3, "total": 0.6}],
        },
        "same_data": False,
        "models": models,
        "tuning": [
            {"name": "fused", "single": ["single-task"], "multi": "multi", "lambdas": lambdas, "folds": tuning.folds}
            | {"curves": tuning.curves.to_dicts(), "scores": tuned}
        ],
        "halves": halves,
        "comparisons": comparisons,
        "search": {
            "trials": [
                {"number": i, "values": {"training.lr": 10 ** -(2 + i % 3), "model.dropout": 0.1 * (i % 4)}}
                | {"score": None if i == 5 else 1 + 0.05 * (i * 7 % 9), "state": "FAIL" if i == 5 else "COMPLETE"}
                for i in range(9)
            ],
            "best": {"number": 5, "values": {"training.lr": 1e-3}, "score": 1.4},
        },
        "failures": [{"name": "multi-512", "reason": "the loss became NaN in epoch 3; lower training.lr"}],
    }
    (study / "results.json").write_text(json.dumps(results, indent=1))
    return study


assert len(EXPRESSIONS) == len(PLACES)
