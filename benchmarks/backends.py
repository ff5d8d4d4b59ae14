"""Times a model on every engine, in milliseconds a face, as a markdown table.

The engines take turns, so that what else the machine does falls on all of them alike; medians are shown.

Run: `python benchmarks/engines.py [MODEL] [--rounds 30] [--threads 1 2] [--batches 1 32]`
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from triaffect.inference.backends import Network, made_up_crops, open_engine, open_file
from triaffect.inference.export import export
from triaffect.io import BASE, model_folder


def main(model: str, rounds: int, threads: list[int], batches: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, int8 = Path(folder, "model.onnx"), Path(folder, "int8.onnx")
        export(model, file)
        for task, value in export(model, int8, int8=True).parity.items():
            print(f"int8 moves {task} by at most {value:.3f} on crops of the sample")
        shared = model_folder(model) / "model.onnx"
        start = perf_counter()
        open_engine(shared if shared.is_file() else file, "onnx")
        print(f"ONNX Runtime loads it in {1e3 * (perf_counter() - start):.0f} ms\n")
        print(f"| engine | {' | '.join(f'{t} thr, batch {b}' for t in threads for b in batches)} |")
        print("|---|" + "---|" * (len(threads) * len(batches)))
        table: dict[str, list[float]] = {}
        for number in threads:
            engines = {
                "torch": open_engine(model, "torch", number),
                "ONNX Runtime": open_file(file, "onnx", number),
                "ONNX Runtime int8": open_file(int8, "onnx", number),
                "OpenVINO float32": open_file(file, "openvino", number, "f32"),
                "OpenVINO bfloat16": open_file(file, "openvino", number, "bf16"),
                "OpenVINO int8": open_file(int8, "openvino", number, "f32"),
            }
            for batch in batches:
                for name, time in alternated(engines, batch, rounds).items():
                    table.setdefault(name, []).append(1e3 * time / batch)
        for name, times in table.items():
            print(f"| {name} | {' | '.join(f'{time:.2f}' for time in times)} |")


def alternated(engines: dict[str, Network], batch: int, rounds: int) -> dict[str, float]:
    """Median seconds of a call, the engines taking turns."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 2):
        for name, engine in engines.items():
            crops = made_up_crops(batch, engine.size)
            start = perf_counter()
            engine(crops)
            if turn >= 2:  # the first calls prepare what the next ones use
                times[name].append(perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=BASE)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    given = parser.parse_args()
    main(given.model, given.rounds, given.threads, given.batches)
