"""Time a model in every backend, in milliseconds per face, as a Markdown table.

The backends take turns, so that other work of the machine affects all of them alike; medians are shown.

    python benchmarks/backends.py [MODEL] [--rounds 30] [--threads 1 2] [--batches 1 32]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

from common import alternate, table

from triaffect.inference.backends import Network, open_backend, synthetic_crops
from triaffect.inference.export import export
from triaffect.io import BASE, model_folder


def main(model: str, rounds: int, threads: list[int], batches: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, int8 = Path(folder, "model.onnx"), Path(folder, "int8.onnx")
        export(model, file)
        for task, value in export(model, int8, int8=True).parity.items():
            print(f"int8 changes {task} by at most {value:.3f} on crops of the sample")
        bundled = model_folder(model) / "model.onnx"
        start = perf_counter()
        open_backend(bundled if bundled.is_file() else file, "onnx")
        print(f"ONNX Runtime loads it in {1e3 * (perf_counter() - start):.0f} ms\n")
        rows: dict[str, list[str]] = {}
        for number in threads:
            backends = {
                "torch": open_backend(model, "torch", number),
                "ONNX Runtime": open_backend(file, "onnx", number),
                "ONNX Runtime int8": open_backend(int8, "onnx", number),
                "OpenVINO": open_backend(file, "openvino", number),
                "OpenVINO int8": open_backend(int8, "openvino", number),
            }
            for batch in batches:
                ways = {name: lambda b=backend: seconds(b, batch) for name, backend in backends.items()}  # noqa: B023
                for name, time in alternate(ways, rounds).items():
                    rows.setdefault(name, []).append(f"{1e3 * time / batch:.2f}")
        header = ["backend", *(f"threads {number}, batch {batch}" for number in threads for batch in batches)]
        print(table(header, [[name, *times] for name, times in rows.items()]))


def seconds(backend: Network, batch: int) -> float:
    """Seconds of one call, after one that prepares the shape."""
    crops = synthetic_crops(batch, backend.size)
    backend(crops)
    start = perf_counter()
    backend(crops)
    return perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=BASE)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    main(**vars(parser.parse_args()))
