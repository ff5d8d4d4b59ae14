"""What a study makes: runs, heads on frozen features, and systems that combine them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from triaffect.training.config import DataConfig, ModelConfig, TrainConfig


@dataclass
class Heads:
    """Heads, with or without a temporal model, to train on frozen features.

    Attributes:
        features: Where the features are from, side by side: runs of the study, encoders of it, or model folders.
        config: What is trained; `data.features` and `model.pretrained` are filled in when the features exist.
        joint: Train all heads together, see `trainer.train_heads`.
    """

    features: list[str]
    config: TrainConfig
    joint: bool = False


SYSTEM_KINDS = {"joined": "joined", "tuned": "tuned", "fusions": "fusion", "blends": "blend"}
"""Key in the study file -> kind of the systems below it, in an order in which they can be made."""


@dataclass
class System:
    """A system that combines models of the study.

    Attributes:
        kind: `joined` (models of different tasks that count as one system), `tuned` (one model with fitted
            post-processing), `fusion` (late fusion) or `blend` (an average with fitted weights).
        members: The models; the multi-task model of a fusion is the last.
        lambdas: λ of a fusion: `paper`, `tuned`, or λ by task.
    """

    kind: str
    members: list[str]
    lambdas: str | dict[str, float] = "paper"


@dataclass
class Submission:
    """Files for the organisers of a challenge.

    Attributes:
        model: The system whose predictions are written.
        sample: The organisers' sample submission or list of images.
        images: The folder of its images; None for that of the index.
        track: One of `data.submission.TRACKS`.
    """

    model: str
    sample: str
    images: str | None = None
    track: str = "mtl"


@dataclass
class Search:
    """A hyper-parameter search: the run to vary (with several seeds, that of the first), and values to try per key."""

    run: str
    keys: dict[str, Any]


@dataclass
class StudyPlan:
    """A study, resolved.

    Attributes:
        title: Title of the report.
        question: What the study asks, in one sentence.
        runs: Name -> config of each run.
        encoders: Name -> frozen backbone: a model folder, or the keys of a model to make.
        heads: Name -> heads on frozen features.
        systems: Name -> system that combines models, in an order in which they can be made.
        submission: What is written for the organisers.
        compare: Pairs of models to test against each other; None for all pairs with the same tasks.
        seeds: Name in the study file -> names of its models, one per seed.
        paper: The paper's figures, as the study file has them.
        search: The hyper-parameter search.
        raw: The study as plain data, for `study.yaml`.
        tasks: Name -> tasks of every model, in an order in which the models can be made.
    """

    title: str
    question: str
    runs: dict[str, TrainConfig] = field(default_factory=dict)
    encoders: dict[str, str | ModelConfig] = field(default_factory=dict)
    heads: dict[str, Heads] = field(default_factory=dict)
    systems: dict[str, System] = field(default_factory=dict)
    submission: Submission | None = None
    compare: list[tuple[str, str]] | None = None
    seeds: dict[str, list[str]] = field(default_factory=dict)
    paper: dict[str, Any] | None = None
    search: Search | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def members(self, name: str) -> list[str]:
        """Return the models that a system consists of; none for a trained model."""
        return self.systems[name].members if name in self.systems else []

    def trained_parts(self, name: str) -> list[str]:
        """Return the trained models that a system consists of, each once."""
        members = self.members(name)
        return list(dict.fromkeys(part for member in members for part in self.trained_parts(member))) or [name]

    def kind(self, name: str) -> str:
        """Return what kind of model a name is, as in `report.results.ModelResult`."""
        if name in self.systems:
            return self.systems[name].kind
        if name in self.heads:
            return "heads"
        return "multi" if len(self.tasks[name]) > 1 else "single"

    @property
    def configs(self) -> dict[str, TrainConfig]:
        """Name -> config of every trained model."""
        return {**self.runs, **{name: heads.config for name, heads in self.heads.items()}}

    @property
    def data(self) -> DataConfig:
        """The data of the first model; the keys `recipe.EVALUATED` are the same in all."""
        return next(iter(self.configs.values())).data

    @property
    def split(self) -> str:
        """The split that all models are evaluated on."""
        return self.data.val

    def evaluated(self) -> str | None:
        """The name of the file in the study folder that holds the evaluated frames, if they are a part of the split."""
        return "evaluated.parquet" if self.data.val_fraction < 1 or self.data.val_stride > 1 else None

    @property
    def classes(self) -> int:
        """The number of expressions that all models are evaluated on."""
        return next(iter(self.configs.values())).model.classes
