"""Analyze any number of photos, folders, videos or a camera: tables, annotated copies and figures."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import polars as pl
import simplejpeg
from tqdm import tqdm

from triaffect import __version__
from triaffect.data.index import METADATA
from triaffect.inference.analyzer import Analyzer
from triaffect.inference.baseline import Baseline
from triaffect.inference.draw import annotate, write_annotated
from triaffect.inference.inputs import Input, collect, open_input
from triaffect.inference.video import Frame, VideoWriter
from triaffect.io import InputError, atomic_path
from triaffect.metrics.postprocess import PostProcessing
from triaffect.text import printable


@dataclass
class Analysis:
    """What `analyze` found.

    Attributes:
        tables: One table per input that could be read, at least in part, as `Analyzer.image` describes it.
        faces: All of them as one table.
        inputs: Number of inputs.
        frames: Number of images and frames.
        seconds: Time it took.
        failures: One line per input that failed or shows no face.
        notices: One line for each photo that is read in part and each folder with files that are not read.
        unprocessed: Number of inputs left when Ctrl-C ended it.
        stopped: Ctrl-C ended it.
    """

    inputs: int = 0
    frames: int = 0
    seconds: float = 0.0
    tables: list[pl.DataFrame] = field(default_factory=list)
    faces: pl.DataFrame = field(default_factory=pl.DataFrame)
    failures: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    unprocessed: int = 0
    stopped: bool = False


def analyze(
    inputs: Sequence[str],
    analyzer: Analyzer,
    out: str | None = None,
    *,
    annotated: bool = False,
    plots: bool = False,
    cropped: bool = False,
    every: int = 1,
    fps: float | None = None,
    sequence: bool = False,
    sequence_fps: float = 25,
    strict: bool = False,
    post: str | None = None,
    baseline: str | None = None,
) -> Analysis:
    """Describe every face of the inputs; an input that fails is reported and does not stop the others.

    Args:
        inputs: As for `collect`.
        analyzer: Describes the faces.
        out: Folder of `faces.csv`, `faces.parquet`, `annotated/` and `plots/`; nothing is written by default.
        annotated: Write copies of the photos and videos with the predictions drawn on them.
        plots: Write a figure of each video over time.
        cropped: Every image is one ready crop.
        every: Process every n-th frame of a video.
        fps: Process at most this number of frames per second of a video.
        sequence: The photos of each folder are the frames of one video.
        sequence_fps: Photos of such a video per second.
        strict: Refuse damaged photos that could be read in part.
        post: Post-processing from `triaffect tune`, applied to tables and figures, not to annotated copies, which are
            written before later frames are known.
        baseline: What the columns of change are measured against, see `Baseline.load`; no such columns by default.

    Returns:
        The tables, counts and failures. Ctrl-C ends it early; what was finished is written and returned.

    Raises:
        InputError: An option is out of range, or files are wanted and there is no folder for them.
    """
    if every < 1 or (fps is not None and not fps > 0):
        raise InputError(f"--every {every} --fps {fps}: every must be at least 1, fps greater than 0")
    if not sequence_fps > 0:
        raise InputError(f"--sequence-fps {sequence_fps}: must be greater than 0")
    if out is None and (annotated or plots):
        raise InputError("--annotate and --plot write files: name a folder with --out")
    post_processing = PostProcessing.load(post) if post else None
    person = Baseline.load(baseline, analyzer) if baseline else None
    folder = Path(out or ".")
    matched = collect(inputs, [folder / "annotated", folder / "plots"] if out else [], sequence=sequence)
    collected = matched.inputs
    result = Analysis(inputs=len(collected), failures=matched.failures, notices=matched.notices)
    start = time.perf_counter()
    with tqdm(unit=" faces", disable=None, leave=False) as bar:
        for number, item in enumerate(collected, 1):
            bar.set_description(f"{number} of {len(collected)} inputs", refresh=False)
            parts: list[pl.DataFrame] = []
            with contextlib.ExitStack() as stack:
                writer: VideoWriter | None = None
                try:
                    still, source = open_input(
                        item, every, fps, rate=sequence_fps, strict=strict, notices=result.notices
                    )
                    for frames, rows in analyzer.run(source, item.name, still=still, cropped=cropped):
                        parts.append(rows)
                        result.frames += len(frames)
                        bar.update(rows.height)
                        if annotated and still:
                            _save_photo(frames[0], rows, folder / "annotated" / f"{item.place}.jpg")
                        elif annotated:
                            path = folder / "annotated" / f"{item.place}.mp4"
                            writer = writer or stack.enter_context(_video_writer(path))
                            write_annotated(writer, frames, rows)
                    if not any(part.height for part in parts):
                        result.failures.append(f"{item.name}: no face found")
                except InputError as error:
                    result.failures.append(str(error))
                except KeyboardInterrupt:  # the usual end of a camera
                    result.stopped = not isinstance(item.source, int)
            if parts:
                table = pl.concat(parts)
                if post_processing:
                    table = analyzer.name_expression(post_processing.apply(table))
                if person:
                    table = person.apply(table)
                result.tables.append(table)
                if plots and not still and table.height:
                    _save_plot(table, item, folder)
            if result.stopped:
                result.unprocessed = len(collected) - number
                break
    result.seconds = time.perf_counter() - start
    empty = analyzer.schema.to_frame()
    result.faces = pl.concat([person.apply(empty) if person else empty, *result.tables])
    if out is not None:
        _write_tables(result.faces, folder, analyzer.backend.name)
    return result


def _save_photo(frame: Frame, rows: pl.DataFrame, path: Path) -> None:
    with atomic_path(path) as tmp_path:
        drawn = annotate(frame.pixels, rows.to_dicts())
        tmp_path.write_bytes(simplejpeg.encode_jpeg(drawn, 92, colorsubsampling="444"))


@contextlib.contextmanager
def _video_writer(path: Path) -> Iterator[VideoWriter]:
    with atomic_path(path) as tmp_path, VideoWriter(tmp_path) as writer:
        yield writer


def _save_plot(table: pl.DataFrame, item: Input, folder: Path) -> None:
    from triaffect.inference.timeline import draw_timeline
    from triaffect.report.style import save_figure

    save_figure(draw_timeline(table, printable(PurePath(item.name).name)), folder / "plots" / f"{item.place}.png")


def _write_tables(table: pl.DataFrame, folder: Path, model: str) -> None:
    with atomic_path(folder / "faces.csv") as tmp_path:
        table.write_csv(tmp_path, float_precision=5)
    with atomic_path(folder / "faces.parquet") as tmp_path:
        table.write_parquet(tmp_path, metadata={METADATA: json.dumps({"triaffect": __version__, "model": model})})
