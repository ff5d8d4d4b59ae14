"""The sections of the report as plain data: each takes a study and gives what its part of the page shows, or None."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from triaffect.data.statistics import leak_lines, statistics
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS, TASK_NAMES, TASKS, VA
from triaffect.metrics.fusion import DEFAULT_LAMBDAS
from triaffect.metrics.measures import COLUMNS
from triaffect.report import figures
from triaffect.report.exhibits import Section, confusions, exhibit, key, task_name, va_figures
from triaffect.report.study_folder import Model, Study

Entry = tuple[float | None, Sequence[float] | None, float | None]
"""Value, interval, floor."""

KINDS = {
    "single": "single-task",
    "multi": "multi-task",
    "heads": "separate heads",
    "joined": "single-task models joined",
    "fusion": "fusion",
}

COSTS = ("parameters", "epochs", "epochs_to_90", "seconds_per_epoch", "images_per_second", "energy_joules")


def _range(entries: Iterable[Entry], *more: float) -> tuple[float, float]:
    """A scale on which all of these have a place."""
    known = [x for value, span, floor in entries for x in (value, floor, *(span or ())) if x is not None] + [*more]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _cells(entries: Sequence[Entry], scale: tuple[float, float]) -> list[Any]:
    """Numbers with their intervals, both also as places on the scale in percent; the highest is marked."""
    values = [value for value, _, _ in entries if value is not None]
    cells: list[Any] = []
    for value, interval, floor in entries:
        if value is None:
            cells.append(None)
            continue
        low, high = interval or (None, None)
        places = {"at": value, "from": low, "to": high, "floor": floor}
        place = {
            name: round(100 * (x - scale[0]) / (scale[1] - scale[0]), 2) for name, x in places.items() if x is not None
        }
        best = len(values) > 1 and value == max(values)
        cells.append({"value": value, "low": low, "high": high, "place": place, "best": best})
    return cells


def scores(study: Study) -> Section:
    """All models: each task's score and the total, with interval and floor."""
    if not study.models:
        return None
    totals = len(study.tasks) > 1 and any(map(study.complete, study.models))
    names = [*study.tasks, *(["total"] if totals else [])]
    columns, floors = [], []
    for name in names:
        entries: list[Entry] = []
        for model in study.models:
            found = model["scores"]
            # A total of fewer tasks compares with nothing.
            own = found["tasks"] | ({"total": found["total"]} if study.complete(model) else {})
            interval, floor = found["intervals"].get(name), found["baseline"].get(name)
            entries.append((own[name], interval, floor) if name in own else (None, None, None))
        columns.append(_cells(entries, _range(entries)))
        floors.append(next((floor for _, _, floor in entries if floor is not None), None))
    rows = [
        {"name": model["name"], "kind": _kind(model), "cells": cells}
        for model, cells in zip(study.models, zip(*columns, strict=True), strict=True)
    ]
    some = max((model["scores"] for model in study.models), key=lambda found: len(found["tasks"]))
    trivial = [f"{TASK_NAMES[task]}: {words}" for task, words in some["baseline_prediction"].items()]
    about = {"videos": some["videos"], "intervals": bool(some["intervals"])}
    return {"head": [task_name(name) for name in names], "rows": rows, "floors": floors, "trivial": trivial} | about


def _kind(model: Model) -> str:
    words = KINDS.get(str(model.get("kind")), str(model.get("kind") or ""))
    shares = {task: share for task, share in (model.get("lambdas") or {}).items() if share is not None}
    if shares:
        words += ", λ " + " / ".join(f"{shares[task]:.2f}" for task in TASKS if task in shares)
    return words


def cost(study: Study) -> Section:
    """What each trained model cost."""
    rows = []
    for model in study.models:
        values = {name: model.get(name) for name in COSTS}
        if any(value is not None for value in values.values()):
            rows.append({"name": model["name"], **values})
    known = [name for name in COSTS if any(row[name] is not None for row in rows)]
    return {"columns": known, "rows": rows} if rows else None


def comparisons(study: Study) -> Section:
    """Paired differences, each pair turned so that the model ahead stands first."""
    pairs = [pair for pair in study.results.get("comparisons") or [] if pair.get("measures")]
    names = [name for name in (*TASKS, "total") if any(name in pair["measures"] for pair in pairs)]
    if not names:
        return None
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        a, b, sign = pair["a"], pair["b"], 1
        last = next(pair["measures"][name] for name in reversed(names) if name in pair["measures"])
        if last["difference"] < 0:
            a, b, sign = b, a, -1
        turned = {name: _turned(row, sign) for name, row in pair["measures"].items()}
        rows.append({"a": a, "b": b, "entries": [turned.get(name, (None, None, 0.0)) for name in names]})
        rows[-1]["p"] = [pair["measures"].get(name, {}).get("p") for name in names]
    columns = []
    for entries in zip(*(row["entries"] for row in rows), strict=True):
        reach = max(map(abs, _range(entries)))
        columns.append(_cells(entries, (-reach, reach)))
    for row, cells in zip(rows, zip(*columns, strict=True), strict=True):
        row["cells"] = cells
        for cell, p in zip(cells, row["p"], strict=True):
            if cell:
                cell |= {"p": p, "real": cell["low"] is not None and cell["low"] * cell["high"] > 0}
    told = [cell for row in rows for cell in row["cells"] if cell]
    about = {"count": len(told), "real": sum(cell["real"] for cell in told)}
    return {"head": [task_name(name) for name in names], "rows": rows} | about


def _turned(row: dict[str, Any], sign: int) -> Entry:
    ends = [sign * row[end] for end in ("low", "high") if row.get(end) is not None]
    return sign * row["difference"], sorted(ends) if len(ends) == 2 else None, 0.0


def paper(study: Study) -> Section:
    """The paper's figures where the data is the paper's; else only whose they are, so that the page can say why not."""
    told = study.results.get("paper")
    if not told or not told.get("rows"):
        return None
    about = {"source": told.get("source"), "dataset": told.get("dataset"), "same": bool(study.results.get("same_data"))}
    return about | ({"note": told.get("note"), "rows": told["rows"], "models": study.models} if about["same"] else {})


def values(study: Study, task: str) -> Section:
    """The columns of a task (valence and arousal, classes, AUs) for the models that lead in it."""
    if task not in study.tasks:
        return None
    models = study.leading(task)
    some = models[0]["scores"]
    rows, entries = [], []
    for name in COLUMNS[task]:
        n, shown = some["labelled"].get(name, 0), some["positives"].get(name)
        floor = 0.0 if shown is None else 2 * shown / max(1, n + shown)
        found = [model["scores"] for model in models]
        entries.append([(each[task].get(name), each["intervals"].get(name), floor) for each in found])
        words = f"{name} {AU_NAMES[name]}" if task == "au" else name.capitalize()
        rows.append({"name": words, "frames": n if shown is None else shown, "share": shown and shown / max(1, n)})
    scale = _range([entry for row in entries for entry in row], 0.0, 1.0)
    for row, of in zip(rows, entries, strict=True):
        row["cells"] = _cells(of, scale)
    drawn = {"va": va_figures, "expr": confusions}
    return {
        "head": [model["name"] for model in models],
        "rows": rows,
        "mean": [model["scores"]["tasks"][task] for model in models],
        "figures": drawn[task](study, models) if task in drawn else [],
    }


def fusion(study: Study) -> Section:
    """λ curves, what the tuned λ is worth on other videos, and on the other half of them."""
    tunings = []
    for tuning in study.results.get("tuning") or []:
        lambdas, panels = tuning.get("lambdas") or {}, []
        for task in TASKS:
            points = sorted((row["lambda"], row["score"]) for row in tuning.get("curves") or [] if row["task"] == task)
            if points:
                share, score = zip(*points, strict=True)
                label = f"{tuning['name']}: score of {TASK_NAMES[task]} at every λ from 0 to 1"
                figure = figures.lambda_curve(share, score, DEFAULT_LAMBDAS[task], lambdas.get(task))
                panels.append(exhibit(figure, label, task_name(task)))
        rows = [
            row | {"task": task_name(row["task"]), "lambda": lambdas.get(row["task"])}
            for row in tuning.get("scores") or []
        ]
        tunings.append(tuning | {"figures": panels, "rows": rows})
    halves = [row | {"task": task_name(row["task"])} for row in study.results.get("halves") or []]
    several = len({row["name"] for row in halves}) > 1
    return {"tunings": tunings, "halves": halves, "several": several} if tunings or halves else None


def search(study: Study) -> Section:
    """The trials of a hyper-parameter search."""
    trials = (study.results.get("search") or {}).get("trials") or []
    scored = [trial for trial in trials if trial.get("score") is not None]
    if not trials:
        return None
    figure = figures.trials([trial.get("score") for trial in trials])
    return {
        "count": len(trials),
        "failed": len(trials) - len(scored),
        "names": list(dict.fromkeys(name for trial in trials for name in trial.get("values") or {})),
        "figure": exhibit(figure, f"Score of {len(trials)} trials and the best so far", wide=True) if scored else None,
        "rows": sorted(scored, key=lambda trial: -trial["score"])[:10],
    }


def data(study: Study) -> Section:
    """What the index holds, split by split, and whether it leaks."""
    if study.index is None:
        return None
    found = statistics(study.index)
    panels = []
    for task, names, rate in (("expr", EXPRESSIONS, "share"), ("au", ACTION_UNITS, "rate")):
        held = {split: of[task] for split, of in found.items() if task in of}
        if held:
            figure = figures.shares(names, [[of[name][rate] for name in names] for of in held.values()])
            what = f"{'Expressions' if task == 'expr' else 'Action units'}, share of the labelled frames"
            legend = [key(split, i, "patch") for i, split in enumerate(held)]
            panels.append(exhibit(figure, f"{what} in {' and '.join(held)}", what) | {"legend": legend})
    for split, of in found.items():
        if "va" in of:
            rows = study.index.filter(pl.col("split").eq_missing(None if split == "none" else split))
            mean = ", ".join(f"mean {name} {of['va']['mean'][name]:+.2f}" for name in VA).replace("-", "−")
            cloud = figures.va_cloud(*rows.select(VA).drop_nulls())
            panels.append(exhibit(cloud, f"Circumplex of the labels of {split}: {mean}", f"{split}: {mean}"))
    return {"splits": found, "figures": panels, "leaks": leak_lines(study.index)}


def making(study: Study) -> Section:
    """How to make all of it again."""
    results = study.results
    try:
        study_file = (study.folder / "study.yaml").read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        study_file = ""
    environment = dict(results.get("environment") or {})
    packages = environment.pop("packages", {})
    environment.pop("command", None)  # the commands below are whole
    signatures: dict[str, list[str]] = {}
    for model in study.models:
        signatures.setdefault(model["scores"]["signature"], []).append(model["name"])
    return {
        "commands": results.get("commands") or [],
        "signatures": list(signatures.items()),
        "packages": packages,
        "environment": {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in environment.items()},
        "inputs": {name: results.get(name) for name in ("index", "images", "split") if results.get(name)},
        "study_file": study_file,
    }
