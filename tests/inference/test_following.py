"""Faces seen through time: the camera, the exported graph, and the whole video at once say the same."""

import numpy as np
import pytest
import torch

from triaffect.inference.analyzer import Analyzer
from triaffect.inference.backends import FOLLOWED, open_engine
from triaffect.inference.detect import Face
from triaffect.inference.export import export
from triaffect.inference.following import Following
from triaffect.inference.video import Frame
from triaffect.io import InputError
from triaffect.labels import TASKS
from triaffect.training.model import AffectModel, probabilities


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    net = AffectModel("test_resnet", size=32, context=0.5, causal=True).eval()
    torch.nn.init.normal_(net.context.outward[1].weight)
    path = tmp_path_factory.mktemp("causal")
    net.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "seen.onnx"
    files = export(folder, file).files
    assert files == [file, file.with_suffix(FOLLOWED)]
    return file


@pytest.fixture(scope="module")
def film():
    """Crops of two faces in turn, their times (an hour in, with a gap), and the faces."""
    rng = np.random.default_rng(0)
    time = 3600 + np.repeat(np.r_[0:20, 40:60] / 30, 2)
    return rng.integers(0, 256, (80, 32, 32, 3), np.uint8), time, np.tile([1, 2], 40)


def whole(folder, film):
    crops, time, face = film
    net = AffectModel.from_pretrained(folder)
    with torch.inference_mode():
        features = net.features(torch.from_numpy(crops).permute(0, 3, 1, 2))
        raw = net.predict_from_features(features, torch.from_numpy(time - 3600).float(), torch.from_numpy(face))
    return {task: value.numpy() for task, value in probabilities(raw).items()}


@pytest.mark.parametrize("engine", ["torch", "onnx"])
@pytest.mark.parametrize("step", [1, 7])
def test_piece_by_piece_is_as_the_whole(folder, exported, film, engine, step):
    network = open_engine(exported if engine == "onnx" else folder, engine)
    following = Following(network.follow, network.tasks)
    parts = [following(*(part[i : i + step] for part in film)) for i in range(0, 80, step)]
    for task, expected in whole(folder, film).items():
        np.testing.assert_allclose(np.concatenate([part[task] for part in parts]), expected, atol=2e-3)
    assert len(following.time) < 50  # of 80: what is out of reach is let go
    alone = network(film[0])
    assert max(abs(alone[task] - whole(folder, film)[task]).max() for task in TASKS) > 0.05


def test_auto_takes_the_engine_that_follows(exported):
    assert open_engine(exported).follow.seconds == 0.5


def test_a_video_is_followed_and_a_photo_is_not(folder):
    pictures = np.random.default_rng(1).integers(0, 256, (12, 64, 64, 3), np.uint8)
    frames = [Frame(i, i / 30, picture) for i, picture in enumerate(pictures)]
    analyzer = Analyzer(folder, engine="torch", detector=lambda _: [Face((8.0, 8.0, 48.0, 48.0), None, 1.0)], batch=5)
    columns = ["valence", "AU12"]

    def said(**how):
        return np.concatenate([rows.select(columns).to_numpy() for _, rows in analyzer.run(frames, "", **how)])

    through, stills = said(), said(still=True)
    np.testing.assert_allclose(through[0], stills[0], atol=1e-4)
    assert abs(through[1:] - stills[1:]).max() > 0.01


def test_a_broken_temporal_graph_is_one_line(exported, tmp_path):
    file = tmp_path / "seen.onnx"
    file.write_bytes(exported.read_bytes())
    file.with_suffix(FOLLOWED).write_bytes(b"broken")
    with pytest.raises(InputError, match=r"seen.context.onnx: ONNX Runtime cannot load it"):
        open_engine(file)
    file.with_suffix(FOLLOWED).write_bytes(exported.read_bytes())  # the still graph
    with pytest.raises(InputError, match=r"is no temporal graph of triaffect; export the model again"):
        open_engine(file)


def test_a_still_model_takes_the_older_temporal_graph_away(tmp_path):
    still = AffectModel("test_resnet", size=32).eval()
    still.save_pretrained(tmp_path / "still")
    file = tmp_path / "seen.onnx"
    file.with_suffix(FOLLOWED).write_bytes(b"of another model")
    assert export(tmp_path / "still", file).files == [file]
    assert open_engine(file, "onnx").follow is None
