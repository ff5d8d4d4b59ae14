"""The network: shapes, heads, saving to the bit, weights from files, and errors that help."""

import json

import pytest
import torch

from triaffect.io import InputError
from triaffect.labels import OUTPUTS, TASKS
from triaffect.training.model import AffectModel, probabilities
from triaffect.training.weights import load_backbone_weights


def images(n=3, size=48):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AffectModel("test_resnet", size=48).eval()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_any_backbone_gives_every_tasks_width(backbone, head):
    raw = AffectModel(backbone, head=head, hidden=16, dropout=0.2, size=48)(images())
    assert {task: value.shape for task, value in raw.items()} == {task: (3, OUTPUTS[task]) for task in TASKS}


def test_width_is_what_the_network_gives_not_what_timm_calls_it():
    model = AffectModel("mobilenetv3_small_050", size=32)
    assert model.width == 1024 != model.backbone.num_features


def test_a_single_task_model_is_the_same_class_with_one_head():
    assert set(AffectModel("test_resnet", ("expr",), size=48)(images())) == {"expr"}


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_saving_and_loading_is_exact(tmp_path, head):
    model = AffectModel("test_resnet", ("va", "au"), head=head, hidden=8, size=48)
    model(images(8))  # moves batch norm's statistics
    model.eval()
    model.provenance = {"config": {"training": {"seed": 3}}}
    model.save_pretrained(tmp_path / "model")
    again = AffectModel.from_pretrained(tmp_path / "model")
    assert not again.training
    assert again.settings == model.settings
    assert again.provenance["config"] == model.provenance["config"]
    for task, raw in model(images()).items():
        assert torch.equal(raw, again(images())[task])


def test_the_model_folder_tells_everything_and_holds_no_pickle(tmp_path, model):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["labels"]["expr"][4] == "Happiness"
    assert config["input"]["mean"] == model.normalisation["mean"]
    assert "pretrained" not in config
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".md"}


def test_another_label_order_is_refused(tmp_path, model):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["labels"]["expr"].reverse()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="another order"):
        AffectModel.from_pretrained(tmp_path)


def test_normalisation_is_part_of_the_model(model):
    pixels = images()
    by_hand = (pixels / 255 - torch.tensor(model.normalisation["mean"]).view(3, 1, 1)) / torch.tensor(
        model.normalisation["std"]
    ).view(3, 1, 1)
    assert torch.allclose(model.features(pixels), model.backbone(by_hand), atol=1e-5)


def test_a_grey_model_sees_brightness_only(tmp_path):
    model = AffectModel("resnet10t", size=48, grey=True).eval()
    colour = images().float()
    grey = (colour * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    model.save_pretrained(tmp_path / "m")
    for network in (model, AffectModel.from_pretrained(tmp_path / "m")):
        torch.testing.assert_close(network(colour)["va"], network(grey)["va"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grey", [False, True])
def test_a_model_that_brightens_sees_an_eighth_of_the_light_as_all_of_it(grey):
    model = AffectModel("resnet10t", size=48, grey=grey, brighten=True).eval()
    bright = torch.rand(4, 3, 48, 48) * 120 + 60
    for factor in (1.0, 0.2):  # as floats: nothing is rounded
        gains = 80 / (bright * factor * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1).mean((1, 2))
        expected = bright * factor * gains.clamp(1, 8).view(-1, 1, 1, 1)
        plain = AffectModel("resnet10t", size=48, grey=grey).eval()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(bright * factor)["va"], plain(expected)["va"], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain(bright * 0.2)["va"], model(bright * 0.2)["va"], atol=1e-3)
    black = model(torch.zeros(1, 3, 48, 48))
    assert all(torch.isfinite(values).all() for values in black.values())


def test_predictions_are_in_range():
    raw = {"va": torch.tensor([[3.0, -0.5]]), "expr": torch.randn(1, 8), "au": torch.randn(1, 12) * 9}
    outputs = probabilities(raw)
    assert outputs["va"].tolist() == [[1.0, -0.5]]
    assert outputs["expr"].sum().item() == pytest.approx(1)
    assert ((outputs["au"] >= 0) & (outputs["au"] <= 1)).all()


@pytest.mark.parametrize("kind", ["folder", "safetensors", "pth", "wrapped"])
def test_backbone_weights_come_from_folder_or_file(tmp_path, model, kind):
    from safetensors.torch import save_file

    state = model.backbone.state_dict()
    path = tmp_path / {"folder": "model", "safetensors": "w.safetensors", "pth": "w.pth", "wrapped": "w.pt"}[kind]
    if kind == "folder":
        model.save_pretrained(path)
    elif kind == "safetensors":
        save_file(state, path)
    else:
        wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
        torch.save(state if kind == "pth" else wrapped, path)
    other = AffectModel("test_resnet", ("va",), size=48)
    load_backbone_weights(other, path)
    assert all(torch.equal(value, other.backbone.state_dict()[name]) for name, value in state.items())


class Foreign:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, model, capsys):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "thin.pth")
    torch.save(Foreign(), tmp_path / "code.pth")
    for name, message in [
        ("none.pth", "no such weights"),
        ("thin.pth", "missing"),
        ("code.pth", "plain file of tensors"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            load_backbone_weights(model, tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "never run" not in capsys.readouterr().out


def test_wrong_names_say_what_there_is():
    with pytest.raises(InputError, match="similar: resnet18"):
        AffectModel("resnet19")
    with pytest.raises(InputError, match="va, expr, au"):
        AffectModel("test_resnet", ("valence",))
    with pytest.raises(InputError, match="choose from linear, mlp"):
        AffectModel("test_resnet", head="deep", size=48)


def test_weights_that_cannot_be_fetched_name_the_way_out(monkeypatch):
    import timm

    def offline(*args, **options):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"no route to host.*model\.pretrained"):
        AffectModel("test_resnet", pretrained=True)
