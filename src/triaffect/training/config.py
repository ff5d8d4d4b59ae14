"""The config of a training run, as dataclasses; a file in configs/ is one of these as YAML. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from triaffect.io import InputError
from triaffect.labels import TASKS, loss_key, score_key
from triaffect.training.config_checks import AUGMENTATION, check, spans_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Task = Literal["va", "expr", "au"]

CARRIED_OVER = (
    "index", "images", "train", "val", "soft", "labelled", "workers",
    "fraction", "fraction_by", "val_fraction", "val_stride",
)  # fmt: skip
"""Keys of `data` that mean the same for images and for cached features."""


@dataclass
class DataConfig:
    """Which images, and how they are augmented.

    Args:
        index: The index (or a generic table with its columns).
        images: The folder that the column `image` is relative to, or the file that `triaffect pack` wrote; by default
            the folder that the index was made with.
        train: Split to train on.
        val: Split to evaluate each epoch on.
        fraction: Share of the training split to use, drawn at random with the seed.
        fraction_by: Draw single frames, or whole videos.
        val_fraction: Share of the validation split to evaluate on; the same frames for every seed.
        val_stride: Evaluate on every n-th frame of a validation video.
        labelled: Train on frames labelled for `any` of the model's tasks, or for `all` (Asim 2024, sec. 1.11.1).
        flip: Probability of a horizontal flip.
        rotation: Largest rotation to either side, in degrees.
        scale: Largest relative change of size, as 0.1 for 0.9 to 1.1.
        shift: Largest shift along either axis, as a share of the image size.
        jitter: Largest relative change of brightness, contrast and saturation.
        degrade: Probability of a worse camera: lower resolution, blur, noise, another gamma, coarse JPEG, each drawn.
        erase: Probability of a covered patch (Zhong et al. 2020), up to a quarter of the image.
        features: A folder from `triaffect features`, with both splits: trains heads (and `model.temporal`) on them, on
            the frozen backbone of the model folder or run that `model.pretrained` names. A list joins the features of
            several encoders, whose folders `model.pretrained` lists in the same order.
        soft: Predictions files, of a teacher or with the votes of a crowd. Their values are the targets where the index
            has no label; each fills in the tasks it has.
        mixup: Parameter of the Beta distribution by which a second, mixed batch is made of each, as in MixAugment
            (Psaroudakis and Kollias 2022); 0 for none.
        balance: Draw every expression (`class`) or every video equally often; `none` draws each frame once an epoch.
        stride: Use every n-th frame of a video in an epoch, and others in the next: neighbours are almost equal.
        on_bad_image: `skip` a damaged or missing image and report it, or stop with an `error`.
        workers: Threads that decode, in each process.
        cache: `ram` keeps each decoded image in memory from its first use on (size x size x 3 bytes each, per
            process); `device` decodes all before the first epoch, keeps them on the GPU and augments them there (on
            a CPU it is `ram`).
    """

    index: str = ""
    images: str | None = None
    train: str = "train"
    val: str = "val"
    fraction: float = 1.0
    fraction_by: Literal["frame", "video"] = "frame"
    val_fraction: float = 1.0
    val_stride: int = 1
    labelled: Literal["any", "all"] = "any"
    flip: float = 0.5
    rotation: float = 10.0
    scale: float = 0.0
    shift: float = 0.0
    jitter: float = 0.0
    degrade: float = 0.0
    erase: float = 0.0
    features: str | list[str] | None = None
    soft: list[str] = field(default_factory=list)
    mixup: float = 0.0
    balance: Literal["none", "class", "video"] = "none"
    stride: int = 1
    on_bad_image: Literal["skip", "error"] = "skip"
    workers: int = 2
    cache: Literal["none", "ram", "device"] = "none"

    @property
    def augmentation(self) -> dict[str, float]:
        """The options of `augmentation.Augmentation`."""
        return {name: getattr(self, name) for name in AUGMENTATION}


@dataclass
class ModelConfig:
    """The network.

    Args:
        backbone: Any timm model name.
        tasks: One head for each; a single task makes a single-task model.
        head: `linear` (Chang et al. 2022, sec. 3.2) or `mlp`: two fully connected layers, for the "task-specific fully
            connected layers" of Asim 2024, sec. 1.11.1; batch norm and dropout between them are ours.
        hidden: Width of an `mlp` head.
        dropout: Dropout before each head's last layer.
        classes: Number of expressions: 8, or 7 for data without Other, whose frames then have no expression.
        size: Side of the square input, in pixels.
        pretrained: `false`, `true` (timm's weights, from its hub), triaffect-base, or a model folder of ours; several
            folders with several `data.features`.
        weights: A file of weights to start from instead (.safetensors, or a .pth without code in it), also of another
            program, such as a ViT that was pretrained on faces.
        mean: Mean of the input, red, green, blue in 0..1, with which `weights` were trained; timm's by default.
        std: Its standard deviation.
        temporal: Seconds of video that each frame sees to either side, learned on `data.features`; 0 for a still model.
            A list for several scales, or task: seconds (or a list) for a span of each task.
        temporal_model: `attention` (one layer), `transformer` (two), `tcn` (dilated convolutions) or `gru`.
        causal: Use earlier frames only, for cameras.
        fps: Frames per second of the index's videos.
        grey: Use brightness only, for training on images of which some have no colour.
        brighten: Multiply the pixels of an image whose mean brightness is below 80 of 255, to reach it, at most by 8.
        frozen: Train the heads only.
    """

    backbone: str = "resnet50"
    tasks: list[Task] = field(default_factory=lambda: ["va", "expr", "au"])
    head: Literal["linear", "mlp"] = "linear"
    hidden: int = 256
    dropout: float = 0.0
    classes: Literal[7, 8] = 8
    size: int = 112
    pretrained: bool | str | list[str] = True
    weights: str | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    frozen: bool = False
    grey: bool = False
    brighten: bool = False
    temporal: float | list[float] | dict[Task, float | list[float]] = 0.0
    temporal_model: Literal["attention", "transformer", "tcn", "gru"] = "attention"
    causal: bool = False
    fps: float = 30.0

    @property
    def reach(self) -> float:
        """Seconds that a frame sees to either side, the widest of all tasks; 0 for a still model."""
        spans = spans_of(self.temporal, self.tasks)
        return max((seconds for scales in spans.values() for seconds in scales), default=0.0)


@dataclass
class LossConfig:
    """The loss of each task, and its fixed weight in the sum.

    Args:
        va: Mean squared error (Asim 2024), 1 - CCC (Chang et al. 2022), or their sum.
        expr: Cross-entropy, the mean of N/N_c times it (Chang et al. 2022), focal, or cross-entropy with logits
            adjusted by the class rates (Menon et al. 2021).
        au: Binary cross-entropy, the same with positives weighted by negatives/positives, focal in the first paper's
            form, mean squared error of the probability (Asim 2024's multi-task model), or asymmetric (Ridnik et al.
            2021).
        label_smoothing: Share of the target spread over all expressions.
        gamma: Focusing of the two focal losses; 1 is the weight (1 - p) of Chang et al. 2022.
        weights: Fixed weight of each task's loss; a task left out has 1.
    """

    va: Literal["mse", "ccc", "ccc+mse"] = "ccc"
    expr: Literal["ce", "weighted_ce", "focal", "adjusted_ce"] = "weighted_ce"
    au: Literal["bce", "weighted_bce", "focal", "mse", "asymmetric"] = "focal"
    label_smoothing: float = 0.0
    gamma: float = 1.0
    weights: dict[Task, float] = field(default_factory=dict)


@dataclass
class BalancingConfig:
    """How the task losses are combined (docs/multitask.md).

    Args:
        method: `fixed` is the sum with `losses.weights`, equal where they are left out; `uncertainty` (Kendall et al.
            2018) and `dwa` (Liu et al. 2019) find the weights; the others combine the tasks' gradients in the backbone:
            `pcgrad` (Yu et al. 2020), `upgrad` (Quinton and Rey 2024), `mgda` (Desideri 2012), `imtlg` (Liu et al.
            2021), `alignedmtl` (Senushkin et al. 2023).
        at: Where gradients are compared: on the shared `features` of the batch (almost free, but blind to conflicts
            between images, so useless if every image has labels of one task only) or on the backbone's `weights`
            (one more backward pass per task).
        conflict: Log the cosine between the tasks' gradients, and draw it.
    """

    method: Literal["fixed", "uncertainty", "dwa", "pcgrad", "upgrad", "mgda", "imtlg", "alignedmtl"] = "fixed"
    at: Literal["features", "weights"] = "features"
    conflict: bool = False


@dataclass
class CouplingConfig:
    """How expressions, action units and valence-arousal inform each other (docs/multitask.md).

    Args:
        co_annotation: Weight of the losses on labels that follow from another task's (Kollias et al. 2021); 0 for none.
        matching: Weight of the distance between the prediction of a task and what the predicted expression implies, on
            every image, labelled or not (Kollias et al. 2021, 2024); 0 for none.
        table: What an expression implies: counted in the training `index` (frames labelled for both), or of the
            `literature` (Du et al. 2014; Russell and Mehrabian 1977).
    """

    co_annotation: float = 0.0
    matching: float = 0.0
    table: Literal["index", "literature"] = "index"


@dataclass
class TrainingConfig:
    """Optimisation.

    Args:
        epochs: Passes over the training split.
        batch: Images per step and device.
        optimizer: `adam`, `adamw` or `sgd` of torch, or any optimiser of timm by its name, such as `lamb`.
        lr: Learning rate.
        weight_decay: L2 for adam and sgd, decoupled for adamw.
        momentum: Of sgd.
        schedule: `constant`, `plateau` (divided by 10 if what `watch` names does not improve) or `cosine` down to zero.
        patience: Epochs without an improvement before `plateau` divides.
        warmup: Share of all steps over which the rate rises linearly from zero.
        select: The epoch whose model is kept: the best by an official measure of the validation split (the sum, or one
            task's), the one with the lowest validation `loss`, or the `last`.
        watch: What `plateau` and `early_stop` watch: the measure of `select`, the validation loss, or the sum.
        early_stop: Epochs without an improvement before the run ends; 0 for never.
        accumulate: Batches per optimiser step.
        clip: Largest gradient norm; 0 for none.
        ema: Decay of an exponential moving average of the weights, which is then evaluated and kept; 0 for none.
        precision: `auto` is bfloat16 where the device computes it, else 32.
        devices: Number of devices, or `auto`.
        nodes: Number of machines.
        accelerator: `auto`, `cpu`, `gpu` or another of Lightning's.
        seed: Of weights, order, augmentation and dropout; the same seed gives the same numbers on the same machine.
        threads: CPU threads of the run; 0 leaves torch's choice.
        loggers: Classes of lightning.pytorch.loggers by name (CSVLogger, WandbLogger, MLFlowLogger), or any by its
            class path.
        callbacks: Classes of lightning.pytorch.callbacks by name, or any by its class path; made without options.
    """

    epochs: int = 10
    batch: int = 64
    optimizer: str = "adam"
    lr: float = 5e-5
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Literal["constant", "plateau", "cosine"] = "constant"
    patience: int = 2
    warmup: float = 0.0
    select: Literal["total", "va", "expr", "au", "loss", "last"] = "total"
    watch: Literal["select", "loss", "total"] = "select"
    early_stop: int = 0
    accumulate: int = 1
    clip: float = 0.0
    ema: float = 0.0
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    devices: int | str = "auto"
    nodes: int = 1
    accelerator: str = "auto"
    seed: int = 0
    threads: int = 0
    loggers: list[str] = field(default_factory=lambda: ["TensorBoardLogger"])
    callbacks: list[str] = field(default_factory=list)

    def criterion(self, name: str = "select") -> tuple[str, Literal["min", "max"]]:
        """Return the column of `metrics.csv` behind `select` or `watch`, and whether its `min` or `max` is best."""
        chosen = self.select if name == "select" or self.watch == "select" else self.watch
        return (loss_key("val"), "min") if chosen == "loss" else (score_key(chosen.replace("last", "total")), "max")

    def kept_epoch(self, history: Sequence[Mapping[str, float]]) -> int:
        """Return the position of the epoch whose model is kept."""
        (key, mode), places = self.criterion(), range(len(history))
        best = (min if mode == "min" else max)(places, key=lambda place: history[place][key])
        return places[-1] if self.select == "last" else best


@dataclass
class TrainConfig:
    """One training run: data, model, losses, balancing, coupling, training."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    balancing: BalancingConfig = field(default_factory=BalancingConfig)
    coupling: CouplingConfig = field(default_factory=CouplingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested data, as written to `config.yaml`."""
        return asdict(self)

    @staticmethod
    def load(source: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> TrainConfig:
        """Read a config; unknown keys and wrong types are refused by name.

        Args:
            source: A YAML file, or nested data, with any of the keys.
            overrides: Options that change it, as on the command line: `["--training.epochs", "3"]`.

        Raises:
            InputError: The file is missing, is not YAML, or has an unknown key or a wrong value.
        """
        from jsonargparse import ArgumentError

        parser = config_parser(exit_on_error=False)
        try:
            base = parser.parse_path(source) if isinstance(source, (str, Path)) else parser.parse_object(source)
            values = parser.instantiate(parser.parse_args(list(overrides), namespace=base))
        except (ArgumentError, OSError, TypeError) as error:
            name = source if isinstance(source, (str, Path)) else "config"
            raise InputError(
                f"{name}: {' '.join(str(error).split())}; see triaffect train --help for the keys"
            ) from None
        return TrainConfig(**vars(values)).checked()

    def checked(self) -> TrainConfig:
        """Return itself if the values make sense together.

        Raises:
            InputError: A value is out of its range, or an option has no effect with the others given.
        """
        check(self)
        return self

    def for_task(self, task: str) -> TrainConfig:
        """The same run for one of its tasks."""
        training = replace(self.training, select="total" if self.training.select in TASKS else self.training.select)
        temporal = self.model.temporal
        own = temporal.get(task, 0.0) if isinstance(temporal, dict) else temporal  # type: ignore[call-overload]
        model = replace(self.model, tasks=[task], temporal=own)  # type: ignore[list-item]
        return replace(self, model=model, training=training, coupling=CouplingConfig())


def config_parser(**options: Any) -> ArgumentParser:
    """Make a parser with an option for each key, such as `--model.backbone`."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(**options)
    parser.add_class_arguments(TrainConfig, None)
    return parser
