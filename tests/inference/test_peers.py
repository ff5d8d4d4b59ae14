"""Peers: adapters over stand-ins of their packages, since tests have no network and need no foreign package."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import polars as pl
import pytest

from triaffect.cli.main import main
from triaffect.data.index import provenance
from triaffect.data.predictions import load_predictions
from triaffect.inference import peers
from triaffect.inference.peers import open_peer
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS


def module(monkeypatch, name, **content):
    made = ModuleType(name)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, name, made)
    return made


@pytest.fixture
def emotiefflib(monkeypatch):
    """Says 0.6 Happiness, 0.3 Contempt, 0.1 Anger; valence beyond the scale, arousal by the crop's brightness."""
    classes = ["Anger", "Contempt", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise"]

    class Recognizer:
        def __init__(self, engine, model_name, device):
            if model_name == "enet_b2_8":
                raise OSError("no route")
            self.is_mtl, self.img_size = "_mtl" in model_name, 24
            self.idx_to_emotion_class = dict(enumerate(classes))

        def predict_emotions(self, faces, logits):
            assert not logits
            scores = np.zeros((len(faces), 10 if self.is_mtl else 8))
            scores[:, [0, 1, 4]] = 0.1, 0.3, 0.6
            if self.is_mtl:
                scores[:, 8:] = [(1.3, face.mean() / 255) for face in faces]
            return ["Happiness"] * len(faces), scores

    module(monkeypatch, "emotiefflib")
    names = ["enet_b0_8_best_vgaf", "enet_b0_8_va_mtl", "enet_b2_8"]
    module(monkeypatch, "emotiefflib.facial_analysis", EmotiEffLibRecognizer=Recognizer, get_model_list=lambda: names)


def test_emotiefflib_in_our_order_with_contempt_as_other(emotiefflib):
    network = open_peer("emotiefflib:enet_b0_8_va_mtl")
    assert network.tasks == ("va", "expr")
    outputs = network(np.full((3, 24, 24, 3), 51, np.uint8))
    assert outputs["expr"][0] == pytest.approx([0, 0.1, 0, 0, 0.6, 0, 0, 0.3])
    assert outputs["va"][2] == pytest.approx([1, 0.2])
    assert open_peer("emotiefflib:enet_b0_8_best_vgaf").tasks == ("expr",)


def test_the_verb_writes_an_ordinary_predictions_file(emotiefflib, frames, tmp_path, capsys):
    out = tmp_path / "p.parquet"
    words = ["predict", "emotiefflib:enet_b0_8_va_mtl", str(frames[0]), "--split", "val", "--images", str(frames[1])]
    assert main([*words, "--out", str(out)]) == 0
    assert "24 images" in capsys.readouterr().out
    table = load_predictions(out)
    assert "AU1" not in table.columns
    assert table["arousal"].n_unique() > 4
    assert provenance(out)["backend"] == "emotiefflib:enet_b0_8_va_mtl"


def test_fer_reads_grey_crops_between_minus_one_and_one(monkeypatch, tmp_path):
    inputs = []

    def infer(batch):
        inputs.append(batch[0])
        return {"out": np.array([[0.05, 0.1, 0.15, 0.4, 0.1, 0.1, 0.1]], np.float32)}

    file = tmp_path / "data" / "emotion_model_quantized.tflite"
    monkeypatch.setattr(peers, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    request = SimpleNamespace(infer=infer)
    monkeypatch.setattr(peers, "compile_openvino", lambda *_: SimpleNamespace(create_infer_request=lambda: request))
    with pytest.raises(InputError, match="install fer"):
        open_peer("fer")
    file.parent.mkdir()
    file.touch()
    crops = np.zeros((2, 64, 64, 3), np.uint8)
    crops[1] = 255
    assert open_peer("fer")(crops)["expr"][1] == pytest.approx([0.1, 0.05, 0.1, 0.15, 0.4, 0.1, 0.1, 0])
    assert [crop.shape for crop in inputs] == [(1, 64, 64, 1)] * 2
    assert [crop.mean() for crop in inputs] == [-1, 1]


@pytest.fixture
def mediapipe(monkeypatch, tmp_path):
    """Finds a smile in bright crops, no face in dark ones."""
    single = {"browInnerUp", "jawOpen", "mouthRollLower", "mouthRollUpper"}
    names = {name for group in peers.BLENDSHAPES.values() for name in group}
    names = single | {f"{name}{side}" for name in names - single for side in ("Left", "Right")}

    def detect(picture):
        scores = {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.6, "jawOpen": 0.25}
        shapes = [SimpleNamespace(category_name=name, score=scores.get(name, 0.0)) for name in names]
        return SimpleNamespace(face_blendshapes=[shapes] if picture.data.mean() > 100 else [])

    class Landmarker:
        @staticmethod
        def create_from_options(options):
            return SimpleNamespace(detect=detect, close=lambda: None)

    image = {"Image": lambda image_format, data: SimpleNamespace(data=data), "ImageFormat": SimpleNamespace(SRGB=1)}
    vision = SimpleNamespace(FaceLandmarkerOptions=lambda **_: None, FaceLandmarker=Landmarker)
    module(monkeypatch, "mediapipe", **image)
    module(monkeypatch, "mediapipe.tasks")
    module(monkeypatch, "mediapipe.tasks.python", BaseOptions=lambda **_: None, vision=vision)
    path = tmp_path / "face_landmarker.task"
    path.touch()
    return f"mediapipe:{path}"


def test_mediapipes_blendshapes_become_action_units(mediapipe):
    values = open_peer(mediapipe)(np.stack([np.full((224, 224, 3), level, np.uint8) for level in (200, 10)]))["au"]
    units = dict(zip(ACTION_UNITS, values[0], strict=True))
    assert units["AU12"] == pytest.approx(0.7)
    assert units["AU26"] == pytest.approx(0.25)
    assert units["AU4"] == 0
    assert np.isnan(values[1]).all()


def test_crops_without_a_face_are_left_out_or_filled(mediapipe, frames, tmp_path, capsys):
    rows = pl.read_parquet(frames[0])
    words = ["predict", mediapipe, str(frames[0]), "--images", str(frames[1]), "--out", str(tmp_path / "p.parquet")]
    assert main(words) == 0
    table = load_predictions(tmp_path / "p.parquet")
    assert 0 < table.height < rows.height
    assert f"{rows.height - table.height} without a prediction" in capsys.readouterr().out
    assert main([*words, "--fill", "nearest"]) == 0
    assert load_predictions(tmp_path / "p.parquet")["filled"].sum() == rows.height - table.height


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deepface", "choose from emotiefflib, fer, mediapipe"),
        ("emotiefflib:nonsense", "there are enet_b0_8_best_vgaf"),
        ("emotiefflib:enet_b2_8", "cannot be fetched .no route.; put enet_b2_8.(onnx|pt) into"),
        ("mediapipe:nowhere.task", "no such file"),
    ],
)
def test_errors_help(emotiefflib, name, message):
    with pytest.raises(InputError, match=message):
        open_peer(name)


@pytest.mark.parametrize("name", ["emotiefflib:enet_b0_8_va_mtl", "fer"])
def test_a_peer_that_is_not_installed_is_one_line(monkeypatch, frames, capsys, name):
    for package in ("emotiefflib", "emotiefflib.facial_analysis"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    assert main(["predict", name, str(frames[0]), "--images", str(frames[1])]) == 2
    error = capsys.readouterr().err
    assert "is not installed" in error
    assert error.count("\n") == 1


def test_pyfeat_in_our_order(monkeypatch):
    pytest.importorskip("torch")

    class Multitask:
        emotion_names = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger")
        au_names = tuple(
            f"AU{n:02d}" for n in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)
        )

        def __init__(self, device, weights_path):
            if weights_path is not None:
                raise RuntimeError("metadata missing 'config'\nat all")

        def __call__(self, chips):
            assert chips.shape[1:] == (3, 256, 256)
            assert float(chips.max()) <= 1
            n = len(chips)
            emotion = np.tile(np.float32([0.1, 0.6, 0, 0, 0, 0, 0.3]), (n, 1))
            au = np.tile(np.arange(20, dtype=np.float32) / 100, (n, 1))
            return SimpleNamespace(au=au, emotion=emotion, valence=np.full(n, 1.2), arousal=np.full(n, -0.5))

    for name in ("feat", "feat.multitask"):
        module(monkeypatch, name)
    module(monkeypatch, "feat.multitask.inference", MultitaskModel=Multitask)
    network = open_peer("pyfeat")
    outputs = network(np.full((2, 256, 256, 3), 255, np.uint8))
    assert outputs["expr"][0] == pytest.approx([0.1, 0.3, 0, 0, 0.6, 0, 0, 0])
    assert outputs["va"][1] == pytest.approx([1, -0.5])
    by_name = dict(zip(ACTION_UNITS, outputs["au"][0], strict=True))
    assert by_name["AU12"] == pytest.approx(0.09)
    assert by_name["AU26"] == pytest.approx(0.17)
    with pytest.raises(InputError, match=r"pyfeat: its weights cannot be had \(metadata missing 'config'\)"):
        open_peer("pyfeat:other.safetensors")
    with pytest.raises(InputError, match=r"pyfeat:old\.pt: not a \.safetensors file"):
        open_peer("pyfeat:old.pt")
