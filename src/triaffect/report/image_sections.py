"""The sections of the report that are figures: valence-arousal, confusions, time lines, frames, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from triaffect.data.index import HAS_CROP
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, PREDICTION_COLUMNS, TASK_NAMES, TASKS, VA, score_key
from triaffect.metrics.measures import COLUMNS
from triaffect.report import panels
from triaffect.report.figures import label_words
from triaffect.report.results import ModelResult
from triaffect.report.study_folder import PREFIX, StudyFolder, epochs_to, extreme_frames, typical_videos
from triaffect.report.style import format_signed, svg, thumbnail

Section = dict[str, Any] | None


def panel(figure: Figure, label: str, caption: str = "", wide: bool = False) -> dict[str, Any]:
    """Return a figure for the page, with its description for screen readers and its caption."""
    return {"svg": svg(figure, label), "caption": caption, "wide": wide}


def task_name(name: str) -> str:
    """Return the name of a task or of the total, capitalised."""
    return TASK_NAMES.get(name, name).capitalize()


def legend_key(name: str, number: int, line: str = "solid") -> dict[str, str]:
    """Return a key of a legend: the n-th colour of the series as a solid or dashed line, or as a patch."""
    return {"name": name, "series": f"s{number % len(panels.SERIES) + 1}", "line": line}


def density(table: pl.DataFrame, label: str, caption: str, prefix: str = "") -> dict[str, Any]:
    """Return the density of valence and arousal of a table, of its predictions with their prefix."""
    figure = panels.va_density(*table.select(prefix + value for value in VA).drop_nulls())
    return panel(figure, label, caption)


def va_panels(study: StudyFolder, models: Sequence[ModelResult]) -> list[dict[str, Any]]:
    """Valence and arousal of each model against the labels, then the densities of labels and of the first models."""
    agreement, densities = [], []
    labels = study.labels
    if labels is not None and labels["valence"].len() > labels["valence"].null_count():
        densities.append(density(labels, "Density of valence and arousal of the labels", "Labels, density"))
    for model in models:
        table = study.predictions(model)
        if table is None:
            continue
        for value in VA:
            rows = table.select(value, PREFIX + value).drop_nulls()
            ccc = model.scores.va.get(value) or 0
            label = f"{model.name}: {value}, prediction against label, {rows.height:,} frames, CCC {ccc:.3f}"
            figure = panels.va_agreement(rows[PREFIX + value], rows[value], value)
            agreement.append(panel(figure, label, f"{model.name}: {value}"))
        if len(densities) < 3:
            label = f"{model.name}: density of valence and arousal of its predictions"
            densities.append(density(table, label, f"{model.name}, density", PREFIX))
    return agreement[0::2] + agreement[1::2] + densities


def confusions(study: StudyFolder, models: Sequence[ModelResult]) -> list[dict[str, Any]]:
    """Confusion matrix of the expressions of each model."""
    drawn = []
    for model in models:
        counts = np.array(model.scores.confusion or [[0]])
        if counts.any():
            recall = np.diag(counts) / np.maximum(1, counts.sum(1))
            words = ", ".join(f"{name} {share:.0%}" for name, share in zip(EXPRESSIONS, recall, strict=False))
            label = f"{model.name}: confusion matrix of the expressions; recall: {words}"
            drawn.append(panel(panels.confusion(counts), label, model.name))
    return drawn


def timelines(study: StudyFolder) -> Section:
    """Labels and predictions of a few videos over time."""
    table = study.best_predictions()
    if table is None:
        return None
    tasks = [task for task in study.tasks if PREFIX + PREDICTION_COLUMNS[task][0] in table.columns]
    drawn = []
    for video in typical_videos(table):
        rows = table.filter(pl.col("video") == video).unique("frame", keep="first").sort("frame")
        label, predicted = {}, {}
        for task in tasks:
            truth = rows.select(COLUMNS[task] if task != "expr" else ["expression"]).cast(pl.Float64).to_numpy()
            guess = rows.select(PREFIX + name for name in PREDICTION_COLUMNS[task]).cast(pl.Float64).to_numpy()
            if task == "expr":
                truth = truth[:, 0]
                guess = np.where(np.isnan(guess).any(1), np.nan, np.nan_to_num(guess).argmax(1))
            elif task == "au":
                guess = np.where(np.isnan(guess), 0, guess >= 0.5)
            label[task], predicted[task] = truth, guess
        error = rows.select(pl.col("error").mean()).item()
        caption = f"{video}: {rows.height:,} frames, mean error {error:.3f}"
        figure = panels.timeline(rows["frame"].to_numpy(), label, predicted)
        drawn.append(panel(figure, f"Labels and predictions over time, {caption}", caption, wide=True))
    return {"models": _best_names(study), "panels": drawn, "tasks": tasks} if drawn else None


def _best_names(study: StudyFolder) -> str:
    models = study.best()
    names = list(dict.fromkeys(model.name for model in models.values()))
    if len(names) == 1:
        return names[0]
    return ", ".join(f"{model.name} ({TASK_NAMES[task]})" for task, model in models.items())


def frames(study: StudyFolder) -> Section:
    """The ten frames with the highest and with the lowest error, with labels and predictions."""
    table = study.best_predictions()
    if table is None:
        return None
    sides = (side.iter_rows(named=True) for side in extreme_frames(table))
    worst, best = ([{**_card(study, row), "lines": _lines(row)} for row in side] for side in sides)
    return {"worst": worst, "best": best, "models": _best_names(study)} if worst else None


def _card(study: StudyFolder, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a frame with its picture, a row of `StudyFolder.labels`."""
    image = study.image(row["row"])
    return {**row, "picture": thumbnail(image) if image else None}


def _lines(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, label and prediction of everything that is predicted for a frame."""
    names = [value for value in VA if PREFIX + value in row]
    lines = [(name.capitalize(), format_signed(row[name]), format_signed(row[PREFIX + name])) for name in names]
    probabilities = [row.get(PREFIX + name) for name in PREDICTION_COLUMNS["expr"]]
    if probabilities[0] is not None:
        label = "–" if row["expression"] is None else EXPRESSIONS[row["expression"]]
        lines.append(("Expression", label, EXPRESSIONS[int(np.argmax(np.array(probabilities, float)))]))
    if PREFIX + ACTION_UNITS[0] in row:
        is_labelled = any(row[unit] is not None for unit in ACTION_UNITS)
        active = " ".join(unit[2:] for unit in ACTION_UNITS if row[unit]) or "none"
        predicted = " ".join(unit[2:] for unit in ACTION_UNITS if (row[PREFIX + unit] or 0) >= 0.5) or "none"
        lines.append(("AUs", active if is_labelled else "–", predicted))
    return lines


SAMPLE = 8
"""Number of frames in the sample of the data."""


def sample(study: StudyFolder) -> list[dict[str, Any]]:
    """A few random frames of the evaluated split with their labels, the same each time."""
    if study.labels is None:
        return []
    rows = study.labels.with_row_index("row").filter(HAS_CROP)
    drawn = rows.sample(min(SAMPLE, rows.height), seed=0, shuffle=True)
    return [
        {**_card(study, row), "words": [text for task in TASKS for text in label_words(task, row)]}
        for row in drawn.iter_rows(named=True)
    ]


def training(study: StudyFolder) -> Section:
    """Learning curves: all runs of a task together, then each run."""
    runs = [(model, metrics) for model in study.models if (metrics := study.curves(model)) is not None]
    if not runs:
        return None
    together = []
    for task in study.tasks:
        key = score_key(task)
        with_task = [(model.name, metrics) for model, metrics in runs if key in metrics.columns]
        lines = [(m["epoch"], m[key].cast(pl.Float64, strict=False), _reached(m, task)) for _, m in with_task]
        if lines:
            label = f"Validation score of {TASK_NAMES[task]} by epoch, {len(lines)} runs"
            legend = [legend_key(name, i, panels.line_style(i)[2]) for i, (name, _) in enumerate(with_task)]
            together.append(panel(panels.progress(lines), label, task_name(task)) | {"legend": legend})
    names = [name for name in ("total", *TASKS) if any(score_key(name) in metrics.columns for _, metrics in runs)]
    rows, single, optimistic = [], [], []
    for model, metrics in runs:
        reached = [_reached(metrics, part) if score_key(part) in metrics.columns else None for part in names]
        row = {"name": model.name, "epochs": metrics.height, "kept": model.kept_epoch, "reached": reached}
        rows.append({**row, "reason": REASONS.get(model.select or "", "")})
        optimistic += [model.name] if model.select not in (None, "last") else []
        label = f"Losses and validation scores of {model.name} over {metrics.height} epochs, kept {model.kept_epoch}"
        places = metrics["epoch"].index_of(model.kept_epoch) if model.kept_epoch else None
        single.append(panel(panels.run_curves(metrics, places), label, model.name, wide=True))
    names = [task_name(name) for name in names]
    conflict = any(name.startswith(panels.COSINE) for _, metrics in runs for name in metrics.columns)
    shown = {"together": together, "runs": single, "conflict": conflict}
    return {**shown, "names": names, "rows": rows, "optimistic": optimistic}


REASONS = {"last": "the last epoch", "loss": "lowest validation loss", "total": "best total"}
REASONS |= {task: f"best {name}" for task, name in TASK_NAMES.items()}
"""`training.select` -> why an epoch is kept."""


def _reached(metrics: pl.DataFrame, name: str) -> int | None:
    """Return the first epoch with 90 % of the best validation score."""
    place = epochs_to(metrics[score_key(name)].cast(pl.Float64, strict=False).fill_nan(None).to_list())
    return None if place is None else int(metrics["epoch"][place - 1])
