"""Backbones and their weights: from timm's hub, a model folder of ours, or a bare file of any ViT or ResNet."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor, nn

from triaffect.io import BASE, InputError, model_folder
from triaffect.text import plural
from triaffect.training import face_descriptor  # noqa: F401 - registers itself with timm

if TYPE_CHECKING:
    from triaffect.training.model import AffectModel

CONTAINERS = ("state_dict", "model", "teacher", "student", "model_ema", "state_dict_ema", "net")
"""Keys under which checkpoints hold their tensors."""
PREFIXES = ("", "module.", "backbone.", "encoder.", "model.", "visual.", "base_encoder.", "trunk.", "student.")
"""What may stand before the names of a backbone's tensors, one after the other."""
NOT_STATED = "not stated"


def make_backbone(name: str, size: int, pretrained: bool) -> nn.Module:
    """Make a timm model without its classifier, for a square input.

    Raises:
        InputError: There is no such model, or its weights cannot be fetched.
    """
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


def check_pretrained(name: str) -> None:
    """Check in one request that timm's weights can be fetched; the hub's own client tries for most of a minute.

    Args:
        name: A backbone of timm.

    Raises:
        InputError: They are neither in the hub's cache nor can the hub be reached.
    """
    if ":" in name:  # a local folder, or a name that timm resolves
        return
    pretrained = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    repository = pretrained.hf_hub_id if pretrained else None
    if not repository or any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    ):
        return
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except HTTPError:  # it answers
        pass
    except (OSError, ValueError) as error:
        raise _cannot_fetch(name, error) from None


def load_backbone_weights(model: AffectModel, path: str | Path) -> None:
    """Load the backbone of a model folder or of a file of weights into a model; heads stay as they are.

    A file may be a checkpoint of another program: its tensors may be inside another dictionary and their names may have
    a prefix; position embeddings and patches are resized to the model's input by timm. Where the weights are from,
    their licence, and the tensors of the file that the backbone does not have are kept in the model's provenance.

    Args:
        model: The model to change.
        path: A model folder of ours, a .safetensors file, or a .pth/.pt file that holds only tensors.

    Raises:
        InputError: The file is missing, holds code, or lacks tensors of the backbone.
    """
    is_folder = str(path) == BASE or Path(path).is_dir()
    file = model_folder(path) / "model.safetensors" if is_folder else Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such weights; model.weights is a .safetensors or .pth file")
    state, licence = _read(file)
    expected = model.backbone.state_dict()
    prefix = _best_prefix(state, expected)
    tensors = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    others = [name for name in state if not name.startswith(prefix)]
    if hasattr(module := sys.modules[type(model.backbone).__module__], "checkpoint_filter_fn"):
        try:
            tensors = module.checkpoint_filter_fn(tensors, model.backbone)
        except Exception as error:  # each architecture has its own
            raise InputError(f"{file}: timm cannot read it as {model.settings['backbone']} ({error})") from None
    fitting = {n: tensors[n] for n in expected if n in tensors and tensors[n].shape == expected[n].shape}
    # torchvision's older files lack batch norm's counters, which nothing uses.
    if missing := [name for name in expected if name not in fitting and not name.endswith("num_batches_tracked")]:
        raise InputError(
            f"{file}: {len(missing)} of {len(expected)} tensors of {model.settings['backbone']} are missing or of "
            f"another shape (first: {missing[0]}); use weights of this backbone"
        )
    model.backbone.load_state_dict(expected | fitting)
    # What else a model folder holds are its heads.
    unused = [] if is_folder else [name for name in tensors if name not in fitting] + others
    if unused:
        names = ", ".join(unused[:6]) + (" ..." if len(unused) > 6 else "")
        warnings.warn(f"{file}: {plural(len(unused), 'tensor')} not loaded: {names}", stacklevel=2)
    model.provenance["weights"] = {"source": str(path), "licence": licence, "not_loaded": unused}


def note_licence(model: AffectModel, name: str) -> None:
    """Keep the licence tag of timm's own weights in the provenance of a model."""
    licence = getattr(model.backbone, "pretrained_cfg", {}).get("license") or NOT_STATED
    model.provenance["weights"] = {"source": f"timm {name}", "licence": licence, "not_loaded": []}


def licence_of(provenance: Mapping[str, Any]) -> str:
    """Return the licence in the provenance of a model: its own, or that of the weights it started from."""
    return provenance.get("licence") or provenance.get("weights", {}).get("licence") or NOT_STATED


def _read(file: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors of a file by name, and the licence that it states."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        config = file.with_name("config.json")
        if config.is_file():
            return state, licence_of(json.loads(config.read_text(encoding="utf-8")).get("provenance", {}))
        return state, str(metadata.get("license") or metadata.get("licence") or NOT_STATED)
    try:
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:
        raise InputError(f"{file}: not a plain file of tensors; convert it to .safetensors") from None
    while isinstance(loaded, dict) and (inner := next((key for key in CONTAINERS if key in loaded), None)):
        loaded = loaded[inner]
    state = {name: value for name, value in loaded.items() if isinstance(value, Tensor)} if loaded else {}
    return state, NOT_STATED


def _best_prefix(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """The prefix after which most names are those of the backbone."""
    candidates = [first + second for first in PREFIXES for second in PREFIXES]
    return max(candidates, key=lambda prefix: sum(prefix + name in state for name in expected))
