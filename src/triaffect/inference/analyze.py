"""What `triaffect analyze` does: any number of photos, folders, videos or a camera in; tables and pictures out."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import polars as pl
import simplejpeg
from tqdm import tqdm

from triaffect import __version__
from triaffect.data.index import METADATA
from triaffect.inference.analyzer import Analyzer, read
from triaffect.inference.draw import ACTIVE, active_units, annotate
from triaffect.inference.photos import is_photo
from triaffect.inference.video import Frame, Writer, ahead, camera, frames
from triaffect.io import InputError, atomic_path
from triaffect.labels import ACTION_UNITS, AU_NAMES, VA
from triaffect.metrics.postprocess import apply, load_post

PHOTOS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic")
VIDEOS = (
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".3gp",
    ".mts",
    ".ts",
    ".ogv",
)
"""What is taken from a folder, by the name's end; what it is then, its content tells."""


@dataclass(frozen=True, slots=True)
class Input:
    """One photo, video or camera: where it is, and the path without ending of its pictures in the output folder."""

    source: Path | int
    place: PurePath

    @property
    def name(self) -> str:
        """What the column `file` holds: always valid UTF-8."""
        text = f"camera {self.source}" if isinstance(self.source, int) else os.fspath(self.source)
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def collect(inputs: Iterable[str], without: Sequence[Path] = ()) -> tuple[list[Input], list[str]]:
    """Finds the files that are meant: files, folders with all below them, globs, the number of a camera.

    Args:
        inputs: As a user writes them.
        without: Folders to leave out.

    Returns:
        Each file once, in the order given (folders sorted by name), and a line for each input that means nothing.
    """
    found: list[Input] = []
    failures: list[str] = []
    seen: set[str] = set()
    places: set[PurePath] = set()

    def add(source: Path | int, relative: PurePath) -> None:
        key = os.path.realpath(source) if isinstance(source, Path) else str(source)
        if key not in seen:
            seen.add(key)
            # Two names that meet, and names too long to add to, must still make two files.
            stem = os.fsdecode(os.fsencode(relative.stem)[:120])
            place, number = relative.with_name(stem), 2
            while place in places:
                place, number = relative.with_name(f"{stem}-{number}"), number + 1
            places.add(place)
            found.append(Input(source, place))

    for text in inputs:
        path = Path(text)
        named = [path] if os.path.lexists(path) else [Path(p) for p in sorted(glob.glob(text, recursive=True))]
        if not named and text.isdecimal():
            add(int(text), PurePath(f"camera{text}"))
        elif not named:
            failures.append(f"{text}: " + ("matches nothing" if glob.has_magic(text) else "no such file or folder"))
        for path in named:
            if not path.is_dir():
                add(path, PurePath(path.name))
                continue
            inner = list(_inside(path, {os.path.realpath(folder) for folder in without}))
            if not inner and len(named) == 1:
                failures.append(f"{path}: holds no photo and no video")
            for file in inner:
                add(file, file.relative_to(path))
    return found, failures


def _inside(root: Path, seen: set[str]) -> Iterator[Path]:
    """Photos and videos below a folder; links are followed, but never into a folder twice."""
    for folder, below, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            below.clear()
            continue
        seen.add(os.path.realpath(folder))
        below.sort()
        for name in sorted(names):
            if name.lower().endswith(PHOTOS + VIDEOS) and not name.startswith("."):
                yield Path(folder, name)


def analyze(
    inputs: Sequence[str],
    out: str | None = None,
    *,
    make: Callable[[int | None], Analyzer],
    annotated: bool = False,
    plots: bool = False,
    cropped: bool = False,
    every: int = 1,
    fps: float | None = None,
    post: str | None = None,
) -> int:
    """Describes every face of the inputs; an input that fails costs one line, never the rest.

    Args:
        inputs: As for `collect`.
        out: The folder of `faces.csv`, `faces.parquet`, `annotated/` and `plots/`; nothing is written where left out.
        make: Makes the analyzer, told about how many faces will come (None: many).
        annotated: Write the pictures and videos with what was found drawn on them.
        plots: Write the time lines of the videos.
        cropped: Every picture is one ready crop.
        every: Of a video, each so-manieth frame.
        fps: Of a video, at most so many frames a second.
        post: Post-processing from `triaffect tune`, applied to the tables and time lines, not to what is drawn on
            pictures, which cannot wait for the frames to come.

    Returns:
        0; 1 where an input failed; 130 where Ctrl-C ended it early, with all that was finished written.

    Raises:
        InputError: An option is out of range, or pictures are wanted and there is no folder for them.
    """
    if every < 1 or (fps is not None and not fps > 0):
        raise InputError(f"--every {every} --fps {fps}: take 1 or more, and more than 0")
    if out is None and (annotated or plots):
        raise InputError("--annotate and --plot write files: name a folder with --out")
    known = load_post(post) if post else None
    folder = Path(out or ".")
    found, failures = collect(inputs, [folder / "annotated", folder / "plots"] if out else [])
    moving = any(isinstance(item.source, int) or item.source.suffix.lower() in VIDEOS for item in found)
    analyzer = make(None if moving else len(found))
    tables: list[pl.DataFrame] = []
    began, looked, number, stopped = time.perf_counter(), 0, 0, False
    with tqdm(unit=" faces", disable=None, leave=False) as bar:
        for number, item in enumerate(found, 1):
            bar.set_description(f"{number} of {len(found)} inputs", refresh=False)
            parts: list[pl.DataFrame] = []
            with contextlib.ExitStack() as stack:
                film: Writer | None = None
                try:
                    still, stream = _stream(item, analyzer, cropped, every, fps)
                    for some, rows in stream:
                        parts.append(rows)
                        looked += len(some)
                        bar.update(rows.height)
                        if annotated and still:
                            _save_photo(some[0], rows, folder / "annotated" / f"{item.place}.jpg")
                        elif annotated:
                            film = film or stack.enter_context(_film(folder / "annotated" / f"{item.place}.mp4"))
                            for frame in some:
                                drawn = rows.filter(pl.col("frame") == frame.number).to_dicts()
                                film.write(annotate(frame.pixels, drawn), frame.time)
                    if not any(part.height for part in parts):
                        failures.append(f"{item.name}: no face found")
                except InputError as error:
                    failures.append(str(error))
                except KeyboardInterrupt:  # how a camera ends
                    stopped = not isinstance(item.source, int)
            if parts:
                tables.append(pl.concat(parts))
                if known:
                    tables[-1] = analyzer.named(apply(tables[-1], known))
                if plots and not still and tables[-1].height:
                    from triaffect.inference.timeline import time_lines
                    from triaffect.report.style import save_figure

                    figure = time_lines(tables[-1], plain(PurePath(item.name).name))
                    save_figure(figure, folder / "plots" / f"{item.place}.png")
            if stopped:
                break
    seconds = time.perf_counter() - began
    table = pl.concat([analyzer.schema.to_frame(), *tables])
    if out is not None:
        _write(table, folder, analyzer.engine.name)
    if out is None or len(found) == 1:
        for rows in tables:
            print("\n".join(in_words(rows)))
    print(
        f"{len(found)} inputs, {looked:,} pictures, {table.height:,} faces in {seconds:.1f} s"
        + (f" ({looked / seconds:.0f} pictures/s)" if looked > 1 else "")
        + (f": {folder / 'faces.csv'}, {folder / 'faces.parquet'}" if out is not None else "")
        + (f"; stopped, {len(found) - number} inputs not reached" if stopped else "")
    )
    for line in failures:
        print(f"failed: {plain(line)}", file=sys.stderr)
    return 130 if stopped else 1 if failures else 0


def _stream(
    item: Input, analyzer: Analyzer, cropped: bool, every: int, fps: float | None
) -> tuple[bool, Iterator[tuple[list[Frame], pl.DataFrame]]]:
    """Whether the input is a photo, and its frames with their rows."""
    if isinstance(item.source, int):
        return False, analyzer.run(ahead(camera(item.source, every, fps)), item.name)
    try:
        still = is_photo(item.source)
    except OSError as error:
        raise InputError(f"{item.source}: {error.strerror or error}") from None
    if still:
        return True, analyzer.run([Frame(0, 0.0, read(item.source))], item.name, still=True, cropped=cropped)
    return False, analyzer.run(ahead(frames(item.source, every, fps)), item.name, cropped=cropped)


def _save_photo(frame: Frame, rows: pl.DataFrame, path: Path) -> None:
    with atomic_path(path) as tmp_path:
        tmp_path.write_bytes(
            simplejpeg.encode_jpeg(annotate(frame.pixels, rows.to_dicts()), 92, colorsubsampling="444")
        )


@contextlib.contextmanager
def _film(path: Path) -> Iterator[Writer]:
    with atomic_path(path) as tmp_path, Writer(tmp_path) as film:
        yield film


def _write(table: pl.DataFrame, folder: Path, model: str) -> None:
    with atomic_path(folder / "faces.csv") as tmp_path:
        table.write_csv(tmp_path, float_precision=5)
    with atomic_path(folder / "faces.parquet") as tmp_path:
        about = {"triaffect": __version__, "model": model}
        table.write_parquet(tmp_path, metadata={METADATA: json.dumps(about)})


def plain(line: str) -> str:
    """A line for a terminal: what a file's name holds of line ends, escapes and broken characters is spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def in_words(rows: pl.DataFrame) -> list[str]:
    """An input's faces in a few short lines.

    Args:
        rows: The `Analyzer` table of one input.
    """
    if not rows.height:
        return []
    lines = [plain(rows["file"][0])]
    for (face,), seen in rows.group_by("face", maintain_order=True):
        words = _photo_words(seen.row(0, named=True)) if seen.height == 1 else _video_words(seen)
        doubts = sorted({word for doubt in seen["doubt"] for word in doubt.split(",") if word})
        lines.append(f"  face {face}: " + "; ".join(words) + (f"; doubt: {', '.join(doubts)}" if doubts else ""))
    return lines


def _photo_words(row: dict[str, Any]) -> list[str]:
    words = []
    if row.get("expression"):
        words.append(f"{row['expression']} {row[row['expression'].lower()]:.0%}")
    if "valence" in row:
        words.append(f"valence {row['valence']:+.2f}, arousal {row['arousal']:+.2f}")
    if "AU1" in row:
        units = [f"{unit} {AU_NAMES[unit]} {row[unit]:.0%}" for unit in active_units(row)]
        words.append(", ".join(units) or "no active action unit")
    return words


def _video_words(rows: pl.DataFrame) -> list[str]:
    seen = rows["time"].to_numpy()
    words = [f"{rows.height:,} frames, {seen.min():.1f} to {seen.max():.1f} s"]
    if "expression" in rows.columns:
        shares = rows["expression"].value_counts(sort=True, normalize=True).head(3)
        words.append(", ".join(f"{name} {share:.0%}" for name, share in shares.iter_rows()))
    if "valence" in rows.columns:
        for name in VA:
            values = rows[name].to_numpy()
            words.append(f"{name} {values.min():+.2f} to {values.max():+.2f}")
    if "AU1" in rows.columns:
        active = {unit: float((rows[unit].to_numpy() >= ACTIVE).mean()) for unit in ACTION_UNITS}
        often = sorted((unit for unit in ACTION_UNITS if active[unit] >= 0.1), key=lambda unit: -active[unit])
        words.append(", ".join(f"{unit} {AU_NAMES[unit]} {active[unit]:.0%}" for unit in often) or "hardly any AU")
    return words
