"""The answer of a study in a few plain sentences, made from its figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from triaffect.labels import TASK_NAMES, TASKS
from triaffect.text import text_table

Model = Mapping[str, Any]

MANY = 3
"""More models than these are counted in one sentence, and the best of them is told of."""


def answer(results: Mapping[str, Any]) -> list[str]:
    """Says which model is ahead, by how much and whether that is more than chance; the total first.

    Args:
        results: `results.json` with its models, comparisons and halves.

    Returns:
        Sentences.
    """
    models = {model["name"]: model for model in results["models"]}
    if not models:
        return ["No model of this study came to its end."]
    lines: list[str] = []
    told: set[str] = set()
    for joined in (model for model in models.values() if model["kind"] == "joined"):
        rivals = [m for m in models.values() if m["kind"] == "multi" and m["tasks"] == joined["tasks"]]
        rivals = [multi for multi in rivals if _seed(multi) == _seed(joined)]
        told |= {joined["name"], *(multi["name"] for multi in rivals)} if rivals else set()
        if len(rivals) > MANY:
            lines.append(_tally(rivals, joined))
            rivals = [max(rivals, key=lambda multi: _value(multi, "total"))]
        for multi in rivals:
            lines += _duel(results, multi, joined)
    for model in models.values():
        if model["kind"] == "fusion":
            lines.append(_fusion(results, models, model))
            told |= {model["name"], *model["members"]}
    told |= {name for name, model in models.items() if model["kind"] == "single" and told}
    if set(models) - told:
        lines += _ranking(results, models)
    lines += [*_seeds(models), _floors(models)]
    if results["failures"]:
        lines.append(f"Missing: {', '.join(failure['name'] for failure in results['failures'])} (see Failures).")
    return lines


def _tally(rivals: Sequence[Model], joined: Model) -> str:
    """How many of the models are ahead, and which are on every task."""
    ahead = [multi for multi in rivals if _value(multi, "total") > _value(joined, "total")]
    all_over = [m["name"] for m in rivals if all(_value(m, task) > _value(joined, task) for task in joined["tasks"])]
    names = f" ({_list(all_over)})" if 0 < len(all_over) <= MANY else ""
    return (
        f"Of {len(rivals)} multi-task models {len(ahead)} are ahead of {joined['name']} in total, "
        f"{len(all_over) or 'none'} on every task{names}."
    )


def _duel(results: Mapping[str, Any], a: Model, b: Model) -> list[str]:
    """The total with its test, then the tasks in one sentence."""
    first, second = (a, b) if _value(a, "total") >= _value(b, "total") else (b, a)
    tasks = [
        f"{TASK_NAMES[task]} {_value(first, task):.3f} to {_value(second, task):.3f}"
        f"{_chance(results, first, second, task)}"
        for task in first["tasks"]
    ]
    return [_ahead(results, first, second), f"By task: {', '.join(tasks)}."]


def _ahead(results: Mapping[str, Any], first: Model, second: Model) -> str:
    where = "On " + TASK_NAMES[first["tasks"][0]] if len(first["tasks"]) == 1 else "In total"
    one, two = _value(first, "total"), _value(second, "total")
    if f"{one:.3f}" == f"{two:.3f}":
        return f"{where} {first['name']} and {second['name']} are level ({one:.3f})."
    told = _chance(results, first, second, "total", interval=True)
    return f"{where} {first['name']} is ahead of {second['name']}, {one:.3f} to {two:.3f}{told}."


def _chance(results: Mapping[str, Any], first: Model, second: Model, task: str, interval: bool = False) -> str:
    """What the paired test says of the difference of two models."""
    for pair in results["comparisons"]:
        if {pair["a"], pair["b"]} == {first["name"], second["name"]} and task in pair["measures"]:
            found = pair["measures"][task]
            if found["low"] is None:
                return " (a single video cannot tell whether by chance)"
            ends = sorted((1 if pair["a"] == first["name"] else -1) * found[end] for end in ("low", "high"))
            words = "real" if ends[0] * ends[1] > 0 else "may be chance"
            span = f": 95 % interval over videos {ends[0]:+.3f} to {ends[1]:+.3f}" if interval else ""
            return f" ({words}{span})".replace("-", "−")
    return ""


def _fusion(results: Mapping[str, Any], models: Mapping[str, Model], fusion: Model) -> str:
    """A fusion against the better of its two sides, in total and task by task."""
    sides = [models[name] for name in fusion["members"]]
    behind = []
    for task in fusion["tasks"]:
        better = max(_value(side, task) for side in sides if task in side["tasks"])
        if _value(fusion, task) < better:
            behind.append(f"{TASK_NAMES[task]} ({_value(fusion, task):.3f} to {better:.3f})")
    halves = any(row["name"] == fusion["name"] for row in results["halves"])
    how = ", each half of the videos with the λ chosen on the other," if halves else ""
    on = "no task" if len(behind) == len(fusion["tasks"]) else "each task" + (f" but {_list(behind)}" if behind else "")
    words = f"at least as good as the better of its two sides on {on}"
    name = f"{fusion['name'].capitalize()}{how}"
    whole = [side for side in sides if side["tasks"] == fusion["tasks"]]
    if not whole or len(fusion["tasks"]) == 1:
        return f"{name} is {words}."
    best = max(whole, key=lambda side: _value(side, "total"))
    one, two = _value(fusion, "total"), _value(best, "total")
    order = "ahead of" if one > two else "behind" if one < two else "level with"
    told = _chance(results, fusion, best, "total")
    return f"{name} is in total {order} {best['name']}, {one:.3f} to {two:.3f}{told}, and {words}."


def _ranking(results: Mapping[str, Any], models: Mapping[str, Model]) -> list[str]:
    """The best of the models that hold the same tasks, and the next."""
    groups: dict[tuple[str, ...], list[Model]] = {}
    for model in models.values():
        groups.setdefault(tuple(model["tasks"]), []).append(model)
    ranked = [sorted(group, key=lambda model: -_value(model, "total")) for group in groups.values()]
    return [_ahead(results, *group[:2]) for group in ranked if len(group) > 1]


def _seeds(models: Mapping[str, Model]) -> list[str]:
    """Mean and spread of what was repeated."""
    groups: dict[str, list[float]] = {}
    for model in models.values():
        if tail := _seed(model):
            groups.setdefault(model["name"].removesuffix(tail), []).append(_value(model, "total"))
    return [
        f"Over {len(totals)} seeds {name} scores {mean(totals):.3f} in total, standard deviation {stdev(totals):.3f}."
        for name, totals in groups.items()
        if len(totals) > 1
    ]


def _floors(models: Mapping[str, Model]) -> str:
    unclear = [
        f"{model['name']} on {TASK_NAMES[task]}"
        for model in models.values()
        if model["kind"] in ("single", "multi", "heads")
        for task in model["tasks"]
        if model["scores"]["intervals"].get(task, [_value(model, task)])[0] <= model["scores"]["baseline"][task]
    ]
    if not unclear:
        return "Every model stands clearly above the floor of trivial predictors on each of its tasks."
    return f"Not clearly above the floor of trivial predictors: {_list(unclear)}."


def _value(model: Model, task: str) -> float:
    return float(model["scores"]["total"] if task == "total" else model["scores"]["tasks"][task])


def _seed(model: Model) -> str:
    found = re.search(r"-seed\d+$", model["name"])
    return found[0] if found else ""


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def plain_table(results: Mapping[str, Any]) -> str:
    """Every model's scores with their intervals, as text."""
    tasks = [task for task in TASKS if any(task in model["tasks"] for model in results["models"])]
    names = [*tasks, *(["total"] if len(tasks) > 1 else [])]
    rows: list[list[str]] = []
    floors: dict[str, float] = {}
    for model in results["models"]:
        scores = model["scores"]
        floors |= {task: scores["baseline"][task] for task in model["tasks"]}
        # A total of fewer tasks compares with nothing.
        held = {*model["tasks"], *(["total"] if len(model["tasks"]) == len(tasks) else [])}
        spans = {name: "[{:.3f}, {:.3f}]".format(*span) for name, span in scores["intervals"].items()}
        cells = [f"{_value(model, name):.3f} {spans.get(name, '')}" if name in held else "" for name in names]
        rows.append([model["name"], model["kind"], *map(str.strip, cells)])
    floors["total"] = sum(floors.values())
    rows.append(["floor", "trivial", *(f"{floors[name]:.3f}" for name in names)])
    return text_table(["model", "kind", *(TASK_NAMES.get(name, "total") for name in names)], rows).replace("-0.", "−0.")
