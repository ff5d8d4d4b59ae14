"""A study folder, read for its page: results, labels, what each model predicted, how each run learned.

Nothing here fails for a piece that is missing: it becomes None, and a note says what is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from triaffect.data.index import load_index, provenance
from triaffect.data.predictions import load_predictions
from triaffect.io import InputError, inside
from triaffect.labels import LABEL_COLUMNS, PREDICTION_COLUMNS, TASKS, VA
from triaffect.metrics.matching import locate

Model = dict[str, Any]

PREFIX = "predicted_"
"""Of prediction columns beside labels, as in `annotations.predictions.align`."""


@dataclass
class Study:
    """What `triaffect study` left in a folder.

    Attributes:
        folder: The study folder.
        results: `results.json`.
        models: Its models that have scores.
        index: All labels; None where the index is not there any more.
        labels: Those of the judged split.
        images: The image root; None where it is not there any more.
        notes: What could not be read, in sentences.
    """

    folder: Path
    results: dict[str, Any]
    models: list[Model]
    index: pl.DataFrame | None = None
    labels: pl.DataFrame | None = None
    images: Path | None = None
    notes: list[str] = field(default_factory=list)
    _beside: dict[str, pl.DataFrame | None] = field(default_factory=dict)

    @staticmethod
    def read(folder: str | os.PathLike[str]) -> Study:
        """Reads a study folder.

        Raises:
            InputError: It holds no `results.json` with a list of models.
        """
        path = Path(folder, "results.json")
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise InputError(f"{folder}: holds no results.json; name a folder that `triaffect study` made") from None
        except ValueError as error:
            raise InputError(f"{path}: is no JSON ({error}); run the study again") from None
        if not isinstance(results, dict) or not isinstance(results.get("models"), list):
            raise InputError(f"{path}: lists no models; run the study again")
        study = Study(Path(folder), results, [model for model in results["models"] if model.get("scores")])
        study._read_labels()
        return study

    def _read_labels(self) -> None:
        name = str(self.results.get("index") or "")
        found = self._found(name)
        if found is None:
            self.notes.append(f"The index {name!r} is not there any more; what needs the labels is left out.")
            return
        try:
            self.index = load_index(found)
            self.labels = load_index(found, self.results.get("split"))
        except InputError as error:
            self.notes.append(f"{error}; what needs the labels is left out.")
            return
        images = str(self.results.get("images") or provenance(found).get("images") or "")
        self.images = self._found(images)
        if self.images is None:
            self.notes.append(f"The images {images!r} are not there any more; frames are shown without them.")

    def _found(self, name: str) -> Path | None:
        """A path as it was given to `triaffect study`, which ran here or in a folder above its own."""
        places = (Path(), self.folder, *self.folder.resolve().parents)
        return next((place / name for place in places if name and (place / name).exists()), None)

    @property
    def tasks(self) -> list[str]:
        """The tasks that any model predicts."""
        return [task for task in TASKS if any(task in model["scores"]["tasks"] for model in self.models)]

    def complete(self, model: Model) -> bool:
        """Whether a model predicts all tasks of the study, so that its total compares with others."""
        return len(model["scores"]["tasks"]) == len(self.tasks)

    def leading(self, task: str, most: int = 3) -> list[Model]:
        """The models to look at closely for a task, best first.

        One that merely repeats the score of another (three single-task models joined) is passed over.
        """
        ranked: dict[float, Model] = {}
        for model in sorted(self.models, key=lambda model: -len(model["scores"]["tasks"])):
            if task in model["scores"]["tasks"]:
                ranked.setdefault(model["scores"]["tasks"][task], model)
        return [ranked[score] for score in sorted(ranked, reverse=True)][:most]

    def best(self) -> dict[str, Model]:
        """Task -> the model whose frames are shown: one with the highest total of all tasks, or each task's best."""
        whole = [model for model in self.models if self.complete(model)]
        if whole:
            return dict.fromkeys(self.tasks, max(whole, key=lambda model: model["scores"]["total"]))
        return {task: self.leading(task, 1)[0] for task in self.tasks}

    def beside(self, model: Model) -> pl.DataFrame | None:
        """The labels with a model's predictions beside them as `predicted_<column>` and `filled`, null where none."""
        name = model["name"]
        if name not in self._beside:
            self._beside[name] = self._joined(model)
        return self._beside[name]

    def _joined(self, model: Model) -> pl.DataFrame | None:
        if self.labels is None or not model.get("predictions"):
            return None
        try:
            found = load_predictions(inside(self.folder, model["predictions"]))
        except InputError as error:
            self.notes.append(f"{error}; what needs these predictions is left out.")
            return None
        places = locate(found, self.labels)
        columns = [found[c].gather(places).alias(PREFIX + c) for c in found.columns if c not in ("image", "filled")]
        filled = found["filled"] if "filled" in found.columns else pl.repeat(False, found.height, eager=True)
        return self.labels.with_columns(*columns, filled.gather(places).fill_null(True).alias("filled"))

    def shown(self) -> pl.DataFrame | None:
        """The labels beside the predictions of `best`, with the column `error` of `frame_error`."""
        tables = {task: self.beside(model) for task, model in self.best().items()}
        held = {task: table for task, table in tables.items() if table is not None}
        if not held:
            return None
        names = [(table, PREFIX + name) for task, table in held.items() for name in PREDICTION_COLUMNS[task]]
        columns = {name: table[name] for table, name in names}
        filled = pl.select(pl.any_horizontal(table["filled"] for table in held.values())).to_series()
        table = next(iter(held.values())).select(self.labels.columns if self.labels is not None else [])
        return table.with_columns(**columns, filled=filled).with_columns(**frame_error(list(held)))

    def curves(self, model: Model) -> pl.DataFrame | None:
        """The `metrics.csv` of a model's run, where it has one."""
        if not model.get("run"):
            return None
        try:
            table = pl.read_csv(inside(self.folder, model["run"]) / "metrics.csv", infer_schema_length=None)
        except (InputError, OSError, pl.exceptions.PolarsError):
            self.notes.append(f"{model['run']}/metrics.csv cannot be read; the run's curves are left out.")
            return None
        return table if table.height and "epoch" in table.columns else None


def frame_error(tasks: Sequence[str]) -> dict[str, pl.Expr]:
    """How far a frame's predictions are from its labels, 0 (right) to 1 (as wrong as can be).

    The mean over the tasks that the frame is labelled for: half the mean distance of valence and arousal; one minus
    the label's probability; the mean distance of the AUs' probabilities from 0 and 1.

    Returns:
        `error` (null where nothing is labelled) and `judged`, the number of those tasks.
    """
    parts = []
    if "va" in tasks:
        parts.append(pl.mean_horizontal((pl.col(name) - pl.col(PREFIX + name)).abs() / 2 for name in VA))
    if "expr" in tasks:
        chances = [PREFIX + name for name in PREDICTION_COLUMNS["expr"]]
        own = [pl.when(pl.col("expression") == code).then(pl.col(chance)) for code, chance in enumerate(chances)]
        parts.append(1 - pl.coalesce(own))
    if "au" in tasks:
        parts.append(pl.mean_horizontal((pl.col(name) - pl.col(PREFIX + name)).abs() for name in LABEL_COLUMNS["au"]))
    return {"error": pl.mean_horizontal(parts), "judged": pl.sum_horizontal(part.is_not_null() for part in parts)}


def extremes(shown: pl.DataFrame, n: int = 10) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The frames with the highest and those with the lowest error, each image once.

    Frames of a video resemble each other, so a video gives at most two, or as many as it takes to have n. Only frames
    that were seen (a crop, a prediction of its own) and that are labelled for the most tasks.

    Args:
        shown: From `Study.shown`.
        n: Frames a side.

    Returns:
        Worst first; best first.
    """
    rows = shown.filter(pl.col("exists").fill_null(True) & ~pl.col("filled") & pl.col("error").is_finite())
    rows = rows.filter(pl.col("judged") == pl.col("judged").max()).unique("image", keep="first", maintain_order=True)
    most = max(2, -(-n // max(1, rows["video"].n_unique())))
    sides = (rows.sort("error", "image", descending=[descending, False]) for descending in (True, False))
    worst, best = (side.filter(pl.int_range(pl.len()).over("video") < most).head(n) for side in sides)
    return worst, best


def typical_videos(shown: pl.DataFrame, n: int = 4) -> list[str]:
    """Videos from the lowest mean error to the highest, evenly spread; of those with ten frames or more."""
    each = shown.filter(pl.col("error").is_finite()).group_by("video").agg(pl.col("error").mean(), frames=pl.len())
    each = each.filter(pl.col("frames") >= min(10, each["frames"].max() or 0)).sort("error", "video")
    places = [round(i * (each.height - 1) / max(1, n - 1)) for i in range(n)] if each.height else []
    return [each["video"][place] for place in dict.fromkeys(places)]


def epochs_to(scores: Sequence[float | None], share: float = 0.9) -> int | None:
    """Position, from 1, of the first epoch that reaches a share of the run's best score; None without one above 0."""
    known = [score for score in scores if score is not None and score == score]
    if not known or max(known) <= 0:
        return None
    enough = share * max(known)
    return next(i for i, score in enumerate(scores, 1) if score is not None and score >= enough)
