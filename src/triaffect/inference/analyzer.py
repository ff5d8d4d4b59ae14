"""Image or video in, a table out: one row per face, with the three descriptors and how far to trust them."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.images import resize
from triaffect.inference.backends import Backend, FaceHistory, open_backend
from triaffect.inference.detect import (
    LANDMARKS,
    PHOTO_FACE,
    SMALLEST,
    VIDEO_SHARE,
    Detector,
    Face,
    YuNet,
    open_detector,
)
from triaffect.inference.follow import Follower
from triaffect.inference.frame import Frame
from triaffect.inference.intensity import au_intensity
from triaffect.inference.pictures import Picture, to_pixels
from triaffect.inference.quality import quality
from triaffect.inference.track import Tracker
from triaffect.io import BASE, InputError
from triaffect.jobs import read_ahead
from triaffect.labels import EXPRESSIONS, INTENSITY_COLUMNS, PREDICTION_COLUMNS, TASKS

LANDMARK_COLUMNS = tuple(f"{point}_{axis}" for point in LANDMARKS for axis in "xy")
QUALITY_COLUMNS = ("size", "yaw", "roll", "blur", "brightness", "quality_flags")  # as `quality.quality` returns them
FACE_COLUMNS = ("file", "frame", "time", "face", "x", "y", "w", "h", "score", *LANDMARK_COLUMNS, *QUALITY_COLUMNS)
"""Columns before `expression` and the prediction columns."""

HELD_PIXELS = 32 << 20
"""Frames of one batch have at most about this number of pixels together: four of 4K."""
NO_PIXELS = np.zeros((0, 0, 3), np.uint8)

Located = tuple[Frame, list[tuple[int, Face, NDArray[np.uint8]]]]
"""A frame, with the number, the place and the crop of each of its faces."""

_TYPES: dict[str, Any] = {"frame": pl.Int64, "face": pl.Int64, "time": pl.Float64, "file": pl.String}
_TYPES |= {"quality_flags": pl.String, "expression": pl.String}


class Analyzer:
    """Find the faces of photos and videos and describe each by valence, arousal, expression and action units.

    Args:
        model: `triaffect-base`, a model folder, an exported file, or a `backends.Backend`.
        backend: auto, onnx, openvino or torch; see `backends.open_backend`.
        detector: `yunet`, or a function that is a `detect.Detector`.
        max_faces: Keep only this number of faces per image, the largest.
        min_face: Smallest face to look for: its height in pixels, from brow to chin; by default 24 in a photo, and a
            fortieth of the longer side in a video.
        detect_size: Longer side, in pixels, to which images are scaled for the search; by default what `min_face`
            needs.
        threads: Threads of the backend; its own choice by default.
        batch: Crops per call of the model, in a video.
        tasks: Describe only these of `va`, `expr` and `au`; all that the model has by default.

    One analyzer may be used by several threads, which take turns. It can be pickled if its model and detector can.

    Attributes:
        new: Opens the same analyzer again, in another process.

    Raises:
        InputError: There is no such model, backend or detector, an option is out of range, or the model has none of the
            tasks.
    """

    def __init__(
        self,
        model: str | Path | Backend = BASE,
        *,
        backend: str = "auto",
        detector: str | Detector = "yunet",
        max_faces: int | None = None,
        min_face: float | None = None,
        detect_size: int | None = None,
        threads: int | None = None,
        batch: int = 16,
        tasks: Sequence[str] | None = None,
    ) -> None:
        if min_face is not None and not min_face >= 1:
            raise InputError(f"--min-face {min_face}: give pixels, 1 or more")
        if detect_size is not None and not 32 <= detect_size <= 10_000:
            raise InputError(f"--detect-size {detect_size}: give pixels, 32 to 10000")
        if isinstance(detector, str) and detector != "yunet":
            open_detector(detector)
        options: dict[str, Any] = {"backend": backend, "detector": detector, "max_faces": max_faces, "threads": threads}
        options |= {"min_face": min_face, "detect_size": detect_size}
        self.new = partial(Analyzer, model, **options, batch=batch, tasks=tasks)
        self._lock, self._detector_lock = threading.Lock(), threading.Lock()
        self.backend: Backend = open_backend(model, backend, threads) if isinstance(model, (str, Path)) else model
        self.detector, self.min_face, self.detect_size = detector, min_face, detect_size
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
        """Describe the faces of one photo; each is described together with its mirror image, and the two averaged.

        Args:
            image: A path, bytes, an open binary file, a Pillow image, or a uint8 array; see `pictures.to_pixels`.
            cropped: The image is one face already, cut as the model's training crops are; it is described as it is.
            bgr: Arrays have their colours in the order of OpenCV.

        Returns:
            One row per face, from left to right: `file`, `frame` (0), `time` (0), `face` (from 1), the box `x`, `y`,
            `w`, `h` in pixels, the detector's `score`, landmarks `right_eye_x` to `mouth_left_y` in pixels, `size`,
            `yaw`, `roll`, `blur`, `brightness` and `quality_flags` (see `quality.quality`), `expression` (the most
            probable), and the columns of `labels.PREDICTION_COLUMNS`, and where the model has a scale of intensity,
            those of `labels.INTENSITY_COLUMNS`. No rows if there is no face.

        Raises:
            InputError: It cannot be read.
        """
        name, pixels = to_pixels(image, bgr)
        rows = next(self.run([Frame(0, 0.0, pixels)], still=True, cropped=cropped))[1]
        return rows.with_columns(file=pl.lit(name))

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
                name, pixels = to_pixels(image, bgr)
                names.append(name or str(number))
                yield Frame(number, 0.0, pixels)

        parts = [rows for _, rows in self.run(frames(), still=True, cropped=cropped)]
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

        name, pixels = to_pixels(image, bgr)
        rows = self.image(pixels).with_columns(file=pl.lit(name))
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
                yield Frame(number, float(seconds), to_pixels(image, bgr)[1])

        for _, rows in self.run(timed(), batch=batch or self.batch):
            yield rows.with_columns(file=pl.lit(name))

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
        from triaffect.inference.video import read_video

        for _, rows in self.run(read_ahead(read_video(Path(path), every, fps)), pixels=False):
            yield rows.with_columns(file=pl.lit(os.fspath(path)))

    def run(
        self,
        source: Iterable[Frame],
        *,
        still: bool = False,
        cropped: bool = False,
        batch: int | None = None,
        pixels: bool = True,
    ) -> Generator[tuple[list[Frame], pl.DataFrame]]:
        """Describe frames from any source; `image` and `video` are built on it.

        Args:
            source: Frames. If it raises `InputError`, the rows of all frames before are still yielded.
            still: The frames are photos: searched more closely, faces numbered from left to right instead of over time.
            cropped: Each frame is one face.
            batch: As for `stream`; by default faces are also found a few frames ahead of their description.
            pixels: The frames keep their pixels, for a caller that draws on them; a large frame takes many MB.

        Yields:
            Up to `batch` frames, fewer if they are large, in order, and the table of their faces, whose column `file`
            is the caller's to fill.
        """
        history, temporal = None, getattr(self.backend, "temporal", None)
        if temporal is not None and not still and not cropped:
            if temporal.causal:
                history = FaceHistory(temporal, self.backend.tasks)
            else:
                warnings.warn(
                    "each frame is described alone, since this temporal model needs later frames; train one with "
                    "model.causal, or predict an index of the video's crops",
                    stacklevel=2,
                )
        located = self._locate(source, still, cropped)
        if not pixels:
            located = ((Frame(frame.number, frame.time, NO_PIXELS), faces) for frame, faces in located)
        if not (still or batch):
            located = read_ahead(located, self.batch // 2 if pixels else self.batch)
        for part in _batches(located, batch or self.batch):
            table = self._table(part, history, mirrored=still and not cropped)
            yield [frame for frame, _ in part], table

    def _locate(self, source: Iterable[Frame], still: bool, cropped: bool) -> Generator[Located]:
        size, tracker = self.backend.size, Tracker()
        find = Follower(self._video_detector) if isinstance(self.detector, str) and not still else self._find
        for frame in source:
            if cropped:
                box = (0.0, 0.0, float(frame.width), float(frame.height))
                yield frame, [(1, Face(box, None, 1.0), resize(frame.pixels, size))]
                continue
            with self._detector_lock:
                faces = find(frame)
            if self.max_faces is not None:
                faces = sorted(faces, key=lambda face: -face.box[2] * face.box[3])[: self.max_faces]
            faces = sorted(faces, key=lambda face: face.box[0])
            numbers = range(1, len(faces) + 1) if still else tracker.update(faces, frame)
            crops = [frame.align(face.five, size) for face in faces]
            yield frame, list(zip(numbers, faces, crops, strict=True))

    def _find(self, frame: Frame) -> list[Face]:
        if isinstance(self.detector, str):
            return self._photo_detector.find_any_way_up(frame)
        return self.detector(frame.pixels)

    @cached_property
    def _photo_detector(self) -> YuNet:
        return YuNet(self.detect_size, self.min_face or PHOTO_FACE)

    @cached_property
    def _video_detector(self) -> YuNet:
        # One thread leaves the others to the decoder and the model.
        size = self.detect_size or (None if self.min_face else SMALLEST * VIDEO_SHARE)
        return YuNet(size, self.min_face or PHOTO_FACE, threads=1)

    def searched(self, still: bool) -> str:
        """What was searched for in a photo, or else in a video: for a message that says that there is no face."""
        if not isinstance(self.detector, str):
            return "searched by the detector that was given"
        if self.detect_size:
            return f"searched at {self.detect_size} pixels of the longer side, as --detect-size says"
        if self.min_face or still:
            return f"searched for faces of {self.min_face or PHOTO_FACE:g} pixels and more; --min-face sets this"
        return (
            f"searched for faces of 1/{VIDEO_SHARE} of the longer side and more; --min-face N finds those of N pixels"
        )

    def _table(self, frames: list[Located], history: FaceHistory | None, *, mirrored: bool) -> pl.DataFrame:
        rows = [
            ["", frame.number, frame.time, number, *_face_values(face, crop)]
            for frame, faces in frames
            for number, face, crop in faces
        ]
        if not rows:
            return self.schema.to_frame()
        values: dict[str, Any] = dict(zip(FACE_COLUMNS, zip(*rows, strict=True), strict=True))
        crops = np.stack([crop for _, faces in frames for _, _, crop in faces])
        with self._lock:
            if mirrored:
                both = self.backend(np.concatenate([crops, np.flip(crops, 2)]))
                outputs = {task: pair.reshape(2, len(crops), -1).mean(0) for task, pair in both.items()}
            elif history is None:
                outputs = self.backend(crops)
            else:
                outputs = history(crops, values["time"], values["face"])
        # Lists: a series made of an array loads numpy.ma, which takes longer than a photo's rows.
        for task in self.tasks:
            values |= dict(zip(PREDICTION_COLUMNS[task], outputs[task].T.tolist(), strict=True))
        if self.curves:
            values |= dict(zip(INTENSITY_COLUMNS, au_intensity(outputs["au"], self.curves).T.tolist(), strict=True))
        if "expr" in self.tasks:
            values["expression"] = np.array(EXPRESSIONS)[outputs["expr"].argmax(1)].tolist()
        return pl.DataFrame({name: values[name] for name in self.schema}, self.schema)

    def name_expression(self, table: pl.DataFrame) -> pl.DataFrame:
        """Set the column `expression` to the most probable one; columns get the order and types of `schema`."""
        if "expr" in self.tasks:
            code = table.select(PREDICTION_COLUMNS["expr"]).to_numpy().argmax(1)
            table = table.with_columns(pl.Series("expression", np.array(EXPRESSIONS)[code], pl.String))
        return table.select(self.schema.names()).cast(self.schema)


def _batches(located: Iterable[Located], batch: int) -> Iterator[list[Located]]:
    """Join frames until they or their faces are `batch`, or their pixels too many; an error comes after the frames."""
    part: list[Located] = []
    error: InputError | None = None
    try:
        for frame, faces in located:
            part.append((frame, faces))
            count = max(len(part), sum(len(faces) for _, faces in part))
            if count >= batch or len(part) * frame.width * frame.height >= HELD_PIXELS:
                yield part
                part = []
    except InputError as reason:
        error = reason
    if part:
        yield part
    if error:
        raise error


def _face_values(face: Face, face_crop: NDArray[np.uint8]) -> list[Any]:
    """The values of one row from `x` to `quality_flags`."""
    points = [None] * 10 if face.landmarks is None else face.landmarks.ravel().tolist()
    return [*face.box, face.score, *points, *quality(face, face_crop).values()]
