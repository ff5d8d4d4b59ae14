"""The results of a study as typed data: the one schema of `results.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from triaffect.labels import TASKS
from triaffect.metrics.scores import Scores

COST_KEYS = ("parameters", "epochs", "epochs_to_90", "seconds_per_epoch", "images_per_second", "energy_joules")


@dataclass
class ModelResult:
    """One model of a study.

    Attributes:
        name: Its name.
        kind: `single`, `multi`, `heads` (on frozen features), `joined` (models of different tasks), `tuned` (with
            post-processing), `fusion` or `blend`.
        tasks: The tasks that it predicts.
        scores: Its scores.
        predictions: Its predictions file, relative to the study folder.
        run: Its run folder, relative to the study folder; None for what consists of other models.
        members: The models that it consists of.
        lambdas: Task -> λ of a fusion.
        weights: Task -> member -> weight of a blend.
        parameters: Number of parameters.
        epochs: Epochs trained.
        kept_epoch: The epoch whose model is kept.
        select: Why that one: `training.select`.
        epochs_to_90: First epoch with 90 % of the best validation score.
        seconds_per_epoch: Median.
        images_per_second: Median.
        energy_joules: Energy of the whole training.
    """

    name: str
    kind: str
    tasks: list[str]
    scores: Scores
    predictions: str | None = None
    run: str | None = None
    members: list[str] | None = None
    lambdas: dict[str, float] | None = None
    weights: dict[str, dict[str, float]] | None = None
    parameters: int | None = None
    epochs: int | None = None
    kept_epoch: int | None = None
    select: str | None = None
    epochs_to_90: int | None = None
    seconds_per_epoch: float | None = None
    images_per_second: float | None = None
    energy_joules: float | None = None

    def score(self, name: str) -> float | None:
        """Return the score of a task, or the total."""
        return self.scores.value(name)


@dataclass
class Difference:
    """Difference of two models in one score, its 95 % interval and p-value (None with a single video)."""

    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass
class ComparisonResult:
    """Paired comparison of two models: a task or `total` -> a minus b."""

    a: str
    b: str
    measures: dict[str, Difference]


@dataclass
class TuningResult:
    """λ tuned on all videos, see `metrics.fusion.Tuning`.

    Attributes:
        name: The fusion.
        single: Its single-task models.
        multi: Its multi-task model.
        lambdas: Task -> λ to use.
        folds: Folds of videos.
        curves: Rows of task, lambda and score.
        scores: Rows of task, single, multi, paper, cross_fitted and in_sample.
    """

    name: str
    single: list[str]
    multi: str
    lambdas: dict[str, float]
    folds: int
    curves: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class HalvesResult:
    """One task of a fusion on one half of the videos, with the λ (`share`) that is tuned on the other half."""

    name: str
    task: str
    tuned_on: str
    scored_on: str
    share: float
    single: float
    multi: float
    tuned: float


@dataclass
class Trial:
    """One trial of a search: the values that it tries and its score, None if it failed."""

    number: int
    values: dict[str, Any]
    score: float | None
    state: str = ""


@dataclass
class SearchResult:
    """A hyper-parameter search."""

    trials: list[Trial]
    best: Trial | None = None


@dataclass
class Failure:
    """A model that could not be made, and why."""

    name: str
    reason: str


@dataclass
class SubmissionResult:
    """A file for the organisers of a challenge: from which model, by which sample, and counts of its rows."""

    file: str
    model: str
    sample: str
    track: str
    rows: int
    videos: int
    filled: int


@dataclass
class StudyResults:
    """Everything in `results.json`.

    Attributes:
        title: Title of the study.
        question: What it asks.
        answer: The answer, in sentences.
        models: Models with their scores.
        comparisons: Paired tests.
        tuning: λ of every fusion.
        halves: Fusions tuned on one half of the videos and scored on the other.
        search: The hyper-parameter search.
        submission: What was written for the organisers.
        notes: Leaks between splits and other findings before the first run.
        failures: What failed.
        paper: The paper's figures: source, dataset, note and rows.
        same_data: Whether the index is the paper's data set.
        study: The study file.
        index: The index file.
        images: The image root or packed file.
        split: The split that the models are evaluated on.
        evaluated: The index of the frames that they are evaluated on, relative to the study folder, if it is a part of
            the split.
        seconds: Time of the whole study.
        commands: Shell commands that repeat it.
        environment: Machine and versions.
        triaffect: Version of triaffect.
    """

    title: str = ""
    question: str = ""
    answer: list[str] = field(default_factory=list)
    models: list[ModelResult] = field(default_factory=list)
    comparisons: list[ComparisonResult] = field(default_factory=list)
    tuning: list[TuningResult] = field(default_factory=list)
    halves: list[HalvesResult] = field(default_factory=list)
    search: SearchResult | None = None
    submission: SubmissionResult | None = None
    notes: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    paper: dict[str, Any] | None = None
    same_data: bool = False
    study: str = ""
    index: str = ""
    images: str = ""
    split: str | None = None
    evaluated: str | None = None
    seconds: float | None = None
    commands: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    triaffect: str = ""

    @property
    def tasks(self) -> list[str]:
        """The tasks that any model predicts."""
        return [task for task in TASKS if any(task in model.scores.tasks for model in self.models)]
