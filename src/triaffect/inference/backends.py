"""Run a model with ONNX Runtime, OpenVINO or torch: uint8 crops in, predictions out.

ONNX Runtime (1.29 and newer) and OpenVINO report home by default: they store an id of the device and send usage data.
Every import of either in this package goes through two functions here, which switch that off first.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from triaffect.io import BASE, InputError, model_folder
from triaffect.labels import OUTPUTS, TASKS
from triaffect.text import plural

if TYPE_CHECKING:
    from triaffect.training.model import AffectModel

MODEL_SUFFIXES = (".onnx", ".xml")
"""Suffixes of exported models."""
TEMPORAL_SUFFIX = ".temporal.onnx"
"""Suffix of the second graph of an exported temporal model: from features to predictions."""
TEMPORAL_INPUTS = ("features", "time", "video")
BACKENDS = ("auto", "onnx", "openvino", "torch")
BFLOAT16_TOLERANCE = 0.03
"""The largest change of a prediction for which OpenVINO computes in bfloat16."""

Crops = NDArray[np.uint8]
Outputs = dict[str, NDArray[np.float32]]


def import_onnxruntime() -> Any:
    """Return the module `onnxruntime`, its telemetry off for the whole process."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library initializes, so before the import
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # Windows has no such variable
    return onnxruntime


def import_openvino() -> Any:
    """Return the module `openvino`, its telemetry off for the whole process.

    Raises:
        InputError: OpenVINO is not installed.
    """
    # OpenVINO uses its own stub when this package cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise InputError("the backend openvino is not installed: pip install 'triaffect[openvino]'") from None
    return openvino


@runtime_checkable
class Backend(Protocol):
    """Anything that describes crops: the backends of this module, and the peers."""

    @property
    def name(self) -> str:
        """Its name, for people."""

    @property
    def size(self) -> int:
        """Side of the crops, in pixels."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its descriptors, in the order of `labels.TASKS`."""

    def __call__(self, crops: Crops) -> Outputs:
        """Predict aligned RGB crops (N, size, size, 3).

        Returns:
            `va` (N, 2) in [-1, 1]; `expr` (N, 8) and `au` (N, 12), probabilities; those of its tasks.
        """


@dataclass(frozen=True, slots=True)
class TemporalModel:
    """The part of a model that sees several frames of a video.

    Attributes:
        seconds: How far a frame sees to either side.
        causal: It sees earlier frames only.
        fps: Frames per second of the index's videos it was trained on.
        features: From crops (N, size, size, 3) to features (N, width).
        outputs: From features (N, width), times (N,) in seconds and video numbers (N,) to each task's predictions.
    """

    seconds: float
    causal: bool
    fps: float
    features: Callable[[Crops], NDArray[np.float32]]
    outputs: Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], Sequence[NDArray[np.float32]]]


@dataclass(slots=True)
class Network:
    """A backend made of a function from crops to one array per task, called with at most `batch` crops."""

    name: str
    size: int
    tasks: tuple[str, ...]
    run: Callable[[Crops], Sequence[NDArray[np.float32]]]
    batch: int = 32
    temporal: TemporalModel | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    """How the model was trained, where that is known."""

    def __call__(self, crops: Crops) -> Outputs:
        """Predict crops; see `Backend`."""
        if crops.shape[1:] != (self.size, self.size, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops {crops.shape} {crops.dtype}: expected (N, {self.size}, {self.size}, 3) uint8")
        parts = [self.run(crops[i : i + self.batch]) for i in range(0, len(crops), self.batch)]
        if not parts:
            return {task: np.zeros((0, OUTPUTS[task]), np.float32) for task in self.tasks}
        return {task: np.concatenate([part[i] for part in parts]) for i, task in enumerate(self.tasks)}


class FaceHistory:
    """The faces of one video, as a causal temporal model sees them: features of the last seconds are kept.

    Args:
        temporal: The temporal model.
        tasks: Its tasks.
    """

    def __init__(self, temporal: TemporalModel, tasks: Sequence[str]) -> None:
        self.temporal, self.tasks = temporal, tuple(tasks)
        self.features: NDArray[np.float32] | None = None
        self.time, self.face = np.zeros(0), np.zeros(0, np.int64)

    def __call__(self, crops: Crops, time: Sequence[float], face: Sequence[int]) -> Outputs:
        """Predict the next crops, of one frame or several, whose times do not decrease.

        Args:
            crops: (N, size, size, 3), RGB.
            time: (N,) seconds.
            face: (N,) number of the face.
        """
        new, start = self.temporal.features(crops), float(np.min(time))
        if self.features is None:
            self.features = new[:0]
        recent = self.time >= start - self.temporal.seconds - 1e-3  # wider than a temporal model's tolerance
        past = int(recent.sum())
        self.features = np.concatenate([self.features[recent], new])
        self.time = np.concatenate([self.time[recent], np.asarray(time, float)])
        self.face = np.concatenate([self.face[recent], np.asarray(face, np.int64)])
        # Relative times: float32 cannot separate the frames of a long video's last hour.
        values = self.temporal.outputs(self.features, (self.time - start).astype(np.float32), self.face)
        return {task: value[past:] for task, value in zip(self.tasks, values, strict=True)}


def open_backend(
    model: str | Path | AffectModel = BASE,
    backend: str = "auto",
    threads: int | None = None,
    *,
    device: str = "auto",
    half: bool = False,
) -> Network:
    """Load a model to describe crops with.

    Args:
        model: `triaffect-base`, a run or model folder, a file that `export` wrote (`.onnx`, `.xml`), or an
            `AffectModel`.
        backend: `onnx` (ONNX Runtime), `openvino` (in bfloat16 if the processor has it and predictions change by less
            than `BFLOAT16_TOLERANCE`), `torch`, or `auto`: OpenVINO if it is installed, else ONNX Runtime; torch for a
            model that was not exported. A temporal model that was exported runs in ONNX Runtime.
        threads: Threads of the backend; 0 is its own choice, which is about one per processor. By default one for
            `onnx` and `openvino`, which leaves the other processors to detection and decoding.
        device: Device of torch: `auto` (a GPU if there is one), `cpu`, `cuda` and the like.
        half: With torch, compute in bfloat16 where the device does.

    Raises:
        InputError: There is no such backend or model, the model is not in a form that the backend reads, or `device` is
            given to a backend that has none.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}: choose from {', '.join(BACKENDS)}")
    if not isinstance(model, (str, Path)):
        return _open_torch(model, threads, device, half)
    file = _exported_file(model)
    if backend == "auto" and file is None:
        backend = "torch"
    elif backend == "auto" and file is not None:
        temporal = file.with_suffix(TEMPORAL_SUFFIX).is_file()
        installed = file.suffix == ".xml" or find_spec("openvino") is not None
        backend = "openvino" if installed and not (file.suffix == ".onnx" and temporal) else "onnx"
    if backend == "torch":
        return _open_torch(model, threads, device, half)
    if device not in ("auto", "cpu"):
        raise InputError(f"device {device}: the backend {backend} computes on the CPU; use the backend torch")
    if file is None:
        path = model_folder(model) / "model.onnx"
        raise InputError(f"{model}: holds no model.onnx; write one: triaffect export {model} --out {path}")
    threads = 1 if threads is None else threads
    return _open_openvino(file, threads) if backend == "openvino" else _open_onnx(file, threads)


def _exported_file(model: str | Path) -> Path | None:
    """Return the exported file that a model's name refers to, if any."""
    path = Path(model)
    if path.suffix in MODEL_SUFFIXES:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return path
    file = model_folder(model) / "model.onnx"
    return file if file.is_file() else None


def _network(file: Path, backend: str, threads: int, shape: Sequence[Any], outputs: Sequence[str], run: Any) -> Network:
    tasks = tuple(task for task in TASKS if task in outputs)
    names = [name for name in outputs if name != "features"]
    if len(shape) != 4 or shape[3] != 3 or not tasks or names != list(tasks):
        raise InputError(f"{file}: not a model of triaffect; write one with triaffect export")
    name = BASE if file == model_folder(BASE) / "model.onnx" else file.stem
    return Network(f"{name} ({backend}, {_count_threads(threads)})", int(shape[1]), tasks, run)


def _count_threads(number: int) -> str:
    return plural(number, "thread") if number else "all threads"


def _open_onnx(file: Path, threads: int) -> Network:
    session, metadata = _session(file, threads)
    crops, outputs = session.get_inputs()[0], [output.name for output in session.get_outputs()]
    names = [name for name in outputs if name != "features"]
    network = _network(file, "onnx", threads, crops.shape, outputs, lambda x: session.run(names, {crops.name: x}))
    network.provenance = metadata.get("provenance", {})
    temporal_file = file.with_suffix(TEMPORAL_SUFFIX)
    if temporal_file.is_file():
        temporal_session, metadata = _session(temporal_file, threads)
        inputs = [node.name for node in temporal_session.get_inputs()]
        if "temporal" not in metadata or "features" not in outputs or inputs != list(TEMPORAL_INPUTS):
            raise InputError(f"{temporal_file}: not the temporal graph of {file.name}; export the model again")
        network.temporal = TemporalModel(
            **metadata["temporal"],
            features=lambda x: session.run(["features"], {crops.name: x})[0],
            outputs=lambda *x: temporal_session.run(None, dict(zip(TEMPORAL_INPUTS, x, strict=True))),
        )
    elif "features" in outputs:
        raise InputError(f"{temporal_file}: missing, the second file of a temporal model; export the model again")
    return network


def _session(file: Path, threads: int) -> tuple[Any, dict[str, Any]]:
    """A session of ONNX Runtime, and the metadata that `export` wrote."""
    if file.suffix != ".onnx":
        raise InputError(f"{file}: ONNX Runtime reads .onnx; use the backend openvino")
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    # One pool, and no spinning thread: detection and decoding need the other cores between two calls.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's errors share no other base
        raise InputError(f"{file}: ONNX Runtime cannot load it ({str(error).splitlines()[0][:160]})") from None
    return session, json.loads(session.get_modelmeta().custom_metadata_map.get("triaffect", "{}"))


def _open_openvino(file: Path, threads: int, precision: str | None = None) -> Network:
    if file.suffix == ".onnx" and file.with_suffix(TEMPORAL_SUFFIX).is_file():
        raise InputError(f"{file}: a temporal model, which OpenVINO does not run here; use the backend onnx or torch")
    if precision is None:
        full = _open_openvino(file, threads, "f32")
        if "BF16" not in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return full
        half = _open_openvino(file, threads, "bf16")
        return half if largest_difference(half, full) < BFLOAT16_TOLERANCE else full
    model = compile_openvino(file, threads, precision)
    request = model.create_infer_request()

    def run(crops: Crops) -> list[NDArray[np.float32]]:
        # The request writes to the same memory each time.
        return [np.array(value) for value in request.infer([np.ascontiguousarray(crops)]).values()]

    shape = [side.get_length() if side.is_static else None for side in model.inputs[0].partial_shape]
    outputs = [output.get_any_name() for output in model.outputs]
    network = _network(file, f"openvino {precision}", threads, shape, outputs, run)
    source = import_openvino().Core().read_model(file)
    key = ["triaffect"] if file.suffix == ".xml" else ["framework", "triaffect"]
    if source.has_rt_info(key):
        network.provenance = json.loads(source.get_rt_info(key).astype(str)).get("provenance", {})
    return network


def compile_openvino(file: Path, threads: int, precision: str) -> Any:
    """Return an `openvino.CompiledModel` of any file that OpenVINO reads; `precision` is f32 or bf16.

    Raises:
        InputError: OpenVINO is not installed, or cannot read the file.
    """
    openvino = import_openvino()
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    try:
        return openvino.Core().compile_model(file, "CPU", {**hints, "ENABLE_CPU_PINNING": False})
    except Exception as error:  # RuntimeError, and others on a damaged file
        raise InputError(f"{file}: OpenVINO cannot load it ({str(error).splitlines()[0][:160]})") from None


def _open_torch(model: str | Path | AffectModel, threads: int | None, device: str, half: bool) -> Network:
    if isinstance(model, (str, Path)) and Path(model).suffix in MODEL_SUFFIXES:
        raise InputError(f"{model}: torch reads model folders; use the backend onnx or openvino")
    try:
        import torch

        from triaffect.training.model import load_model, probabilities
        from triaffect.training.run_folder import precision
    except ModuleNotFoundError as error:
        raise InputError(f"{model}: needs {error.name}: pip install 'triaffect[train]', or an exported file") from None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device}: not available ({str(error).splitlines()[0][:120]}); use cpu") from None
    if threads:
        torch.set_num_threads(threads)  # torch has one setting for the whole process
    name = Path(model).name if isinstance(model, (str, Path)) else "model"
    network = load_model(model) if isinstance(model, (str, Path)) else model.eval()
    network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    bfloat16 = half and precision("auto", place.type) == "bf16-mixed"

    def features(crops: Crops) -> Any:
        images = torch.from_numpy(crops.copy()).to(place).permute(0, 3, 1, 2)
        return network.features(images).float()

    def arrays(raw: dict[str, Any]) -> list[NDArray[np.float32]]:
        return [value.cpu().numpy() for value in probabilities(raw).values()]

    @torch.inference_mode()
    def run(crops: Crops) -> list[NDArray[np.float32]]:
        with torch.autocast(place.type, torch.bfloat16, enabled=bfloat16):
            return arrays(network.predict_from_features(features(crops)))

    @torch.inference_mode()
    def temporal_features(crops: Crops) -> NDArray[np.float32]:
        with torch.autocast(place.type, torch.bfloat16, enabled=bfloat16):
            return features(crops).cpu().numpy()

    @torch.inference_mode()
    def temporal_outputs(*inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        return arrays(network.predict_from_features(*(torch.from_numpy(part).to(place) for part in inputs)))

    kind = place.type if place.type != "cpu" else _count_threads(torch.get_num_threads())
    opened = Network(f"{name} (torch, {kind})", network.size, network.tasks, run, provenance=network.provenance)
    if network.temporal is not None:
        part, fps = network.temporal, network.settings["fps"]
        opened.temporal = TemporalModel(part.seconds, part.causal, fps, temporal_features, temporal_outputs)
    return opened


def synthetic_crops(number: int, size: int) -> Crops:
    """Smooth random images (number, size, size, 3), always the same, to compare backends on."""
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (number, 6, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in coarse])


def largest_difference(a: Backend, b: Backend, crops: Crops | None = None) -> float:
    """The largest difference between two backends' predictions on the same crops (synthetic ones by default)."""
    crops = synthetic_crops(8, a.size) if crops is None else crops
    of_a, of_b = a(crops), b(crops)
    return max(float(abs(of_a[task] - of_b[task]).max()) for task in of_a)
