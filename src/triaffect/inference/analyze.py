"""Analyze any number of photos, folders, videos or a camera: a result per input, and the tables of all."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from triaffect.inference.analyzer import Analyzer
from triaffect.inference.inputs import Input, collect
from triaffect.inference.one_input import AnalyzeOptions, Work, analyze_input, estimate_seconds, open_analyzer
from triaffect.inference.results import DIED, ERROR, NO_FACE, STOPPED, FileResult, write_tables
from triaffect.io import InputError, exclusive
from triaffect.jobs import Outcome, PerProcess, run_all

Row = dict[str, Any]
Finished = tuple[FileResult, list[Row]]
Failure = tuple[str, str, str]
"""Path, kind and message."""
RUNNING = ".running"
FOLDERS = ("annotated", "plots", "faces", RUNNING)
"""Folders that `analyze` makes in OUT, which are no inputs."""


@dataclass
class Analysis:
    """What `analyze` did so far.

    Attributes:
        inputs: Number of inputs.
        done: Number of those that are finished, failures included.
        skipped: Number of those that an earlier call had finished.
        frames: Number of images and frames of all finished inputs.
        faces: Number of rows.
        new_frames: Number of frames that this call read.
        seconds: Time it took.
        failures: Inputs that failed or show no face.
        notices: What a user should know of the inputs.
        running: Inputs in work, with the number of frames read.
        plan: Of a dry run, what is to be done: path, size in bytes, estimated seconds of one process.
        tables: The tables are written; those of shards are when all inputs have a result.
        stopped: Ctrl-C ended it.
    """

    inputs: int = 0
    done: int = 0
    skipped: int = 0
    frames: int = 0
    faces: int = 0
    new_frames: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    plan: list[tuple[str, int, float]] = field(default_factory=list)
    tables: bool = False
    stopped: bool = False

    def add(self, result: FileResult) -> None:
        """Count a finished input."""
        self.done += result.kind != STOPPED
        self.frames += result.frames
        self.faces += result.faces
        self.notices += result.notices
        if result.kind and result.kind != STOPPED:
            self.failures.append((result.file, result.kind, result.message))


def analyze(
    inputs: Sequence[str],
    analyzer: Analyzer,
    out: str | None = None,
    options: AnalyzeOptions | None = None,
    *,
    jobs: int = 1,
    ray: str | None = None,
    shard: tuple[int, int] = (1, 1),
    dry_run: bool = False,
    on_result: Callable[[FileResult, list[Row]], None] = lambda result, rows: None,
    on_progress: Callable[[Analysis], None] = lambda analysis: None,
) -> Analysis:
    """Describe every face of the inputs; an input that fails is reported and does not stop the others.

    Each input's result is written when it is finished, to `OUT/faces/`. A second call with the same model and options
    skips what is finished, tries again what failed, and builds the tables again.

    Args:
        inputs: As for `collect`.
        analyzer: Describes the faces; other processes open it again.
        out: Folder of `faces/`, of the tables that `results.write_tables` builds, of `annotated/` and `plots/`; nothing
            is written by default. On a cluster, all machines must see it under this name.
        options: What to do with each input.
        jobs: Number of inputs at once, each in its own process.
        ray: Address of a Ray cluster to use instead, see `jobs.run_all`.
        shard: `(i, n)` leaves all inputs but the i-th of every n to other calls, which may share `out`.
        dry_run: Only find out what is to be done.
        on_result: Called with each new result, and the rows of a photo.
        on_progress: Called every second, from another thread.

    Returns:
        Counts and failures. Ctrl-C ends it early; the tables of what was finished are written.

    Raises:
        InputError: An option is out of range, files are wanted and there is no folder for them, or another call works
            in the folder.
    """
    options = options or AnalyzeOptions()
    if out is None and (options.annotated or options.plots):
        raise InputError("--annotate and --plot write files: name a folder with --out")
    if jobs < 1 or not 1 <= shard[0] <= shard[1]:
        raise InputError(f"--jobs {jobs} --shard {shard[0]}/{shard[1]}: jobs must be at least 1, a shard as 2/10")
    start, result = time.perf_counter(), Analysis()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_running_folder(out, shard))
        per_process = PerProcess(partial(open_analyzer, analyzer.new), analyzer)
        work = Work(per_process, options, Path(out or folder), folder, saves=out is not None)
        work.prepare(analyzer)
        collection = collect(inputs, [work.out / name for name in FOLDERS], sequence=options.sequence)
        missing = [(line.split(": ")[0], "not found", line) for line in collection.failures]
        result.failures, result.notices = [*missing], collection.notices
        todo = []
        for item in collection.inputs[shard[0] - 1 :: shard[1]]:
            earlier = work.earlier_result(item)
            if earlier and earlier.kind in ("", NO_FACE):
                result.add(earlier)
            else:
                todo.append(item)
        result.inputs, result.skipped = result.done + len(todo), result.done
        if dry_run:
            result.plan = plan(work, todo)
            return result
        try:
            with _reporting(result, folder, on_progress):
                for outcome in run_all(partial(analyze_input, work), todo, jobs, ray=ray):
                    new, rows = _finish(work, outcome)
                    result.add(new)
                    result.new_frames += new.frames
                    on_result(new, rows)
                    if new.kind == STOPPED:
                        result.stopped = True
                        break
        except KeyboardInterrupt:
            result.stopped = True
        result.seconds = time.perf_counter() - start
        complete = shard == (1, 1) or all(work.result_file(item).is_file() for item in collection.inputs)
        result.tables = work.saves and complete
        if result.tables:
            _write_all(work, collection.inputs, missing)
        if options.plots and not result.stopped and not (work.out / "plots").exists():
            text = "--plot drew nothing: no video with a face; --sequence makes numbered photos one video"
            result.notices.append(text)
    return result


SAMPLES = 20
"""Inputs that an estimate opens."""


def plan(work: Work, items: Sequence[Input]) -> list[tuple[str, int, float]]:
    """List inputs with their sizes, and the seconds that one process needs, estimated from a few of them.

    Args:
        work: What to do with each.
        items: The inputs.
    """
    sizes = [item.state()[0] for item in items]
    chosen = range(0, len(items), -(-len(items) // SAMPLES) or 1)
    seconds, counted = sum(estimate_seconds(items[i], work.options) for i in chosen), sum(sizes[i] for i in chosen)
    return [(i.name, size, seconds * size / max(1, counted)) for i, size in zip(items, sizes, strict=True)]


@contextlib.contextmanager
def _running_folder(out: str | None, shard: tuple[int, int]) -> Iterator[Path]:
    """The folder of what is being written; it keeps other calls out, and is removed at the end."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="triaffect-") as name:
            yield Path(name)
        return
    name = "all" if shard == (1, 1) else f"{shard[0]}-of-{shard[1]}"
    folder, busy = Path(out, RUNNING, name), f"{out}: another analyze works in it; wait for it or stop it"
    try:
        with exclusive(folder.with_name(f"{name}.lock"), busy):
            shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror or error}); name another folder") from None


def _finish(work: Work, outcome: Outcome[Input, Finished]) -> Finished:
    """The result of an input; one that failed in an unexpected way is written here.

    Raises:
        InputError: No input can succeed: the disk is full, or a folder cannot be written.
    """
    error, item = outcome.error, outcome.item
    if outcome.result is not None:
        return outcome.result
    if isinstance(error, InputError):
        raise error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        raise InputError(
            f"{work.out}: cannot be written to ({error.strerror or error}); call again to continue"
        ) from None
    kind, reason = (DIED, str(error)) if isinstance(error, ChildProcessError) else (ERROR, repr(error))
    result = FileResult(
        item.name, work.key(item), kind, f"{item.name}: {reason}", backend=work.analyzer.get().backend.name
    )
    if work.saves:
        result.save(work.schema.to_frame().lazy(), work.result_file(item), work.folder)
    return result, []


def _write_all(work: Work, collected: Sequence[Input], missing: Sequence[Failure]) -> None:
    """Build the tables from the results of all inputs, those of other shards included."""

    def results() -> Iterator[tuple[FileResult, Path | None]]:
        for name, kind, message in missing:
            yield FileResult(name, {}, kind, message), None
        for item in collected:
            if result := work.earlier_result(item):
                yield result, work.result_file(item)

    source = {"model": work.analyzer.get().backend.name, "model_hash": work.model, "options": work.settings}
    while True:
        try:
            with exclusive(work.out / RUNNING / "tables.lock", "tables"):
                # What a killed call leaves there is removed by the next one.
                write_tables(results(), work.out, work.schema, source, work.folder)
            return
        except InputError as error:  # another shard writes them, perhaps without the newest results
            if str(error) != "tables":
                raise
            time.sleep(1)


@contextlib.contextmanager
def _reporting(result: Analysis, folder: Path, on_progress: Callable[[Analysis], None]) -> Iterator[None]:
    """Call `on_progress` every second with what the processes wrote into the folder."""
    end, start = threading.Event(), time.perf_counter()

    def report() -> None:
        while not end.wait(1.0):
            running = {}
            for file in folder.glob("*.frames"):
                with contextlib.suppress(OSError, ValueError):
                    frames, name = file.read_text("utf-8").split(" ", 1)
                    running[name] = int(frames)
            result.seconds, result.running = time.perf_counter() - start, running
            on_progress(result)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
