"""Analyze one photo, video or camera, in any process: its result file, its annotated copy, its figure."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import cv2
import polars as pl
import simplejpeg

from triaffect.images import is_image
from triaffect.inference.analyzer import Analyzer
from triaffect.inference.baseline import Baseline
from triaffect.inference.draw import annotate, write_annotated
from triaffect.inference.frame import Frame
from triaffect.inference.inputs import Input, local_copy, open_input
from triaffect.inference.results import DAMAGED, NO_FACE, STOPPED, UNDRAWN, UNREADABLE, FileResult, Rows
from triaffect.inference.summary import summarize
from triaffect.io import InputError, atomic_path, model_hash
from triaffect.jobs import PerProcess, read_ahead
from triaffect.metrics.postprocess import PostProcessing
from triaffect.text import printable

if TYPE_CHECKING:
    from triaffect.inference.video_writer import VideoWriter

Stream = Generator[tuple[list[Frame], pl.DataFrame]]


@dataclass(frozen=True)
class AnalyzeOptions:
    """What to do with each input.

    Attributes:
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

    Raises:
        InputError: `every`, `fps` or `sequence_fps` is out of range.
    """

    annotated: bool = False
    plots: bool = False
    cropped: bool = False
    every: int = 1
    fps: float | None = None
    sequence: bool = False
    sequence_fps: float = 25.0
    strict: bool = False
    post: str | None = None
    baseline: str | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or (self.fps is not None and not self.fps > 0):
            raise InputError(f"--every {self.every} --fps {self.fps}: every must be at least 1, fps greater than 0")
        if not self.sequence_fps > 0:
            raise InputError(f"--sequence-fps {self.sequence_fps}: must be greater than 0")


@dataclass
class Work:
    """What a process must know to analyze inputs; it opens its own analyzer.

    Attributes:
        analyzer: That of each process.
        options: What to do with each input.
        out: The folder of the results.
        folder: The folder of what is being written, and of how far each process is.
        saves: Results are written.
        number: Of the call of `analyze`.
        model: Hash of the model.
        post: What `options.post` names.
        baseline: What `options.baseline` names.
        settings: All options that a result depends on, those of the analyzer included, as plain data.
    """

    analyzer: PerProcess[Analyzer]
    options: AnalyzeOptions
    out: Path
    folder: Path
    saves: bool = True
    number: str = field(default_factory=lambda: secrets.token_hex(8))
    model: str = ""
    post: PostProcessing | None = None
    baseline: Baseline | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def prepare(self, analyzer: Analyzer) -> None:
        """Open what the options name, before any process needs it.

        Args:
            analyzer: That of this process.

        Raises:
            InputError: One of them cannot be read.
        """
        model = analyzer.new.args[0]
        if self.saves:  # reading the weights takes longer than a photo
            self.model = model_hash(model) if isinstance(model, (str, Path)) else str(getattr(model, "name", ""))
        self.post = PostProcessing.load(self.options.post) if self.options.post else None
        self.baseline = Baseline.load(self.options.baseline, analyzer) if self.options.baseline else None
        settings = {name: value for name, value in analyzer.new.keywords.items() if name not in ("threads", "batch")}
        settings |= asdict(self.options) | {"post": self.post and self.post.to_dict()}
        settings["baseline"] = self.baseline and asdict(self.baseline)
        self.settings = json.loads(json.dumps(settings, default=lambda it: getattr(it, "__qualname__", str(it))))

    @property
    def schema(self) -> pl.Schema:
        """Columns of the results."""
        empty = self.analyzer.get().schema.to_frame()
        return (self.baseline.apply(empty) if self.baseline else empty).schema

    def key(self, item: Input) -> dict[str, Any]:
        """Everything that the result of an input depends on, as plain data. A camera's is of this call only."""
        size, changed = item.state()
        state = {"file": item.name, "size": size, "changed": changed or self.number}
        return {**state, "model": self.model, "options": self.settings}

    def result_file(self, item: Input) -> Path:
        """Where the result of an input is."""
        place = os.fspath(item.place).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return self.out / "faces" / f"{place}.parquet"

    def earlier_result(self, item: Input) -> FileResult | None:
        """The result of an input that an earlier call wrote with the same model and options."""
        return FileResult.load(self.result_file(item), self.key(item))


def open_analyzer(new: Callable[[], Analyzer]) -> Analyzer:
    """Open the analyzer of a process that has its share of the threads."""
    if threads := os.environ.get("OMP_NUM_THREADS"):
        cv2.setNumThreads(int(threads))
    return new()


def analyze_input(work: Work, item: Input) -> tuple[FileResult, list[dict[str, Any]]]:
    """Analyze one input and write its result; return it with the rows of a photo.

    Raises:
        InputError: The output folder is not on this machine.
    """
    start, analyzer, options = time.perf_counter(), work.analyzer.get(), work.options
    if not work.folder.is_dir():
        raise InputError(f"{work.out}: not on this machine; a cluster needs a folder that all its machines see")
    result = FileResult(item.name, work.key(item), backend=analyzer.backend.name)
    counter = work.folder / f"{socket.gethostname()}-{os.getpid()}.frames"
    still, reported = False, start
    with Rows(analyzer.schema, work.folder if work.saves else None) as rows:
        with contextlib.ExitStack() as stack:
            try:
                local = item
                if isinstance(item.source, str):
                    copy = stack.enter_context(local_copy(item.source, item.size, work.folder))
                    local = Input(copy, item.place)
                still, source = open_input(
                    local, options.every, options.fps, rate=options.sequence_fps, strict=options.strict,
                    notices=result.notices,
                )  # fmt: skip
                stream: Stream = analyzer.run(source, still=still, cropped=options.cropped, pixels=options.annotated)
                if options.annotated:
                    # A thread describes the next frames while these are drawn and encoded.
                    ahead = stack.enter_context(contextlib.closing(read_ahead(stream, depth=1)))
                    stream = _annotated(ahead, work, item, still, result, stack)
                for frames, table in stream:
                    rows.add(table)
                    result.faces += table.height
                    result.frames += len(frames)
                    result.frames_without_face += len(frames) - table["frame"].n_unique()
                    if time.perf_counter() > reported + 1:
                        reported = time.perf_counter()
                        counter.write_text(f"{result.frames} {item.name}", "utf-8")
                if not result.faces:
                    result.kind, result.message = NO_FACE, f"{item.name}: no face found"
                    if not options.cropped:
                        result.message += f" ({analyzer.searched(still)})"
            except InputError as error:
                result.kind, result.message = DAMAGED if result.frames else UNREADABLE, str(error)
            except KeyboardInterrupt:  # the usual end of a camera
                if not isinstance(item.source, int):
                    result.kind, result.message = STOPPED, f"{item.name}: stopped by Ctrl-C"
        complete = rows.scan().with_columns(file=pl.lit(item.name))
        if work.post:
            complete = analyzer.name_expression(work.post.apply(complete.collect())).lazy()
        if work.baseline:
            complete = work.baseline.apply(complete.collect()).lazy()
        if work.saves or not still:  # of a photo its rows are printed
            result.summary, result.episodes = summarize(complete)
        result.seconds = round(time.perf_counter() - start, 3)
        if options.plots and not still and result.faces:
            with _drawing(item, result):
                _save_plot(complete.collect(), item, work)
        if work.saves:
            result.save(complete, work.result_file(item), work.folder)
        counter.unlink(missing_ok=True)
        return result, complete.collect().to_dicts() if still else []


def estimate_seconds(item: Input, options: AnalyzeOptions) -> float:
    """Seconds that one process needs for an input, by its header, at the rates of docs/scale.md; 0 if unreadable."""
    import av

    with contextlib.suppress(OSError, ValueError, IndexError, av.error.FFmpegError):
        if not item.paths or is_image(item.paths[0]):
            return 0.07 * len(item.paths)
        with av.open(str(item.paths[0])) as container:
            video = container.streams.video[0]
            seconds, rate = (container.duration or 0) / av.time_base, float(video.average_rate or 25)
            chosen = min(rate / options.every, options.fps or rate)
            return seconds * (rate * 1.5e-9 * video.width * video.height + 0.005 * chosen)
    return 0.0


def _annotated(
    stream: Stream, work: Work, item: Input, still: bool, result: FileResult, stack: contextlib.ExitStack
) -> Stream:
    """Pass frames on, and draw their faces; where that cannot be written, the rows continue."""
    path = work.out / "annotated" / f"{item.place}{'.jpg' if still else '.mp4'}"
    writer: VideoWriter | None = None
    for frames, rows in stream:
        if result.kind != UNDRAWN:
            with _drawing(item, result):
                if still:
                    drawn = annotate(frames[0].pixels, rows.to_dicts())
                    with atomic_path(path, work.folder) as tmp_path:
                        tmp_path.write_bytes(simplejpeg.encode_jpeg(drawn, 92, colorsubsampling="444"))
                else:
                    sound = item.source if isinstance(item.source, Path) else None
                    writer = writer or stack.enter_context(_video_writer(path, work.folder, sound))
                    write_annotated(writer, frames, rows)
        yield frames, rows


@contextlib.contextmanager
def _drawing(item: Input, result: FileResult) -> Iterator[None]:
    """Report a picture that cannot be written."""
    try:
        yield
    except (OSError, InputError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        result.kind, result.message = UNDRAWN, f"{item.name}: its picture cannot be written ({reason})"


@contextlib.contextmanager
def _video_writer(path: Path, folder: Path, sound: Path | None) -> Iterator[VideoWriter]:
    from triaffect.inference.video_writer import VideoWriter

    with atomic_path(path, folder) as tmp_path, VideoWriter(tmp_path, sound) as writer:
        yield writer


def _save_plot(table: pl.DataFrame, item: Input, work: Work) -> None:
    from triaffect.inference.timeline import draw_timeline
    from triaffect.report.style import save_figure

    with atomic_path(work.out / "plots" / f"{item.place}.png", work.folder) as tmp_path:
        save_figure(draw_timeline(table, printable(PurePath(item.name).name)), tmp_path)
