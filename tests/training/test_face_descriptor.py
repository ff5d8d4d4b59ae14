"""The face descriptor as a backbone, and the script that makes its weights, against a plain forward pass."""

import hashlib
import json
import tarfile
from io import BytesIO

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import torch.nn.functional as F  # noqa: E402

from triaffect.io import InputError  # noqa: E402
from triaffect.training.face_descriptor import WIDTHS  # noqa: E402
from triaffect.training.model import AffectModel  # noqa: E402
from triaffect.training.weights import load_backbone_weights  # noqa: E402


def package(path):
    """A package as npm's is, with random 8-bit weights; returns its convolutions as (kernel, bias), in order."""
    rng, manifest, data, layers = np.random.default_rng(0), [], b"", []

    def store(name, values):
        nonlocal data
        values = np.asarray(values, np.float32)
        low, step = float(values.min()), float(np.ptp(values)) / 255 or 1.0
        codes = np.round((values - low) / step).astype(np.uint8)
        manifest.append({"name": name, "shape": values.shape, "quantization": {"scale": step, "min": low}})
        data += codes.tobytes()
        return codes * np.float32(step) + np.float32(low)

    def layer(name, inputs, outputs, side):
        kernel = store(
            f"{name}/conv/filters", rng.normal(0, (inputs * side * side) ** -0.5, (side, side, inputs, outputs))
        )
        bias = store(f"{name}/conv/bias", rng.normal(0, 0.1, outputs))
        scale = store(f"{name}/scale/weights", rng.uniform(0.7, 1.3, outputs))
        shift = store(f"{name}/scale/biases", rng.normal(0, 0.1, outputs))
        layers.append((kernel, bias, scale, shift))

    layer("conv32_down", 3, 32, 7)
    width = 32
    for number, out in enumerate((*WIDTHS, 256)):
        layer(f"block{number}/conv1".replace("/", "_x/"), width, out, 3)
        layer(f"block{number}_x/conv2", out, out, 3)
        width = out
    store("fc", rng.normal(0, 1, (256, 128)))
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (
            (".bin", data), ("-weights_manifest.json", json.dumps([{"weights": manifest}]).encode())
        ):  # fmt: skip
            member = tarfile.TarInfo("package/model/face_recognition_model" + name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return layers, hashlib.sha256(data).hexdigest()


def plain_features(layers, images):
    """dlib's network, layer by layer: a convolution, then a scale and a shift for each channel."""

    def apply(x, number, stride, padding):
        kernel, bias, scale, shift = (torch.from_numpy(np.ascontiguousarray(part)) for part in layers[number])
        x = F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride, padding)
        return x * scale[:, None, None] + shift[:, None, None]

    x = F.max_pool2d(
        apply((images - torch.tensor([122.782, 117.001, 104.298])[:, None, None]) / 256, 0, 2, 0).relu(), 3, 2
    )
    width = 32
    for block, out in enumerate(WIDTHS):
        halves = out > width
        y = apply(apply(x, 1 + 2 * block, 2 if halves else 1, 0 if halves else 1).relu(), 2 + 2 * block, 1, 1)
        if halves:
            x = F.avg_pool2d(x, 2, 2)
            padded = torch.zeros(len(x), out, *x.shape[2:])
            padded[:, :width] = x
            padded[:, :, : y.shape[2], : y.shape[3]] += y
            x = padded.relu()
        else:
            x = (x + y).relu()
        width = out
    return x.mean((2, 3))


@pytest.fixture(scope="module")
def example(load_example):
    return load_example("face_weights")


@pytest.mark.parametrize("size", [80, 96, 112])
def test_the_backbone_with_the_weights_of_a_package_is_the_plain_network(tmp_path, example, monkeypatch, size):
    layers, digest = package(tmp_path / "a.tgz")
    monkeypatch.setattr(example, "SHA256", digest)
    example.convert(tmp_path / "a.tgz", tmp_path / "weights.safetensors")
    model = AffectModel("face_descriptor", tasks=["va"], size=size).eval()
    load_backbone_weights(model, tmp_path / "weights.safetensors")
    images = torch.randint(0, 256, (2, 3, size, size)).float()
    with torch.inference_mode():
        expected = plain_features(layers, images)
        torch.testing.assert_close(model.features(images), expected, rtol=1e-4, atol=1e-5)
    assert model.width == 256


def test_a_package_with_other_weights_is_refused(tmp_path, example):
    package(tmp_path / "a.tgz")
    with pytest.raises(SystemExit, match="SHA-256"):
        example.convert(tmp_path / "a.tgz", tmp_path / "weights.safetensors")


def test_no_hub_has_its_weights():
    with pytest.raises(InputError, match="face_weights"):
        AffectModel("face_descriptor", tasks=["va"], pretrained=True)
