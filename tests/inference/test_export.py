"""Export: one file with its preprocessing, labels and provenance, the same numbers, and what int8 costs."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from triaffect.cli.main import main
from triaffect.data.predictions import load_predictions
from triaffect.inference.backends import import_onnxruntime, import_openvino, largest_difference, open_backend
from triaffect.inference.export import export
from triaffect.io import InputError
from triaffect.labels import EXPRESSIONS, PREDICTION_COLUMNS
from triaffect.training.model import AffectModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model of two tasks that sees grey pictures, and brightens dark ones."""
    torch.manual_seed(2)
    model = AffectModel("test_resnet", ("va", "expr"), head="mlp", hidden=16, size=32, grey=True, brighten=True)
    model(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))  # moves batch norm's statistics
    for head in model.heads.values():  # an untrained head says the same of every picture
        torch.nn.init.normal_(head[-1].weight)
    model.provenance = {"config": {"training": {"seed": 2}}}
    path = tmp_path_factory.mktemp("model")
    model.eval().save_pretrained(path)
    (path / "README.md").write_text("# A card by hand\n")
    return path


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory, frames):
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    return export(folder, path, crops=frames[1], licence="MIT")


def test_the_file_agrees_with_torch(folder, written):
    assert written.crops == 72
    assert set(written.parity) == {"va", "expr"}
    assert max(written.parity.values()) < 1e-5
    assert written.scores == ()
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    for pixels in (crops, crops // 8):
        assert largest_difference(open_backend(written.files[0], "onnx"), open_backend(folder, "torch"), pixels) < 1e-5


def test_metadata_holds_labels_input_and_provenance(written):
    session = import_onnxruntime().InferenceSession(written.files[0], providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["triaffect"])
    assert metadata["labels"]["expr"] == list(EXPRESSIONS)
    assert metadata["tasks"] == ["va", "expr"]
    assert metadata["licence"] == "MIT"
    assert metadata["provenance"]["config"]["training"]["seed"] == 2
    assert "(N, 32, 32, 3)" in metadata["input"]
    assert b"/tests/" not in written.files[0].read_bytes()  # no path of the machine that wrote it


def test_the_verb_predict_takes_the_file(frames, folder, written, tmp_path):
    tables = []
    for model in (folder, written.files[0]):
        out = tmp_path / f"{model.name}.parquet"
        words = ["predict", str(model), str(frames[0]), "--images", str(frames[1]), "--out", str(out), "--workers", "0"]
        assert main(words) == 0
        tables.append(load_predictions(out))
    assert tables[0]["image"].equals(tables[1]["image"])
    for name in (*PREDICTION_COLUMNS["va"], *PREDICTION_COLUMNS["expr"]):
        assert tables[0][name].to_list() == pytest.approx(tables[1][name].to_list(), abs=0.06)  # bfloat16 in torch


def test_openvino_through_the_verb(folder, written, tmp_path, capsys, frames):
    out = tmp_path / "small.xml"
    assert main(["export", str(folder), "--format", "openvino", "--out", str(out), "--crops", str(frames[1])]) == 0
    assert "largest difference from torch on 72 crops: va" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.bin", "small.xml"]
    metadata = import_openvino().Core().read_model(out).get_rt_info(["triaffect"]).astype(str)
    assert json.loads(metadata)["labels"]["va"] == ["valence", "arousal"]
    assert largest_difference(open_backend(out), open_backend(written.files[0], "onnx")) < 0.03
    for backend, file in (("openvino", out), ("openvino", written.files[0]), ("onnx", written.files[0])):
        assert open_backend(file, backend).provenance["config"]["training"]["seed"] == 2


def test_int8_shows_its_effect_on_the_scores(folder, written, tmp_path, capsys, frames):
    out = tmp_path / "small.onnx"
    words = ["export", str(folder), "--int8", "--crops", str(frames[0]), "--split", "val", "--out", str(out)]
    # The index of the fixture does not know its images.
    assert main(words) == 2
    assert "--images" in capsys.readouterr().err
    import polars as pl

    from triaffect.data.index import save_index

    index = tmp_path / "index.parquet"
    save_index(pl.read_parquet(frames[0]), index, root=frames[1], images=frames[1], format="table")
    words[4] = str(index)
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["score", "va", "expr", "total"]
    before, after, change = (float(value) for value in lines[-1].split()[1:])
    assert change == pytest.approx(after - before, abs=2e-3)
    assert out.stat().st_size < 0.6 * written.files[0].stat().st_size
    cost = largest_difference(open_backend(out, "onnx"), open_backend(written.files[0], "onnx"))
    assert 1e-5 < cost < 0.3


def test_the_example_makes_a_folder_that_torch_and_onnx_share(folder, tmp_path):
    spec = importlib.util.spec_from_file_location("bundle", Path(__file__).parents[2] / "examples" / "bundle.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    out = example.bundle(folder, tmp_path / "base", licence="MIT")
    assert (out / "README.md").read_text() == "# A card by hand\n"
    assert json.loads((out / "config.json").read_text())["provenance"]["licence"] == "MIT"
    with safe_open(out / "model.safetensors", "pt") as tensors:
        kinds = {(tensors.get_tensor(name).ndim > 1, tensors.get_tensor(name).dtype) for name in tensors.keys()}  # noqa: SIM118
    assert kinds == {(True, torch.float16), (False, torch.float32), (False, torch.int64)}
    assert largest_difference(open_backend(out, "onnx"), open_backend(out, "torch")) < 1e-5
    assert 0 < largest_difference(open_backend(out, "onnx"), open_backend(folder, "torch")) < 0.02


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "openvino", "--out", "x.onnx"], "ends in .xml"),
        (["--out", "x"], "ends in .onnx"),
        (["--out", "x.onnx", "--crops", "empty"], "holds no image that can be read"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(folder, tmp_path, monkeypatch, capsys, words, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(folder), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_unknown_formats_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="choose from onnx, openvino"):
        export(folder, tmp_path / "x.pb", "tensorflow")
