"""From the predictions of a study to its results: joined systems, fusions, scores and paired tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from triaffect.data.index import source_video
from triaffect.data.predictions import load_predictions, save_predictions
from triaffect.inference.predict import predict
from triaffect.io import InputError, atomic_path, write_text
from triaffect.labels import TASKS
from triaffect.metrics.blending import tune_blend
from triaffect.metrics.fusion import DEFAULT_LAMBDAS, fuse, tune_fusion
from triaffect.metrics.scores import Comparison, Scores, compare, score
from triaffect.metrics.tuning import tune
from triaffect.report.results import (
    COST_KEYS,
    ComparisonResult,
    Difference,
    HalvesResult,
    ModelResult,
    StudyResults,
    TuningResult,
)
from triaffect.report.study_folder import epochs_to
from triaffect.study.plan import StudyPlan, System
from triaffect.training.config import TrainConfig
from triaffect.training.model import load_model
from triaffect.training.run_folder import read_summary

Attempt = Callable[..., Any]
"""`attempt(name, function, *arguments, **options)` calls a function; if it fails, notes the reason and returns None."""

Made = tuple[pl.DataFrame, dict[str, Any]]
"""Predictions of a system, and their provenance."""

MAX_PAIRS = 15
"""Number of tests between models if a study names none: every pair of six models."""

HALVES = ("first half", "second half")


def predictions_file(folder: Path, name: str) -> Path:
    """The file in a study folder with the predictions of a model."""
    return folder / "predictions" / f"{name}.parquet"


@dataclass
class Combined:
    """What `combine` returns.

    Attributes:
        tuning: Tuned λ.
        halves: Fusions by halves of the videos.
        lambdas: Fusion -> task -> λ.
        weights: Blend -> task -> weight of each member, in their order.
    """

    tuning: list[TuningResult] = field(default_factory=list)
    halves: list[HalvesResult] = field(default_factory=list)
    lambdas: dict[str, dict[str, float]] = field(default_factory=dict)
    weights: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def predict_run(
    run: Path, config: TrainConfig, rows: pl.DataFrame, images: str | Path, path: Path, source: Mapping[str, Any]
) -> pl.DataFrame:
    """Predict images with the model of a run, unless a file holds their predictions and is newer than the run.

    Args:
        run: The folder of a finished run.
        config: Its config.
        rows: The images, as rows of an index.
        images: Their folder, or a packed file.
        path: The predictions file.
        source: What to add to its provenance.
    """
    if path.is_file() and path.stat().st_mtime > (run / "summary.json").stat().st_mtime:
        table = load_predictions(path)
        if rows["image"].n_unique() == table.height and rows["image"].is_in(table["image"].implode()).all():
            return table
    model, device = load_model(run), "cpu" if config.training.accelerator == "cpu" else "auto"
    options: dict[str, Any] = {"workers": config.data.workers, "device": device, "progress": sys.stderr.isatty()}
    table = predict(model, rows, images, fill="nearest", **options)
    save_predictions(table, path, {"model": str(run), **source, "fill": "nearest", "trained": model.provenance})
    return table


def combine(plan: StudyPlan, folder: Path, index: pl.DataFrame, attempt: Attempt) -> Combined:
    """Make the predictions of joined, post-processed, fused and blended systems, in `folder`/predictions.

    Those of post-processed systems and blends are cross-fitted: each fold of source videos with what was fitted on the
    others. What was fitted on all videos is for other videos; post-processing is written to `folder`/post.

    Args:
        plan: The study.
        folder: The study folder, with the predictions of runs and heads.
        index: The frames that the models are evaluated on.
        attempt: Calls a function and notes its failure.
    """
    tunings: dict[tuple[str, ...], TuningResult] = {}
    combined = Combined()

    def make(name: str, system: System) -> None:
        tables = []
        for member in system.members:
            path = predictions_file(folder, member)
            if not path.is_file():
                raise InputError(f"needs {member}, which is missing")
            tables.append(load_predictions(path))
        predictions, details = makers[system.kind](name, system, tables)
        save_predictions(predictions, predictions_file(folder, name), {"study": plan.title, **details})

    def join(name: str, system: System, tables: list[pl.DataFrame]) -> Made:
        return fuse_all(tables), {"joined": system.members}

    def post_process(name: str, system: System, tables: list[pl.DataFrame]) -> Made:
        [model], [table] = system.members, tables
        tuned = tune(table, index, classes=plan.classes)
        replace(tuned.post, source={"study": plan.title, "model": model}).save(folder / "post" / f"{name}.json")
        return tuned.predictions, {"tuned": model, "folds": tuned.folds}

    def fuse_late(name: str, system: System, tables: list[pl.DataFrame]) -> Made:
        members = tuple(system.members)
        if members not in tunings:
            lambdas, tuning = tune_fusion(tables[:-1], tables[-1], index, classes=plan.classes)
            curves, scores = tuning.curves.to_dicts(), tuning.scores.to_dicts()
            *single, multi = members
            tunings[members] = TuningResult(name, single, multi, lambdas, tuning.folds, curves, scores)
        lambdas = dict(tunings[members].lambdas)
        if system.lambdas == "tuned":
            fused, rows = _fuse_by_halves(name, tables, index, plan.classes)
            combined.halves.extend(rows)
        else:
            by_hand = DEFAULT_LAMBDAS | (system.lambdas if isinstance(system.lambdas, dict) else {})
            lambdas = {task: by_hand[task] for task in lambdas}
            fused = fuse_all(tables, lambdas)
        combined.lambdas[name] = lambdas
        return fused, {"fusion": system.members, "lambdas": lambdas}

    def average(name: str, system: System, tables: list[pl.DataFrame]) -> Made:
        blend = tune_blend(tables, index, classes=plan.classes)
        combined.weights[name] = blend.weights
        return blend.cross_fitted, {"blend": system.members, "weights": blend.weights}

    makers = {"joined": join, "tuned": post_process, "fusion": fuse_late, "blend": average}
    for name, system in plan.systems.items():
        attempt(name, make, name, system)
    combined.tuning = [*tunings.values()]
    return combined


def fuse_all(tables: Sequence[pl.DataFrame], lambdas: Mapping[str, float] | None = None) -> pl.DataFrame:
    """Fuse the last table with the others; a single one is returned as it is."""
    return fuse(tables[:-1], tables[-1], lambdas) if len(tables) > 1 else tables[0]


def split_halves(index: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split an index into two halves by source video; the persons of one video stay together.

    The videos with rare expressions come first in the order of which every second one is taken, so that both halves
    have every expression.
    """
    video = pl.col("video").fill_null("")
    sources = {name: source_video(name) for name in index.select(video.unique()).to_series()}
    source = video.replace_strict(sources, return_dtype=pl.String)
    rare = pl.when(pl.col("expression").is_not_null()).then(1 / pl.len().over("expression"))
    weighted = index.with_columns(source=source, rare=rare)
    order = weighted.group_by("source").agg(pl.col("rare").sum()).sort("rare", "source", descending=[True, False])
    in_first = source.is_in(order["source"].gather_every(2).implode())
    return index.filter(in_first), index.filter(~in_first)


def _fuse_by_halves(
    name: str, tables: list[pl.DataFrame], index: pl.DataFrame, classes: int
) -> tuple[pl.DataFrame, list[HalvesResult]]:
    """Fuse each half of the videos with the λ tuned on the other.

    Returns:
        Predictions of the whole split; one row per half and task with the scores.
    """
    halves = split_halves(index)
    if not all(half.height for half in halves):  # a single video
        return fuse_all(tables, tune_fusion(tables[:-1], tables[-1], index, classes=classes)[0]), []
    fused, rows = [], []
    for scored, tuned in ((0, 1), (1, 0)):
        lambdas, _ = tune_fusion(tables[:-1], tables[-1], halves[tuned], classes=classes)
        in_half = pl.col("image").is_in(halves[scored]["image"].implode())
        parts = [table.filter(in_half) for table in tables]
        fused.append(fuse_all(parts, lambdas))
        variants = {"single": fuse_all(parts, dict.fromkeys(TASKS, 1.0)), "multi": parts[-1], "tuned": fused[-1]}
        scores = {
            kind: score(table, halves[scored], resamples=0, classes=classes).tasks for kind, table in variants.items()
        }
        for task in (task for task in TASKS if task in lambdas and task in scores["multi"]):
            values = {kind: tasks[task] for kind, tasks in scores.items()}
            rows.append(HalvesResult(name, task, HALVES[tuned], HALVES[scored], lambdas[task], **values))
    order = tables[-1].select("image")
    return order.join(pl.concat(fused), on="image", how="left", maintain_order="left"), rows


def evaluate(
    plan: StudyPlan, folder: Path, index: str | Path, attempt: Attempt, combined: Combined
) -> tuple[list[ModelResult], list[ComparisonResult]]:
    """Score every model of a study and test the models against each other, by their mean over the seeds.

    Args:
        plan: The study.
        folder: The study folder, with the predictions of all models.
        index: The index file whose frames of the plan's split the models are evaluated on.
        attempt: Calls a function and notes its failure.
        combined: What the systems were combined with.

    Returns:
        Models with their scores, and comparisons; the tables of scores are written to `scores.txt`.
    """
    options: dict[str, Any] = {"split": plan.split, "classes": plan.classes}
    models, texts, tables = [], [], {}
    for name in plan.tasks:
        path = predictions_file(folder, name)
        scores: Scores | None = attempt(name, score, path, index, **options) if path.is_file() else None
        if scores is None:
            continue
        tables[name] = load_predictions(path)
        texts.append(f"{name}\n\n{scores.table()}\n")
        models.append(_describe(plan, folder, name, scores, combined))
    write_text(folder / "scores.txt", "\n\n".join(texts))
    scored = {model.name: model.tasks for model in models}
    by_seed = {name: [tables[seed] for seed in seeds if seed in tables] for name, seeds in plan.seeds.items()}
    comparisons = []
    for a, b in _pairs(plan, {name: scored[seeds[0]] for name, seeds in plan.seeds.items() if seeds[0] in scored}):
        comparison: Comparison | None = attempt(f"{a} against {b}", compare, by_seed[a], by_seed[b], index, **options)
        if comparison is not None:
            measures = {}
            for name in (name for name in (*TASKS, "total") if name in comparison.difference):
                low, high = comparison.intervals.get(name, (None, None))
                measures[name] = Difference(comparison.difference[name], low, high, comparison.p[name])
            comparisons.append(ComparisonResult(a, b, measures))
    return models, comparisons


def _pairs(plan: StudyPlan, scored: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """The pairs that the study names, or all with the same tasks, those with the most tasks first."""
    pairs = plan.compare
    if pairs is None:
        same_tasks = [(a, b) for a, b in combinations(scored, 2) if scored[a] == scored[b]]
        pairs = sorted(same_tasks, key=lambda pair: -len(scored[pair[0]]))[:MAX_PAIRS]
    return [(a, b) for a, b in pairs if a in scored and b in scored]


def _describe(plan: StudyPlan, folder: Path, name: str, scores: Scores, combined: Combined) -> ModelResult:
    members = plan.members(name)
    weights = {task: dict(zip(members, shares, strict=True)) for task, shares in combined.weights.get(name, {}).items()}
    return ModelResult(
        name,
        plan.kind(name),
        list(scores.tasks),
        scores,
        predictions=f"predictions/{name}.parquet",
        run=None if members else f"runs/{name}",
        members=members or None,
        lambdas=combined.lambdas.get(name),
        weights=weights or None,
        parameters=sum(read_summary(folder / "runs" / part)["parameters"] for part in plan.trained_parts(name)),
        select=None if members else plan.configs[name].training.select,
        **({} if members else _cost(folder / "runs" / name)),
    )


def _cost(run: Path) -> dict[str, Any]:
    """Epochs, time and energy of a run, from its `metrics.csv` and `summary.json`."""
    metrics = pl.read_csv(run / "metrics.csv", infer_schema_length=None)
    return {
        "epochs": metrics.height,
        "kept_epoch": read_summary(run)["best"]["epoch"],
        "epochs_to_90": epochs_to(metrics["val/total"].to_list()),
        "seconds_per_epoch": metrics["seconds"].median(),
        "images_per_second": metrics["images_per_second"].median(),
        "energy_joules": metrics["energy_joules"].sum() if "energy_joules" in metrics.columns else None,
    }


def write_results(folder: Path, results: StudyResults) -> None:
    """Write `results.json`, and `results.csv` with one row per model."""
    write_text(folder / "results.json", json.dumps(asdict(results), indent=1) + "\n")
    rows = []
    for model in results.models:
        row: dict[str, Any] = {"name": model.name, "kind": model.kind, "tasks": "+".join(model.tasks)}
        for name in (*TASKS, "total"):
            low, high = model.scores.intervals.get(name, (None, None))
            row |= {
                name: model.score(name),
                f"{name}_low": low,
                f"{name}_high": high,
                f"{name}_baseline": model.scores.baseline.get(name),
            }
        rows.append(row | {key: getattr(model, key) for key in COST_KEYS})
    with atomic_path(folder / "results.csv") as tmp_path:
        pl.DataFrame(rows, infer_schema_length=None).write_csv(tmp_path)
