"""The sections of the report that are pictures: valence-arousal, confusions, time lines, frames, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from triaffect.io import InputError, inside
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, PREDICTION_COLUMNS, TASK_NAMES, TASKS, VA
from triaffect.metrics.measures import COLUMNS
from triaffect.report import figures
from triaffect.report.inline import svg, thumbnail
from triaffect.report.study_folder import PREFIX, Model, Study, epochs_to, extremes, typical_videos

Section = dict[str, Any] | None


def exhibit(figure: Figure, label: str, caption: str = "", wide: bool = False) -> dict[str, Any]:
    """A figure with what is heard instead of it and what stands above it."""
    return {"svg": svg(figure, label), "caption": caption, "wide": wide}


def task_name(name: str) -> str:
    """A task's or the total's name, capitalised."""
    return TASK_NAMES.get(name, name).capitalize()


def key(name: str, number: int, line: str = "solid") -> dict[str, str]:
    """An entry of a legend: the n-th colour of the series as a solid or dashed line, or as a patch."""
    return {"name": name, "series": f"s{number % len(figures.SERIES) + 1}", "line": line}


def va_figures(study: Study, models: Sequence[Model]) -> list[dict[str, Any]]:
    """Valence and arousal of each model against the labels, then the densities of the labels and the first models."""
    found, cloud = [], []
    labels = study.labels
    if labels is not None and labels["valence"].len() > labels["valence"].null_count():
        both = labels.select(VA).drop_nulls()
        cloud.append(exhibit(figures.va_cloud(*both), "Where the labels lie on the circumplex", "Labels, density"))
    for model in models:
        table = study.beside(model)
        if table is None:
            continue
        name = model["name"]
        for value in VA:
            rows = table.select(value, PREFIX + value).drop_nulls()
            told = model["scores"]["va"].get(value)
            label = f"{name}: {value}, prediction against label, {rows.height:,} frames, CCC {told or 0:.3f}"
            figure = figures.va_agreement(rows[PREFIX + value], rows[value], value)
            found.append(exhibit(figure, label, f"{name}: {value}"))
        if len(cloud) == 3:
            continue
        rows = table.select(PREFIX + value for value in VA).drop_nulls()
        cloud.append(
            exhibit(figures.va_cloud(*rows), f"{name}: where its predictions lie on the circumplex", f"{name}, density")
        )
    return found[0::2] + found[1::2] + cloud


def confusions(study: Study, models: Sequence[Model]) -> list[dict[str, Any]]:
    """Each model's confusion matrix of the expressions."""
    found = []
    for model in models:
        counts = np.array(model["scores"].get("confusion") or np.zeros((8, 8)))
        if counts.any():
            right = np.diag(counts) / np.maximum(1, counts.sum(1))
            told = ", ".join(f"{name} {share:.0%}" for name, share in zip(EXPRESSIONS, right, strict=True))
            label = f"{model['name']}: confusion matrix of the expressions; recognised: {told}"
            found.append(exhibit(figures.confusion(counts), label, model["name"]))
    return found


def timelines(study: Study) -> Section:
    """A few videos, label and prediction."""
    shown = study.shown()
    if shown is None:
        return None
    tasks = [task for task in study.tasks if PREFIX + PREDICTION_COLUMNS[task][0] in shown.columns]
    found = []
    for video in typical_videos(shown):
        rows = shown.filter(pl.col("video") == video).unique("frame", keep="first").sort("frame")
        label, predicted = {}, {}
        for task in tasks:
            held = rows.select(COLUMNS[task] if task != "expr" else ["expression"]).cast(pl.Float64)
            guess = rows.select(PREFIX + name for name in PREDICTION_COLUMNS[task]).cast(pl.Float64).to_numpy()
            label[task] = held.to_numpy()
            if task == "expr":
                label[task] = label[task][:, 0]
                guess = np.where(np.isnan(guess).any(1), np.nan, np.nan_to_num(guess).argmax(1))
            elif task == "au":
                guess = np.where(np.isnan(guess), 0, guess >= 0.5)
            predicted[task] = guess
        error = rows.select(pl.col("error").mean()).item()
        what = f"{video}: {rows.height:,} frames, mean error {error:.3f}"
        figure = figures.timeline(rows["frame"].to_numpy(), label, predicted)
        found.append(exhibit(figure, f"Time line of label and prediction, {what}", what, wide=True))
    return {"models": _best_words(study), "figures": found, "tasks": tasks} if found else None


def _best_words(study: Study) -> str:
    chosen = study.best()
    names = list(dict.fromkeys(model["name"] for model in chosen.values()))
    if len(names) == 1:
        return str(names[0])
    return ", ".join(f"{model['name']} ({TASK_NAMES[task]})" for task, model in chosen.items())


def images(study: Study) -> Section:
    """The ten worst and the ten best frames with labels and predictions."""
    shown = study.shown()
    if shown is None:
        return None
    worst, best = (_cards(study, side) for side in extremes(shown))
    return {"worst": worst, "best": best, "models": _best_words(study)} if worst else None


def _cards(study: Study, rows: pl.DataFrame) -> list[dict[str, Any]]:
    return [
        {"image": row["image"], "video": row["video"], "frame": row["frame"], "error": row["error"]}
        | {"picture": _picture(study, row["image"]), "lines": _lines(row)}
        for row in rows.iter_rows(named=True)
    ]


def _picture(study: Study, image: str) -> str | None:
    try:
        return thumbnail(inside(study.images, image)) if study.images else None
    except InputError:
        return None


def _lines(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What it is about, label, prediction."""
    held = [value for value in VA if PREFIX + value in row]
    lines = [(value.capitalize(), _signed(row[value]), _signed(row[PREFIX + value])) for value in held]
    chances = [row.get(PREFIX + name) for name in PREDICTION_COLUMNS["expr"]]
    if chances[0] is not None:
        label = "–" if row["expression"] is None else EXPRESSIONS[row["expression"]]
        guess = int(np.argmax(np.array(chances, float)))
        lines.append(("Expression", label, EXPRESSIONS[guess]))
    if PREFIX + ACTION_UNITS[0] in row:
        known = any(row[unit] is not None for unit in ACTION_UNITS)
        active = " ".join(unit[2:] for unit in ACTION_UNITS if row[unit]) or "none"
        found = " ".join(unit[2:] for unit in ACTION_UNITS if (row[PREFIX + unit] or 0) >= 0.5) or "none"
        lines.append(("AUs", active if known else "–", found))
    return lines


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def reached(metrics: pl.DataFrame, name: str) -> tuple[int | None, int | None]:
    """Epoch of the best score, and the first epoch at 90 % of it."""
    values = metrics[f"val/{name}"].cast(pl.Float64, strict=False).fill_nan(None)
    best, place = values.arg_max(), epochs_to(values.to_list())
    return (
        None if best is None else int(metrics["epoch"][best]),
        None if place is None else int(metrics["epoch"][place - 1]),
    )


def training(study: Study) -> Section:
    """How every run learned: a task's runs together, then each run for itself."""
    runs = [(model["name"], metrics) for model in study.models if (metrics := study.curves(model)) is not None]
    if not runs:
        return None
    together = []
    for task in study.tasks:
        column = f"val/{task}"
        held = [(name, metrics) for name, metrics in runs if column in metrics.columns]
        lines = [(m["epoch"], m[column].cast(pl.Float64, strict=False), reached(m, task)[1]) for _, m in held]
        if lines:
            label = f"Validation score of {TASK_NAMES[task]} by epoch, {len(held)} runs"
            legend = [key(name, i, figures.line_style(i)[2]) for i, (name, _) in enumerate(held)]
            together.append(exhibit(figures.progress(lines), label, task_name(task)) | {"legend": legend})
    names = [name for name in ("total", *TASKS) if any(f"val/{name}" in metrics.columns for _, metrics in runs)]
    rows, each = [], []
    for name, metrics in runs:
        known = {part: reached(metrics, part) for part in names if f"val/{part}" in metrics.columns}
        best = known.get("total", (None, None))[0]
        epochs = [known.get(part) for part in names]
        rows.append({"name": name, "epochs": metrics.height, "best": best, "reached": epochs})
        label = f"Losses and validation scores of {name} over {metrics.height} epochs, best in epoch {best}"
        each.append(exhibit(figures.run_curves(metrics), label, name))
    return {"together": together, "names": [task_name(name) for name in names], "rows": rows, "each": each}
