"""Weights of other programs' encoders: names, position embeddings, normalisation, what is left out, licence."""

import json

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from triaffect.io import InputError
from triaffect.training.config import TrainConfig
from triaffect.training.model import AffectModel, load_model, make_model
from triaffect.training.weights import licence_of, load_backbone_weights

VIT, SIZE = "test_vit", 64  # 0.4 M parameters; timm's own size is 160 px, of 16 px patches


@pytest.fixture(scope="module")
def foreign():
    """A vision transformer as another program keeps it: DINOv2's mask token, position embeddings of 10 x 10 patches."""
    torch.manual_seed(0)
    state = AffectModel(VIT, size=160).backbone.state_dict()
    state = {name: torch.randn_like(value) * 0.02 for name, value in state.items()}
    return {**state, "mask_token": torch.zeros(1, state["cls_token"].shape[-1])}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": {f"encoder.{name}": value for name, value in state.items()}, "epoch": 7},
        lambda state: {"teacher": {**{f"backbone.{k}": v for k, v in state.items()}, "head.mlp": torch.ones(2)}},
        lambda state: {"state_dict": {f"module.encoder.{name}": value for name, value in state.items()}},
    ],
    ids=["plain", "model", "teacher", "module"],
)
def test_a_vit_of_another_program_is_loaded_by_its_names(foreign, tmp_path, wrap, recwarn):
    file = tmp_path / "vit.pth"
    torch.save(wrap(foreign), file)
    config = TrainConfig.load(
        {
            "model": {
                "backbone": VIT,
                "size": SIZE,
                "weights": str(file),
                "mean": [0.5, 0.4, 0.3],
                "std": [0.2, 0.2, 0.3],
            }
        }
    )
    model = make_model(config)
    loaded = model.backbone.state_dict()
    for name, value in foreign.items():
        if name == "pos_embed":
            value = resample_abs_pos_embed(value, (4, 4), num_prefix_tokens=1)
            torch.testing.assert_close(loaded[name], value, atol=1e-5, rtol=1e-4)
        elif name != "mask_token":
            assert torch.equal(loaded[name], value), name
    unused = model.provenance["weights"]["not_loaded"]
    assert unused == (["head.mlp"] if "head.mlp" in str(wrap(foreign).get("teacher", {}).keys()) else [])
    assert [str(w.message).partition(": ")[2] for w in recwarn] == ["1 tensor not loaded: head.mlp"] * bool(unused)
    assert model.normalisation == {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
    model.save_pretrained(tmp_path / "saved")
    saved = load_model(tmp_path / "saved")
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(saved.features(images), model.eval().features(images))
    assert saved.normalisation["mean"] == [0.5, 0.4, 0.3]


def test_the_licence_of_weights_stays_with_the_model(tmp_path):
    from safetensors.torch import save_file

    model = AffectModel("test_resnet", size=32)
    save_file(model.backbone.state_dict(), tmp_path / "w.safetensors", metadata={"license": "cc-by-nc-4.0"})
    settings = {"backbone": "test_resnet", "size": 32}
    first = make_model(TrainConfig.load({"model": {**settings, "weights": str(tmp_path / "w.safetensors")}}))
    assert licence_of(first.provenance) == "cc-by-nc-4.0"
    first.save_pretrained(tmp_path / "first")
    second = make_model(TrainConfig.load({"model": {**settings, "pretrained": str(tmp_path / "first")}}))
    assert licence_of(second.provenance) == "cc-by-nc-4.0"
    second.save_pretrained(tmp_path / "second")
    saved = json.loads((tmp_path / "second" / "config.json").read_text())["provenance"]["weights"]
    assert saved == {"source": str(tmp_path / "first"), "licence": "cc-by-nc-4.0", "not_loaded": []}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "a.pth", "mean": [0.5, 0.5, 0.5]}, "model.mean and model.std are three numbers"),
        ({"weights": "a.pth", "mean": [0.5], "std": [0.5]}, "model.mean and model.std are three numbers"),
        ({"weights": "a.pth", "mean": [0.5] * 3, "std": [0.0] * 3}, "must be above 0"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, "model.mean has no effect without model.weights"),
        ({"pretrained": "a.pth"}, "name it as model.weights"),
        ({"pretrained": ["a", "b"]}, "lists several models, but data.features none"),
    ],
)
def test_settings_of_weights_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.load({"model": settings})


def test_another_architecture_is_refused_in_one_line(foreign, tmp_path):
    torch.save(foreign, tmp_path / "vit.pth")
    with pytest.raises(InputError, match="tensors of test_resnet are missing") as caught:
        load_backbone_weights(AffectModel("test_resnet", size=32), tmp_path / "vit.pth")
    assert "\n" not in str(caught.value)
