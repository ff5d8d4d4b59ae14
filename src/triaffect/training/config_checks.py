"""Which values of a config are out of range, contradict each other, or have no effect; its spans. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from triaffect.io import InputError
from triaffect.labels import TASKS

if TYPE_CHECKING:
    from triaffect.training.config import TrainConfig

AUGMENTATION = ("flip", "rotation", "scale", "shift", "jitter", "degrade", "erase")
"""Keys of `data` that change the images of training."""

RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("data.fraction", "data.val_fraction"), (1e-9, 1.0)),
    **{f"data.{name}": (0.0, 1.0) for name in ("flip", "scale", "shift", "jitter", "degrade", "erase")},
    "data.rotation": (0.0, 180.0),
    **dict.fromkeys(("data.workers", "training.threads"), (0, 4096)),
    "data.mixup": (0.0, 100.0),
    **dict.fromkeys(("data.stride", "data.val_stride"), (1, 1_000_000)),
    **dict.fromkeys(("coupling.co_annotation", "coupling.matching"), (0.0, 1e6)),
    "model.size": (16, 2048),
    "model.fps": (0.01, 1000.0),
    "model.dropout": (0.0, 0.99),
    "losses.label_smoothing": (0.0, 1.0),
    **{f"training.{name}": (1, 1_000_000) for name in ("epochs", "batch", "accumulate")},
    "training.lr": (1e-12, 1e3),
    "training.weight_decay": (0.0, 1e3),
    **{f"training.{name}": (0, 1_000_000) for name in ("patience", "early_stop")},
    "training.clip": (0.0, 1e9),
    "training.warmup": (0.0, 1.0),
    "training.ema": (0.0, 0.9999999),
}
"""Config key -> smallest and largest value."""

BALANCING = ["balancing.method", "balancing.conflict"]
FEATURES_REFUSE = [*(f"data.{name}" for name in (*AUGMENTATION, "cache", "on_bad_image")), "model.frozen"]
TEMPORAL_REFUSES = ["data.mixup", "data.balance", "data.stride"]


def spans_of(temporal: Any, tasks: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return task -> its spans in seconds, from any form of `ModelConfig.temporal`; none for a still task."""
    by_task = temporal if isinstance(temporal, dict) else dict.fromkeys(tasks, temporal)
    scales = {task: by_task.get(task, 0.0) for task in tasks}
    lists = {task: scale if isinstance(scale, (list, tuple)) else [scale] for task, scale in scales.items()}
    return {task: tuple(float(seconds) for seconds in scale if seconds) for task, scale in lists.items()}


def check(config: TrainConfig) -> None:
    """Check that the values of a config make sense together.

    Raises:
        InputError: A value is out of its range, or an option has no effect with the others given.
    """
    for key, (low, high) in RANGES.items():
        value = attrgetter(key)(config)
        if not low <= value <= high:
            raise InputError(f"{key} is {value}; it must be between {low:g} and {high:g}")
    data, model, training = config.data, config.model, config.training
    if not model.tasks or len(set(model.tasks)) != len(model.tasks):
        raise InputError(f"model.tasks is {model.tasks}; name at least one of va, expr, au, each once")
    if training.select in TASKS and training.select not in model.tasks:
        raise InputError(f"training.select is {training.select}, which the model does not have; use total")
    features = [data.features] if isinstance(data.features, str) else data.features
    sources = [model.pretrained] if isinstance(model.pretrained, str) else model.pretrained
    if features and not (isinstance(sources, list) and len(sources) == len(features)):
        raise InputError("data.features needs its backbone; set model.pretrained to the run or model it is from")
    if isinstance(sources, list) and (len(sources) > 1 or not sources) and not features:
        raise InputError("model.pretrained lists several models, but data.features none of their features")
    if isinstance(model.pretrained, str) and model.pretrained.endswith((".pth", ".pt", ".safetensors", ".bin")):
        raise InputError(f"model.pretrained is a file of weights ({model.pretrained}); name it as model.weights")
    if (len(model.mean), len(model.std)) not in ((0, 0), (3, 3)):
        raise InputError("model.mean and model.std are three numbers each, for red, green and blue, or are left out")
    if model.std and not min(model.std) > 0:
        raise InputError(f"model.std is {model.std}; its numbers must be above 0")
    spans = spans_of(model.temporal, model.tasks)
    if wrong := [span for scales in spans.values() for span in scales if not 0 < span <= 3600]:
        raise InputError(f"model.temporal is {wrong[0]}; a span must be between 0 and 3600 seconds")
    if isinstance(model.temporal, dict) and (unknown := [task for task in model.temporal if task not in model.tasks]):
        raise InputError(f"model.temporal names {unknown[0]}, which the model does not have; leave it out")
    if model.reach * model.fps > training.batch:
        raise InputError(
            f"training.batch is {training.batch}, but model.temporal sees {round(model.reach * model.fps)} frames to "
            f"either side; set training.batch to at least that, better to four times as many"
        )
    if model.reach and not data.features:
        raise InputError("model.temporal learns from data.features; set it to a folder from triaffect features")
    coupled = config.coupling.co_annotation or config.coupling.matching
    if coupled and not {"expr"} < set(model.tasks):
        raise InputError(f"coupling goes from expr to the other tasks, but model.tasks is {model.tasks}")
    if coupled and model.classes != 8:
        raise InputError("coupling has tables of eight expressions; set model.classes to 8, or leave coupling out")
    for key, reason in _without_effect(config):
        raise InputError(f"{key} has no effect {reason}; leave it out")


def _without_effect(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Options that are set, but change nothing with the others given, and why."""
    defaults = type(config)()
    frozen = config.model.frozen or bool(config.data.features)
    gradient = config.balancing.method not in ("fixed", "uncertainty", "dwa")
    focal = "focal" in (config.losses.expr, config.losses.au)
    coupled = config.coupling.co_annotation or config.coupling.matching
    watching = config.training.schedule == "plateau" or config.training.early_stop
    rules = [
        (config.training.optimizer in ("adam", "adamw"), ["training.momentum"], "with adam and adamw"),
        (config.training.schedule != "plateau", ["training.patience"], "without training.schedule plateau"),
        (config.model.head == "linear", ["model.hidden"], "with model.head linear"),
        (config.losses.expr == "focal", ["losses.label_smoothing"], "with losses.expr focal"),
        (not focal, ["losses.gamma"], "without a focal loss"),
        (not gradient and not config.balancing.conflict, ["balancing.at"], "without comparing gradients"),
        (not config.model.reach, ["model.causal", "model.fps", "model.temporal_model"], "without model.temporal"),
        (not config.model.weights, ["model.mean", "model.std"], "without model.weights"),
        (isinstance(config.model.pretrained, (str, list)), ["model.weights"], "with a model as model.pretrained"),
        (config.data.fraction == config.data.val_fraction == 1, ["data.fraction_by"], "with data.fraction 1"),
        (not watching, ["training.watch"], "without training.schedule plateau or training.early_stop"),
        (len(config.model.tasks) == 1 and config.balancing.method != "uncertainty", BALANCING, "with a single task"),
        (not coupled, ["coupling.table"], "without coupling.co_annotation or coupling.matching"),
        (config.model.reach > 0, TEMPORAL_REFUSES, "on windows of neighbouring frames (model.temporal)"),
        (bool(config.data.features), FEATURES_REFUSE, "on data.features, which are fixed"),
        (frozen and gradient, ["balancing.method"], "on a frozen backbone, in which gradients are combined"),
        (frozen, ["balancing.conflict"], "on a frozen backbone, in which gradients are combined"),
        (config.data.cache == "device", ["data.degrade", "data.erase"], "with data.cache device"),
    ]
    for applies, keys, reason in rules:
        for key in keys:
            if applies and attrgetter(key)(config) != attrgetter(key)(defaults):
                yield key, reason
