"""The parametric face: ICT-FaceKit's neutral mesh, identity modes and expression shapes, visible triangles only.

The model is not part of this package; `docs/rendering.md` says where to get it. It is read from its folder of OBJ files
or from the packed file (one `.npz` without pickles) that `pack_model` writes.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from triaffect.io import InputError, atomic_path

Floats = NDArray[Any]
"""Arrays of float32 (inputs may be any real)."""


def f32(values: Any) -> Floats:
    """The values as a float32 array."""
    return np.asarray(values, np.float32)


HOW_TO_GET = (
    "get ICT-FaceKit (MIT) from the repository ICT-VGL/ICT-FaceKit on GitHub and pass its folder FaceXModel, "
    "or a file made from it by `triaffect render --pack`, as --model or in the variable TRIAFFECT_ICT"
)

PACKED = ("N", "F", "M", "mats", "E", "names", "I", "U", "FT")

# Multi-PIE order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67; vertex numbers of ICT-FaceKit.
LANDMARKS = [
    *(1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443),
    *(268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360),
    *(1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732),
    *(5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841),
    *(5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966),
]

SKIN, MOUTH, TEETH, EYE_LEFT, EYE_RIGHT = range(5)
PARTS = {
    "M_Face": SKIN,
    "M_BackHead": SKIN,
    "M_GumsTongue": MOUTH,
    "M_Teeth": TEETH,
    "M_ScleraLeft": EYE_LEFT,
    "M_ScleraRight": EYE_RIGHT,
}
"""Materials that are drawn; tear film, blend and shadow meshes, lashes and the inner iris are not."""


@dataclass
class FaceModel:
    """A face mesh with linear identity and expression shapes, in the model's units (about a centimetre each).

    x points to the person's left, y up, z forward.

    Attributes:
        neutral: (V, 3) vertices.
        triangles: (T, 3) vertex numbers.
        part: (T,) part of the face: `SKIN`, `MOUTH`, `TEETH`, `EYE_LEFT` or `EYE_RIGHT`.
        uv: (T, 3, 2) texture coordinates of each corner: the face in the unit square, the back of the head in the next.
        shapes: (S, V, 3) expression offsets.
        names: The S names of the expression shapes, `browDown_L` and so on.
        modes: (K, V, 3) identity offsets per standard deviation.
        landmarks: (68,) vertex numbers in Multi-PIE order.
    """

    neutral: Floats
    triangles: NDArray[np.int32]
    part: NDArray[np.int8]
    uv: Floats
    shapes: Floats
    names: list[str]
    modes: Floats
    landmarks: NDArray[np.int64]

    @cached_property
    def columns(self) -> dict[str, int]:
        """Shape name -> its row in `shapes`."""
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def _ring(self) -> sparse.csr_matrix:
        corners = self.triangles.ravel()
        faces = np.repeat(np.arange(len(self.triangles)), 3)
        ones = np.ones(len(corners), np.float32)
        return sparse.csr_matrix((ones, (corners, faces)), shape=(len(self.neutral), len(self.triangles)))

    def identity(self, left: Floats, right: Floats) -> Floats:
        """Return the neutral face of one person.

        Args:
            left: (k,) weights of the first k identity modes for the left half, in standard deviations.
            right: The same for the right half; the halves blend over the midline, so a face may be asymmetric.

        Returns:
            (V, 3) vertices.
        """
        k = len(left)
        side = 1 / (1 + np.exp(-self.neutral[:, :1] / 1.5))
        offsets = np.stack([left, right]).astype(np.float32) @ self.modes[:k].reshape(k, -1)
        left_offset, right_offset = offsets.reshape(2, -1, 3)
        return f32(self.neutral + left_offset * side + right_offset * (1 - side))

    def express(self, base: Floats, weights: Floats) -> Floats:
        """Add expression shapes to a person's neutral face.

        Args:
            base: (V, 3) vertices of `identity`.
            weights: (S,) weights in the order of `names`, 1 for the shape as modelled.

        Returns:
            (V, 3) vertices.
        """
        used = np.flatnonzero(weights)
        offset = weights[used].astype(np.float32) @ self.shapes.reshape(len(self.names), -1)[used]
        return base + offset.reshape(base.shape)

    def normals(self, vertices: Floats) -> Floats:
        """(V, 3) unit normals, each the area-weighted mean of its triangles'."""
        a, b, c = (vertices[self.triangles[:, k]] for k in range(3))
        summed = self._ring @ np.cross(b - a, c - a)
        return f32(summed / (np.linalg.norm(summed, axis=1, keepdims=True) + 1e-9))


def trace(vertices: Floats, triangles: NDArray[np.int32]) -> Any:
    """Build an Embree scene of one mesh, for `.run(origins, directions, output=1)`; about 1 µs per triangle."""
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    scene = rtcore_scene.EmbreeScene(_device())
    TriangleMesh(scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(triangles, np.int32))
    return scene


@cache
def _device() -> Any:
    """Embree's device of this process."""
    from embreex import rtcore

    return rtcore.EmbreeDevice()


def load_model(path: str | os.PathLike[str] | None = None) -> FaceModel:
    """Read the face model and keep the triangles that a camera in front of the face can see.

    Args:
        path: ICT-FaceKit's folder of OBJ files or a packed `.npz`; by default the variable TRIAFFECT_ICT.

    Raises:
        InputError: There is no path, or no face model at it.
    """
    path = path or os.environ.get("TRIAFFECT_ICT")
    if not path:
        raise InputError(f"no face model; {HOW_TO_GET}")
    data = _read_obj(Path(path)) if Path(path).is_dir() else _read_npz(Path(path))
    part_of = np.array([PARTS.get(str(name), -1) for name in data["mats"]], np.int8)
    part = part_of[data["M"]]
    drawn = part >= 0
    model = FaceModel(
        neutral=data["N"].astype(np.float32),
        triangles=data["F"][drawn].astype(np.int32),
        part=part[drawn],
        uv=data["U"].astype(np.float32)[data["FT"][drawn]],
        shapes=data["E"],
        names=[str(name) for name in data["names"]],
        modes=data["I"],
        landmarks=np.asarray(data.get("L", LANDMARKS), np.int64),
    )
    if model.landmarks.max() >= len(model.neutral):
        raise InputError(f"{path}: {len(model.neutral)} vertices are fewer than ICT-FaceKit's; {HOW_TO_GET}")
    return _trimmed(model)


def pack_model(folder: str | os.PathLike[str] | None, out: str | os.PathLike[str]) -> Path:
    """Pack ICT-FaceKit's folder of OBJ files into one `.npz` (about 17 MB) that loads much faster.

    Args:
        folder: The folder; by default the variable TRIAFFECT_ICT.
        out: The file to write.

    Returns:
        `out`.

    Raises:
        InputError: The folder does not exist or has no complete model.
    """
    folder = folder or os.environ.get("TRIAFFECT_ICT")
    if not folder or not Path(folder).is_dir():
        raise InputError(f"{folder or '--model'}: not a folder of OBJ files; {HOW_TO_GET}")
    data = _read_obj(Path(folder))
    half = {"E": data["E"].astype(np.float16), "I": data["I"].astype(np.float16)}
    with atomic_path(out) as tmp_path, tmp_path.open("wb") as file:
        np.savez_compressed(file, **{**data, **half})
    return Path(out)


def _read_npz(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; {HOW_TO_GET}")
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a packed face model ({error}); {HOW_TO_GET}") from None
    if missing := [name for name in PACKED if name not in data]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; {HOW_TO_GET}")
    return data


def _read_obj(folder: Path) -> dict[str, Any]:
    neutral = folder / "generic_neutral_mesh.obj"
    if not neutral.is_file():
        raise InputError(f"{folder}: has no generic_neutral_mesh.obj; {HOW_TO_GET}")
    # A mesh library would split vertices at materials and texture seams; the shapes need the order of the file.
    textures, triangles, materials = [], [], []
    for line in neutral.read_text(encoding="utf-8").splitlines():
        kind, *fields = line.split() or [""]
        if kind == "vt":
            textures.append(fields[:2])
        elif kind == "usemtl":
            material = fields[0]
        elif kind == "f":
            corners = [[int(n) - 1 for n in field.split("/")[:2]] for field in fields]
            for second, third in pairwise(corners[1:]):
                triangles.append((corners[0], second, third))
                materials.append(material)

    def vertices(path: Path) -> Floats:
        lines = path.read_text(encoding="utf-8").splitlines()
        return np.array([line.split()[1:4] for line in lines if line[:2] == "v "], np.float32)

    points = vertices(neutral)

    def offsets(path: Path) -> Floats:
        moved = vertices(path)
        if len(moved) != len(points):
            raise InputError(f"{path}: {len(moved)} vertices, the neutral mesh has {len(points)}; fetch the file again")
        return moved - points

    identities = sorted(folder.glob("identity*.obj"))
    others = [path for path in sorted(folder.glob("*.obj")) if path not in identities and path != neutral]
    if not identities or not others:
        raise InputError(f"{folder}: has no identity or expression shapes next to the neutral mesh; {HOW_TO_GET}")
    names = list(dict.fromkeys(materials))
    vertex_numbers, texture_numbers = np.moveaxis(np.array(triangles), 2, 0)
    return {
        "N": points,
        "F": vertex_numbers,
        "M": np.array([names.index(name) for name in materials]),
        "mats": np.array(names),
        "E": np.stack([offsets(path) for path in others]),
        "names": np.array([path.stem for path in others]),
        "I": np.stack([offsets(path) for path in identities]),
        "U": np.array(textures, np.float32),
        "FT": texture_numbers,
    }


def _trimmed(model: FaceModel) -> FaceModel:
    """Drop the triangles that no camera in front of the face sees (half of them); each costs time in every frame."""
    rng = np.random.default_rng(0)
    visible = np.zeros(len(model.triangles), bool)
    sneer = {f"{name}_{side}": 1.0 for name in ("mouthUpperUp", "mouthLowerDown", "mouthSmile") for side in "LR"}
    poses: tuple[dict[str, float], ...] = ({"eyeBlink_L": 1, "eyeBlink_R": 1}, {}, {"jawOpen": 0.5, **sneer}, sneer)
    for pose in poses:
        vertices = model.express(model.neutral, f32([pose.get(name, 0) for name in model.names]))
        scene = trace(vertices, model.triangles)
        low, high = vertices.min(0), vertices.max(0)
        aims = rng.uniform(low, high, (200_000, 3))
        turn, tilt = rng.uniform(-1.2, 1.2, len(aims)), rng.uniform(-0.7, 0.7, len(aims))
        away = np.stack([np.sin(turn) * np.cos(tilt), np.sin(tilt), np.cos(turn) * np.cos(tilt)], 1)
        origins = f32(aims + 60 * away)
        hit = scene.run(origins, f32(-away), output=1)["primID"]
        visible[hit[hit >= 0]] = True
    # With their neighbours, because the samples miss small triangles.
    rows = np.flatnonzero(np.isin(model.triangles, model.triangles[visible]).any(1))
    # Landmarks stay even if no visible triangle has them.
    used = np.union1d(model.triangles[rows], model.landmarks)
    renumber = np.full(len(model.neutral), -1, np.int64)
    renumber[used] = np.arange(len(used))
    return replace(
        model,
        neutral=model.neutral[used],
        triangles=renumber[model.triangles[rows]].astype(np.int32),
        part=model.part[rows],
        uv=model.uv[rows],
        shapes=np.ascontiguousarray(model.shapes[:, used], np.float32),
        modes=np.ascontiguousarray(model.modes[:, used], np.float32),
        landmarks=renumber[model.landmarks],
    )
