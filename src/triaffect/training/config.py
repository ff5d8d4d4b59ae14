"""What a training run needs to know, as dataclasses; a recipe is one of these as YAML. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from triaffect.io import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Task = Literal["va", "expr", "au"]


@dataclass
class DataConfig:
    """Which images, and what is done to them on the way in.

    Args:
        index: The index (or a generic table with its columns).
        images: The folder that the column `image` is relative to, or the file that `triaffect pack` wrote; the index
            remembers the folder it was made with.
        train: Split to train on.
        val: Split to judge each epoch on.
        fraction: Share of the training split to use, drawn at random with the seed.
        fraction_by: Draw single frames, or whole videos.
        flip: Probability of a horizontal flip.
        rotation: Largest rotation to either side, in degrees.
        scale: Largest relative change of size, as 0.1 for 0.9 to 1.1.
        shift: Largest shift along either axis, as a share of the image size.
        jitter: Largest relative change of brightness, contrast and saturation.
        degrade: Probability of a worse camera: fewer pixels, blur, grain, another gamma, coarse JPEG, each drawn.
        erase: Probability of a covered patch (Zhong et al. 2020), up to a quarter of the image.
        features: A folder from `triaffect features`, with both splits: trains heads (and `model.temporal`) on them, on
            the frozen backbone of the model folder or run that `model.pretrained` names.
        soft: Predictions files, of a teacher or with a crowd's votes: their values are the targets where the index
            has no label of its own; each fills in the tasks it has.
        mixup: Parameter of the Beta distribution by which a second, mixed batch is made of each, as in MixAugment
            (Psaroudakis and Kollias 2022); 0 for none.
        balance: Draw every expression (`class`) or every video equally often; `none` draws each frame once an epoch.
        stride: Use every n-th frame of a video in an epoch, other ones in the next: neighbours are near copies.
        on_bad_image: What a corrupt or vanished image does: it is named and skipped, or it stops the run.
        workers: Threads that decode, in each process.
        cache: `ram` keeps each decoded image in memory from its first use on (size x size x 3 bytes; each process what
            it has seen); `device` decodes all before the first epoch, keeps them on the GPU and augments there; on a
            CPU it is `ram`.
    """

    index: str = ""
    images: str | None = None
    train: str = "train"
    val: str = "val"
    fraction: float = 1.0
    fraction_by: Literal["frame", "video"] = "frame"
    flip: float = 0.5
    rotation: float = 10.0
    scale: float = 0.0
    shift: float = 0.0
    jitter: float = 0.0
    degrade: float = 0.0
    erase: float = 0.0
    features: str | None = None
    soft: list[str] = field(default_factory=list)
    mixup: float = 0.0
    balance: Literal["none", "class", "video"] = "none"
    stride: int = 1
    on_bad_image: Literal["skip", "error"] = "skip"
    workers: int = 2
    cache: Literal["none", "ram", "device"] = "none"


@dataclass
class ModelConfig:
    """The network.

    Args:
        backbone: Any timm model name.
        tasks: One head for each; a single task makes a single-task model.
        head: `linear` (Chang et al. 2022, sec. 3.2) or `mlp`, a branch with batch norm and dropout (Asim 2024, sec.
            1.11.1).
        hidden: Width of an `mlp` head.
        dropout: Dropout before each head's last layer.
        size: Side of the square input, in pixels.
        pretrained: `false`, `true` (timm's weights, from its hub), a model folder of ours, or a local weights file
            (.safetensors, or a .pth without code in it).
        temporal: Seconds of video that each frame sees to either side, learned on `data.features`; 0 for stills.
        causal: See only what was before, as before a camera.
        fps: Frames a second of the index's videos.
        grey: See brightness only, for training on images some of which have no colour.
        frozen: Train the heads only.
    """

    backbone: str = "resnet50"
    tasks: list[Task] = field(default_factory=lambda: ["va", "expr", "au"])
    head: Literal["linear", "mlp"] = "linear"
    hidden: int = 256
    dropout: float = 0.0
    size: int = 112
    pretrained: bool | str = True
    frozen: bool = False
    grey: bool = False
    temporal: float = 0.0
    causal: bool = False
    fps: float = 30.0


@dataclass
class LossConfig:
    """What each task minimises, and its fixed weight in the sum.

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
    """How the task losses become one step (docs/multitask.md).

    Args:
        method: `fixed` is the sum with `losses.weights`, equal where they are left out; `uncertainty` (Kendall et al.
            2018) and `dwa` (Liu et al. 2019) find the weights; the others combine the tasks' gradients in the backbone:
            `pcgrad` (Yu et al. 2020), `upgrad` (Quinton and Rey 2024), `mgda` (Desideri 2012), `imtlg` (Liu et al.
            2021), `alignedmtl` (Senushkin et al. 2023).
        at: Where gradients are compared: on the shared `features` of the batch (almost free, but blind to conflicts
            between images, so of no use where every image has labels of one task only) or on the backbone's `weights`
            (a backward pass more for each task).
        conflict: Log the cosine between the tasks' gradients, and draw it.
    """

    method: Literal["fixed", "uncertainty", "dwa", "pcgrad", "upgrad", "mgda", "imtlg", "alignedmtl"] = "fixed"
    at: Literal["features", "weights"] = "features"
    conflict: bool = False


@dataclass
class CouplingConfig:
    """What expressions, action units and valence-arousal teach each other (docs/multitask.md).

    Args:
        co_annotation: Weight of the losses on labels that follow from another task's (Kollias et al. 2021); 0 for none.
        matching: Weight of the distance between what the predicted expression implies and what is predicted, on every
            image, labelled or not (Kollias et al. 2021, 2024); 0 for none.
        table: What an expression implies: counted in the training `index` (frames labelled for both), or of the
            `literature` (Du et al. 2014; Russell and Mehrabian 1977).
    """

    co_annotation: float = 0.0
    matching: float = 0.0
    table: Literal["index", "literature"] = "index"


@dataclass
class TrainingConfig:
    """How the losses become weights.

    Args:
        epochs: Passes over the training split.
        batch: Images a step and device.
        optimizer: `adam`, `adamw` or `sgd`.
        lr: Learning rate.
        weight_decay: L2 for adam and sgd, decoupled for adamw.
        momentum: Of sgd.
        schedule: `constant`, `plateau` (divided by 10 when the score stalls) or `cosine` down to zero.
        patience: Epochs without a better score before `plateau` divides.
        warmup: Share of all steps over which the rate rises linearly from zero.
        select: The official measure of the validation split that chooses the kept model: the sum, or one task's.
        early_stop: Epochs without a better score before the run ends; 0 for never.
        accumulate: Batches an optimiser step.
        clip: Largest gradient norm; 0 for none.
        ema: Decay of an exponential moving average of the weights, which is then what is judged and kept; 0 for none.
        precision: `auto` is bfloat16 where the device computes it, else 32.
        devices: How many, or `auto`.
        nodes: How many machines.
        accelerator: `auto`, `cpu`, `gpu` or another of Lightning's.
        seed: Of weights, order, augmentation and dropout; the same seed gives the same numbers on the same machine.
        threads: CPU threads of the run; 0 leaves torch's choice.
    """

    epochs: int = 10
    batch: int = 64
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 5e-5
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Literal["constant", "plateau", "cosine"] = "constant"
    patience: int = 2
    warmup: float = 0.0
    select: Literal["total", "va", "expr", "au"] = "total"
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
        """Reads a recipe; unknown keys and wrong types are refused by name.

        Args:
            source: A YAML file, or nested data, with any of the keys.
            overrides: Options on top, as on the command line: `["--training.epochs", "3"]`.

        Raises:
            InputError: The file is missing, is not YAML, or has a key or a value that does not exist.
        """
        from jsonargparse import ArgumentError

        parser = config_parser(exit_on_error=False)
        try:
            given = parser.parse_path(source) if isinstance(source, (str, Path)) else parser.parse_object(source)
            values = parser.instantiate(parser.parse_args(list(overrides), namespace=given))
        except (ArgumentError, OSError, TypeError) as error:
            name = source if isinstance(source, (str, Path)) else "configuration"
            raise InputError(
                f"{name}: {' '.join(str(error).split())}; see triaffect train --help for the keys"
            ) from None
        return TrainConfig(**vars(values)).checked()

    def checked(self) -> TrainConfig:
        """Returns itself when the values make sense together.

        Raises:
            InputError: A value is out of its range.
        """
        limits: dict[str, tuple[float, float, float]] = {
            "data.fraction": (self.data.fraction, 1e-9, 1.0),
            "data.flip": (self.data.flip, 0.0, 1.0),
            "data.degrade": (self.data.degrade, 0.0, 1.0),
            "data.erase": (self.data.erase, 0.0, 1.0),
            "data.workers": (self.data.workers, 0, 1024),
            "data.mixup": (self.data.mixup, 0.0, 100.0),
            "data.stride": (self.data.stride, 1, 1_000_000),
            "coupling.co_annotation": (self.coupling.co_annotation, 0.0, 1e6),
            "coupling.matching": (self.coupling.matching, 0.0, 1e6),
            "model.size": (self.model.size, 16, 2048),
            "model.temporal": (self.model.temporal, 0.0, 3600.0),
            "model.fps": (self.model.fps, 0.01, 1000.0),
            "model.dropout": (self.model.dropout, 0.0, 0.99),
            "losses.label_smoothing": (self.losses.label_smoothing, 0.0, 1.0),
            "training.epochs": (self.training.epochs, 1, 1_000_000),
            "training.batch": (self.training.batch, 1, 1_000_000),
            "training.lr": (self.training.lr, 1e-12, 1e3),
            "training.accumulate": (self.training.accumulate, 1, 1_000_000),
            "training.warmup": (self.training.warmup, 0.0, 1.0),
            "training.ema": (self.training.ema, 0.0, 0.9999999),
        }
        for key, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise InputError(f"{key} is {value}; it must lie in {low:g}..{high:g}")
        if not self.model.tasks or len(set(self.model.tasks)) != len(self.model.tasks):
            raise InputError(f"model.tasks is {self.model.tasks}; name at least one of va, expr, au, each once")
        if self.training.select != "total" and self.training.select not in self.model.tasks:
            raise InputError(f"training.select is {self.training.select}, which the model does not have; use total")
        if self.data.cache == "device" and (self.data.degrade or self.data.erase):
            raise InputError("data.cache is device, where data.degrade and data.erase are not made; set it to ram")
        if self.model.temporal and not self.data.features:
            raise InputError("model.temporal learns from data.features; set it to a folder from triaffect features")
        if self.data.features and not isinstance(self.model.pretrained, str):
            raise InputError("data.features needs its backbone; set model.pretrained to the run or model it is from")
        coupled = self.coupling.co_annotation or self.coupling.matching
        if coupled and not {"expr"} < set(self.model.tasks):
            raise InputError(f"coupling goes from expr to the other tasks, but model.tasks is {self.model.tasks}")
        return self


def config_parser(**options: Any) -> ArgumentParser:
    """A parser with an option for each key, such as `--model.backbone`."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(**options)
    parser.add_class_arguments(TrainConfig, None)
    return parser
