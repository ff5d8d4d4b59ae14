"""Image or video in, a table out: one row per face, with the three descriptors and how far to trust them."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.images import read_image, require_regular_file, resize
from triaffect.inference.backends import Backend, FaceHistory, open_backend
from triaffect.inference.detect import LANDMARKS, Detector, Face, crop, open_detector
from triaffect.inference.intensity import au_intensity
from triaffect.inference.pictures import Picture, to_pixels
from triaffect.inference.quality import quality
from triaffect.inference.track import Tracker
from triaffect.inference.video import Frame, read_ahead, read_video
from triaffect.io import BASE, InputError
from triaffect.labels import EXPRESSIONS, INTENSITY_COLUMNS, OUTPUTS, PREDICTION_COLUMNS, TASKS

LANDMARK_COLUMNS = tuple(f"{point}_{axis}" for point in LANDMARKS for axis in "xy")
QUALITY_COLUMNS = ("size", "yaw", "roll", "blur", "quality_flags")
FACE_COLUMNS = ("file", "frame", "time", "face", "x", "y", "w", "h", "score", *LANDMARK_COLUMNS, *QUALITY_COLUMNS)
"""Columns before `expression` and the prediction columns."""

_TYPES: dict[str, Any] = {"frame": pl.Int64, "face": pl.Int64, "time": pl.Float64, "file": pl.String}
_TYPES |= {"quality_flags": pl.String, "expression": pl.String}


class Analyzer:
    """Find the faces of photos and videos and describe each by valence, arousal, expression and action units.

    Args:
        model: `triaffect-base`, a model folder, an exported file, or a `backends.Backend`.
        backend: auto, onnx, openvino or torch; see `backends.open_backend`.
        detector: `yunet`, or a function that is a `detect.Detector`.
        max_faces: Keep only this number of faces per image, the largest.
        threads: Threads of the backend; its own choice by default.
        batch: Crops that the model sees at once in a video.
        tasks: Describe only these of `va`, `expr` and `au`; all that the model has by default.

    One analyzer may be used by several threads, which take turns. It can be pickled if its model and detector can.

    Attributes:
        new: Opens the same analyzer again, in another process.

    Raises:
        InputError: There is no such model, backend or detector, or the model has none of the tasks.
    """

    def __init__(
        self,
        model: str | Path | Backend = BASE,
        *,
        backend: str = "auto",
        detector: str | Detector = "yunet",
        max_faces: int | None = None,
        threads: int | None = None,
        batch: int = 8,
        tasks: Sequence[str] | None = None,
    ) -> None:
        options = {"backend": backend, "detector": detector, "max_faces": max_faces, "threads": threads}
        self.new = partial(Analyzer, model, **options, batch=batch, tasks=tasks)  # type: ignore[arg-type]
        self._lock = threading.Lock()
        self.backend: Backend = open_backend(model, backend, threads) if isinstance(model, (str, Path)) else model
        if isinstance(detector, str):
            # A photo is searched more closely than a frame of a video, which is followed by another one.
            self._detect_frame: Detector = open_detector(detector)
            self._detect_photo: Detector = open_detector(detector, 1280)
        else:
            self._detect_frame = self._detect_photo = detector
        self.max_faces, self.batch = max_faces, batch
        self.tasks = tuple(task for task in TASKS if task in self.backend.tasks and task in (tasks or TASKS))
        if not self.tasks:
            raise InputError(f"{self.backend.name}: has {', '.join(self.backend.tasks)}, not {', '.join(tasks or ())}")
        columns = [column for task in self.tasks for column in PREDICTION_COLUMNS[task]]
        # Peers and models that were never calibrated know no intensity.
        self.curves = getattr(self.backend, "provenance", {}).get("au_intensity") if "au" in self.tasks else None
        columns += INTENSITY_COLUMNS if self.curves else ()
        names = [*FACE_COLUMNS, *(["expression"] if "expr" in self.tasks else []), *columns]
        self.schema = pl.Schema({name: _TYPES.get(name, pl.Float32) for name in names})

    def __repr__(self) -> str:
        return f"Analyzer({self.backend.name}, tasks={', '.join(self.tasks)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return self.new, ()

    def image(self, image: Any, *, cropped: bool = False, bgr: bool = False) -> pl.DataFrame:
        """Describe the faces of one photo.

        Args:
            image: A path, bytes, an open binary file, a Pillow image, or a uint8 array; see `pictures.to_pixels`.
            cropped: The image is one face already, cut as the model's training crops are.
            bgr: Arrays have their colours in the order of OpenCV.

        Returns:
            One row per face, from left to right: `file`, `frame` (0), `time` (0), `face` (from 1), the box `x`, `y`,
            `w`, `h` in pixels, the detector's `score`, landmarks `right_eye_x` to `mouth_left_y` in pixels, `size`,
            `yaw`, `roll`, `blur` and `quality_flags` (see `quality.quality`), `expression` (the most probable), and the
            columns of `labels.PREDICTION_COLUMNS`, and where the model has a scale of intensity, those of
            `labels.INTENSITY_COLUMNS`. No rows if there is no face.

        Raises:
            InputError: It cannot be read.
        """
        name, pixels = _name_and_pixels(image, bgr)
        return next(self.run([Frame(0, 0.0, pixels)], name, still=True, cropped=cropped))[1]

    def images(self, images: Iterable[Any], *, cropped: bool = False, bgr: bool = False) -> pl.DataFrame:
        """Describe the faces of many photos, whose crops share batches.

        Args:
            images: As for `image`; one at a time is in memory if they are paths.
            cropped: As for `image`.
            bgr: As for `image`.

        Returns:
            As `image`; `file` is the image's name, or its position (`0`, `1` ...) if it has none.

        Raises:
            InputError: One of them cannot be read.
        """
        names: list[str] = []

        def frames() -> Iterator[Frame]:
            for number, image in enumerate(images):
                name, pixels = _name_and_pixels(image, bgr)
                names.append(name or str(number))
                yield Frame(number, 0.0, pixels)

        parts = [rows for _, rows in self.run(frames(), "", still=True, cropped=cropped)]
        table = pl.concat([self.schema.to_frame(), *parts])
        file = pl.Series("file", names, pl.String).gather(table["frame"])
        return table.with_columns(file, frame=pl.lit(0, pl.Int64))

    def show(self, image: Any, *, bgr: bool = False) -> Picture:
        """Describe the faces of one photo and draw the result on it; a notebook displays picture and table.

        Args:
            image: As for `image`.
            bgr: As for `image`.
        """
        from triaffect.inference.draw import annotate

        name, pixels = _name_and_pixels(image, bgr)
        rows = next(self.run([Frame(0, 0.0, pixels)], name, still=True))[1]
        return Picture(annotate(pixels, rows.to_dicts()), rows)

    def stream(
        self,
        frames: Iterable[Any],
        *,
        name: str = "stream",
        fps: float | None = None,
        bgr: bool = False,
        batch: int | None = None,
    ) -> Iterator[pl.DataFrame]:
        """Describe frames from anywhere as a video.

        Args:
            frames: Images as for `image`, or pairs of a time in seconds and an image.
            name: Value of the column `file`.
            fps: Frames per second of images without a time; by default their time is that of their arrival.
            bgr: As for `image`.
            batch: Frames that are described at once, the analyzer's by default; 1 answers each frame before the next.

        Yields:
            As `video`.

        Raises:
            InputError: A frame cannot be read; after the rows of everything before.
        """
        start = time.monotonic()

        def timed() -> Iterator[Frame]:
            for number, item in enumerate(frames):
                seconds, image = item if isinstance(item, tuple) else (None, item)
                if seconds is None:
                    seconds = number / fps if fps else time.monotonic() - start
                yield Frame(number, float(seconds), _name_and_pixels(image, bgr)[1])

        for _, rows in self.run(timed(), name, batch=batch):
            yield rows

    def video(
        self, path: str | os.PathLike[str], *, every: int = 1, fps: float | None = None
    ) -> Iterator[pl.DataFrame]:
        """Describe a video while it is read; memory does not grow with its length.

        Args:
            path: Any video that FFmpeg reads.
            every: Process every n-th frame.
            fps: Process at most this number of frames per second of the video.

        Yields:
            Tables like those of `image` for a few frames each. `face` is the same for a person over time, `frame`
            counts from 0, `time` is in seconds from the first frame.

        Raises:
            InputError: It cannot be read, or is damaged: then after the rows of everything before.
        """
        for _, rows in self.run(read_ahead(read_video(Path(path), every, fps)), os.fspath(path)):
            yield rows

    def run(
        self,
        source: Iterable[Frame],
        name: str,
        *,
        still: bool = False,
        cropped: bool = False,
        batch: int | None = None,
    ) -> Generator[tuple[list[Frame], pl.DataFrame]]:
        """Describe frames from any source; `image` and `video` are built on it.

        Args:
            source: Frames. If it raises `InputError`, the rows of all frames before are still yielded.
            name: Value of the column `file`.
            still: The frames are photos: searched more closely, faces numbered from left to right instead of over time.
            cropped: Each frame is one face.
            batch: As for `stream`.

        Yields:
            Up to `batch` frames, in order, and the table of their faces.
        """
        tracker, temporal = Tracker(), getattr(self.backend, "temporal", None)
        history = None
        if temporal is not None and not still and not cropped:
            if temporal.causal:
                history = FaceHistory(temporal, self.backend.tasks)
            else:
                warnings.warn(
                    f"{name}: each frame is described alone, since this temporal model needs later frames; train one "
                    "with model.causal, or predict an index of the video's crops",
                    stacklevel=2,
                )
        batch = batch or self.batch
        frames: list[Frame] = []
        rows: list[list[Any]] = []
        crops: list[NDArray[np.uint8]] = []
        end: StopIteration | InputError | None = None
        iterator = iter(source)
        while end is None:
            try:
                frame = next(iterator)
            except (StopIteration, InputError) as error:
                end = error
            else:
                with self._lock:
                    faces = self._faces(frame.pixels, still, cropped)
                numbers = range(1, len(faces) + 1) if still or cropped else tracker.update(faces, frame.pixels)
                for face, number in zip(faces, numbers, strict=True):
                    cut = resize if cropped else partial(crop, face=face)
                    crops.append(cut(frame.pixels, size=self.backend.size))
                    rows.append([name, frame.number, frame.time, number, *_face_values(face, crops[-1])])
                frames.append(frame)
            if frames and (end or len(crops) >= batch or len(frames) >= batch):
                with self._lock:
                    table = self._table(rows, crops, history)
                yield frames, table
                frames, rows, crops = [], [], []
        if isinstance(end, InputError):
            raise end

    def _faces(self, pixels: NDArray[np.uint8], still: bool, cropped: bool) -> list[Face]:
        if cropped:
            return [Face((0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])), None, 1.0)]
        faces = (self._detect_photo if still else self._detect_frame)(pixels)
        if self.max_faces is not None:
            faces = sorted(faces, key=lambda face: -face.box[2] * face.box[3])[: self.max_faces]
        return sorted(faces, key=lambda face: face.box[0])

    def _table(
        self, rows: list[list[Any]], crops: list[NDArray[np.uint8]], history: FaceHistory | None
    ) -> pl.DataFrame:
        table = pl.DataFrame(rows, {name: self.schema[name] for name in FACE_COLUMNS}, orient="row")
        if not crops:
            outputs = {task: np.zeros((0, OUTPUTS[task]), np.float32) for task in self.tasks}
        elif history is None:
            outputs = self.backend(np.stack(crops))
        else:
            outputs = history(np.stack(crops), table["time"].to_list(), table["face"].to_list())
        columns = {n: outputs[task][:, i] for task in self.tasks for i, n in enumerate(PREDICTION_COLUMNS[task])}
        if self.curves:
            columns |= dict(zip(INTENSITY_COLUMNS, au_intensity(outputs["au"], self.curves).T, strict=True))
        return self.name_expression(table.with_columns(pl.Series(n, v, self.schema[n]) for n, v in columns.items()))

    def name_expression(self, table: pl.DataFrame) -> pl.DataFrame:
        """Set the column `expression` to the most probable one; columns get the order and types of `schema`."""
        if "expr" in self.tasks:
            code = table.select(PREDICTION_COLUMNS["expr"]).to_numpy().argmax(1)
            table = table.with_columns(pl.Series("expression", np.array(EXPRESSIONS)[code], pl.String))
        return table.select(self.schema.names()).cast(self.schema)


def _face_values(face: Face, face_crop: NDArray[np.uint8]) -> list[Any]:
    """The values of one row from `x` to `quality_flags`."""
    measures = quality(face, face_crop)
    points = [None] * 10 if face.landmarks is None else face.landmarks.ravel().tolist()
    return [*face.box, face.score, *points, *(measures[name] for name in QUALITY_COLUMNS)]


def _name_and_pixels(image: Any, bgr: bool) -> tuple[str, NDArray[np.uint8]]:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image), read_photo(image)
    return to_pixels(image, bgr)


def read_photo(
    path: str | os.PathLike[str], *, strict: bool = False, notices: list[str] | None = None
) -> NDArray[np.uint8]:
    """Read a photo as RGB uint8 (height, width, 3).

    Args:
        path: A file.
        strict: Refuse a damaged photo that could be read in part.
        notices: Receives what a user should know, with the file's name; a warning by default.

    Raises:
        InputError: It cannot be read; the message names the file and the reason.
    """
    require_regular_file(path)
    reasons: list[str] = []
    try:
        pixels = read_image(path, strict=strict, notices=reasons)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    lines = [f"{path}: {reason}" for reason in reasons]
    if notices is None:
        for line in lines:
            warnings.warn(line, stacklevel=2)
    else:
        notices += lines
    return pixels
