"""Make a model folder whose float16 weights serve torch and ONNX Runtime alike, as the bundled model's folder is.

    python examples/bundle.py work/base/run src/triaffect/inference/base --licence MIT

`model.onnx` holds the graph alone. Its weights are external data, the bytes of `model.safetensors`, cast to float32
when the graph is loaded. Vectors (batch norm, biases) stay float32: they are small, and float16 would cut small
variances off.
"""

import argparse
import json
from pathlib import Path

import onnx
import torch
from safetensors.torch import save_file

from triaffect.inference.export import describe_model, still_graph
from triaffect.io import BASE, atomic_path, model_folder
from triaffect.training.model import load_model


def bundle(model: str | Path, out: str | Path, licence: str | None = None, brighten: bool = False) -> Path:
    """Write the folder; an older one is replaced.

    Args:
        model: A run folder or a model folder; its README.md (the model card) is kept.
        out: The folder to make.
        licence: Licence of the model; by default the one in its provenance.
        brighten: The model brightens dark faces from now on, though it was trained without.
    """
    network, card = load_model(model), model_folder(model) / "README.md"
    network.settings["brighten"] |= brighten
    if licence:
        network.provenance["licence"] = licence
    card_text = card.read_bytes() if card.is_file() else None
    with atomic_path(out) as folder:
        network.save_pretrained(folder)
        if card_text is not None:
            (folder / "README.md").write_bytes(card_text)
        state = network.state_dict().items()
        half = {name: value.to(torch.float16 if value.ndim > 1 else value.dtype).contiguous() for name, value in state}
        save_file(half, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o644)  # like any other file of the package
        network = load_model(folder)
        graph = with_external_weights(still_graph(network, fold=False), folder / "model.safetensors")
        onnx.helper.set_model_props(graph, {"triaffect": json.dumps(describe_model(network, BASE))})
        (folder / "model.onnx").write_bytes(graph.SerializeToString())
    return Path(out)


def with_external_weights(graph: onnx.ModelProto, weights: Path) -> onnx.ModelProto:
    """Return the graph with its weights left in a safetensors file of the same folder."""
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--licence")
    parser.add_argument("--brighten", action="store_true")
    print(bundle(**vars(parser.parse_args())))
