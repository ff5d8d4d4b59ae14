"""Reading a study folder: results, labels, images, the predictions of each model and the curves of each run.

Nothing here fails if the index, images, predictions or curves are missing: notes say what is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from triaffect.data.image_store import ImageReader, open_images
from triaffect.data.index import load_index, provenance
from triaffect.data.predictions import load_predictions
from triaffect.io import InputError, from_plain, inside
from triaffect.labels import LABEL_COLUMNS, PREDICTION_COLUMNS, VA
from triaffect.metrics.matching import locate
from triaffect.report.results import ModelResult, StudyResults

PREFIX = "predicted_"
"""Of the prediction columns in a table that also has the labels."""


@dataclass
class StudyFolder:
    """What `triaffect study` left in a folder.

    Attributes:
        folder: The study folder.
        results: Its results.
        index: All labels; None if the index cannot be read.
        labels: Labels of the evaluated split.
        notes: What could not be read, in sentences.
    """

    folder: Path
    results: StudyResults
    index: pl.DataFrame | None = None
    labels: pl.DataFrame | None = None
    notes: list[str] = field(default_factory=list)
    _images: ImageReader | None = None
    _tables: dict[str, pl.DataFrame | None] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> StudyFolder:
        """Read a study folder.

        Raises:
            InputError: It holds no valid `results.json`.
        """
        path = Path(folder, "results.json")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            results = from_plain(StudyResults, {"models": data["models"], **data})
        except OSError:
            raise InputError(f"{folder}: holds no results.json; name a folder that `triaffect study` made") from None
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: is not JSON ({error}); run the study again") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}: is not the result of a study ({reason}); run the study again") from None
        study = cls(Path(folder), results)
        study._read_labels()
        return study

    def _read_labels(self) -> None:
        effect = "sections that need labels are left out"
        try:
            path = self._locate(self.results.index, f"The index {self.results.index!r} is missing")
            self.index = load_index(path)
            evaluated = inside(self.folder, self.results.evaluated) if self.results.evaluated else path
            self.labels = load_index(evaluated, self.results.split)
            effect = "frames are shown without images"
            images = str(self.results.images or provenance(path).get("images") or "")
            self._images = open_images(self._locate(images, f"The images {images!r} are missing"), self.labels["image"])
        except InputError as error:
            self.notes.append(f"{error}; {effect}.")

    def _locate(self, name: str, reason: str) -> Path:
        """Find a path that `triaffect study` was given: relative to here, to the folder or to one above it.

        Raises:
            InputError: It is nowhere; with the reason.
        """
        for place in (Path(), self.folder, *self.folder.resolve().parents):
            if name and (place / name).exists():
                return place / name
        raise InputError(reason)

    @property
    def split_rows(self) -> int:
        """Number of rows of the split that the evaluated frames are a part of."""
        return 0 if self.index is None else self.index.filter(split=self.results.split).height

    @property
    def models(self) -> list[ModelResult]:
        """The models with their scores."""
        return self.results.models

    @property
    def tasks(self) -> list[str]:
        """The tasks that any model predicts."""
        return self.results.tasks

    def has_all_tasks(self, model: ModelResult) -> bool:
        """Return whether a model predicts all tasks of the study, so that its total compares with others."""
        return len(model.scores.tasks) == len(self.tasks)

    def leading(self, task: str, count: int = 3) -> list[ModelResult]:
        """Return the best models of a task, best first.

        Of several with the same score (a single-task model, and the joined system that contains it) only the one with
        the most tasks.
        """
        by_score: dict[float, ModelResult] = {}
        for model in sorted(self.models, key=lambda model: -len(model.scores.tasks)):
            if task in model.scores.tasks:
                by_score.setdefault(model.scores.tasks[task], model)
        return [by_score[score] for score in sorted(by_score, reverse=True)][:count]

    def best(self) -> dict[str, ModelResult]:
        """Return task -> the model whose frames are shown: the one with the highest total, or the best of each task."""
        candidates = [model for model in self.models if self.has_all_tasks(model)]
        if candidates:
            return dict.fromkeys(self.tasks, max(candidates, key=lambda model: model.scores.total))
        return {task: self.leading(task, 1)[0] for task in self.tasks}

    def image(self, row: int) -> bytes | None:
        """Return the image file of a row of `labels`; None if it cannot be read."""
        try:
            return self._images(row) if self._images else None
        except OSError:
            return None

    def predictions(self, model: ModelResult) -> pl.DataFrame | None:
        """Return the labels with a model's predictions as `predicted_<column>` and `filled`, null if there is none."""
        if model.name not in self._tables:
            self._tables[model.name] = self._join(model)
        return self._tables[model.name]

    def _join(self, model: ModelResult) -> pl.DataFrame | None:
        if self.labels is None or not model.predictions:
            return None
        try:
            table = load_predictions(inside(self.folder, model.predictions))
        except InputError as error:
            self.notes.append(f"{error}; sections that need these predictions are left out.")
            return None
        places = locate(table, self.labels)
        columns = [table[c].gather(places).alias(PREFIX + c) for c in table.columns if c not in ("image", "filled")]
        filled = table["filled"] if "filled" in table.columns else pl.repeat(False, table.height, eager=True)
        return self.labels.with_columns(*columns, filled.gather(places).fill_null(True).alias("filled"))

    def best_predictions(self) -> pl.DataFrame | None:
        """Return the labels with the predictions of `best`, the columns of `frame_error`, and `row` of `labels`."""
        tables = {task: table for task, model in self.best().items() if (table := self.predictions(model)) is not None}
        if not tables or self.labels is None:
            return None
        columns = [table[PREFIX + name] for task, table in tables.items() for name in PREDICTION_COLUMNS[task]]
        filled = pl.select(pl.any_horizontal(table["filled"] for table in tables.values())).to_series()
        table = self.labels.with_columns(*columns, filled.alias("filled"))
        return table.with_columns(**frame_error(list(tables))).with_row_index("row")

    def curves(self, model: ModelResult) -> pl.DataFrame | None:
        """Return the `metrics.csv` of a model's run; None if there is none."""
        if not model.run:
            return None
        try:
            table = pl.read_csv(inside(self.folder, model.run) / "metrics.csv", infer_schema_length=None)
        except (InputError, OSError, pl.exceptions.PolarsError):
            self.notes.append(f"{model.run}/metrics.csv cannot be read; the curves of this run are left out.")
            return None
        return table if table.height and "epoch" in table.columns else None


def frame_error(tasks: Sequence[str]) -> dict[str, pl.Expr]:
    """Return how far a frame's predictions are from its labels, from 0 (right) to 1 (as wrong as possible).

    The mean over the tasks that the frame is labelled for: half the mean distance of valence and arousal; one minus
    the label's probability; the mean distance of the AUs' probabilities from 0 and 1.

    Returns:
        `error` (null if nothing is labelled) and `labelled_tasks`, the number of those tasks.
    """
    parts = []
    if "va" in tasks:
        parts.append(pl.mean_horizontal((pl.col(name) - pl.col(PREFIX + name)).abs() / 2 for name in VA))
    if "expr" in tasks:
        probabilities = [PREFIX + name for name in PREDICTION_COLUMNS["expr"]]
        of_label = [pl.when(pl.col("expression") == code).then(pl.col(p)) for code, p in enumerate(probabilities)]
        parts.append(1 - pl.coalesce(of_label))
    if "au" in tasks:
        parts.append(pl.mean_horizontal((pl.col(name) - pl.col(PREFIX + name)).abs() for name in LABEL_COLUMNS["au"]))
    count = pl.sum_horizontal(part.is_not_null() for part in parts)
    return {"error": pl.mean_horizontal(parts), "labelled_tasks": count}


def extreme_frames(table: pl.DataFrame, n: int = 10) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the frames with the highest and those with the lowest error, each image once.

    Frames of a video resemble each other, so each video gives at most two, or as many as needed for n. Only frames with
    a crop and a prediction that is not filled in, labelled for the most tasks.

    Args:
        table: From `StudyFolder.best_predictions`.
        n: Number of frames on either side.

    Returns:
        Worst first; best first.
    """
    rows = table.filter(pl.col("exists").fill_null(True) & ~pl.col("filled") & pl.col("error").is_finite())
    rows = rows.filter(pl.col("labelled_tasks") == pl.col("labelled_tasks").max())
    rows = rows.unique("image", keep="first", maintain_order=True)
    per_video = max(2, -(-n // max(1, rows["video"].n_unique())))
    sides = (rows.sort("error", "image", descending=[descending, False]) for descending in (True, False))
    worst, best = (side.filter(pl.int_range(pl.len()).over("video") < per_video).head(n) for side in sides)
    return worst, best


def typical_videos(table: pl.DataFrame, n: int = 4) -> list[str]:
    """Return videos of ten frames or more, evenly spread from the lowest mean error to the highest."""
    videos = table.filter(pl.col("error").is_finite()).group_by("video").agg(pl.col("error").mean(), frames=pl.len())
    videos = videos.filter(pl.col("frames") >= min(10, videos["frames"].max() or 0)).sort("error", "video")
    places = [round(i * (videos.height - 1) / max(1, n - 1)) for i in range(n)] if videos.height else []
    return [videos["video"][place] for place in dict.fromkeys(places)]


def epochs_to(scores: Sequence[float | None], share: float = 0.9) -> int | None:
    """Return the first epoch, from 1, that reaches a share of the run's best score; None without a score above 0."""
    numbers = [score for score in scores if score is not None and score == score]
    if not numbers or max(numbers) <= 0:
        return None
    enough = share * max(numbers)
    return next(i for i, score in enumerate(scores, 1) if score is not None and score >= enough)
