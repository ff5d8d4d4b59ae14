"""Picture or video in, a table out: a row for each face, with the three descriptors and how far to trust them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.images import fit
from triaffect.inference.backends import Engine, open_engine
from triaffect.inference.detect import Detector, Face, crop
from triaffect.inference.detect import detector as named_detector
from triaffect.inference.following import Following
from triaffect.inference.photos import is_photo, photo
from triaffect.inference.quality import quality
from triaffect.inference.track import Tracker
from triaffect.inference.video import Frame, ahead, frames
from triaffect.io import InputError
from triaffect.labels import EXPRESSIONS, OUTPUTS, PREDICTION_COLUMNS, TASKS

LANDMARKS = tuple(f"l{point}{axis}" for point in range(5) for axis in "xy")
QUALITY = ("size", "turn", "roll", "blur", "doubt")
PLACE = ("file", "frame", "time", "face", "x", "y", "w", "h", "score", *LANDMARKS, *QUALITY)
"""Columns before `expression` and the prediction columns."""

_TYPES: dict[str, Any] = {"frame": pl.Int64, "face": pl.Int64, "time": pl.Float64, "file": pl.String}
_TYPES |= {"doubt": pl.String, "expression": pl.String}


class Analyzer:
    """Finds the faces of photos and videos and describes each by valence, arousal, expression and action units.

    Args:
        model: `triaffect-base`, a model folder, an exported file, or an object that is an `engines.Engine` itself.
        engine: auto, onnx, openvino or torch.
        detector: yunet, or a function of your own that is a `faces.Detector`.
        max_faces: Keep only the largest so many faces of each picture.
        threads: Of the engine; its own choice where left out.
        faces: About how many faces will come; for a few, auto takes the engine that loads fastest.
        batch: Crops that the model sees at once in a video.

    Raises:
        InputError: There is no such model, engine or detector.
    """

    def __init__(
        self,
        model: str | Path | Engine = "triaffect-base",
        *,
        engine: str = "auto",
        detector: str | Detector = "yunet",
        max_faces: int | None = None,
        threads: int | None = None,
        faces: int | None = None,
        batch: int = 8,
    ) -> None:
        self.engine = open_engine(model, engine, threads, faces) if isinstance(model, (str, Path)) else model
        named = isinstance(detector, str)
        # A photo is searched more closely than a frame, of which another one follows.
        self._find: Detector = named_detector(detector) if named else detector  # type: ignore[assignment, arg-type]
        self._look: Detector = named_detector(detector, 1280) if named else self._find  # type: ignore[arg-type]
        self.max_faces, self.batch = max_faces, batch
        self.tasks = tuple(task for task in TASKS if task in self.engine.tasks)
        columns = [column for task in self.tasks for column in PREDICTION_COLUMNS[task]]
        names = [*PLACE, *(["expression"] if "expr" in self.tasks else []), *columns]
        self.schema = pl.Schema({name: _TYPES.get(name, pl.Float32) for name in names})

    def image(self, image: str | os.PathLike[str] | NDArray[np.uint8], *, cropped: bool = False) -> pl.DataFrame:
        """Describes the faces of one photo.

        Args:
            image: A path, or RGB uint8 (height, width, 3).
            cropped: The picture is one face already, cut as the model's training crops are.

        Returns:
            A row for each face, from left to right: `file`, `frame` (0), `time` (0), `face` (from 1), the box `x`, `y`,
            `w`, `h` in pixels, the detector's `score`, landmarks `l0x` to `l4y` in pixels, `size`, `turn`, `roll`,
            `blur` and `doubt` (`quality.quality`), `expression` (the likeliest), and the prediction columns of
            `labels.PREDICTION_COLUMNS`. No face, no row.

        Raises:
            InputError: It cannot be read.
        """
        name = "" if isinstance(image, np.ndarray) else os.fspath(image)
        pixels = image if isinstance(image, np.ndarray) else read(Path(image))
        return next(self.run([Frame(0, 0.0, pixels)], name, still=True, cropped=cropped))[1]

    def video(
        self, path: str | os.PathLike[str], *, every: int = 1, fps: float | None = None
    ) -> Iterator[pl.DataFrame]:
        """Describes a video as it is read, in the memory of a few frames however long it is.

        Args:
            path: Any video that FFmpeg reads.
            every: Only each so-manieth frame.
            fps: At most so many frames a second of the video.

        Yields:
            Tables as those of `image` for a few frames each; `face` is the same for a person through time, `frame`
            counts from 0, `time` is in seconds from the first frame.

        Raises:
            InputError: It cannot be read, or is damaged: then after the rows of everything before.
        """
        for _, rows in self.run(ahead(frames(Path(path), every, fps)), os.fspath(path)):
            yield rows

    def run(
        self, source: Iterable[Frame], name: str, *, still: bool = False, cropped: bool = False
    ) -> Generator[tuple[list[Frame], pl.DataFrame]]:
        """What `image` and `video` stand on: frames in, the same frames with the rows of their faces out.

        Args:
            source: Frames; one that raises `InputError` loses nothing that came before.
            name: What the column `file` holds.
            still: Photos: searched more closely, faces numbered from left to right; else numbered through time.
            cropped: Each frame is one face.

        Yields:
            Up to `batch` frames, in their order, and the table of their faces.
        """
        tracker, follow = Tracker(), getattr(self.engine, "follow", None)
        following = Following(follow, self.engine.tasks) if follow and not still and not cropped else None
        held: list[Frame] = []
        rows: list[list[Any]] = []
        crops: list[NDArray[np.uint8]] = []
        trouble = None
        coming = iter(source)
        while trouble is None:
            try:
                frame = next(coming)
            except (StopIteration, InputError) as error:
                trouble = error
            else:
                faces = self._faces(frame.pixels, still, cropped)
                numbers = range(1, len(faces) + 1) if still or cropped else tracker.update(faces, frame.pixels)
                for face, number in zip(faces, numbers, strict=True):
                    cut = fit if cropped else partial(crop, face=face)
                    crops.append(cut(frame.pixels, size=self.engine.size))
                    rows.append([name, frame.number, frame.time, number, *_measures(face, crops[-1])])
                held.append(frame)
            if held and (trouble or len(crops) >= self.batch or len(held) >= self.batch):
                yield held, self._table(rows, crops, following)
                held, rows, crops = [], [], []
        if isinstance(trouble, InputError):
            raise trouble

    def _faces(self, pixels: NDArray[np.uint8], still: bool, cropped: bool) -> list[Face]:
        if cropped:
            return [Face((0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])), None, 1.0)]
        faces = (self._look if still else self._find)(pixels)
        if self.max_faces is not None:
            faces = sorted(faces, key=lambda face: -face.box[2] * face.box[3])[: self.max_faces]
        return sorted(faces, key=lambda face: face.box[0])

    def _table(
        self, rows: list[list[Any]], crops: list[NDArray[np.uint8]], following: Following | None
    ) -> pl.DataFrame:
        table = pl.DataFrame(rows, {name: self.schema[name] for name in PLACE}, orient="row")
        if not crops:
            found = {task: np.zeros((0, OUTPUTS[task]), np.float32) for task in self.tasks}
        elif following is None:
            found = self.engine(np.stack(crops))
        else:
            found = following(np.stack(crops), table["time"].to_list(), table["face"].to_list())
        columns = {n: found[task][:, i] for task in self.tasks for i, n in enumerate(PREDICTION_COLUMNS[task])}
        return self.named(table.with_columns(pl.Series(n, v, self.schema[n]) for n, v in columns.items()))

    def named(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table in the order and types of `schema`, its `expression` the likeliest of the probabilities."""
        if "expr" in self.tasks:
            likeliest = table.select(PREDICTION_COLUMNS["expr"]).to_numpy().argmax(1)
            table = table.with_columns(pl.Series("expression", np.array(EXPRESSIONS)[likeliest], pl.String))
        return table.select(self.schema.names()).cast(self.schema)


def _measures(face: Face, cut: NDArray[np.uint8]) -> list[Any]:
    """The values of one row from `x` to `doubt`."""
    told = quality(face, cut)
    points = [None] * 10 if face.landmarks is None else face.landmarks.ravel().tolist()
    return [*face.box, face.score, *points, *(told[name] for name in ("size", "turn", "roll", "blur", "doubt"))]


def read(path: Path) -> NDArray[np.uint8]:
    """A photo's pixels, RGB uint8 (height, width, 3).

    Raises:
        InputError: It cannot be read; the line names the file and why.
    """
    try:
        if is_photo(path):
            return photo(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    raise InputError(f"{path}: not a picture that can be read; give JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF")
