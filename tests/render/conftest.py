"""A face of a few hundred triangles that has all that ICT-FaceKit has: materials, shapes, modes, landmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triaffect.render.actions import MOVEMENTS

COLUMNS, ROWS = 25, 27


def _sheet(columns, rows, x, y, z):
    across, down = np.meshgrid(np.linspace(*x, columns), np.linspace(*y, rows))
    points = np.stack([across, down, z(across, down)], -1).reshape(-1, 3)
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    quads = np.stack([a, a + 1, a + columns + 1, a + columns], 1)
    uv = np.stack(np.meshgrid(np.linspace(0.02, 0.98, columns), np.linspace(0.02, 0.98, rows)), -1).reshape(-1, 2)
    return points, quads, uv


def _landmarks():
    t = np.linspace(-1, 1, 17)
    jaw = np.stack([7.3 * t, 3.7 - 11.2 * np.sqrt(1 - 0.96 * t**2)], 1)
    brow = np.array([(1.2, 5.9), (2.4, 6.2), (3.8, 6.3), (4.9, 6.0), (5.8, 5.2)])
    nose = [(0, y) for y in (3.7, 2.6, 1.6, 0.4)] + [(x, -1.1) for x in (-1.3, -0.6, 0, 0.6, 1.3)]
    eye = np.array([(1.8, 3.3), (2.8, 3.9), (3.9, 3.9), (4.5, 3.4), (3.9, 3.0), (2.8, 3.0)])
    right_eye = eye[[3, 2, 1, 0, 5, 4]] * [-1, 1]
    outer = [(-2.5, -3.5), (-1.7, -2.8), (-0.7, -2.4), (0, -2.5), (0.7, -2.4), (1.7, -2.8), (2.5, -3.5)]
    outer += [(1.8, -4.1), (1, -4.3), (0, -4.4), (-1, -4.3), (-1.8, -4.1)]
    inner = [(-2.2, -3.5), (-1, -3.2), (0, -3.2), (1, -3.2), (2.2, -3.5), (1, -3.8), (0, -3.8), (-1, -3.8)]
    return np.concatenate([jaw, brow[::-1] * [-1, 1], brow, nose, right_eye, eye, outer, inner])


@pytest.fixture(scope="session")
def parts() -> dict:
    """The arrays of a packed model, and its quads."""
    rng = np.random.default_rng(0)
    face = _sheet(COLUMNS, ROWS, (-8, 8), (-9, 11), lambda x, y: 12 - x**2 / 9 - (y - 1) ** 2 / 25)
    eyes = [
        _sheet(
            5, 5, (c - 1, c + 1), (2.9, 4.1), lambda x, y, c=c: 9.3 + np.sqrt(9 - (x - c) ** 2 - (y - 3.5) ** 2) - 1.1
        )
        for c in (3.1, -3.1)
    ]
    behind = _sheet(4, 4, (-2, 2), (-2, 2), lambda x, y: 4 + 0 * x)
    hidden = _sheet(3, 3, (-5, 5), (2, 5), lambda x, y: 20 + 0 * x)
    sheets = [face, *eyes, behind, hidden]
    names = ["M_Face", "M_ScleraLeft", "M_ScleraRight", "M_BackHead", "M_EyeLashes"]
    starts = np.cumsum([0, *(len(s[0]) for s in sheets)])
    points = np.concatenate([s[0] for s in sheets]).astype(np.float32)
    # The back of the head has the next tile.
    uv = np.concatenate([s[2] + (n == "M_BackHead", 0) for s, n in zip(sheets, names, strict=True)]).astype(np.float32)
    quads = np.concatenate([s[1] + start for s, start in zip(sheets, starts, strict=False)])
    material = np.repeat(np.arange(len(sheets)), [len(s[1]) for s in sheets])

    stems = sorted({s for effects in MOVEMENTS.values() for s in effects["shapes"]})
    central = {"jawOpen", "jawLeft", "jawRight", "mouthClose", "mouthFunnel", "mouthLeft", "mouthRight", "mouthPucker"}
    central |= {s for s in stems if s.startswith(("mouthRoll", "mouthShrug"))}
    shape_names = [n for s in stems for n in ([s] if s in central else [f"{s}_L", f"{s}_R"])]
    shape_names += [f"eyeLook{way}_{side}" for way in ("Up", "Down", "In", "Out") for side in "LR"]
    shapes = np.zeros((len(shape_names), *points.shape), np.float32)
    for row in range(len(shape_names)):
        centre = rng.uniform((-4, -5), (4, 7))
        near = np.exp(-((points[:, :2] - centre) ** 2).sum(1) / 6) * (points[:, 2] > 0)
        shapes[row] = near[:, None] * rng.normal(0, 0.3, 3)
    lower = (points[:, 1] < -3.5) & (points[:, 2] > 0)
    shapes[shape_names.index("jawOpen")] = lower[:, None] * np.float32([0, -2, 0])
    shapes[shape_names.index("mouthShrugLower")] = lower[:, None] * np.float32([0, 0.5, 0.2])
    modes = np.stack([rng.normal(0, 0.15, 3) * np.cos(points * k / 4) for k in range(1, 5)]).astype(np.float32)
    flat = points[: COLUMNS * ROWS, :2]
    marks = [int(((flat - p) ** 2).sum(1).argmin()) for p in _landmarks()]
    triangles = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    return {
        "N": points,
        "F": triangles,
        "M": np.repeat(material, 2),
        "mats": np.array(names),
        "E": shapes,
        "names": np.array(shape_names),
        "I": modes,
        "U": uv,
        "FT": triangles,
        "L": np.array(marks),
        "quads": quads,
    }


@pytest.fixture(scope="session")
def tiny(parts, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.npz"
    np.savez(path, **{name: value for name, value in parts.items() if name != "quads"})
    return path


@pytest.fixture(scope="session")
def model(tiny):
    from triaffect.render.model import load_model

    return load_model(tiny)


@pytest.fixture(scope="session")
def studio(model):
    from triaffect.render.film import Studio

    return Studio(model)
