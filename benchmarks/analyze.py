"""Time `analyze` on a 640x360 video with one face and on a photo, stage by stage, and next to other packages.

    python benchmarks/analyze.py [--peers PYTHON] [--rounds N] [--frames N] [--backend NAME]

Other packages take turns with it on the same decoded frames (decoding counts for triaffect only), in a separate
environment:

    uv venv --python 3.11 peers
    uv pip install --python peers/bin/python fer mediapipe "opencv-contrib-python<5" "setuptools<81" "moviepy<2"
    python benchmarks/analyze.py --peers peers/bin/python

The bounds are those that fer omits: it imports pkg_resources (removed in setuptools 81), moviepy.editor (removed in
moviepy 2) and OpenCV's Haar cascades (removed in OpenCV 5). The packages return different things: fer boxes and seven
expressions, MediaPipe landmarks and 52 blendshapes, triaffect all three descriptors. Without the shared data of the
project, rendered faces of the bundled sample are used.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[2] / "shared"
TASK = DATA / "models" / "face_landmarker.task"
PEERS = ("fer", "mediapipe")


def worker(name: str, file: str) -> None:
    """Run in the other environment: describe all frames once per line on standard input, and print the seconds."""
    frames = np.load(file)
    if name == "fer":
        from fer.fer import FER

        model = FER(mtcnn=False)
        faces = lambda frame: len(model.detect_emotions(frame[..., ::-1]))  # noqa: E731
    else:
        import mediapipe as mp

        vision = mp.tasks.vision
        base = mp.tasks.BaseOptions(model_asset_path=str(TASK))
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
        detected = sum(faces(frame) > 0 for frame in frames)
        print("result", time.perf_counter() - start, detected, flush=True)


def timed(run: Callable[[], object], times: int) -> float:
    """Median milliseconds, after a first run that is not counted."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def clip(frames: int, folder: Path) -> tuple[Path, Path]:
    """A 640x360 video of one face with this number of frames, and a photo."""
    from triaffect.inference.video import VideoWriter, read_video

    def real() -> list[np.ndarray]:
        source = read_video(DATA / "data" / "pyfeat_WolfgangLanger_Pexels.mp4")
        return [frame.pixels for frame, _ in zip(source, range(frames), strict=False)]

    def rendered() -> list[np.ndarray]:
        from PIL import Image

        from triaffect.data.sample import sample

        crops = sorted((sample(folder / "sample") / "cropped_aligned").rglob("*.jpg"))[:frames]
        made = np.full((len(crops), 360, 640, 3), 90, np.uint8)
        for canvas, crop in zip(made, crops, strict=True):
            canvas[68:292, 208:432] = Image.open(crop).convert("RGB").resize((224, 224))
        return list(made)

    pictures = real() if (DATA / "data").is_dir() else rendered()
    with VideoWriter(folder / "clip.mp4") as writer:
        for i, pixels in enumerate(pictures):
            writer.write(pixels, i / 24)
    photo = DATA / "data" / "astronaut.png"
    if not photo.is_file():
        from PIL import Image

        photo = folder / "photo.jpg"
        Image.fromarray(pictures[0]).save(photo)
    return folder / "clip.mp4", photo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    from triaffect.inference.analyzer import Analyzer, read_photo
    from triaffect.inference.detect import crop
    from triaffect.inference.quality import quality
    from triaffect.inference.track import Tracker
    from triaffect.inference.video import read_video

    with tempfile.TemporaryDirectory() as folder:
        video, photo = clip(arguments.frames, Path(folder))
        analyzer = Analyzer(backend=arguments.backend)
        print(f"{analyzer.backend.name}, crops of {analyzer.backend.size} px, {arguments.frames} frames")
        pixels = [frame.pixels for frame in read_video(video)]
        np.save(Path(folder, "frames.npy"), np.stack(pixels))
        workers = {}
        for name in PEERS if arguments.peers else ():
            command = [arguments.peers, __file__, "--worker", name, f"{folder}/frames.npy"]
            pipe = subprocess.PIPE
            workers[name] = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            while (line := workers[name].stdout.readline()) and line.strip() != "ready":
                pass
        rates: dict[str, list[float]] = {"triaffect, decoding included": []}
        detected = {}
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            detected["triaffect, decoding included"] = sum(part["frame"].n_unique() for part in analyzer.video(video))
            rates["triaffect, decoding included"].append(len(pixels) / (time.perf_counter() - start))
            for name, process in workers.items():
                print("go", file=process.stdin, flush=True)
                while (line := process.stdout.readline()) and not line.startswith("result"):
                    pass
                _, seconds, count = line.split()
                rates.setdefault(name, []).append(len(pixels) / float(seconds))
                detected[name] = int(count)
        for process in workers.values():
            process.stdin.close()
            process.wait()
        for name, values in rates.items():
            print(f"{name:30} {statistics.median(values):7.1f} frames/s, a face in {detected[name]} of {len(pixels)}")

        face, tracker = analyzer._detect_frame(pixels[50])[0], Tracker()
        cut = crop(pixels[50], face, analyzer.backend.size)
        stages = {
            "decode a frame": timed(lambda: sum(1 for _ in read_video(video)), 3) / len(pixels),
            "detect": timed(lambda: analyzer._detect_frame(pixels[50]), 30),
            "align": timed(lambda: crop(pixels[50], face, analyzer.backend.size), 100),
            "quality": timed(lambda: quality(face, cut), 100),
            "track": timed(lambda: tracker.update([face], pixels[50]), 100),
            "describe, batch of 8": timed(lambda: analyzer.backend(np.stack([cut] * 8)), 20) / 8,
            "describe, one crop": timed(lambda: analyzer.backend(cut[None]), 50),
            "one photo, from the array": timed(lambda: analyzer.image(pixels[50]), 30),
            f"one photo, {photo.name} from disk": timed(lambda: analyzer.image(photo), 30),
            "reading that photo": timed(lambda: read_photo(photo), 30),
        }
        for name, milliseconds in stages.items():
            print(f"{name:36} {milliseconds:7.2f} ms")


if __name__ == "__main__":
    main()
