"""Measure what docs/scale.md states: interrupted calls, machines that are lost, memory, ratios, scheduling.

    python benchmarks/scale.py kill       # kill -9 at random moments of `analyze`, against an undisturbed call
    python benchmarks/scale.py ratio      # --jobs 2 and --ray against one process, and the time per file without work
    python benchmarks/scale.py memory     # peak memory over many files, and over one long video
    python benchmarks/scale.py simulate   # Ray's scheduler with files that take no time, and failures
    python benchmarks/scale.py cluster    # two Ray machines, one removed half-way, against one process: four verbs
    python benchmarks/scale.py shards     # --shard 1/3, 2/3 and 3/3 against the whole

The videos show faces of the bundled sample; the model is the bundled one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import alone, alternate, block, table

TABLES = ("faces.csv", "summary.csv", "episodes.csv", "failures.csv")


def clips(folder: Path, count: int, frames: int, size: tuple[int, int] = (320, 240)) -> Path:
    """Write videos of one face on grey, once; one of twenty holds no video, one of twenty no face."""
    import cv2
    import simplejpeg

    from triaffect.data.sample import sample
    from triaffect.inference.video_writer import VideoWriter

    root = folder / f"clips-{count}-{frames}"
    if root.exists():
        return root
    faces = sorted(sample(folder / "sample").glob("cropped_aligned/*/*.jpg"))
    for i in range(count):
        path = root / f"session{i % 7}" / f"clip{i:04d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i % 20 == 7:
            path.write_bytes(b"not a video" * 100)
            continue
        with VideoWriter(path) as writer:
            for n in range(frames):
                pixels = np.full((size[1], size[0], 3), 110, np.uint8)
                if i % 20 != 11:
                    face = simplejpeg.decode_jpeg(faces[(i * 13 + n // 5) % len(faces)].read_bytes())
                    x = 60 + n % 40
                    pixels[40:200, x : x + 160] = cv2.resize(face, (160, 160))
                writer.write(pixels, n / 25)
    return root


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "triaffect.cli.main", "analyze", *map(str, words)]


def quiet(words: list[str]) -> float:
    """Run a command to its end; return the seconds."""
    start = time.perf_counter()
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def differences(a: Path, b: Path) -> list[str]:
    """Names of the tables that differ, and of files that were left half-written."""
    names = [name for name in TABLES if (a / name).read_bytes() != (b / name).read_bytes()]
    if not pl.read_parquet(a / "faces.parquet").equals(pl.read_parquet(b / "faces.parquet")):
        names.append("faces.parquet")
    return names + [str(path) for path in b.rglob("*") if "partial" in path.name]


def kill(folder: Path, count: int, kills: int) -> None:
    inputs, undisturbed, out = clips(folder, count, 50), folder / "whole", folder / "killed"
    for path in (undisturbed, out):
        shutil.rmtree(path, ignore_errors=True)
    seconds = quiet(command(inputs, "--out", undisturbed, "--jobs", 2))
    rng, written, again, moments = random.Random(0), dict[str, int](), list[str](), list[float]()
    for _ in range(kills):
        process = subprocess.Popen(
            command(inputs, "--out", out, "--jobs", 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        moments.append(rng.uniform(0.02, 0.6) * seconds)
        try:
            process.wait(moments[-1])
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.5)  # its processes end when it does
        for path in (out / "faces").rglob("*.parquet"):
            changed, name = path.stat().st_mtime_ns, str(path.relative_to(out))
            if written.setdefault(name, changed) != changed:
                again.append(name)
                written[name] = changed
    quiet(command(inputs, "--out", out, "--jobs", 2))
    failed = {
        row[0] for row in pl.read_csv(undisturbed / "failures.csv").filter(pl.col("kind") != "no face").iter_rows()
    }
    repeated = [name for name in again if not any(Path(f).stem == Path(name).stem for f in failed)]
    rows = [
        ["files", len(list((undisturbed / "faces").rglob("*.parquet")))],
        ["seconds undisturbed", f"{seconds:.0f}"],
        ["kill -9", f"{kills}, after {min(moments):.1f} to {max(moments):.1f} s"],
        ["finished files that were done again", len(repeated)],
        ["failed files that were tried again", len(again) - len(repeated)],
        ["tables that differ, files half-written", ", ".join(differences(undisturbed, out)) or "none"],
        ["rows", pl.scan_parquet(out / "faces.parquet").select(pl.len()).collect().item()],
    ]
    block("kill -9", "python benchmarks/scale.py kill", table(["", ""], rows))


def shards(folder: Path, count: int) -> None:
    inputs, undisturbed, out = clips(folder, count, 50), folder / "whole", folder / "shards"
    shutil.rmtree(out, ignore_errors=True)
    quiet(command(inputs, "--out", undisturbed))
    for i in (3, 1, 2):
        quiet(command(inputs, "--out", out, "--shard", f"{i}/3"))
    text = ", ".join(differences(undisturbed, out)) or "none"
    block(
        "Shards", "python benchmarks/scale.py shards", f"1/3, 2/3 and 3/3 of {count} files: tables that differ: {text}"
    )


def ratio(folder: Path, count: int, rounds: int) -> None:
    inputs, out = clips(folder, count, 125), folder / "ratio"

    def once(*options: object) -> float:
        shutil.rmtree(out, ignore_errors=True)
        return quiet(command(inputs, "--out", out, *options))

    ways = {"one process": (), "--jobs 2": ("--jobs", 2), "--ray local": ("--ray", "local")}
    seconds = alternate({name: partial(once, *options) for name, options in ways.items()}, rounds)
    frames = pl.read_csv(out / "summary.csv")["file_frames"].sum()
    first = seconds["one process"]
    rows = [[name, f"{s:.1f}", f"{frames / s:.0f}", f"{first / s:.2f}"] for name, s in seconds.items()]
    text = table(["", "seconds", "frames/s", "against one process"], rows)

    idle = {}
    from triaffect.jobs import run_all

    for name, options in {"processes": {"workers": 2}, "Ray": {"ray": "local"}}.items():
        outcomes = run_all(nothing, range(2000), **options)
        next(outcomes)
        start = time.perf_counter()
        sum(1 for _ in outcomes)
        idle[name] = time.perf_counter() - start
    text += "\n\nMilliseconds per file that takes no time: "
    text += ", ".join(f"{name} {1000 * s / 1999:.2f}" for name, s in idle.items())
    block("Processes and Ray", "python benchmarks/scale.py ratio", text)


def nothing(number: int) -> int:
    return number


def memory(folder: Path, count: int, hours: float) -> None:
    rows = []
    for number in (count // 10, count):
        peak = measured(many(folder, number), folder / "memory")
        rows.append([f"{number:,} files of 10 frames", f"{peak['seconds']:.0f}", f"{peak['peak'] * 1000:.0f}"])
    for part in (hours / 10, hours):
        peak = measured(long_video(folder, part), folder / "memory")
        what = f"a video of {part:.1f} h, {peak['rows']:,.0f} rows"
        rows.append([what, f"{peak['seconds']:.0f}", f"{peak['peak'] * 1000:.0f}"])
    text = "A stand-in for detector and model, whose memory does not depend on the files.\n\n"
    block("Memory", "python benchmarks/scale.py memory", text + table(["", "seconds", "peak, MB"], rows))


def many(folder: Path, count: int) -> Path:
    root, source = folder / f"many-{count}", clips(folder, 20, 10)
    files = sorted(source.rglob("*.mp4"))
    if not root.exists():
        root.mkdir()
        for i in range(count):
            os.link(files[i % len(files)], root / f"{i:05d}.mp4")
    return root


def long_video(folder: Path, hours: float) -> Path:
    """Ten seconds of 64x48 pixels again and again: the packets are copied, with later times."""
    import av

    from triaffect.inference.video_writer import VideoWriter

    path, source = folder / f"long-{hours:.2f}.mp4", folder / "ten-seconds.mp4"
    if path.exists():
        return path
    with VideoWriter(source) as writer:
        for n in range(250):
            writer.write(np.full((48, 64, 3), 60 + n % 100, np.uint8), n / 25)
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.dts is not None]
        base = packets[0].time_base
        data = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]
        for repeat in range(int(hours * 360)):
            for content, pts, dts, key in data:
                packet = av.Packet(content)
                packet.stream, packet.time_base, packet.is_keyframe = stream, base, key
                packet.pts, packet.dts = pts + repeat * int(10 / base), dts + repeat * int(10 / base)
                new.mux(packet)
    return path


def one_face(pixels: np.ndarray) -> list:
    from triaffect.inference.detect import Face

    height, width = pixels.shape[:2]
    return [Face((width * 0.25, height * 0.25, width * 0.5, height * 0.5), None, 0.9)]


class Nothing:
    """A model that answers at once."""

    name, size, tasks = "nothing", 32, ("va", "expr", "au")

    def __call__(self, crops: np.ndarray) -> dict[str, np.ndarray]:
        """Answer with the brightness."""
        level = (crops.mean((1, 2, 3)) / 255).astype(np.float32)[:, None]
        return {
            "va": level.repeat(2, 1),
            "expr": np.full((len(crops), 8), 0.125, np.float32),
            "au": level.repeat(12, 1),
        }


def measured(inputs: Path, out: Path) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    return alone(__file__, "one", "--folder", str(inputs), "--out", str(out))


def one(inputs: Path, out: Path) -> None:
    """One call of `analyze` in this process; `alone` adds its peak memory."""
    import json

    from triaffect.inference.analyze import analyze
    from triaffect.inference.analyzer import Analyzer

    result = analyze([str(inputs)], Analyzer(Nothing(), detector=one_face), str(out))
    print(json.dumps({"seconds": result.seconds, "rows": result.faces}))


def cluster_of_two() -> tuple[Any, Any]:
    """A Ray cluster of two machines with one processor each, on this one; and the second of them."""
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"})
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    return made, made.add_node(num_cpus=1)


def cluster(folder: Path, count: int, verbs: list[str]) -> None:
    """Each verb on two machines, one of which is removed when half of the work is done, against one process."""
    import triaffect.inference.predict as predicting
    from triaffect.data.index import build_index, save_index
    from triaffect.data.sample import sample
    from triaffect.inference.analyze import analyze
    from triaffect.inference.analyzer import Analyzer
    from triaffect.render.dataset import Plan, render
    from triaffect.study.study import run_study

    out = folder / "cluster"
    shutil.rmtree(out, ignore_errors=True)
    tree = sample(folder / "sample")
    index, images = out / "index.parquet", tree / "cropped_aligned"
    out.mkdir()
    save_index(build_index(tree, images), index, root=tree, images=images, format="per-video")
    rows = pl.read_parquet(index)
    changes = ["base.training.epochs=1", "base.training.accelerator=cpu"]
    predicting.SLICE = max(1, len(rows) // 12)
    works: dict[str, Callable[[str, str | None], object]] = {
        "analyze": lambda name, ray: analyze([str(clips(folder, count, 50))], Analyzer(), str(out / name), ray=ray),
        "predict": lambda name, ray: predicting.predict(
            "triaffect-base", rows, images, batch=32, backend="onnx", progress=False, ray=ray
        ).write_parquet(out / f"{name}.parquet"),
        "render": lambda name, ray: render(None, out / name, Plan(videos=12, frames=6), ray=ray, progress=False),
        "study": lambda name, ray: run_study("demo", str(index), str(images), out / name, changes=changes, ray=ray),
    }
    results: list[list[object]] = []
    for verb, work in works.items():
        if verb not in verbs or (verb == "render" and not os.environ.get("TRIAFFECT_ICT")):
            continue
        alone_start = time.perf_counter()
        work(f"{verb}-one", None)
        alone_seconds = time.perf_counter() - alone_start
        made, second = cluster_of_two()
        timer = threading.Timer(alone_seconds / 2, partial(made.remove_node, second, allow_graceful=False))
        timer.start()
        start = time.perf_counter()
        work(f"{verb}-two", made.address)
        seconds = time.perf_counter() - start
        timer.join()
        made.shutdown()
        same = compare(verb, out / f"{verb}-one", out / f"{verb}-two")
        results.append([verb, f"{alone_seconds:.0f}", f"{seconds:.0f}", f"{alone_seconds / 2:.0f}", same])
        print(results[-1], file=sys.stderr, flush=True)
    head = ["", "one process, s", "cluster, s", "machine removed after, s", "results"]
    block("A machine that is lost", "python benchmarks/scale.py cluster", table(head, results))


def compare(verb: str, a: Path, b: Path) -> str:
    if verb == "analyze":
        return ", ".join(differences(a, b)) or "the same rows"
    if verb == "predict":
        first, second = pl.read_parquet(f"{a}.parquet"), pl.read_parquet(f"{b}.parquet")
        difference = np.abs(first.drop("image").to_numpy() - second.drop("image").to_numpy()).max()
        same = first["image"].equals(second["image"])
        return f"{'the same' if same else 'other'} rows, values within {difference:.0e}"
    if verb == "render":
        names = [path.relative_to(a) for path in sorted(a.rglob("*")) if path.is_file()]
        same = all((a / name).read_bytes() == (b / name).read_bytes() for name in names)
        return f"{len(names)} files, {'the same bytes' if same else 'they differ'}"
    names = sorted(path.name for path in (a / "predictions").glob("*.parquet"))
    parts = [pl.read_parquet(f / "predictions" / n).select(pl.col(pl.Float32)) for n in names for f in (a, b)]
    worst = max(np.abs(x.to_numpy() - y.to_numpy()).max() for x, y in zip(parts[::2], parts[1::2], strict=True))
    return f"{len(names)} models, predictions within {worst:.0e}"


def simulate(folder: Path, count: int) -> None:
    from triaffect.jobs import run_all

    marks = folder / "marks"
    shutil.rmtree(marks, ignore_errors=True)
    marks.mkdir(parents=True)
    made, second = cluster_of_two()
    ends: dict[int, list[str]] = {}
    start = last = time.perf_counter()
    gaps = []
    for outcome in run_all(partial(simulated, str(marks)), range(count), ray=made.address):
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()
        ends.setdefault(outcome.item, []).append(type(outcome.error).__name__ if outcome.error else "done")
        if len(ends) == count // 3:
            made.remove_node(second, allow_graceful=False)
        if len(ends) == count // 2:
            made.add_node(num_cpus=1)
    seconds = time.perf_counter() - start
    made.shutdown()
    expected = Counter(kind_of(number) for number in range(count))
    counts = Counter(kind for kinds in ends.values() for kind in kinds)
    rows = [
        ["files", f"{count:,}"],
        ["ended exactly once", f"{sum(len(kinds) == 1 for kinds in ends.values()):,}"],
        ["done", f"{counts['done']:,}"],
        ["failed with an error", f"{counts['ValueError']:,}, injected {expected['error']:,}"],
        [
            "failed because its process died each time",
            f"{counts['ChildProcessError']:,}, injected {expected['dies']:,}",
        ],
        ["done after its process died once", f"{len(list(marks.iterdir())):,}, injected {expected['dies once']:,}"],
        ["machines", "two with one processor each; one removed after a third, another added after a half"],
        ["seconds", f"{seconds:.0f}"],
        ["milliseconds per file: mean, median", f"{1000 * seconds / count:.2f}, {1000 * np.median(gaps):.2f}"],
    ]
    block("Simulation", f"python benchmarks/scale.py simulate --count {count}", table(["", ""], rows))


def kind_of(number: int) -> str:
    """What happens to a file of the simulation."""
    draw = int(hashlib.sha256(str(number).encode()).hexdigest(), 16) % 100_000
    return "error" if draw < 1000 else "dies" if draw < 1010 else "dies once" if draw < 1060 else "done"


def simulated(marks: str, number: int) -> int:
    kind, mark = kind_of(number), Path(marks, str(number))
    if kind == "error":
        raise ValueError(f"{number} cannot be read")
    if kind == "dies" or (kind == "dies once" and not mark.exists()):
        if kind == "dies once":
            mark.touch()
        os._exit(9)
    return number


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["kill", "shards", "ratio", "memory", "simulate", "cluster", "one"])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/triaffect-benchmarks/scale"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int)
    parser.add_argument("--verbs", nargs="+", default=["analyze", "predict", "render", "study"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hours", type=float, default=3.0)
    arguments = parser.parse_args()
    if arguments.what != "one":
        arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.what == "kill":
        kill(arguments.folder, arguments.count or 60, arguments.kills)
    elif arguments.what == "shards":
        shards(arguments.folder, arguments.count or 60)
    elif arguments.what == "ratio":
        ratio(arguments.folder, arguments.count or 24, arguments.rounds)
    elif arguments.what == "memory":
        memory(arguments.folder, arguments.count or 2000, arguments.hours)
    elif arguments.what == "cluster":
        cluster(arguments.folder, arguments.count or 20, arguments.verbs)
    elif arguments.what == "simulate":
        simulate(arguments.folder, arguments.count or 100_000)
    else:
        one(arguments.folder, arguments.out)
