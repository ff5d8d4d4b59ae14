"""One timm backbone and one head per task; single-task models are the same class with one head."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, constants, hf_hub_download, try_to_load_from_cache
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import triaffect
from triaffect.io import BASE, InputError, model_folder, write_text
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, OUTPUTS, TASKS, VA
from triaffect.training import face_descriptor  # noqa: F401 - registers itself with timm
from triaffect.training.config import TrainConfig
from triaffect.training.temporal import TemporalAttention

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
        temporal: Seconds of video that a frame sees to either side; 0 for a still model.
        causal: Use earlier frames only.
        fps: Frames per second of an index's videos, which gives its frames their times.

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
        temporal: float = 0.0,
        causal: bool = False,
        fps: float = 30.0,
    ) -> None:
        super().__init__()
        if unknown := set(tasks) - set(TASKS):
            raise InputError(f"task {min(unknown)!r}: choose from {', '.join(TASKS)}")
        self.tasks = tuple(task for task in TASKS if task in tasks)
        self.settings: dict[str, Any] = {
            "backbone": backbone,
            "tasks": list(self.tasks),
            "head": head,
            "hidden": hidden,
            "dropout": dropout,
            "classes": classes,
            "size": size,
            "grey": grey,
            "brighten": brighten,
            "temporal": temporal,
            "causal": causal,
            "fps": fps,
        }
        self.provenance: dict[str, Any] = {}
        self.backbone = _backbone(backbone, size, pretrained)
        self.mean: Tensor
        self.std: Tensor
        self.normalise_by(timm.data.resolve_model_data_config(self.backbone))
        self.luma: Tensor
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), persistent=False)
        self.width = self._width(size)
        outputs = OUTPUTS | {"expr": classes}
        self.heads = nn.ModuleDict(
            {task: _head(head, self.width, outputs[task], hidden, dropout) for task in self.tasks}
        )
        self.temporal = TemporalAttention(self.width, temporal, causal) if temporal else None

    def normalise_by(self, config: dict[str, Any]) -> None:
        """Set the mean and standard deviation of the input, in units of 0..1."""
        self.normalisation = {name: [float(value) for value in config[name]] for name in ("mean", "std")}
        for name, values in self.normalisation.items():
            # uint8 in, so the constants are in units of 0..255.
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @torch.no_grad()
    def _width(self, size: int) -> int:
        # Measured: timm's num_features is not the width after every kind of head.
        training = self.backbone.training
        width = self.backbone.eval()(torch.zeros(1, 3, size, size)).shape[1]
        self.backbone.train(training)
        return width

    def features(self, images: Tensor) -> Tensor:
        """Compute the backbone's pooled features (N, width).

        Args:
            images: RGB (N, 3, size, size), 0..255, or float; cached features (N, width) are kept.
        """
        if images.ndim == 2:
            return images
        pixels = images.to(self.mean.dtype)
        brightness = (pixels * self.luma).sum(1, keepdim=True)
        if self.settings["grey"]:
            pixels = brightness
        if self.settings["brighten"]:
            gain = (BRIGHT / brightness.mean((2, 3), keepdim=True).clamp(min=1.0)).clamp(1.0, MAX_GAIN)
            pixels = (pixels * gain).clamp(max=255.0)
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
        if self.temporal is not None and (time is None or video is None):
            features = self.temporal.alone(features)
        elif self.temporal is not None:
            features = self.temporal(features[None], time[None], video[None])[0]  # type: ignore[index]
        return {task: head(features) for task, head in self.heads.items()}

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


def _backbone(name: str, size: int, pretrained: bool) -> nn.Module:
    try:
        options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
        try:
            return timm.create_model(name, img_size=size, **options)  # vision transformers need it
        except TypeError:
            return timm.create_model(name, **options)
    except (RuntimeError, ValueError, KeyError) as error:
        if "unknown model" not in str(error).lower() and "invalid" not in str(error).lower():
            raise
        import difflib

        near = difflib.get_close_matches(name, timm.list_models(), 3)
        raise InputError(f"backbone {name!r}: timm has no such model; similar: {', '.join(near) or 'none'}") from None
    except OSError as error:  # of hub clients without a network
        raise _cannot_fetch(name, error) from None


def _cannot_fetch(name: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0][:120]
    return InputError(
        f"pretrained weights of {name} cannot be fetched ({reason}); set HF_ENDPOINT to a mirror, name a "
        f"downloaded folder with --model.backbone local-dir:PATH, or use --model.pretrained false"
    )


def check_pretrained(config: TrainConfig) -> None:
    """Check in one request that timm's weights can be fetched; the hub's own client tries for most of a minute.

    Raises:
        InputError: They are neither in the hub's cache nor can the hub be reached.
    """
    name = config.model.backbone
    if config.model.pretrained is not True or ":" in name:  # a local folder, or a name that timm resolves itself
        return
    pretrained = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    repository = pretrained.hf_hub_id if pretrained else None
    if not repository or any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    ):
        return
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=5):
            return
    except HTTPError:  # it answers
        return
    except (OSError, ValueError) as error:
        raise _cannot_fetch(name, error) from None


def load_backbone_weights(model: AffectModel, path: str | Path) -> None:
    """Load the backbone weights of a model folder or a weights file into a model; heads stay as they are.

    Args:
        model: The model to change.
        path: A model folder of ours, a .safetensors file, or a .pth/.pt file that holds only tensors.

    Raises:
        InputError: The file is missing, holds code, or does not fit the backbone.
    """
    folder = model_folder(path) if str(path) == BASE else Path(path)
    file = folder / "model.safetensors" if folder.is_dir() else folder
    if not file.is_file():
        raise InputError(f"{file}: no such weights; model.pretrained is true, false, a model folder or a weights file")
    if file.suffix == ".safetensors":
        state: dict[str, Any] = load_file(file)
    else:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:
            raise InputError(f"{file}: not a plain file of tensors; convert it to .safetensors") from None
    state = state.get("state_dict", state)
    tensors = {name.removeprefix("module.").removeprefix("backbone."): value for name, value in state.items()}
    expected = model.backbone.state_dict()
    fitting = {
        name: tensors[name] for name in expected if name in tensors and tensors[name].shape == expected[name].shape
    }
    # torchvision's older files lack batch norm's counters, which nothing uses.
    if missing := [name for name in expected if name not in fitting and not name.endswith("num_batches_tracked")]:
        raise InputError(
            f"{file}: {len(missing)} of {len(expected)} tensors of {model.settings['backbone']} are missing or of "
            f"another shape (first: {missing[0]}); use weights of this backbone"
        )
    model.backbone.load_state_dict(expected | fitting)


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


def join_heads(models: Sequence[AffectModel]) -> AffectModel:
    """Make one model of single-task models with the same backbone.

    Raises:
        InputError: Their backbones differ, or two have the same task.
    """
    first, tasks = models[0], [task for model in models for task in model.tasks]
    if len(set(tasks)) < len(tasks) or any(m.settings["backbone"] != first.settings["backbone"] for m in models):
        raise InputError("heads can be joined if their backbone is the same and each task occurs once")
    joined = AffectModel(**{**first.settings, "tasks": tasks})
    joined.backbone.load_state_dict(first.backbone.state_dict())
    joined.normalise_by(first.normalisation)
    for model in models:
        for task, head in model.heads.items():
            joined.heads[task].load_state_dict(head.state_dict())
    return joined.eval()
