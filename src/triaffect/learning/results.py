"""From a study's predictions to its results: joined systems, fusions, scores, halves, paired tests, in plain data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from triaffect.annotations.index import load_index, source_video
from triaffect.annotations.predictions import load_predictions, save_predictions, tasks_of
from triaffect.files import InputError, replacing, write_text
from triaffect.labels import LABEL_COLUMNS, TASKS
from triaffect.learning.recipe import Fusion, Recipe
from triaffect.scoring.fusion import DEFAULT_LAMBDAS, fuse, mean, tune_fusion
from triaffect.scoring.metrics import Comparison, Scores, paired_bootstrap, score

Attempt = Callable[..., Any]
"""`attempt(name, function, *given)` calls a function; a failure is noted under the name, and None comes back."""

MOST_PAIRS = 15
"""Of tests between models where a recipe names none: each pair of six."""

HALVES = ("first half", "second half")


def combine(recipe: Recipe, folder: Path, attempt: Attempt) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Makes the predictions of joined systems, fusions and means, in `folder`/predictions.

    Args:
        recipe: The study.
        folder: The study folder; it holds the predictions of runs and heads.
        attempt: Notes what fails.

    Returns:
        `tuning` and `halves` of results.json.
    """
    tuning: dict[tuple[str, ...], dict[str, Any]] = {}
    halves: list[dict[str, Any]] = []
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

    def average(name: str, members: list[str], weights: list[float] | None) -> None:
        save(name, mean([table(member) for member in members], weights), {"mean": members, "weights": weights})

    def late(name: str, fusion: Fusion) -> None:
        single, multi = [table(member) for member in fusion.single], table(fusion.multi)
        pair = (*fusion.single, fusion.multi)
        if pair not in tuning:
            tuning[pair] = _tuning(name, fusion, single, multi, index)
        if fusion.lambdas == "tuned":
            fused, rows = _by_halves(name, single, multi, index)
            halves.extend(rows)
            lambdas = tuning[pair]["lambdas"]
            found = fuse(single, multi, lambdas) if fused is None else fused
        else:
            given = fusion.lambdas if isinstance(fusion.lambdas, dict) else {}
            lambdas = {task: float(given.get(task, DEFAULT_LAMBDAS[task])) for task in tuning[pair]["lambdas"]}
            found = fuse(single, multi, lambdas)
        save(name, found, {"fusion": [*pair], "lambdas": lambdas})

    for name, members in recipe.joined.items():
        attempt(name, join, name, members)
    for name, fusion in recipe.fusions.items():
        attempt(name, late, name, fusion)
    for name, (members, weights) in recipe.means.items():
        attempt(name, average, name, members, weights)
    return list(tuning.values()), halves


def _tuning(
    name: str, fusion: Fusion, single: list[pl.DataFrame], multi: pl.DataFrame, index: pl.DataFrame
) -> dict[str, Any]:
    lambdas, found = tune_fusion(single, multi, index)
    scores = found.scores.rename({"fixed": "paper", "cross_fitted": "tuned"}).to_dicts()
    return {"name": name, "single": fusion.single, "multi": fusion.multi, "lambdas": lambdas, "folds": found.folds} | {
        "curves": found.curves.to_dicts(),
        "scores": scores,
    }


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
) -> tuple[pl.DataFrame | None, list[dict[str, Any]]]:
    """Each half of the videos fused with the λ of the other: the whole split's predictions, and what they score."""
    parts = split_halves(index)
    if not all(part.height for part in parts):
        return None, []
    fused, rows = [], []
    for here in (0, 1):
        lambdas, _ = tune_fusion(single, multi, parts[1 - here])
        own = [table.filter(pl.col("image").is_in(parts[here]["image"].implode())) for table in (*single, multi)]
        fused.append(fuse(own[:-1], own[-1], lambdas))
        for task, share in lambdas.items():
            if not parts[here].select(pl.any_horizontal(pl.col(LABEL_COLUMNS[task]).is_not_null()).any()).item():
                continue
            holder = next(table for table in own[:-1] if task in tasks_of(table))
            scores = {
                key: score(table, parts[here], tasks=[task], resamples=0).tasks[task]
                for key, table in (("single", holder), ("multi", own[-1]), ("tuned", fused[-1]))
            }
            sides = {"tuned_on": HALVES[1 - here], "scored_on": HALVES[here]}
            rows.append({"name": name, "task": task, **scores, "lambda": share, **sides})
    order = multi.select("image")
    return order.join(pl.concat(fused), on="image", how="left", maintain_order="left"), rows


def judge(recipe: Recipe, folder: Path, attempt: Attempt) -> dict[str, Any]:
    """Scores every model of a study and tests them against each other.

    Args:
        recipe: The study.
        folder: The study folder, with the predictions of all its models.
        attempt: Notes what fails.

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
        models.append({"name": name, **_described(recipe, folder, name, found), "scores": found.to_dict()})
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


def _described(recipe: Recipe, folder: Path, name: str, scores: Scores) -> dict[str, Any]:
    members: list[str] | None = None
    lambdas = None
    if name in recipe.runs or name in recipe.heads:
        tasks = recipe.tasks[name]
        kind = "heads" if name in recipe.heads else ("multi" if len(tasks) > 1 else "single")
    elif name in recipe.joined:
        kind, members = "joined", recipe.joined[name]
    elif name in recipe.means:
        kind, members = "mean", recipe.means[name][0]
    else:
        fusion = recipe.fusions[name]
        kind, members = "fusion", [*fusion.single, fusion.multi]
        path = folder / "predictions" / f"{name}.parquet"
        lambdas = json.loads(pl.read_parquet_metadata(path)["triaffect"])["lambdas"]
    run = folder / "runs" / name if members is None else None
    return {
        "kind": kind,
        "tasks": list(scores.tasks),
        "predictions": f"predictions/{name}.parquet",
        "run": f"runs/{name}" if run else None,
        **(_cost(run) if run else dict.fromkeys(COST)),
        "parameters": _parameters(recipe, folder, name),
        "members": members,
        "lambdas": lambdas,
    }


COST = ("parameters", "epochs", "epochs_to_90", "seconds_per_epoch", "images_per_second", "energy_joules")


def _cost(run: Path) -> dict[str, Any]:
    """What a run took, from its `metrics.csv`."""
    metrics = pl.read_csv(run / "metrics.csv", infer_schema_length=None)
    values = metrics["val/total"].to_numpy()
    near = np.flatnonzero(values >= 0.9 * values.max()) if values.max() > 0 else np.zeros(0)
    energy = metrics["energy_joules"].sum() if "energy_joules" in metrics.columns else None
    return {
        "epochs": metrics.height,
        "epochs_to_90": int(near[0]) + 1 if len(near) else None,
        "seconds_per_epoch": metrics["seconds"].median(),
        "images_per_second": metrics["images_per_second"].median(),
        "energy_joules": energy,
    }


def _parameters(recipe: Recipe, folder: Path, name: str) -> int:
    """Of a model, or of all models that a system runs; each counted once."""
    parts, todo = set(), [name]
    while todo:
        part = todo.pop()
        if part in recipe.runs or part in recipe.heads:
            parts.add(part)
        elif part in recipe.fusions:
            todo += [*recipe.fusions[part].single, recipe.fusions[part].multi]
        else:
            todo += recipe.joined.get(part) or recipe.means[part][0]
    summaries = [folder / "runs" / part / "summary.json" for part in sorted(parts)]
    return sum(json.loads(path.read_text(encoding="utf-8"))["parameters"] for path in summaries)


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
    with replacing(folder / "results.csv") as beside:
        pl.DataFrame(rows, infer_schema_length=None).write_csv(beside)
