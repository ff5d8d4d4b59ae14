"""A model behind ONNX Runtime, OpenVINO or torch: uint8 crops in, predictions out; and the choice of the fastest."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.predictions import fill_nearest
from triaffect.images import decode, fit
from triaffect.inference.following import INPUTS, Follow
from triaffect.inference.runtimes import import_onnxruntime, import_openvino
from triaffect.io import BASE, InputError, model_folder
from triaffect.labels import OUTPUTS, PREDICTION_COLUMNS, TASKS

FILES = (".onnx", ".xml")
"""Endings of exported models."""
FOLLOWED = ".context.onnx"
"""Ending of the graph beside an exported model that sees frames after others."""
ENGINES = ("auto", "onnx", "openvino", "torch")
FEW = 2000
"""Faces below which `auto` does not wait for an engine that takes longer to load than ONNX Runtime does."""
TOLERANCE = 0.03
"""Largest difference of a prediction that half precision may make."""

Crops = NDArray[np.uint8]
Outputs = dict[str, NDArray[np.float32]]


class Engine(Protocol):
    """Anything that describes crops: the engines here, and the peers."""

    @property
    def name(self) -> str:
        """What it is, for people."""

    @property
    def size(self) -> int:
        """Side of the crops, in pixels."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its descriptors, in the order of `labels.TASKS`."""

    def __call__(self, crops: Crops) -> Outputs:
        """Predictions of aligned crops (N, size, size, 3), RGB.

        Returns:
            `va` (N, 2) in [-1, 1]; `expr` (N, 8) and `au` (N, 12), probabilities; those of its tasks.
        """


@dataclass(slots=True)
class Network:
    """An engine made of a function from crops to arrays, which it calls with `batch` crops at most."""

    name: str
    size: int
    tasks: tuple[str, ...]
    run: Callable[[Crops], Sequence[NDArray[np.float32]]]
    batch: int = 32
    follow: Follow | None = None
    """How it sees a video's frames together, if it does."""

    def __call__(self, crops: Crops) -> Outputs:
        """Predictions of crops; see `Engine`."""
        if crops.shape[1:] != (self.size, self.size, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops {crops.shape} {crops.dtype}: expected (N, {self.size}, {self.size}, 3) uint8")
        parts = [self.run(crops[i : i + self.batch]) for i in range(0, len(crops), self.batch)]
        if not parts:
            return {task: np.zeros((0, OUTPUTS[task]), np.float32) for task in self.tasks}
        return {task: np.concatenate([part[i] for part in parts]) for i, task in enumerate(self.tasks)}


def open_engine(
    model: str | Path = BASE, engine: str = "auto", threads: int | None = None, faces: int | None = None
) -> Network:
    """Loads a model to describe crops with.

    Args:
        model: `triaffect-base`, a run or model folder, or a file that `export` wrote (`.onnx`, `.xml`).
        engine: `onnx` (ONNX Runtime), `openvino` (in bfloat16 where the processor has it and predictions move by less
            than `TOLERANCE`), `torch` (on a GPU where there is one), or `auto`: the fastest that is installed, by a
            self-test of at most two seconds whose outcome is kept in the user's cache folder.
        threads: Threads of the engine; where left out `auto` finds the best number, `onnx` and `openvino` take one.
        faces: About how many faces will come. For a few, `auto` takes ONNX Runtime, which loads in a tenth of a
            second, and tests nothing.

    Raises:
        InputError: There is no such engine or model, or the model is not in a form that the engine reads.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r}: there are {', '.join(ENGINES)}")
    file = _file(model)
    if engine == "auto" and file is not None:
        followed = file.with_suffix(FOLLOWED).is_file()  # which ONNX Runtime alone reads
        if file.suffix == ".onnx" and (faces is None or faces >= FEW) and not followed:
            from triaffect.inference.fastest import fastest

            return fastest(file, threads)
        engine = "onnx" if file.suffix == ".onnx" else "openvino"
    if engine in ("auto", "torch"):
        return _torch(model, threads)
    if file is None:
        where = model_folder(model) / "model.onnx"
        raise InputError(f"{model}: holds no model.onnx; write one: triaffect export {model} --out {where}")
    return open_file(file, engine, threads)


def open_file(file: Path, engine: str, threads: int | None = None, precision: str | None = None) -> Network:
    """Loads an exported file with `onnx` or `openvino`; `precision` (bf16, f32) settles what OpenVINO else checks."""
    return _openvino(file, threads or 1, precision) if engine == "openvino" else _onnx(file, threads or 1)


def _file(model: str | Path) -> Path | None:
    """The exported file that a model's name stands for, if any."""
    path = Path(model)
    if path.suffix in FILES:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return path
    file = model_folder(model) / "model.onnx"
    return file if file.is_file() else None


def _network(file: Path, engine: str, threads: int, shape: Sequence[Any], outputs: Sequence[str], run: Any) -> Network:
    tasks = tuple(task for task in TASKS if task in outputs)
    if len(shape) != 4 or shape[3] != 3 or not tasks or list(outputs) != list(tasks):
        raise InputError(f"{file}: is no model of triaffect; write one with triaffect export")
    called = BASE if file == model_folder(BASE) / "model.onnx" else file.stem
    return Network(f"{called} ({engine}, {_threads(threads)})", int(shape[1]), tasks, run)


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number > 1 else ''}"


def _onnx(file: Path, threads: int) -> Network:
    session = _session(file, threads)
    given = session.get_inputs()[0]
    outputs = [output.name for output in session.get_outputs()]
    found = _network(file, "onnx", threads, given.shape, outputs, lambda crops: session.run(None, {given.name: crops}))
    beside = file.with_suffix(FOLLOWED)
    if beside.is_file():
        through = _session(beside, threads)
        told = json.loads(through.get_modelmeta().custom_metadata_map.get("triaffect", "{}"))
        if [given.name for given in through.get_inputs()] != list(INPUTS) or "context" not in told:
            raise InputError(f"{beside}: is no temporal graph of triaffect; export the model again, or remove it")
        found.follow = Follow(
            told["context"],
            through.get_outputs()[-1].shape[1],
            lambda *parts: through.run(None, dict(zip(INPUTS, parts, strict=True))),
        )
    return found


def _session(file: Path, threads: int) -> Any:
    if file.suffix != ".onnx":
        raise InputError(f"{file}: ONNX Runtime reads .onnx; take the engine openvino")
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    # One pool, and no thread that spins: detection and decoding want the other cores between two calls.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's own kinds share no other base
        raise InputError(f"{file}: ONNX Runtime cannot load it ({str(error).splitlines()[0][:160]})") from None


def _openvino(file: Path, threads: int, precision: str | None = None) -> Network:
    if precision is None:
        half, full = (_openvino(file, threads, kind) for kind in ("bf16", "f32"))
        return half if difference(half, full) < TOLERANCE else full
    model = compiled(file, threads, precision)
    request = model.create_infer_request()

    def run(crops: Crops) -> list[NDArray[np.float32]]:
        # The request writes into the same memory each time.
        return [np.array(value) for value in request.infer([np.ascontiguousarray(crops)]).values()]

    shape = [side.get_length() if side.is_static else None for side in model.inputs[0].partial_shape]
    outputs = [output.get_any_name() for output in model.outputs]
    return _network(file, f"openvino {precision}", threads, shape, outputs, run)


def compiled(file: Path, threads: int, precision: str) -> Any:
    """An `openvino.CompiledModel` of any file that OpenVINO reads; `precision` is f32 or bf16 (where there is any).

    Raises:
        InputError: OpenVINO is not installed, or cannot read the file.
    """
    openvino = import_openvino()
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    try:
        return openvino.Core().compile_model(file, "CPU", {**hints, "ENABLE_CPU_PINNING": False})
    except Exception as error:  # RuntimeError, and what it makes of a broken file
        raise InputError(f"{file}: OpenVINO cannot load it ({str(error).splitlines()[0][:160]})") from None


def _torch(model: str | Path, threads: int | None) -> Network:
    if Path(model).suffix in FILES:
        raise InputError(f"{model}: torch reads model folders; take the engine onnx or openvino")
    try:
        import torch

        from triaffect.inference.predict import load_model
        from triaffect.training.model import Through, probabilities
    except ModuleNotFoundError as error:
        raise InputError(f"the engine torch needs {error.name}: pip install 'triaffect[train]'") from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if threads:
        torch.set_num_threads(threads)  # torch has one setting for the whole process
    network = load_model(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run(crops: Crops) -> list[NDArray[np.float32]]:
        images = torch.from_numpy(crops.copy()).to(device).permute(0, 3, 1, 2)
        return [value.cpu().numpy() for value in probabilities(network(images)).values()]

    name = f"{Path(model).name} (torch, {device.type if device.type == 'cuda' else _threads(torch.get_num_threads())})"
    found = Network(name, network.size, network.tasks, run)
    if network.context is not None and network.context.causal:
        through = Through(network)

        @torch.inference_mode()
        def follow(*parts: NDArray[Any]) -> list[NDArray[np.float32]]:
            return [value.cpu().numpy() for value in through(*(torch.from_numpy(part).to(device) for part in parts))]

        found.follow = Follow(network.context.seconds, network.width, follow)
    return found


def made_up_crops(number: int, size: int) -> Crops:
    """Smooth random pictures (number, size, size, 3), always the same: something to compare and time engines on."""
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (number, 6, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC) for picture in coarse])


def difference(one: Engine, other: Engine, crops: Crops | None = None) -> float:
    """The largest difference between two engines' predictions, on the same crops (made-up ones where left out)."""
    crops = made_up_crops(8, one.size) if crops is None else crops
    a, b = one(crops), other(crops)
    return max(float(abs(a[task] - b[task]).max()) for task in a)


def predict_images(
    engine: Engine, index: pl.DataFrame, images: str | Path, *, fill: str = "none", progress: bool = True
) -> pl.DataFrame:
    """Predicts every image of an index once, with any engine or peer; needs no torch.

    Args:
        engine: What predicts.
        index: Rows with `image`, and `exists` where known.
        images: The folder that the column `image` is relative to, or a packed file.
        fill: `nearest` as in `learning.inference.predict`.
        progress: Show a progress bar.

    Returns:
        `image` and the columns of the engine's tasks, in the order of the index; images that cannot be read, or in
        which a peer finds no face (its values are NaN), are left out.
    """
    from tqdm import tqdm

    from triaffect.data.image_store import reader

    wanted = index.unique("image", keep="first", maintain_order=True)
    rows = wanted.filter(pl.col("exists").fill_null(True)) if "exists" in wanted.columns else wanted
    names: list[str] = []
    found, bad = [], []
    read = reader(images, rows["image"])
    slices = list(rows.with_row_index().iter_slices(64))
    for part in tqdm(slices, desc=f"predict, {engine.name}", unit="batch", disable=not progress):
        pixels = []
        for row, name in part.select("index", "image").iter_rows():
            try:
                pixels.append(fit(decode(read(row)), engine.size))
            except (OSError, ValueError) as error:
                bad.append(f"{name}: {error}")
                continue
            names.append(name)
        if pixels:
            outputs = engine(np.stack(pixels))
            found.append(np.concatenate([outputs[task] for task in engine.tasks], 1))
    if bad:
        warnings.warn(f"skipped {len(bad)} images that cannot be read ({'; '.join(bad[:3])})", stacklevel=2)
    columns = [column for task in engine.tasks for column in PREDICTION_COLUMNS[task]]
    values = np.concatenate(found) if found else np.zeros((0, len(columns)), np.float32)
    table = pl.DataFrame({"image": pl.Series(names, dtype=pl.String), **dict(zip(columns, values.T, strict=True))})
    table = table.filter(~pl.any_horizontal(pl.col(columns).is_nan()))
    return fill_nearest(table, wanted) if fill == "nearest" else table
