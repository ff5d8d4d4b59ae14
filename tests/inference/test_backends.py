"""Engines: torch, ONNX Runtime and OpenVINO say the same of the bundled model, whatever is asked of them."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from triaffect.images import decode, fit
from triaffect.inference import fastest
from triaffect.inference.backends import TOLERANCE, difference, made_up_crops, open_engine, open_file, predict_images
from triaffect.inference.predict import load_model
from triaffect.io import BASE, InputError, model_folder
from triaffect.labels import OUTPUTS, TASKS

GRAPH = model_folder(BASE) / "model.onnx"


@pytest.fixture(scope="module")
def onnx():
    return open_engine(engine="onnx")


def test_torch_onnx_runtime_and_openvino_agree(onnx):
    crops = made_up_crops(6, onnx.size)
    assert difference(onnx, open_engine(engine="torch"), crops) < 1e-4
    assert difference(onnx, open_file(GRAPH, "openvino", 1, "f32"), crops) < 1e-4
    assert difference(onnx, open_engine(engine="openvino"), crops) < TOLERANCE


def test_predictions_are_in_range_and_differ_with_the_crop(onnx):
    found = onnx(made_up_crops(5, onnx.size))
    assert {task: value.shape for task, value in found.items()} == {task: (5, OUTPUTS[task]) for task in TASKS}
    assert abs(found["va"]).max() <= 1
    assert found["expr"].sum(1) == pytest.approx(1, abs=1e-5)
    assert 0 <= found["au"].min() <= found["au"].max() <= 1
    assert found["expr"].std(0).max() > 0


@pytest.mark.parametrize("engine", ["onnx", "openvino", "torch"])
def test_any_number_of_crops_in_any_micro_batch(engine):
    network = open_engine(engine=engine)
    crops = made_up_crops(5, network.size)
    whole = network(crops)
    network.batch = 2
    for task, value in network(crops).items():
        assert value == pytest.approx(whole[task], abs=TOLERANCE)
        assert value.dtype == np.float32
    assert network(crops[::-1])["va"] == pytest.approx(whole["va"][::-1], abs=TOLERANCE)  # not contiguous
    assert {task: value.shape for task, value in network(crops[:0]).items()} == {t: (0, OUTPUTS[t]) for t in TASKS}
    with pytest.raises(ValueError, match="expected"):
        network(crops.astype(np.float32))


def test_the_bundle_is_small_and_its_graph_holds_no_weights_of_its_own(tmp_path, onnx):
    files = {path.name: path.stat().st_size for path in model_folder(BASE).iterdir()}
    assert sum(files.values()) < 15e6
    assert files["model.onnx"] < 1e5
    copy = shutil.copytree(model_folder(BASE), tmp_path / "copy")
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    first, end = json.loads(data[8:start])["heads.va.1.weight"]["data_offsets"]
    data[start + first : start + end] = bytes(end - first)
    weights.write_bytes(data)
    changed = open_engine(copy, "onnx")
    crops = made_up_crops(3, onnx.size)
    assert np.ptp(changed(crops)["va"], axis=0).max() == 0
    assert changed(crops)["au"] == pytest.approx(onnx(crops)["au"])
    assert difference(changed, open_engine(copy, "torch"), crops) < 1e-4


def test_float16_weights_become_a_float32_model():
    model = load_model(BASE)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training


def test_onnx_needs_no_torch_and_any_working_folder_will_do(tmp_path):
    code = (
        "import sys; from triaffect.inference.backends import *; e = open_engine(faces=1); e(made_up_crops(1, e.size))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}; e(made_up_crops(1, e.size)); print(e.name, {{'torch', 'openvino'}} & {{*sys.modules}})",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "triaffect-base (onnx, 1 thread) set()"


def foreign(path):
    """A graph of somebody else."""
    from onnx import TensorProto, helper, save

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.mark.parametrize(
    ("name", "engine", "message"),
    [
        ("triaffect-base", "tensorrt", "there are auto, onnx"),
        ("nowhere.onnx", "auto", "no such file"),
        ("nowhere", "auto", "holds no model"),
        ("empty.onnx", "auto", "cannot load it"),
        ("text.onnx", "openvino", "OpenVINO cannot load it"),
        ("text.xml", "auto", "OpenVINO cannot load it"),
        ("text.xml", "onnx", "take the engine openvino"),
        ("foreign.onnx", "onnx", "is no model of triaffect"),
        ("foreign.onnx", "torch", "torch reads model folders"),
        ("plain", "onnx", "holds no model.onnx; write one: triaffect export"),
    ],
)
def test_errors_are_one_line_that_helps(tmp_path, monkeypatch, name, engine, message):
    (tmp_path / "empty.onnx").touch()
    for ending in ("onnx", "xml"):
        (tmp_path / f"text.{ending}").write_text("not a model\n")
    foreign(tmp_path / "foreign.onnx")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_engine(name, engine, faces=1)
    assert "\n" not in str(caught.value)


@pytest.fixture
def quick(monkeypatch):
    """A self-test of ONNX Runtime alone that takes no time."""
    monkeypatch.setattr(fastest, "SECONDS", 600)
    monkeypatch.setattr(fastest, "cpus", lambda: 1)
    monkeypatch.setattr(fastest, "find_spec", lambda name: None)
    monkeypatch.setattr(fastest, "_seconds", lambda engine, crops, budget: float(len(crops)) ** 0.5)


def test_auto_remembers_what_its_test_found(tmp_path, monkeypatch, quick):
    cache = tmp_path / "deep" / "engines.json"
    first = fastest.fastest(GRAPH, None, cache)
    assert first.batch == 32  # the square root makes the largest batch the cheapest a crop
    monkeypatch.setattr(fastest, "_test", lambda *_: pytest.fail("tested again"))
    again = fastest.fastest(GRAPH, None, cache)
    assert (again.name, again.batch) == (first.name, first.batch)
    (entry,) = json.loads(cache.read_text()).values()
    assert set(entry) == {"engine", "threads", "precision", "batch"}


@pytest.mark.parametrize("text", ["", "{", "[1]", "a folder", '{"engine": "onnx"}', "negative", "unknown"])
def test_a_broken_cache_never_matters(tmp_path, quick, text):
    cache, entry = tmp_path / "engines.json", {"engine": "onnx", "threads": 1, "precision": None, "batch": 1}
    if text == "a folder":
        cache.mkdir()
    elif text in ("negative", "unknown"):
        changed = {"threads": -1} if text == "negative" else {"gpu": True}
        cache.write_text(json.dumps({fastest._key(GRAPH): {**entry, **changed}}))
    else:
        cache.write_text(text)
    assert fastest.fastest(GRAPH, None, cache).tasks == TASKS


def test_the_number_of_threads_can_be_asked_for(tmp_path, quick):
    assert "2 threads" in fastest.fastest(GRAPH, 2, tmp_path / "c.json").name


def test_the_real_self_test_keeps_its_time(tmp_path, onnx):
    from time import process_time

    start = process_time()
    found = fastest._test(GRAPH, 1)[0]
    assert process_time() - start < 6  # OpenVINO's import included, on a slow machine
    assert difference(found, onnx) < TOLERANCE


def test_an_index_is_predicted_without_torch(frames, onnx):
    import polars as pl

    rows = pl.read_parquet(frames[0]).head(70)
    rows = pl.concat([rows, rows.head(1)]).with_columns(exists=pl.int_range(pl.len()) != 1)
    found = predict_images(onnx, rows, frames[1], progress=False)
    assert found["image"].to_list() == [name for i, name in enumerate(rows["image"][:70]) if i != 1]
    one = onnx(fit(decode(frames[1] / found["image"][40]), onnx.size)[None])
    assert found["valence"][40] == pytest.approx(one["va"][0, 0], abs=1e-5)
    filled = predict_images(onnx, rows, frames[1], fill="nearest", progress=False)
    assert filled["filled"].to_list() == [i == 1 for i in range(70)]


def test_images_that_cannot_be_read_are_named_once(frames, onnx, tmp_path):
    import polars as pl

    with pytest.warns(UserWarning, match="skipped 2 images"):
        assert predict_images(onnx, pl.read_parquet(frames[0]).head(2), tmp_path, progress=False).is_empty()
