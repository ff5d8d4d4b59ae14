"""The answer of a study in plain sentences, made from its figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from triaffect.labels import TASK_NAMES, TASKS

Model = Mapping[str, Any]


def answer(results: Mapping[str, Any]) -> list[str]:
    """Says which model is ahead, by how much and whether that is more than chance.

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
    for multi, joined in _against(models):
        lines += _duel(results, models, multi, joined)
        told |= {multi, joined}
    for model in models.values():
        if model["kind"] == "fusion":
            lines += _fusion(results, models, model)
            told |= {model["name"], *model["members"]}
    told |= {name for name, model in models.items() if model["kind"] == "single" and told}
    if set(models) - told:
        lines += _ranking(results, models)
    lines += _seeds(models)
    lines.append(_floors(models))
    if results["failures"]:
        lines.append(f"Missing: {', '.join(failure['name'] for failure in results['failures'])} (see Failures).")
    if results.get("paper") and not results["same_data"]:
        dataset = results["paper"].get("dataset") or "other data"
        lines.append(
            f"The paper reports on {dataset}; these figures are of other data and cannot stand beside its own."
        )
    return lines


def _against(models: Mapping[str, Model]) -> list[tuple[str, str]]:
    """Each multi-task model with the joined single-task models of the same tasks."""
    return [
        (multi["name"], joined["name"])
        for joined in models.values()
        if joined["kind"] == "joined"
        for multi in models.values()
        if multi["kind"] == "multi" and multi["tasks"] == joined["tasks"] and _seed(multi) == _seed(joined)
    ]


def _duel(results: Mapping[str, Any], models: Mapping[str, Model], a: str, b: str) -> list[str]:
    lines = []
    for task in [*models[a]["tasks"], "total"]:
        one, two = _value(models[a], task), _value(models[b], task)
        first, second = (a, b) if one >= two else (b, a)
        what = "In total" if task == "total" else f"On {TASK_NAMES[task]}"
        if one == two:
            lines.append(f"{what} {a} and {b} are equal ({one:.3f}).")
            continue
        lines.append(
            f"{what} {first} is ahead of {second}, {max(one, two):.3f} to {min(one, two):.3f}"
            f"{_chance(results, first, second, task)}."
        )
    return lines


def _chance(results: Mapping[str, Any], first: str, second: str, task: str) -> str:
    """What the paired test says of the first being ahead."""
    for pair in results["comparisons"]:
        if {pair["a"], pair["b"]} == {first, second} and task in pair["measures"]:
            found = pair["measures"][task]
            if found["low"] is None:
                return "; with a single video nobody can tell whether that is chance"
            low, high = (found["low"], found["high"]) if pair["a"] == first else (-found["high"], -found["low"])
            real = "the difference is real" if low > 0 else "the difference may be chance"
            return f"; {real} (95 % interval over videos {low:+.3f} to {high:+.3f})".replace("-", "−")
    return ""


def _fusion(results: Mapping[str, Any], models: Mapping[str, Model], fusion: Model) -> list[str]:
    """A fusion against the better of its two sides, task by task."""
    *single, multi = (models[name] for name in fusion["members"])
    ahead: list[str] = []
    behind: list[str] = []
    for task in fusion["tasks"]:
        sides = [model for model in (*single, multi) if task in model["tasks"]]
        best = max(sides, key=lambda model: _value(model, task))
        words = f"{TASK_NAMES[task]} ({_value(fusion, task):.3f} to {_value(best, task):.3f})"
        (ahead if _value(fusion, task) >= _value(best, task) else behind).append(words)
    own = [row for row in results["halves"] if row["name"] == fusion["name"]]
    how = ", each half of the videos with the λ that is best on the other," if own else ""
    parts = [f"at least as good as the better of its two sides on {_list(ahead)}"] if ahead else []
    parts += [f"behind it on {_list(behind)}"] if behind and ahead else []
    parts += [f"behind the better of its two sides on {_list(behind)}"] if behind and not ahead else []
    lines = [f"{fusion['name'].capitalize()}{how} is {' and '.join(parts)}."]
    whole = [model for model in (*single, multi) if model["tasks"] == fusion["tasks"]]
    if whole and len(fusion["tasks"]) > 1:
        best = max(whole, key=lambda model: model["scores"]["total"])
        first, second = sorted((fusion, best), key=lambda model: -model["scores"]["total"])
        lines.append(
            f"In total {first['name']} is ahead of {second['name']}, {first['scores']['total']:.3f} to "
            f"{second['scores']['total']:.3f}{_chance(results, first['name'], second['name'], 'total')}."
        )
    return lines


def _ranking(results: Mapping[str, Any], models: Mapping[str, Model]) -> list[str]:
    """The best of the models that hold the same tasks, and the next."""
    groups: dict[tuple[str, ...], list[Model]] = {}
    for model in models.values():
        groups.setdefault(tuple(model["tasks"]), []).append(model)
    lines = []
    for tasks, group in groups.items():
        if len(group) < 2:
            continue
        best, second = sorted(group, key=lambda model: -model["scores"]["total"])[:2]
        what = TASK_NAMES[tasks[0]] if len(tasks) == 1 else "the total"
        lines.append(
            f"Of {len(group)} models, {best['name']} has the highest score on {what}, {best['scores']['total']:.3f}; "
            f"the next is {second['name']} with {second['scores']['total']:.3f}"
            f"{_chance(results, best['name'], second['name'], 'total')}."
        )
    return lines


def _seeds(models: Mapping[str, Model]) -> list[str]:
    """Mean and spread of what was repeated."""
    groups: dict[str, list[float]] = {}
    for model in models.values():
        if _seed(model):
            name = model["name"].removesuffix(_seed(model))
            groups.setdefault(name, []).append(model["scores"]["total"])
    return [
        f"Over {len(totals)} seeds {name} scores {mean(totals):.3f} in total, standard deviation {stdev(totals):.3f}."
        for name, totals in groups.items()
        if len(totals) > 1
    ]


def _floors(models: Mapping[str, Model]) -> str:
    unclear = []
    for model in models.values():
        for task in model["tasks"]:
            scores = model["scores"]
            low = scores["intervals"].get(task, (_value(model, task),))[0]
            if low <= scores["floor"][task] and model["kind"] in ("single", "multi", "heads"):
                unclear.append(f"{model['name']} on {TASK_NAMES[task]}")
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
    from triaffect.scoring.tables import text_table

    tasks = [task for task in TASKS if any(task in model["tasks"] for model in results["models"])]
    names = [*tasks, *(["total"] if len(tasks) > 1 else [])]
    rows = []
    for model in results["models"]:
        row = [model["name"], model["kind"]]
        for name in names:
            if (name == "total" and len(model["tasks"]) < len(tasks)) or name not in (*model["tasks"], "total"):
                row.append("")
                continue
            span = model["scores"]["intervals"].get(name)
            row.append(f"{_value(model, name):.3f}" + (f" [{span[0]:.3f}, {span[1]:.3f}]" if span else ""))
        rows.append(row)
    if results["models"]:
        floors: dict[str, float] = {}
        for model in results["models"]:
            floors |= {task: model["scores"]["floor"][task] for task in model["tasks"]}
        total = [f"{sum(floors.values()):.3f}"] if len(tasks) > 1 else []
        rows.append(["floor", "trivial", *(f"{floors[task]:.3f}" for task in tasks), *total])
    return text_table(["model", "kind", *(TASK_NAMES.get(name, "total") for name in names)], rows)
