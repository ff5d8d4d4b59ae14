"""The sections of the report that are tables: each returns the data of its part of the page, or None."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from triaffect.data.statistics import leak_lines, statistics
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS, TASK_NAMES, TASKS, VA
from triaffect.metrics.fusion import DEFAULT_LAMBDAS
from triaffect.metrics.measures import COLUMNS
from triaffect.report import image_sections, panels
from triaffect.report.image_sections import Section, legend_key, panel, task_name
from triaffect.report.results import COST_KEYS, Difference, ModelResult
from triaffect.report.study_folder import StudyFolder

Entry = tuple[float | None, Sequence[float] | None, float | None]
"""Value, interval, reference value (a trivial baseline, or zero)."""

KINDS = {
    "single": "single-task",
    "multi": "multi-task",
    "heads": "heads on frozen features",
    "joined": "single-task models combined",
    "tuned": "with post-processing, cross-fitted over videos",
    "fusion": "fusion",
    "blend": "weighted mean, cross-fitted over videos",
}

MAX_STUDY_FILE = 20_000
"""Number of characters of the study file that the page shows."""


def _scale(entries: Iterable[Entry], *others: float) -> tuple[float, float]:
    """Return the ends of a scale that contains all of these."""
    numbers = [x for value, span, reference in entries for x in (value, reference, *(span or ())) if x is not None]
    numbers += others
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _cells(entries: Sequence[Entry], scale: tuple[float, float]) -> list[Any]:
    """Return values with their intervals, also as positions on the scale in percent; the highest is marked."""
    values = [value for value, _, _ in entries if value is not None]
    start, end = scale
    cells: list[Any] = []
    for value, interval, reference in entries:
        if value is None:
            cells.append(None)
            continue
        low, high = interval or (None, None)
        numbers = {"at": value, "from": low, "to": high, "reference": reference}
        place = {name: round(100 * (x - start) / (end - start), 2) for name, x in numbers.items() if x is not None}
        best = len(values) > 1 and value == max(values)
        cells.append({"value": value, "low": low, "high": high, "place": place, "best": best})
    return cells


def scores(study: StudyFolder) -> Section:
    """Scores of all models, with intervals and trivial baselines."""
    if not study.models:
        return None
    totals = len(study.tasks) > 1 and any(map(study.has_all_tasks, study.models))
    names = [*study.tasks, *(["total"] if totals else [])]
    columns, baselines = [], []
    for name in names:
        entries: list[Entry] = []
        for model in study.models:
            of_model = model.scores
            # A total of fewer tasks cannot be compared.
            if name in of_model.tasks or (name == "total" and study.has_all_tasks(model)):
                entries.append((of_model.value(name), of_model.intervals.get(name), of_model.baseline.get(name)))
            else:
                entries.append((None, None, None))
        columns.append(_cells(entries, _scale(entries)))
        baselines.append(next((baseline for _, _, baseline in entries if baseline is not None), None))
    rows = []
    for model, cells in zip(study.models, zip(*columns, strict=True), strict=True):
        rows.append({"name": model.name, "kind": _kind(model), "cells": cells})
    example = max((model.scores for model in study.models), key=lambda scores: len(scores.tasks))
    return {
        "head": [task_name(name) for name in names],
        "rows": rows,
        "baselines": baselines,
        "baseline_words": [f"{TASK_NAMES[task]}: {words}" for task, words in example.baseline_prediction.items()],
        "videos": example.videos,
        "intervals": bool(example.intervals),
    }


def _kind(model: ModelResult) -> str:
    words = KINDS.get(model.kind, model.kind)
    if model.lambdas:
        words += ", λ " + " / ".join(f"{model.lambdas[task]:.2f}" for task in TASKS if task in model.lambdas)
    return words


def cost(study: StudyFolder) -> Section:
    """Size, time and energy of each trained model."""
    rows = [{name: getattr(model, name) for name in ("name", *COST_KEYS)} for model in study.models]
    columns = [name for name in COST_KEYS if any(row[name] is not None for row in rows)]
    rows = [row for row in rows if any(row[name] is not None for name in columns)]
    return {"columns": columns, "rows": rows} if rows else None


def comparisons(study: StudyFolder) -> Section:
    """Paired differences, each pair in the order that makes its last difference positive."""
    pairs = [pair for pair in study.results.comparisons if pair.measures]
    names = [name for name in (*TASKS, "total") if any(name in pair.measures for pair in pairs)]
    if not names:
        return None
    last = [next(name for name in reversed(names) if name in pair.measures) for pair in pairs]
    signs = [-1 if pair.measures[name].difference < 0 else 1 for pair, name in zip(pairs, last, strict=True)]
    columns = []
    for name in names:
        measured = [pair.measures.get(name) for pair in pairs]
        entries = [_signed(row, sign) for row, sign in zip(measured, signs, strict=True)]
        reach = max(map(abs, _scale(entries)))
        columns.append(_cells(entries, (-reach, reach)))
        for cell, row in zip(columns[-1], measured, strict=True):
            if row:
                cell |= {"p": row.p, "significant": cell["low"] is not None and cell["low"] * cell["high"] > 0}
    rows = []
    for pair, sign, cells in zip(pairs, signs, zip(*columns, strict=True), strict=True):
        a, b = (pair.a, pair.b) if sign > 0 else (pair.b, pair.a)
        rows.append({"a": a, "b": b, "cells": cells})
    tested = [cell for cells in columns for cell in cells if cell]
    counts = {"count": len(tested), "significant": sum(cell["significant"] for cell in tested)}
    # With several seeds, models have the seed in their name, and pairs do not.
    seeds = {pair.a for pair in pairs} - {model.name for model in study.models}
    return {"head": [task_name(name) for name in names], "rows": rows, "seeds": bool(seeds)} | counts


def _signed(row: Difference | None, sign: int) -> Entry:
    if row is None:
        return None, None, 0.0
    ends = [sign * end for end in (row.low, row.high) if end is not None]
    return sign * row.difference, sorted(ends) if len(ends) == 2 else None, 0.0


def paper(study: StudyFolder) -> Section:
    """The paper's scores, and those of other systems, if the data is the paper's; otherwise only their source."""
    published = study.results.paper
    if not published or not published.get("rows"):
        return None
    about = {name: published.get(name) for name in ("source", "dataset", "note")}
    values, names = [], [name for task in TASKS for name in COLUMNS[task]]
    for row in published["rows"]:
        ours = next((model for model in study.models if model.name == row["name"]), None)
        if row.get("values") and ours:
            columns = ours.scores.va | ours.scores.expr | ours.scores.au
            values.append((row["name"], [(name, row["values"].get(name), columns.get(name)) for name in names]))
    return {**about, "rows": published["rows"], "others": published.get("others") or [], "values": values}


def values(study: StudyFolder, task: str) -> Section:
    """Scores of a task's columns (valence and arousal, classes, AUs) for the best models of the task."""
    if task not in study.tasks:
        return None
    models = study.leading(task)
    example = models[0].scores
    rows, entries = [], []
    for name in getattr(example, task):
        frames, positives = example.labelled.get(name, 0), example.positives.get(name)
        baseline = 0.0 if positives is None else 2 * positives / max(1, frames + positives)
        entries.append([(getattr(m.scores, task).get(name), m.scores.intervals.get(name), baseline) for m in models])
        words = f"{name} {AU_NAMES[name]}" if task == "au" else name.capitalize()
        share = None if positives is None else positives / max(1, frames)
        rows.append({"name": words, "frames": frames if positives is None else positives, "share": share})
    scale = _scale([entry for row in entries for entry in row], 0.0, 1.0)
    for row, of_row in zip(rows, entries, strict=True):
        row["cells"] = _cells(of_row, scale)
    drawn = {"va": image_sections.va_panels, "expr": image_sections.confusions}
    return {
        "head": [model.name for model in models],
        "rows": rows,
        "mean": [model.score(task) for model in models],
        "panels": drawn[task](study, models) if task in drawn else [],
    }


def fusion(study: StudyFolder) -> Section:
    """Curves over λ, the scores of tuned λ on other videos, and on the other half of the videos."""
    tunings = []
    for tuning in study.results.tuning:
        curves, lambdas = [], tuning.lambdas
        for task in TASKS:
            points = sorted((row["lambda"], row["score"]) for row in tuning.curves if row["task"] == task)
            if points:
                share, score = zip(*points, strict=True)
                label = f"{tuning.name}: score of {TASK_NAMES[task]} at every λ from 0 to 1"
                figure = panels.lambda_curve(share, score, DEFAULT_LAMBDAS[task], lambdas.get(task))
                curves.append(panel(figure, label, task_name(task)))
        rows = [{**row, "task": task_name(row["task"]), "share": lambdas.get(row["task"])} for row in tuning.scores]
        tunings.append({**vars(tuning), "single": ", ".join(tuning.single), "panels": curves, "rows": rows})
    halves = [{**asdict(row), "task": task_name(row.task)} for row in study.results.halves]
    several = len({row["name"] for row in halves}) > 1
    return {"tunings": tunings, "halves": halves, "several": several} if tunings or halves else None


def search(study: StudyFolder) -> Section:
    """The trials of a hyper-parameter search."""
    trials = study.results.search.trials if study.results.search else []
    scored = [trial for trial in trials if trial.score is not None]
    if not trials:
        return None
    figure = panels.trials([trial.score for trial in trials])
    return {
        "count": len(trials),
        "failed": len(trials) - len(scored),
        "names": list(dict.fromkeys(name for trial in trials for name in trial.values)),
        "panel": panel(figure, f"Score of {len(trials)} trials and the best so far", wide=True) if scored else None,
        "rows": [asdict(trial) for trial in sorted(scored, key=lambda trial: -(trial.score or 0))[:10]],
    }


def data(study: StudyFolder) -> Section:
    """Frames and labels of the index by split, and leaks between splits."""
    if study.index is None:
        return None
    splits = statistics(study.index)
    drawn = []
    for task, names, rate in (("expr", EXPRESSIONS, "share"), ("au", ACTION_UNITS, "rate")):
        of_task = {split: of[task] for split, of in splits.items() if task in of}
        if of_task:
            figure = panels.shares(names, [[of[name][rate] for name in names] for of in of_task.values()])
            what = f"{'Expressions' if task == 'expr' else 'Action units'}, share of the labelled frames"
            legend = [legend_key(split, i, "patch") for i, split in enumerate(of_task)]
            drawn.append(panel(figure, f"{what} in {' and '.join(of_task)}", what) | {"legend": legend})
    for split, of in splits.items():
        if "va" in of:
            rows = study.index.filter(pl.col("split").eq_missing(None if split == "none" else split))
            mean = ", ".join(f"mean {name} {of['va']['mean'][name]:+.2f}" for name in VA).replace("-", "−")
            label = f"Density of valence and arousal labels of {split}: {mean}"
            drawn.append(image_sections.density(rows, label, f"{split}: {mean}"))
    sample = image_sections.sample(study)
    return {"splits": splits, "panels": drawn, "leaks": leak_lines(study.index), "sample": sample}


def reproduction(study: StudyFolder) -> Section:
    """Signatures, environment and the study file."""
    try:
        study_file = (study.folder / "study.yaml").read_text(encoding="utf-8", errors="replace")[:MAX_STUDY_FILE]
    except OSError:
        study_file = ""
    recorded = study.results.environment
    environment = {name: value for name, value in recorded.items() if name not in ("packages", "command")}
    signatures: dict[str, list[str]] = {}
    for model in study.models:
        signatures.setdefault(model.scores.signature, []).append(model.name)
    return {
        "signatures": list(signatures.items()),
        "environment": {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in environment.items()},
        "study_file": study_file,
    }
