"""From a study's predictions to its results: joined systems, fusions, scores, halves, paired tests, in plain data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from triaffect.data.index import load_index, source_video
from triaffect.data.predictions import load_predictions, save_predictions
from triaffect.io import InputError, atomic_path, write_text
from triaffect.labels import TASKS
from triaffect.metrics.fusion import DEFAULT_LAMBDAS, fuse, tune_fusion
from triaffect.metrics.scores import Comparison, Scores, paired_bootstrap, score
from triaffect.report.study_folder import epochs_to
from triaffect.study.recipe import Fusion, Recipe

Attempt = Callable[..., Any]
"""`attempt(name, function, *given)` calls a function; a failure is noted under the name, and None comes back."""

MOST_PAIRS = 15
"""Of tests between models where a recipe names none: each pair of six."""

HALVES = ("first half", "second half")


def combine(recipe: Recipe, folder: Path, attempt: Attempt) -> dict[str, Any]:
    """Makes the predictions of joined systems and fusions, in `folder`/predictions.

    Args:
        recipe: The study.
        folder: The study folder; it holds the predictions of runs and heads.
        attempt: Notes what fails.

    Returns:
        `tuning` and `halves` of results.json, and `lambdas`, λ by task of each fusion.
    """
    tunings: dict[tuple[str, ...], dict[str, Any]] = {}
    halves: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, float]] = {}
    index = load_index(next(iter(recipe.runs.values())).data.index, recipe.split)

    def table(name: str) -> pl.DataFrame:
        path = folder / "predictions" / f"{name}.parquet"
        if not path.is_file():
            raise InputError(f"rests on {name}, which is missing")
        return load_predictions(path)

    def save(name: str, found: pl.DataFrame, how: Mapping[str, Any]) -> None:
        save_predictions(found, folder / "predictions" / f"{name}.parquet", {"study": recipe.title, **how})

    def join(name: str, members: list[str]) -> None:
        *rest, last = [table(member) for member in members]
        save(name, fuse(rest, last) if rest else last, {"joined": members})

    def late(name: str, fusion: Fusion) -> None:
        single, multi = [table(member) for member in fusion.single], table(fusion.multi)
        pair = (*fusion.single, fusion.multi)
        if pair not in tunings:
            lambdas, tuning = tune_fusion(single, multi, index)
            scores = tuning.scores.rename({"fixed": "paper", "cross_fitted": "tuned"}).to_dicts()
            about = {"name": name, "single": fusion.single, "multi": fusion.multi, "lambdas": lambdas}
            tunings[pair] = about | {"folds": tuning.folds, "curves": tuning.curves.to_dicts(), "scores": scores}
        chosen[name] = lambdas = dict(tunings[pair]["lambdas"])
        if fusion.lambdas == "tuned":
            found, rows = _by_halves(name, single, multi, index)
            halves.extend(rows)
        else:
            chosen[name] = lambdas = {task: DEFAULT_LAMBDAS[task] for task in lambdas}
            found = fuse(single, multi, lambdas)
        save(name, found, {"fusion": [*pair], "lambdas": lambdas})

    for name, members in recipe.joined.items():
        attempt(name, join, name, members)
    for name, fusion in recipe.fusions.items():
        attempt(name, late, name, fusion)
    return {"tuning": list(tunings.values()), "halves": halves, "lambdas": chosen}


def split_halves(index: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Deals the source videos of an index into two halves; both persons of a video stay together.

    Every second video of an order in which those with rare expressions come first, so that both halves know them.
    """
    video = pl.col("video").fill_null("")
    sources = {name: source_video(name) for name in index.select(video.unique()).to_series()}
    source = video.replace_strict(sources, return_dtype=pl.String)
    rare = pl.when(pl.col("expression").is_not_null()).then(1 / pl.len().over("expression"))
    weighed = index.with_columns(source=source, rare=rare)
    order = weighed.group_by("source").agg(pl.col("rare").sum()).sort("rare", "source", descending=[True, False])
    mine = source.is_in(order["source"].gather_every(2).implode())
    return index.filter(mine), index.filter(~mine)


def _by_halves(
    name: str, single: list[pl.DataFrame], multi: pl.DataFrame, index: pl.DataFrame
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Each half of the videos fused with the λ of the other: the whole split's predictions, and what they score."""
    parts = split_halves(index)
    if not all(part.height for part in parts):  # a single video
        return fuse(single, multi, tune_fusion(single, multi, index)[0]), []
    fused, rows = [], []
    for here, there in ((0, 1), (1, 0)):
        lambdas, _ = tune_fusion(single, multi, parts[there])
        mine = pl.col("image").is_in(parts[here]["image"].implode())
        *own, other = [table.filter(mine) for table in (*single, multi)]
        fused.append(fuse(own, other, lambdas))
        ways = {"single": fuse(own, other, dict.fromkeys(TASKS, 1.0)), "multi": other, "tuned": fused[-1]}
        found = {way: score(table, parts[here], resamples=0).tasks for way, table in ways.items()}
        sides = {"tuned_on": HALVES[there], "scored_on": HALVES[here]}
        for task in (task for task in TASKS if task in lambdas and task in found["multi"]):
            scores = {way: tasks[task] for way, tasks in found.items()}
            rows.append({"name": name, "task": task, **scores, "lambda": lambdas[task], **sides})
    order = multi.select("image")
    return order.join(pl.concat(fused), on="image", how="left", maintain_order="left"), rows


def judge(recipe: Recipe, folder: Path, attempt: Attempt, lambdas: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Scores every model of a study and tests them against each other.

    Args:
        recipe: The study.
        folder: The study folder, with the predictions of all its models.
        attempt: Notes what fails.
        lambdas: Of each fusion.

    Returns:
        `models` and `comparisons` of results.json; the scores' tables are written to `scores.txt`.
    """
    index = load_index(next(iter(recipe.runs.values())).data.index, recipe.split)
    models, texts, tables = [], [], {}
    for name in recipe.tasks:
        path = folder / "predictions" / f"{name}.parquet"
        if not path.is_file():
            continue
        found: Scores | None = attempt(name, score, path, index)
        if found is None:
            continue
        tables[name] = load_predictions(path)
        texts.append(f"{name}\n\n{found.table()}\n")
        about = {
            "name": name,
            **_described(recipe, folder, name),
            "tasks": list(found.tasks),
            "scores": found.to_dict(),
        }
        models.append(about | {"lambdas": lambdas.get(name)})
    write_text(folder / "scores.txt", "\n\n".join(texts))
    scored = {model["name"]: model["tasks"] for model in models}
    comparisons = []
    for a, b in _pairs(recipe, scored):
        found_pair: Comparison | None = attempt(f"{a} against {b}", paired_bootstrap, tables[a], tables[b], index)
        if found_pair is not None:
            told = [name for name in (*TASKS, "total") if name in found_pair.difference]
            measures = {
                name: {"difference": found_pair.difference[name], "p": found_pair.p[name]}
                | dict(zip(("low", "high"), found_pair.intervals.get(name, (None, None)), strict=True))
                for name in told
            }
            comparisons.append({"a": a, "b": b, "measures": measures})
    return {"models": models, "comparisons": comparisons}


def _pairs(recipe: Recipe, scored: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """The recipe's pairs; else those with the same tasks, the most tasks first. What a fusion rests on is there too."""
    pairs = recipe.compare
    if pairs is None:
        alike = [(a, b) for a, b in combinations(scored, 2) if scored[a] == scored[b]]
        pairs = sorted(alike, key=lambda pair: -len(scored[pair[0]]))[:MOST_PAIRS]
    return [(a, b) for a, b in pairs if a in scored and b in scored]


def _described(recipe: Recipe, folder: Path, name: str) -> dict[str, Any]:
    members, run = recipe.members(name), folder / "runs" / name
    if members:
        kind = "joined" if name in recipe.joined else "fusion"
    else:
        kind = "heads" if name in recipe.heads else "multi" if len(recipe.tasks[name]) > 1 else "single"
    return {
        "kind": kind,
        "predictions": f"predictions/{name}.parquet",
        "run": None if members else f"runs/{name}",
        **(dict.fromkeys(COST) if members else _cost(run)),
        # Of all models that a system runs, each counted once.
        "parameters": sum(_parameters(folder, part) for part in _parts(recipe, name)),
        "members": members or None,
    }


def _parts(recipe: Recipe, name: str) -> set[str]:
    members = recipe.members(name)
    return set().union(*(_parts(recipe, member) for member in members)) if members else {name}


def _parameters(folder: Path, run: str) -> int:
    return int(json.loads((folder / "runs" / run / "summary.json").read_text(encoding="utf-8"))["parameters"])


COST = ("parameters", "epochs", "epochs_to_90", "seconds_per_epoch", "images_per_second", "energy_joules")


def _cost(run: Path) -> dict[str, Any]:
    """What a run took, from its `metrics.csv`."""
    metrics = pl.read_csv(run / "metrics.csv", infer_schema_length=None)
    return {
        "epochs": metrics.height,
        "epochs_to_90": epochs_to(metrics["val/total"].to_list()),
        "seconds_per_epoch": metrics["seconds"].median(),
        "images_per_second": metrics["images_per_second"].median(),
        "energy_joules": metrics["energy_joules"].sum() if "energy_joules" in metrics.columns else None,
    }


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes `results.json`, and `results.csv` with a row a model."""
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    rows = []
    for model in results["models"]:
        scores = model["scores"]
        row = {"name": model["name"], "kind": model["kind"], "tasks": "+".join(model["tasks"])}
        for name in (*TASKS, "total"):
            low, high = scores["intervals"].get(name, (None, None))
            value = scores["total"] if name == "total" else scores["tasks"].get(name)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_floor": scores["floor"].get(name)}
        rows.append(row | {key: model[key] for key in COST})
    with atomic_path(folder / "results.csv") as tmp_path:
        pl.DataFrame(rows, infer_schema_length=None).write_csv(tmp_path)
