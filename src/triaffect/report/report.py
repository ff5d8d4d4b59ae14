"""The report of a study: one HTML page that needs no network, and the answer in a few sentences."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import jinja2

from triaffect.io import write_text
from triaffect.labels import EXPRESSIONS, TASK_NAMES
from triaffect.report import image_sections, sections
from triaffect.report.panels import CLASS_COLOURS
from triaffect.report.results import ModelResult, StudyResults
from triaffect.report.study_folder import StudyFolder
from triaffect.text import INTENDED_USE, duration, text_table

SECTIONS: dict[str, tuple[str, Callable[[StudyFolder], Any]]] = {
    "scores": ("Scores", sections.scores),
    "comparisons": ("Are the differences significant?", sections.comparisons),
    "paper": ("Comparison with the paper", sections.paper),
    "cost": ("Cost", sections.cost),
    "va": ("Valence and arousal", partial(sections.values, task="va")),
    "expr": ("Expressions", partial(sections.values, task="expr")),
    "au": ("Action units", partial(sections.values, task="au")),
    "timelines": ("Time lines", image_sections.timelines),
    "frames": ("Worst and best frames", image_sections.frames),
    "fusion": ("Fusion", sections.fusion),
    "training": ("Training", image_sections.training),
    "search": ("Hyper-parameter search", sections.search),
    "data": ("Data", sections.data),
    "failures": ("Failures", lambda study: study.results.failures),
    "reproduction": ("How to reproduce this", sections.reproduction),
}
"""Section -> heading, and what returns its data, in the order of the page; a section without data is left out."""

FORMATS = {"score": ".3f", "signed": "+.3f", "count": "", "percent": ".1%", "share": ".2f"}
"""Filter of the page -> format of its numbers."""

MAX_DUELS = 3
"""With more multi-task models than these, the answer counts them and compares only the best one by one."""


def write_report(study: str | os.PathLike[str]) -> Path:
    """Write the page of a study, `report.html`; the same folder gives the same bytes.

    Args:
        study: The folder that `triaffect study` made. Sections without data are left out.

    Returns:
        The path of the page.

    Raises:
        InputError: The folder has no results of a study.
    """
    folder = StudyFolder.read(study)
    parts = {name: section(folder) for name, (_, section) in SECTIONS.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: partial(_number, form=form) for name, form in FORMATS.items()}
    environment.filters["time"] = duration
    page = environment.get_template("report.html").render(
        results=folder.results,
        study=folder,
        parts=parts,
        titles={name: title for name, (title, _) in SECTIONS.items() if parts[name]},
        classes=list(zip(EXPRESSIONS, CLASS_COLOURS, strict=True)),
        notes=list(dict.fromkeys(folder.notes)),
        intended_use=INTENDED_USE,
    )
    path = folder.folder / "report.html"
    write_text(path, page)
    return path


def _number(value: Any, form: str) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if not form:  # whole numbers with separators, others with three significant digits
        form = ",.0f" if isinstance(value, int) or abs(value) >= 100 else ".3g"
    return f"{value:{form}}".replace("-", "−").replace("%", " %")


# The answer -------------------------------------------------------------------------------------------------------


def answer(results: StudyResults) -> list[str]:
    """Say in sentences which model is ahead, by how much, and whether that is significant; the total first."""
    seeds: dict[str, list[ModelResult]] = {}
    for model in results.models:
        seeds.setdefault(_without_seed(model.name), []).append(model)
    models = {name: _mean(name, group) for name, group in seeds.items()}
    if not models:
        return ["No model of this study was completed."]
    lines: list[str] = []
    covered: set[str] = set()
    for joined in (model for model in models.values() if model.kind == "joined"):
        rivals = [m for m in models.values() if m.kind == "multi" and m.tasks == joined.tasks]
        covered |= {joined.name, *(multi.name for multi in rivals)} if rivals else set()
        if len(rivals) > MAX_DUELS:
            lines.append(_tally(rivals, joined))
            rivals = [max(rivals, key=lambda multi: _value(multi, "total"))]
        for multi in rivals:
            lines += _duel(results, multi, joined)
    for model in models.values():
        if model.kind == "fusion":
            lines.append(_fusion(results, models, model))
            covered |= {model.name, *(model.members or ())}
    covered |= {name for name, model in models.items() if model.kind == "single" and covered}
    if set(models) - covered:
        lines += _ranking(results, models)
    for name, group in seeds.items():
        totals = [model.scores.total for model in group]
        if len(totals) > 1:
            spread = f"standard deviation {stdev(totals):.3f}"
            lines.append(f"Over {len(totals)} seeds {name} scores {mean(totals):.3f} in total, {spread}.")
    lines.append(_baselines(models))
    if results.failures:
        lines.append(f"Missing: {', '.join(failure.name for failure in results.failures)} (see Failures).")
    return [re.sub(r"(?<!\w)-(?=\d)", "−", line) for line in lines]


def _tally(rivals: Sequence[ModelResult], joined: ModelResult) -> str:
    """Count the models that are ahead, in total and on every task."""
    ahead = [multi for multi in rivals if _value(multi, "total") > _value(joined, "total")]
    on_all = [m.name for m in rivals if all(_value(m, task) > _value(joined, task) for task in joined.tasks)]
    names = f" ({_list(on_all)})" if 0 < len(on_all) <= MAX_DUELS else ""
    return (
        f"Of {len(rivals)} multi-task models {len(ahead)} are ahead of {joined.name} in total, "
        f"{len(on_all) or 'none'} on every task{names}."
    )


def _duel(results: StudyResults, a: ModelResult, b: ModelResult) -> list[str]:
    """Compare the totals, with their test, then all tasks in one sentence."""
    first, second = (a, b) if _value(a, "total") >= _value(b, "total") else (b, a)
    tasks = [f"{TASK_NAMES[task]} {_scores_of(results, first, second, task)}" for task in first.tasks]
    return [_ahead(results, first, second), f"By task: {', '.join(tasks)}."]


def _ahead(results: StudyResults, first: ModelResult, second: ModelResult) -> str:
    where = "On " + TASK_NAMES[first.tasks[0]] if len(first.tasks) == 1 else "In total"
    a, b = _value(first, "total"), _value(second, "total")
    if f"{a:.3f}" == f"{b:.3f}":
        return f"{where} {first.name} and {second.name} are level ({a:.3f})."
    both = _scores_of(results, first, second, "total", interval=True)
    return f"{where} {first.name} is ahead of {second.name}, {both}."


def _scores_of(
    results: StudyResults, first: ModelResult, second: ModelResult, task: str, interval: bool = False
) -> str:
    """Return the scores of two models and, in brackets, the result of their paired test."""
    both = f"{_value(first, task):.3f} to {_value(second, task):.3f}"
    for pair in results.comparisons:
        if {pair.a, pair.b} == {first.name, second.name} and task in pair.measures:
            row = pair.measures[task]
            if row.low is None or row.high is None:
                return f"{both} (not testable with a single video)"
            low, high = sorted((1 if pair.a == first.name else -1) * end for end in (row.low, row.high))
            words = "significant" if low * high > 0 else "not significant"
            span = f": 95 % interval of the difference {low:+.3f} to {high:+.3f}" if interval else ""
            return f"{both} ({words}{span})"
    return both


def _fusion(results: StudyResults, models: Mapping[str, ModelResult], fusion: ModelResult) -> str:
    """Compare a fusion with the better of its two sides, in total and task by task."""
    sides = [models[name] for name in fusion.members or () if name in models]
    behind = []
    for task in fusion.tasks:
        better = max((_value(side, task) for side in sides if task in side.tasks), default=-math.inf)
        if _value(fusion, task) < better:
            behind.append(f"{TASK_NAMES[task]} ({_value(fusion, task):.3f} to {better:.3f})")
    halves = any(_without_seed(row.name) == fusion.name for row in results.halves)
    how = " (each half of the videos with the λ chosen on the other half)" if halves else ""
    on = "no task" if len(behind) == len(fusion.tasks) else "each task" + (f" but {_list(behind)}" if behind else "")
    words = f"at least as good as the better of its two sides on {on}"
    name = f"{fusion.name[:1].upper()}{fusion.name[1:]}{how}"
    complete = [side for side in sides if side.tasks == fusion.tasks]
    if not complete or len(fusion.tasks) == 1:
        return f"{name} is {words}."
    best = max(complete, key=lambda side: _value(side, "total"))
    a, b = _value(fusion, "total"), _value(best, "total")
    order = "ahead of" if a > b else "behind" if a < b else "level with"
    both = _scores_of(results, fusion, best, "total")
    return f"{name} is in total {order} {best.name}, {both}, and {words}."


def _ranking(results: StudyResults, models: Mapping[str, ModelResult]) -> list[str]:
    """Compare the two best of the models with the same tasks."""
    groups: dict[tuple[str, ...], list[ModelResult]] = {}
    for model in models.values():
        groups.setdefault(tuple(model.tasks), []).append(model)
    ranked = [sorted(group, key=lambda model: -_value(model, "total")) for group in groups.values()]
    return [_ahead(results, *group[:2]) for group in ranked if len(group) > 1]


def _mean(name: str, seeds: Sequence[ModelResult]) -> ModelResult:
    """Return one model for several seeds, with their mean scores and the lowest ends of their intervals."""
    first, every = seeds[0], [model.scores for model in seeds]
    if len(seeds) == 1:
        return first
    tasks = {task: mean(scores.tasks[task] for scores in every) for task in first.scores.tasks}
    intervals = {key: min(scores.intervals[key] for scores in every) for key in first.scores.intervals}
    total = mean(scores.total for scores in every)
    members = [_without_seed(member) for member in first.members or ()] or None
    scores = replace(first.scores, tasks=tasks, total=total, intervals=intervals)
    return replace(first, name=name, members=members, scores=scores)


def _baselines(models: Mapping[str, ModelResult]) -> str:
    unclear = [
        f"{model.name} on {TASK_NAMES[task]}"
        for model in models.values()
        if model.kind in ("single", "multi", "heads")
        for task in model.tasks
        if model.scores.intervals.get(task, (_value(model, task),))[0] <= model.scores.baseline[task]
    ]
    if not unclear:
        return "Every model is clearly better than the trivial baseline on each of its tasks."
    return f"Not clearly better than the trivial baseline: {_list(unclear)}."


def _value(model: ModelResult, task: str) -> float:
    return model.scores.total if task == "total" else model.scores.tasks[task]


def _without_seed(name: str) -> str:
    return re.sub(r"-seed\d+$", "", name)


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def results_table(results: StudyResults) -> str:
    """Format the scores of every model with their intervals as text."""
    tasks = results.tasks
    names = [*tasks, *(["total"] if len(tasks) > 1 else [])]
    rows: list[list[str]] = []
    baselines: dict[str, float] = {}
    for model in results.models:
        baselines |= {task: model.scores.baseline[task] for task in model.tasks}
        # A total of fewer tasks cannot be compared.
        shown = {*model.tasks, *(["total"] if len(model.tasks) == len(tasks) else [])}
        spans = {name: "[{:.3f}, {:.3f}]".format(*span) for name, span in model.scores.intervals.items()}
        cells = [f"{_value(model, name):.3f} {spans.get(name, '')}" if name in shown else "" for name in names]
        rows.append([model.name, model.kind, *map(str.strip, cells)])
    baselines["total"] = sum(baselines.values())
    rows.append(["trivial baseline", "", *(f"{baselines[name]:.3f}" for name in names)])
    return text_table(["model", "kind", *(TASK_NAMES.get(name, "total") for name in names)], rows).replace("-0.", "−0.")
