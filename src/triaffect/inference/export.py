"""Write a model as one graph with its preprocessing: ONNX or OpenVINO, float or int8."""

from __future__ import annotations

import contextlib
import io
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
from triaffect.data.image_store import read_batches
from triaffect.data.index import image_root, load_index
from triaffect.inference.backends import (
    TEMPORAL_INPUTS,
    TEMPORAL_SUFFIX,
    import_onnxruntime,
    import_openvino,
    open_backend,
)
from triaffect.inference.predict import predict
from triaffect.io import InputError, atomic_path
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, VA
from triaffect.metrics.scores import Scores, score
from triaffect.text import text_table

if TYPE_CHECKING:
    import onnx

    from triaffect.training.model import AffectModel

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export` wrote and how it differs from torch.

    Attributes:
        files: The file; the weights that OpenVINO stores separately, or the graph of a temporal model.
        crops: Number of crops compared.
        parity: The largest difference of a prediction, per task.
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
        text = f"{self.files[0]}: {size:.1f} MB\nlargest difference from torch on {self.crops} crops: {differences}"
        if self.scores:
            torch_scores, file_scores = ({**scores.tasks, "total": scores.total} for scores in self.scores)
            rows = [
                [name, f"{a:.3f}", f"{file_scores[name]:.3f}", f"{file_scores[name] - a:+.3f}"]
                for name, a in torch_scores.items()
            ]
            text += "\n" + text_table(["score", "torch", "file", "change"], rows)
        return text


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
    """Write a model as one file that takes crops as they are (uint8 RGB) and returns predictions.

    Preprocessing, clamp, softmax and sigmoid are inside, taken from the model itself. Label order, input, provenance
    and licence are in the file's metadata under `triaffect`, as JSON. A temporal model gets a second file,
    `NAME.temporal.onnx`, from the features of several frames to their predictions.

    Args:
        model: A run folder, a model folder, or `triaffect-base`.
        path: The file: `.onnx`, or `.xml` (OpenVINO, with a `.bin` of the same name).
        format: `onnx` or `openvino`.
        int8: Quantise convolutions and linear layers to 8 bits: weights per channel, activations by their range on the
            crops.
        crops: Crops to calibrate on and to compare on: a folder, or an index; the bundled sample's by default.
        split: With an index, only this split.
        licence: Licence of the model, for the metadata; by default the one in its provenance.

    Returns:
        What was written, and how it differs from torch on the crops; with an index also its scores.

    Raises:
        InputError: There is no model or nothing to calibrate on, or the suffix does not fit the format.
    """
    import onnx

    from triaffect.training.model import load_model

    target = Path(path)
    if format not in SUFFIXES:
        raise InputError(f"format {format!r}: choose from {', '.join(SUFFIXES)}")
    if target.suffix != SUFFIXES[format]:
        raise InputError(f"{target}: a file of format {format} ends in {SUFFIXES[format]}")
    network = load_model(model)
    if network.temporal is not None and format != "onnx":
        raise InputError(f"{model}: a temporal model; export it to onnx")
    pixels, rows, root = _calibration_crops(crops, split, network.size)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        onnx.save(still_graph(network), file)
        if int8:
            _quantise(file, pixels)
        metadata = describe_model(network, Path(model).name, licence, int8)
        _save_with_metadata(onnx.load(file), file, metadata)
        files = [file] if format == "onnx" else _to_openvino(file, metadata)
        if network.temporal is not None:
            part = network.temporal
            temporal = {"seconds": part.seconds, "causal": part.causal, "fps": network.settings["fps"]}
            files.append(Path(folder, "model" + TEMPORAL_SUFFIX))
            _save_with_metadata(temporal_graph(network), files[-1], {**metadata, "temporal": temporal})
        backends = open_backend(model, "torch"), open_backend(files[0], format)
        of_torch, of_file = (backend(pixels) for backend in backends)
        parity = {task: float(abs(of_torch[task] - of_file[task]).max()) for task in network.tasks}
        scores: tuple[Scores, ...] = ()
        if rows is not None:
            tables = [predict(backend, rows, root) for backend in backends]
            predicted = rows.filter(pl.col("image").is_in(tables[0]["image"].implode()))
            scores = tuple(score(table, predicted, resamples=0) for table in tables)
        targets = [target.with_suffix(file.name.removeprefix("model")) for file in files]
        for file, file_target in zip(files, targets, strict=True):
            with atomic_path(file_target) as tmp_path:
                shutil.copyfile(file, tmp_path)
        if format == "onnx" and (outdated := target.with_suffix(TEMPORAL_SUFFIX)) not in targets:
            outdated.unlink(missing_ok=True)  # of the model that had this name before
    return Exported(targets, len(pixels), parity, scores)


def still_graph(model: AffectModel, fold: bool = True) -> onnx.ModelProto:
    """Return the graph from uint8 crops (N, size, size, 3) to predictions.

    Args:
        model: The model. A temporal one sees each frame alone here; its features are the last output.
        fold: Merge batch norm into the weights.
    """
    import torch

    from triaffect.training.model import probabilities

    class StillGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
            # Contiguous, or the exporter keeps torch's channels-last strides.
            features = self.model.features(crops.permute(0, 3, 1, 2).contiguous())
            outputs = tuple(probabilities(self.model.predict_from_features(features)).values())
            return (*outputs, features) if model.temporal is not None else outputs

    names = [*model.tasks, *(["features"] if model.temporal is not None else [])]
    crops = torch.zeros(2, model.size, model.size, 3, dtype=torch.uint8)
    return _convert(StillGraph(), (crops,), ["crops"], names, fold)


def temporal_graph(model: AffectModel) -> onnx.ModelProto:
    """Return the graph from features, times and video numbers to predictions."""
    import torch

    from triaffect.training.model import probabilities

    class TemporalGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temporal, self.heads = model.temporal, model.heads

        def forward(self, features: torch.Tensor, time: torch.Tensor, video: torch.Tensor) -> tuple[torch.Tensor, ...]:
            joined = self.temporal(features[None], time[None], video[None])  # type: ignore[misc]
            raw = {task: head(joined[task][0]) for task, head in self.heads.items()}
            return tuple(probabilities(raw).values())

    inputs = (torch.zeros(2, model.width), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    return _convert(TemporalGraph(), inputs, list(TEMPORAL_INPUTS), list(model.tasks), True)


def _convert(module: Any, inputs: tuple[Any, ...], names: list[str], outputs: list[str], fold: bool) -> onnx.ModelProto:
    import onnxscript.optimizer
    import torch

    count = torch.export.Dim("N")
    # Older exporters print what they rewrite, and warn of their own parts.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            verbose=False,
            optimize=fold,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=tuple({0: count} for _ in names),
        )
    assert program is not None
    graph = program.model_proto
    if not fold:
        # Without this the biases that a convolution lacks are computed at each call, and no backend folds batch norm.
        onnxscript.optimizer.fold_constants(graph)
        onnxscript.optimizer.remove_unused_nodes(graph)
    # The exporter's notes on each node are the larger part of a graph without weights, and name local files.
    del graph.graph.value_info[:]
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return graph


def _save_with_metadata(graph: onnx.ModelProto, file: Path, metadata: dict[str, Any]) -> None:
    import onnx

    onnx.helper.set_model_props(graph, {"triaffect": json.dumps(metadata)})
    onnx.save(graph, file)


def describe_model(model: AffectModel, name: str, licence: str | None = None, int8: bool = False) -> dict[str, Any]:
    """Return the metadata of an exported file: tasks, label order, input, output, licence, provenance."""
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
    """Static int8 quantisation of an ONNX file, in place."""
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = ({"crops": batch} for batch in np.array_split(crops, -(-len(crops) // 16)))

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(batches, None)

    quant_pre_process(file, file, skip_symbolic_shape=True)  # which fails on graphs of older torch
    operators = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool"]
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(file, file, Reader(), QuantFormat.QDQ, operators, per_channel=True, **types)


def _to_openvino(file: Path, metadata: dict[str, Any]) -> list[Path]:
    """Convert an ONNX file to OpenVINO's own format; 8-bit layers stay 8-bit."""
    openvino = import_openvino()
    model, target = openvino.convert_model(file), file.with_suffix(".xml")
    model.set_rt_info(json.dumps(metadata), ["triaffect"])
    openvino.save_model(model, target)
    return [target, target.with_suffix(".bin")]


def _calibration_crops(
    source: str | Path | None, split: str | None, size: int, limit: int = 256
) -> tuple[NDArray[np.uint8], pl.DataFrame | None, Path]:
    """At most `limit` crops drawn with a fixed seed, the rows of an index that has labels, and the image root."""
    root = Path(source or Path(triaffect.__file__).parent / "data" / "sample" / "data" / "cropped_aligned")
    rows, labelled = None, False
    if source is None or (root.is_dir() and not any(root.rglob("*.txt"))):
        files = (path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        names = pl.Series(sorted(path.relative_to(root).as_posix() for path in files), dtype=pl.String)
    else:
        rows = load_index(root, split)
        root = image_root(root, None)
        columns = [name for names in LABEL_COLUMNS.values() for name in names if name in rows.columns]
        labelled = any(rows[name].null_count() < rows.height for name in columns)
        names = rows.filter(pl.col("exists").fill_null(True))["image"].unique(maintain_order=True)
    names = names[np.sort(np.random.default_rng(0).permutation(len(names))[:limit])]
    batches = [batch.pixels for batch in read_batches(root, names, size)]
    if not any(map(len, batches)):
        raise InputError(f"{root}: holds no image that can be read; name a folder of crops or an index with --crops")
    return np.concatenate(batches), rows if labelled else None, root
