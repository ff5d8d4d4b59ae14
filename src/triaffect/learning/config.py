"""What a training run needs to know, as dataclasses; a recipe is one of these as YAML. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from triaffect.files import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Task = Literal["va", "expr", "au"]


@dataclass
class DataConfig:
    """Which images, and what is done to them on the way in.

    Args:
        index: The index (or a generic table with its columns).
        images: The folder that the column `image` is relative to; the index remembers the one it was made with.
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
        soft: Predictions files, of a teacher or with a crowd's votes: their values are the targets where the index
            has no label of its own; each fills in the tasks it has.
        on_bad_image: What a corrupt or vanished image does: it is named and skipped, or it stops the run.
        workers: Processes that decode.
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
    soft: list[str] = field(default_factory=list)
    on_bad_image: Literal["skip", "error"] = "skip"
    workers: int = 2


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


@dataclass
class LossConfig:
    """What each task minimises, and its fixed weight in the sum.

    Args:
        va: Mean squared error (Asim 2024), 1 - CCC (Chang et al. 2022), or their sum.
        expr: Cross-entropy, the mean of N/N_c times it (Chang et al. 2022), or focal.
        au: Binary cross-entropy, the same with positives weighted by negatives/positives, focal in the first paper's
            form, or mean squared error of the probability (Asim 2024's multi-task model).
        label_smoothing: Share of the target spread over all expressions.
        gamma: Focusing of the two focal losses; 1 is the weight (1 - p) of Chang et al. 2022.
        weights: Fixed weight of each task's loss; a task left out has 1.
    """

    va: Literal["mse", "ccc", "ccc+mse"] = "ccc"
    expr: Literal["ce", "weighted_ce", "focal"] = "weighted_ce"
    au: Literal["bce", "weighted_bce", "focal", "mse"] = "focal"
    label_smoothing: float = 0.0
    gamma: float = 1.0
    weights: dict[Task, float] = field(default_factory=dict)


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
    """One training run: data, model, losses, training."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    losses: LossConfig = field(default_factory=LossConfig)
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
            "model.size": (self.model.size, 16, 2048),
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
        return self


def config_parser(**options: Any) -> ArgumentParser:
    """A parser with an option for each key, such as `--model.backbone`."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(**options)
    parser.add_class_arguments(TrainConfig, None)
    return parser
