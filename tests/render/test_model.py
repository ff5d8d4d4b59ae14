from __future__ import annotations

import os

import numpy as np
import pytest

from triaffect.cli.main import main
from triaffect.io import InputError
from triaffect.render.actions import MOVEMENTS, Actions
from triaffect.render.model import EYE_LEFT, EYE_RIGHT, SKIN, load_model


def write_obj(folder, parts):
    folder.mkdir()
    points, quads = parts["N"], parts["quads"]
    lines = ["# made up", "mtllib none.mtl", *(f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in points)]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in parts["U"]]
    last = None
    for number, quad in enumerate(quads):
        name = parts["mats"][parts["M"][2 * number]]
        if name != last:
            lines += [f"usemtl {name}", "s 1"]
            last = name
        lines.append("f " + " ".join(f"{v + 1}/{v + 1}/1" for v in quad))
    (folder / "generic_neutral_mesh.obj").write_text("\n".join(lines) + "\n")
    shapes = dict(zip(parts["names"], parts["E"], strict=True))
    shapes |= {f"identity{k:03d}": mode for k, mode in enumerate(parts["I"])}
    for name, offset in shapes.items():
        (folder / f"{name}.obj").write_text("".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in points + offset))


def test_packing_the_obj_folder_keeps_the_model(parts, tmp_path):
    write_obj(tmp_path / "obj", parts)
    assert main(["render", "--model", str(tmp_path / "obj"), "--pack", str(tmp_path / "packed.npz")]) == 0
    with np.load(tmp_path / "packed.npz", allow_pickle=False) as packed:
        assert list(packed["mats"]) == list(parts["mats"])
        assert sorted(packed["names"]) == sorted(parts["names"])
        for name in ("F", "FT", "M"):
            np.testing.assert_array_equal(packed[name], parts[name])
        for name in ("N", "U"):
            np.testing.assert_allclose(packed[name], parts[name], atol=1e-6)
        order = [list(parts["names"]).index(n) for n in packed["names"]]
        np.testing.assert_allclose(packed["E"], parts["E"][order], atol=2e-3)
        np.testing.assert_allclose(packed["I"], parts["I"], atol=1e-3)


def test_only_what_is_seen_is_kept(model, parts):
    # The sheet behind the face and the material that is never drawn are gone; the landmarks are where they were.
    assert set(np.unique(model.part)) == {SKIN, EYE_LEFT, EYE_RIGHT}
    assert not ((model.neutral[:, 2] == 4) & (np.abs(model.neutral[:, 0]) <= 2)).any()
    assert model.neutral[:, 2].max() < 19
    np.testing.assert_allclose(model.neutral[model.landmarks], parts["N"][parts["L"]])


def test_shapes_add_up(model):
    rng = np.random.default_rng(1)
    weights = np.where(rng.random(len(model.names)) < 0.3, rng.normal(size=len(model.names)), 0)
    expected = model.neutral + np.einsum("s,svc->vc", weights, model.shapes.astype(float))
    np.testing.assert_allclose(model.express(model.neutral, weights), expected, atol=1e-4)


def test_each_half_of_a_face_has_its_own_identity(model):
    face = model.identity(np.float32([1, 0, 0, 0]), np.zeros(4))
    moved = np.abs(face - model.neutral).sum(1)
    full = np.abs(model.modes[0]).sum(1)
    left, right = model.neutral[:, 0] > 5, model.neutral[:, 0] < -5
    np.testing.assert_allclose(moved[left], full[left], rtol=0.05)
    assert (moved[right] < 0.05 * full[right]).all()


def test_normals_against_a_plain_loop(model):
    sums = np.zeros((len(model.neutral), 3))
    for a, b, c in model.triangles:
        p, q, r = model.neutral[[a, b, c]].astype(float)
        for vertex in (a, b, c):
            sums[vertex] += np.cross(q - p, r - p)
    used = np.unique(model.triangles)
    expected = sums[used] / np.linalg.norm(sums[used], axis=1, keepdims=True)
    np.testing.assert_allclose(model.normals(model.neutral)[used], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no face model"),
        (lambda p: p / "none.npz", "no such file"),
        (lambda p: (p / "a.npz").write_bytes(b"nonsense") and p / "a.npz", "not a packed face model"),
        (lambda p: np.savez(p / "b.npz", N=np.zeros((3, 3))) or p / "b.npz", "lacks F, M"),
        (lambda p: np.savez(p / "c.npz", N=np.array([{}], object)) or p / "c.npz", "not a packed face model"),
        (lambda p: p, "generic_neutral_mesh.obj"),
    ],
)
def test_a_missing_model_says_where_to_get_it(make, says, tmp_path, monkeypatch):
    monkeypatch.delenv("TRIAFFECT_ICT", raising=False)
    with pytest.raises(InputError, match="ICT-VGL/ICT-FaceKit") as caught:
        load_model(make(tmp_path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_shape_file_is_named(parts, tmp_path):
    write_obj(tmp_path / "obj", parts)
    (tmp_path / "obj" / "jawOpen.obj").write_text("v 0 0 0\n")
    with pytest.raises(InputError, match=r"jawOpen\.obj: 1 vertices"):
        load_model(tmp_path / "obj")


def test_closed_lips_stay_closed_until_a_part_opens_them(model):
    actions = Actions(model)
    gap = model.shapes[:, model.landmarks[61:64], 1] - model.shapes[:, model.landmarks[[67, 66, 65]], 1]
    opened = {"AU12": (1.0, 1.0), "AU10": (1.0, 1.0)}
    shut, _ = actions.pose(opened)
    parted, _ = actions.pose(opened | {"AU25": (1.0, 1.0), "AU26": (1.0, 1.0)})
    assert gap.mean(1) @ shut <= 0.01
    assert gap.mean(1) @ parted > 0.5


def test_sides_move_apart_from_each_other(model):
    weights, furrows = Actions(model).pose({"AU2": (1.0, 0.25)}, depth=0.5)
    left, right = (weights[model.columns[f"browOuterUp_{side}"]] for side in "LR")
    assert left == pytest.approx(4 * right)
    assert furrows["forehead_side"] == pytest.approx((0.5, 0.125))


@pytest.mark.skipif("TRIAFFECT_ICT" not in os.environ, reason="needs ICT-FaceKit, named in TRIAFFECT_ICT")
def test_the_real_model_has_every_shape():
    model = load_model()
    assert Actions(model).rows.keys() == MOVEMENTS.keys()
    assert model.triangles.max() < len(model.neutral) < 20_000
