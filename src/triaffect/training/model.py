"""One timm backbone and one head per task; single-task models are the same class with one head."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import triaffect
from triaffect.io import InputError, model_folder, write_text
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, OUTPUTS, TASKS, VA
from triaffect.training.config import TrainConfig
from triaffect.training.config_checks import spans_of
from triaffect.training.temporal import TemporalModel
from triaffect.training.weights import licence_of, load_backbone_weights, make_backbone, note_licence

CARD = """---
library_name: triaffect
tags: [valence-arousal, facial-expression, action-units]
---
# {backbone}: {tasks}

A triaffect model ({size} px, {parameters:.1f} M parameters). Load it with

    import triaffect as ta
    model = ta.AffectModel.from_pretrained("this folder")

`config.json` has the label order, the preprocessing and how it was trained. Its scores hold for its validation data.
"""

BRIGHT, MAX_GAIN = 80.0, 8.0
"""Mean brightness (0 to 255) to which darker images are multiplied, and the largest factor."""


def _head(kind: str, width: int, outputs: int, hidden: int, dropout: float) -> nn.Module:
    if kind == "linear":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
        )
    raise InputError(f"head {kind!r}: choose from linear, mlp")


class AffectModel(nn.Module, PyTorchModelHubMixin, library_name="triaffect", repo_url=""):
    """The three descriptors from one backbone (hard parameter sharing; Chang et al. 2022, sec. 2).

    Args:
        backbone: Any timm model name.
        tasks: Some of `va`, `expr`, `au`.
        head: `linear` or `mlp` (see `ModelConfig`).
        hidden: Width of an `mlp` head.
        dropout: Dropout before each head's last layer.
        classes: Number of expressions, 7 or 8; with 7 the probability of Other is 0.
        size: Side of the square input, in pixels.
        pretrained: Load timm's weights from its hub. Loading a saved model never does.
        grey: Use brightness only (ITU-R BT.601), in all three channels.
        brighten: Multiply the pixels of a dark image, see `ModelConfig`.
        temporal: Seconds of video that a frame sees to either side, in any form of `ModelConfig.temporal`.
        temporal_model: `attention`, `transformer`, `tcn` or `gru`.
        causal: Use earlier frames only.
        fps: Frames per second of an index's videos, which gives its frames their times.
        encoders: Several backbones side by side, see `SideBySide`; `backbone` is then their description.

    Raises:
        InputError: An unknown backbone, task or head; weights that cannot be fetched.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        tasks: Sequence[str] = TASKS,
        head: str = "linear",
        hidden: int = 256,
        dropout: float = 0.0,
        classes: int = 8,
        size: int = 112,
        pretrained: bool = False,
        grey: bool = False,
        brighten: bool = False,
        temporal: Any = 0.0,
        temporal_model: str = "attention",
        causal: bool = False,
        fps: float = 30.0,
        encoders: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        arguments = dict(locals())  # as given: no other name is bound yet
        super().__init__()
        if unknown := set(tasks) - set(TASKS):
            raise InputError(f"task {min(unknown)!r}: choose from {', '.join(TASKS)}")
        self.tasks = tuple(task for task in TASKS if task in tasks)
        arguments |= {"tasks": list(self.tasks), "encoders": [dict(encoder) for encoder in encoders]}
        not_settings = ("self", "__class__", "pretrained")
        self.settings = {name: value for name, value in arguments.items() if name not in not_settings}
        self.provenance: dict[str, Any] = {}
        if encoders:
            self.backbone: nn.Module = SideBySide(encoders, size)
            self.normalise_by({"mean": [0.0] * 3, "std": [1 / 255] * 3})
        else:
            self.backbone = make_backbone(backbone, size, pretrained)
            self.normalise_by(timm.data.resolve_model_data_config(self.backbone))
        self.width = self._width(size)
        outputs = OUTPUTS | {"expr": classes}
        self.heads = nn.ModuleDict(
            {task: _head(head, self.width, outputs[task], hidden, dropout) for task in self.tasks}
        )
        spans = spans_of(temporal, self.tasks)
        self.temporal = (
            TemporalModel(self.width, temporal_model, spans, causal, fps, dropout) if any(spans.values()) else None
        )

    def normalise_by(self, config: dict[str, Any]) -> None:
        """Set the mean and standard deviation of the input, in units of 0..1."""
        self.normalisation = {name: [float(value) for value in config[name]] for name in ("mean", "std")}
        self.mean, self.std = map(_in_bytes, self.normalisation.values())

    @torch.no_grad()
    def _width(self, size: int) -> int:
        # Measured: timm's num_features is not the width after every kind of head.
        width = self.backbone.eval()(torch.zeros(1, 3, size, size)).shape[1]
        self.backbone.train()
        return width

    def features(self, images: Tensor) -> Tensor:
        """Compute the backbone's pooled features (N, width).

        Args:
            images: RGB (N, 3, size, size), 0..255, or float; cached features (N, width) are kept.
        """
        if images.ndim == 2:
            return images
        pixels = images.to(self.mean.dtype)
        pixels = prepare(pixels, self.settings["grey"], self.settings["brighten"])
        return self.backbone((pixels - self.mean) / self.std)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the raw output of each task: (N, 2), (N, classes), (N, 12); see `features` for the images."""
        return self.predict_from_features(self.features(images))

    def predict_from_features(
        self, features: Tensor, time: Tensor | None = None, video: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the raw output of each task's head on features (N, width).

        A temporal model sees the frames of a video together if `time` (N,), in seconds, and `video` (N,), a number, say
        which they are; otherwise each frame is seen alone.
        """
        if self.temporal is None:
            return {task: head(features) for task, head in self.heads.items()}
        if time is None or video is None:  # each is a video of one frame
            nothing = torch.zeros_like(features[:, :1])
            joined = {task: value[:, 0] for task, value in self.temporal(features[:, None], nothing, nothing).items()}
        else:
            joined = {task: value[0] for task, value in self.temporal(features[None], time[None], video[None]).items()}
        return {task: head(joined[task]) for task, head in self.heads.items()}

    @property
    def size(self) -> int:
        """Side of the square input, in pixels."""
        return self.settings["size"]

    def _save_pretrained(self, save_directory: Path) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, save_directory / "model.safetensors")
        config = {
            **self.settings,
            "labels": _label_order(self.settings),
            "input": {"size": [self.size, self.size], "colour": "RGB", **self.normalisation},
            "provenance": {"triaffect": triaffect.__version__, **self.provenance},
        }
        write_text(save_directory / "config.json", json.dumps(config, indent=2) + "\n")
        parameters = sum(p.numel() for p in self.parameters()) / 1e6
        card = CARD.format(**{**self.settings, "tasks": ", ".join(self.tasks)}, parameters=parameters)
        write_text(save_directory / "README.md", card)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", config: dict[str, Any] | None = None, **settings: Any
    ) -> AffectModel:
        if config is None:
            raise InputError(f"{model_id}: no config.json; name a model folder or a run folder's model/")
        hub = {k: settings.pop(k) for k in ("revision", "cache_dir", "force_download", "local_files_only", "token")}
        if Path(model_id).is_dir():
            file = Path(model_id, "model.safetensors")
        else:
            file = Path(hf_hub_download(model_id, "model.safetensors", **hub))
        if not file.is_file():
            raise InputError(f"{file}: missing; the model folder is incomplete")
        order = _label_order(config)
        if config.get("labels", order) != order:
            raise InputError(
                f"{model_id}: its labels are in another order than triaffect's; it cannot be used as it is"
            )
        model = cls(**{**settings, "pretrained": False})
        # As trained, whatever a later version of timm says about the backbone.
        model.normalise_by(config["input"])
        model.load_state_dict(load_file(file, device=map_location))
        model.provenance = config.get("provenance", {})
        return model.eval()


def _label_order(settings: dict[str, Any]) -> dict[str, list[str]]:
    return {"va": list(VA), "expr": list(EXPRESSIONS[: settings.get("classes", 8)]), "au": list(ACTION_UNITS)}


def _in_bytes(values: Sequence[float] | Sequence[Sequence[float]]) -> nn.Buffer:
    """Constants of 0..1 for each channel in units of 0..255: (1, 3, 1, 1), or (n, 3, 1, 1) of n encoders."""
    return nn.Buffer(255 * torch.tensor(values).view(-1, 3, 1, 1), persistent=False)


class SideBySide(nn.Module):
    """Several backbones whose features are joined, each with its own normalisation.

    Args:
        encoders: `backbone`, `mean`, `std` (of 0..1), `grey` and `brighten` of each.
        size: Side of the square input of all.
    """

    def __init__(self, encoders: Sequence[Mapping[str, Any]], size: int) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(make_backbone(encoder["backbone"], size, False) for encoder in encoders)
        self.mean, self.std = (_in_bytes([encoder[name] for encoder in encoders]) for name in ("mean", "std"))
        self.preparations = [(bool(encoder["grey"]), bool(encoder["brighten"])) for encoder in encoders]

    def forward(self, pixels: Tensor) -> Tensor:
        """From pixels (N, 3, size, size), 0..255, to features (N, sum of the widths)."""
        parts = []
        for i, backbone in enumerate(self.backbones):
            parts.append(backbone((prepare(pixels, *self.preparations[i]) - self.mean[i]) / self.std[i]))
        return torch.cat(parts, 1)


def prepare(pixels: Tensor, grey: bool, brighten: bool) -> Tensor:
    """Apply what comes before the normalisation to pixels (N, 3, H, W), 0..255; grey ones are (N, 1, H, W)."""
    if not grey and not brighten:
        return pixels
    luma = pixels.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601
    brightness = (pixels * luma).sum(1, keepdim=True)
    pixels = brightness if grey else pixels
    if brighten:
        gain = (BRIGHT / brightness.mean((2, 3), keepdim=True).clamp(min=1.0)).clamp(1.0, MAX_GAIN)
        pixels = (pixels * gain).clamp(max=255.0)
    return pixels


def probabilities(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert raw outputs to predictions: valence and arousal clamped to [-1, 1], softmax, sigmoid; float32.

    Of seven expressions, Other is the eighth column, 0.
    """

    def classes(x: Tensor) -> Tensor:
        return F.pad(x.softmax(-1), (0, OUTPUTS["expr"] - x.shape[-1]))

    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "va": lambda x: x.clamp(-1, 1),
        "expr": classes,
        "au": torch.sigmoid,
    }
    return {task: functions[task](value.float()) for task, value in raw.items()}


def load_model(path: str | Path) -> AffectModel:
    """Load the model of a run folder or a model folder, or the bundled one by its name.

    Raises:
        InputError: There is no model.
    """
    return AffectModel.from_pretrained(model_folder(path))


def make_model(config: TrainConfig) -> AffectModel:
    """Make the model of a config, with the backbone that it is to start from.

    Raises:
        InputError: Its weights cannot be fetched or do not fit.
    """
    start, not_settings = config.model, ("pretrained", "weights", "mean", "std", "frozen")
    settings = {key: value for key, value in vars(start).items() if key not in not_settings}
    if config.data.features:
        sources = source_models(config)
        parts = [part for source in sources for part in _encoders(source)]
        model = AffectModel(**settings, encoders=[about for about, _ in parts] if len(parts) > 1 else ())
        for (_, backbone), (about, source) in zip(_encoders(model), parts, strict=True):
            backbone.load_state_dict(source.state_dict())
            if len(parts) == 1:
                model.normalise_by(about)
        licences = [licence_of(source.provenance) for source in sources]
        model.provenance["weights"] = {"source": start.pretrained, "licence": "; ".join(licences), "not_loaded": []}
        return model
    model = AffectModel(**settings, pretrained=start.pretrained is True and not start.weights)
    if start.weights or isinstance(start.pretrained, str):
        load_backbone_weights(model, start.weights or str(start.pretrained))
    elif start.pretrained:
        note_licence(model, start.backbone)
    if start.mean:
        model.normalise_by({"mean": start.mean, "std": start.std})
    model.to(memory_format=torch.channels_last)
    return model


def source_models(config: TrainConfig) -> list[AffectModel]:
    """Load the models whose backbones made the features of a config."""
    folders = config.model.pretrained
    return [load_model(folder) for folder in (folders if isinstance(folders, list) else [str(folders)])]


def _encoders(model: AffectModel) -> list[tuple[dict[str, Any], nn.Module]]:
    """The backbones of a model, each with its description for `SideBySide`."""
    if isinstance(model.backbone, SideBySide):
        return list(zip(model.settings["encoders"], model.backbone.backbones, strict=True))
    about = {name: model.settings[name] for name in ("backbone", "grey", "brighten")}
    return [({**about, **model.normalisation}, model.backbone)]


def join_heads(models: Sequence[AffectModel]) -> AffectModel:
    """Make one model of single-task models with the same backbone.

    Raises:
        InputError: Their backbones differ, or two have the same task.
    """
    first, tasks = models[0], [task for model in models for task in model.tasks]
    if len(set(tasks)) < len(tasks) or any(m.settings["backbone"] != first.settings["backbone"] for m in models):
        raise InputError("heads can be joined if their backbone is the same and each task occurs once")
    spans = {task: model.settings["temporal"] for model in models for task in model.tasks}
    temporal = spans if any(spans.values()) else 0.0
    joined = AffectModel(**{**first.settings, "tasks": tasks, "temporal": temporal})
    joined.backbone.load_state_dict(first.backbone.state_dict())
    joined.normalise_by(first.normalisation)
    joined.provenance = first.provenance
    for model in models:
        for task, head in model.heads.items():
            joined.heads[task].load_state_dict(head.state_dict())
            if joined.temporal is not None and model.temporal is not None:
                joined.temporal.tasks[task].load_state_dict(model.temporal.tasks[task].state_dict())
    return joined.eval()
