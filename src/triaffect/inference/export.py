"""A model as one graph with its preprocessing: ONNX or OpenVINO, float or int8; and the bundled model's folder."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

import triaffect
from triaffect.data.index import image_root, load_index
from triaffect.images import decode, fit
from triaffect.inference.backends import FOLLOWED, open_engine, predict_images
from triaffect.inference.following import INPUTS
from triaffect.inference.runtimes import import_onnxruntime, import_openvino
from triaffect.io import BASE, InputError, atomic_path, inside, model_folder
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, VA
from triaffect.metrics.scores import Scores, score

if TYPE_CHECKING:
    import onnx

    from triaffect.training.model import AffectModel

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export` wrote and how it differs from torch.

    Attributes:
        files: The file, and the weights that OpenVINO puts beside it.
        crops: How many crops were compared.
        parity: The largest difference of a prediction, for each task.
        scores: With an index, the scores of torch and of the file.
    """

    files: list[Path]
    crops: int
    parity: dict[str, float]
    scores: tuple[Scores, ...] = ()

    def text(self) -> str:
        """A few lines for people."""
        size = sum(file.stat().st_size for file in self.files) / 1e6
        differences = ", ".join(f"{task} {value:.2g}" for task, value in self.parity.items())
        lines = [
            f"{self.files[0]}: {size:.1f} MB",
            f"largest difference from torch on {self.crops} crops: {differences}",
        ]
        if self.scores:
            before, after = ({**scores.tasks, "total": scores.total} for scores in self.scores)
            lines.append(f"{'score':<8}{'torch':>8}{'file':>8}{'change':>8}")
            lines += [f"{name:<8}{a:>8.3f}{after[name]:>8.3f}{after[name] - a:>+8.3f}" for name, a in before.items()]
        return "\n".join(lines)


def export(
    model: str | Path,
    path: str | Path,
    format: Literal["onnx", "openvino"] = "onnx",  # noqa: A002
    *,
    int8: bool = False,
    crops: str | Path | None = None,
    split: str | None = None,
    licence: str | None = None,
) -> Exported:
    """Writes a model as one file that takes crops as they are (uint8 RGB) and gives predictions.

    A model with a causal context gets a second file, `.context.onnx`, which sees a video's frames after each other; the
    first one sees each alone. Preprocessing, clamp, softmax and sigmoid are inside, taken from the model itself. Label
    order, input, provenance and licence stand in the file's metadata under `triaffect`, as JSON.

    Args:
        model: A run folder, a model folder, or `triaffect-base`.
        path: The file: `.onnx`, or `.xml` (OpenVINO, with a `.bin` beside it).
        format: `onnx` or `openvino`.
        int8: Quantise convolutions and linear layers to 8 bits, weights by channel, activations by what they are on
            the crops.
        crops: Crops to calibrate on and to compare by: a folder, or an index; the bundled sample's where left out.
        split: With an index, only this split.
        licence: Of the model, for the metadata; the one in its provenance where left out.

    Returns:
        What was written, and how it differs from torch on the crops; with an index also in score.

    Raises:
        InputError: Nothing to calibrate on, an ending that does not fit the format, no model.
    """
    import onnx

    from triaffect.inference.predict import load_model

    target = Path(path)
    if format not in SUFFIXES:
        raise InputError(f"format {format!r}: there are {', '.join(SUFFIXES)}")
    if target.suffix != SUFFIXES[format]:
        raise InputError(f"{target}: a file of format {format} ends in {SUFFIXES[format]}")
    network = load_model(model)
    pixels, rows, root = _crops(crops, split, network.size)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        onnx.save(_graph(network), file)
        if int8:
            _quantise(file, pixels)
        said = json.dumps(_metadata(network, Path(model).name, licence, int8))
        graph = onnx.load(file)
        onnx.helper.set_model_props(graph, {"triaffect": said})
        onnx.save(graph, file)
        made = [file] if format == "onnx" else _openvino(file, said)
        engines = open_engine(model, "torch"), open_engine(made[0], format)
        one, two = (engine(pixels) for engine in engines)
        parity = {task: float(abs(one[task] - two[task]).max()) for task in network.tasks}
        scores: tuple[Scores, ...] = ()
        if rows is not None:
            predicted = [predict_images(engine, rows, root) for engine in engines]
            seen = rows.filter(pl.col("image").is_in(predicted[0]["image"].implode()))
            scores = tuple(score(table, seen, resamples=0) for table in predicted)
        if format == "onnx" and network.context is not None and network.context.causal:
            beside = Path(folder, "model" + FOLLOWED)
            graph, told = _graph(network, through=True), {"context": network.context.seconds, "int8": False}
            onnx.helper.set_model_props(graph, {"triaffect": json.dumps({**json.loads(said), **told})})
            onnx.save(graph, beside)
            made.append(beside)
        files = [target.with_suffix(part.name.removeprefix("model")) for part in made]
        for part, place in zip(made, files, strict=True):
            with atomic_path(place) as beside:
                shutil.copyfile(part, beside)
        if format == "onnx" and (older := target.with_suffix(FOLLOWED)) not in files:
            older.unlink(missing_ok=True)  # of the model that had this name before
    return Exported(files, len(pixels), parity, scores)


def bundle(model: str | Path, out: str | Path, licence: str | None = None) -> Path:
    """Writes a model folder whose float16 weights serve torch and ONNX alike.

    `model.onnx` holds the graph alone; its weights are external data: the bytes of `model.safetensors`, cast to
    float32 when the graph is loaded. Vectors (batch norm, biases) stay float32: they are small, and float16 would
    cut small variances off.

    Args:
        model: A run folder or a model folder; its README.md (the card) is kept.
        out: The folder to make; an older one is replaced.
        licence: Of the model; the one in its provenance where left out.
    """
    import torch
    from safetensors.torch import save_file

    from triaffect.inference.predict import load_model

    network, card = load_model(model), model_folder(model) / "README.md"
    if licence:
        network.provenance["licence"] = licence
    text = card.read_bytes() if card.is_file() else None
    with atomic_path(out) as folder:
        network.save_pretrained(folder)
        if text is not None:
            (folder / "README.md").write_bytes(text)
        state = network.state_dict().items()
        half = {name: value.to(torch.float16 if value.ndim > 1 else value.dtype).contiguous() for name, value in state}
        save_file(half, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o644)  # as any other file of the package
        network = load_model(folder)
        written = _share(_graph(network, fold=False), folder / "model.safetensors")
        import onnx

        onnx.helper.set_model_props(written, {"triaffect": json.dumps(_metadata(network, BASE))})
        (folder / "model.onnx").write_bytes(written.SerializeToString())
    return Path(out)


def _graph(model: AffectModel, fold: bool = True, through: bool = False) -> onnx.ModelProto:
    """The model from uint8 crops (N, size, size, 3) to predictions.

    Args:
        model: What to write.
        fold: Bring batch norm into the weights.
        through: Frames after others, with the inputs `following.INPUTS` and the features as the last output.
    """
    import onnxscript.optimizer
    import torch

    from triaffect.training.model import Through, probabilities

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
            # Contiguous, or the exporter writes out what keeps torch's channels-last strides.
            return tuple(probabilities(self.model(crops.permute(0, 3, 1, 2).contiguous())).values())

    crops, new, past = torch.zeros(2, model.size, model.size, 3, dtype=torch.uint8), torch.zeros(2), torch.zeros(3)
    given: tuple[torch.Tensor, ...] = (crops,)
    if through:
        given = (crops, new, new.long(), past[:, None].repeat(1, model.width), past, past.long())
    count, before = torch.export.Dim("N"), torch.export.Dim("P")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            (Through(model) if through else Whole()).eval(),
            given,
            dynamo=True,
            verbose=False,
            optimize=fold,
            input_names=list(INPUTS[: len(given)]),
            output_names=[*model.tasks, *(["features"] if through else [])],
            dynamic_shapes=tuple({0: before if name.startswith("past") else count} for name in INPUTS[: len(given)]),
        )
    assert program is not None
    written = program.model_proto
    if not fold:
        # Without this the biases that a convolution lacks are computed at each call, and no engine folds batch norm.
        onnxscript.optimizer.fold_constants(written)
        onnxscript.optimizer.remove_unused_nodes(written)
    # What the exporter notes of each node is the larger part of a graph without weights, and names local files.
    del written.graph.value_info[:]
    for node in written.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return written


def _share(graph: onnx.ModelProto, weights: Path) -> onnx.ModelProto:
    """The graph with its weights left in a safetensors file beside it."""
    import onnx

    data = weights.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8:start])
    casts = []
    for tensor in graph.graph.initializer:
        entry = tensors.get(tensor.name.removeprefix("model."))
        if entry is None:  # mean and std
            continue
        first, end = entry["data_offsets"]
        half = entry["dtype"] == "F16"
        kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
        outside = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=kind)
        outside.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", start + first), ("length", end - first)):
            outside.external_data.add(key=key, value=str(value))
        if half:
            outside.name += ".half"
            casts.append(onnx.helper.make_node("Cast", [outside.name], [tensor.name], to=onnx.TensorProto.FLOAT))
        tensor.CopyFrom(outside)
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def _metadata(model: AffectModel, name: str, licence: str | None = None, int8: bool = False) -> dict[str, Any]:
    return {
        "model": name,
        "triaffect": triaffect.__version__,
        "tasks": list(model.tasks),
        "labels": {"va": list(VA), "expr": list(EXPRESSIONS), "au": list(ACTION_UNITS)},
        "input": f"crops: uint8 (N, {model.size}, {model.size}, 3), RGB; normalisation is inside",
        "output": "va in [-1, 1]; expr, au: probabilities",
        "int8": int8,
        "licence": licence or model.provenance.get("licence", "not stated"),
        "provenance": model.provenance,
    }


def _quantise(file: Path, crops: NDArray[np.uint8]) -> None:
    """Static int8 of an ONNX file, in place."""
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.parts = iter(np.array_split(crops, -(-len(crops) // 16)))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            part = next(self.parts, None)
            return None if part is None else {"crops": part}

    quant_pre_process(file, file)
    quantize_static(
        file,
        file,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool"],
    )


def _openvino(file: Path, said: str) -> list[Path]:
    """An ONNX file in OpenVINO's own form, beside it; 8-bit layers stay 8-bit."""
    openvino = import_openvino()
    model, target = openvino.convert_model(file), file.with_suffix(".xml")
    model.set_rt_info(said, ["triaffect"])
    openvino.save_model(model, target)
    return [target, target.with_suffix(".bin")]


def _crops(
    source: str | Path | None, split: str | None, size: int, limit: int = 256
) -> tuple[NDArray[np.uint8], pl.DataFrame | None, Path]:
    """At most `limit` crops, drawn with a fixed seed, the rows of an index that has labels, and the image root."""
    root = Path(source or Path(triaffect.__file__).parent / "data" / "sample" / "data" / "cropped_aligned")
    rows, labelled = None, False
    if source is None or (root.is_dir() and not any(root.rglob("*.txt"))):
        pictures = (path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        names = sorted(path.relative_to(root).as_posix() for path in pictures)
    else:
        rows = load_index(root, split)
        root = image_root(root, None)
        columns = [name for names in LABEL_COLUMNS.values() for name in names if name in rows.columns]
        labelled = any(rows[name].null_count() < rows.height for name in columns)
        names = rows.filter(pl.col("exists").fill_null(True))["image"].unique(maintain_order=True).to_list()
    drawn = np.random.default_rng(0).permutation(len(names))[:limit]
    pixels = []
    for name in (names[i] for i in sorted(drawn)):
        with contextlib.suppress(ValueError):
            pixels.append(fit(decode(inside(root, name)), size))
    if not pixels:
        raise InputError(f"{root}: no picture that can be read; name a folder of crops or an index with --crops")
    return np.stack(pixels), rows if labelled else None, root
