"""Verbs for using a model: photos, videos, a camera, a web page."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from triaffect import text
from triaffect.io import InputError, Notices
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS, VA

if TYPE_CHECKING:
    from triaffect.inference.analyze import Analysis
    from triaffect.inference.results import FileResult


def analyze(
    inputs: list[str],
    out: str | None = None,
    annotate: bool = False,
    plot: bool = False,
    cropped: bool = False,
    every: int = 1,
    fps: float | None = None,
    sequence: bool = False,
    sequence_fps: float = 25,
    strict: bool = False,
    max_faces: int | None = None,
    min_face: float | None = None,
    detect_size: int | None = None,
    model: str = "triaffect-base",
    backend: Literal["auto", "onnx", "openvino", "torch"] = "auto",
    post: str | None = None,
    baseline: str | None = None,
    aus_only: bool = False,
    list: str | None = None,  # noqa: A002
    jobs: int = 1,
    ray: str | None = None,
    shard: str = "1/1",
    dry_run: bool = False,
) -> int:
    """Describe every face of photos, videos or a camera by valence, arousal, expression and action units.

    What a face shows is not what a person feels. For research and teaching with people who agreed; not to rate, select,
    monitor or diagnose anyone. In the EU the law restricts it at work and in education: see docs/use.md.

    Args:
        inputs: Photos, videos, folders with everything below them, globs, addresses of an object store (s3://bucket/folder;
            needs the extra cloud), or the number of a camera (end with Ctrl-C).
        out: Folder for faces.csv and faces.parquet (one row per face and frame), summary.csv (per face and file),
            episodes.csv, failures.csv, and faces/ (one result per input; inputs that are finished with the same model
            and options are skipped in the next call). Without it, results are only printed.
        annotate: Also write a copy of each photo or video with the predictions drawn on it, into OUT/annotated; videos
            of more than 1920 pixels are made smaller.
        plot: Also draw each video over time, into OUT/plots.
        cropped: The images are ready crops, one face each.
        every: Process every n-th frame of a video.
        fps: Process at most this number of frames per second of a video.
        sequence: Take the photos of each folder as the frames of one video, in natural order (frame2 before frame10).
        sequence_fps: Frames per second of such a video.
        strict: Refuse damaged photos; by default one that lacks at most its last quarter is read, with a note.
        max_faces: Keep only this number of faces per image, the largest.
        min_face: Smallest face to look for: its height in pixels, from brow to chin; by default 24 in a photo and 1/40
            of the longer side in a video. Smaller values take longer.
        detect_size: Longer side, in pixels, to which images are scaled for the search; by default what --min-face
            needs.
        model: triaffect-base, a run or model folder, a file from `triaffect export`, or hub:USER/NAME (Hugging Face).
        backend: What runs the model; auto is OpenVINO if it is installed, else ONNX Runtime.
        post: Post-processing from `triaffect tune`, applied to tables and figures.
        baseline: Also write each value's change against the person's own baseline: first:3s (the first 3 seconds of
            each face), median (of the whole video), or the path of a neutral photo or clip of the person.
        aus_only: Write action units only: no expression, no valence, no arousal.
        list: Text file with more inputs, one per line.
        jobs: Number of inputs at once, each in its own process.
        ray: Work on a Ray cluster: auto (the one that this machine is part of), its address, or local.
        shard: Part of the inputs to work on, such as 2/10, for calls on several machines with the same OUT.
        dry_run: Only list what is left to do, with sizes and an estimate of the time.
    """
    from triaffect.inference.analyze import analyze as run
    from triaffect.inference.analyzer import Analyzer
    from triaffect.inference.one_input import AnalyzeOptions
    from triaffect.jobs import read_shard

    inputs = [*inputs, *(_lines(list) if list else [])]
    if not inputs:
        raise InputError("no inputs; name photos, videos, folders or a camera, or a --list")
    progress = _Progress()

    def print_result(file_result: FileResult, rows: Sequence[dict[str, Any]]) -> None:
        if out is None or (len(inputs) == 1 and not os.path.isdir(inputs[0])):
            progress.clear()
            print(*map(text.printable, _face_lines(file_result, rows)), sep="\n")

    options = AnalyzeOptions(annotate, plot, cropped, every, fps, sequence, sequence_fps, strict, post, baseline)
    analyzer = Analyzer(
        model, backend=backend, max_faces=max_faces, min_face=min_face, detect_size=detect_size,
        tasks=["au"] if aus_only else None,
    )  # fmt: skip
    result = run(
        inputs, analyzer, out, options, jobs=jobs, ray=ray, shard=read_shard(shard), dry_run=dry_run,
        on_result=print_result, on_progress=progress,
    )  # fmt: skip
    progress.clear()
    if dry_run:
        print("".join(f"{size / 1e6:10.1f} MB  {text.printable(name)}\n" for name, size, _ in result.plan), end="")
        total, seconds = sum(size for _, size, _ in result.plan), sum(item[2] for item in result.plan)
        print(
            f"{text.plural(len(result.plan), 'input')}, {total / 1e9:.2f} GB to do, {result.skipped:,} finished: about "
            + text.duration(seconds / jobs)
        )
    else:
        rate = f" ({result.new_frames / result.seconds:.0f} images/s)" if result.new_frames > 1 else ""
        counts = {"input": result.inputs, "image": result.frames, "face": result.faces}
        left = text.plural(result.inputs - result.done, "input")
        print(
            ", ".join(text.plural(count, noun) for noun, count in counts.items())
            + f" in {result.seconds:.1f} s{rate}"
            + (f"; {result.skipped:,} were finished before" if result.skipped else "")
            + (f": {out}/faces.csv, {out}/faces.parquet, {out}/summary.csv" if result.tables else "")
            + ("; the last shard writes the tables" if out is not None and not result.tables else "")
            + (f"; stopped, {left} not processed" if result.stopped else "")
        )
    for line in result.notices[:MAX_LINES]:
        print(f"note: {text.printable(line)}")
    for _, _, message in result.failures[:MAX_LINES]:
        print(f"failed: {text.printable(message)}", file=sys.stderr)
    if len(result.failures) > MAX_LINES:
        print(f"failed: {len(result.failures) - MAX_LINES:,} more, see {out}/failures.csv", file=sys.stderr)
    return 130 if result.stopped else 1 if result.failures else 0


MAX_LINES = 20
"""Failures that are printed."""


def _lines(path: str) -> list[str]:
    """The lines of a list of inputs, without empty ones."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            return [line for line in file.read().splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"--list {path}: {error.strerror}; give a text file with a path per line") from None


class _Progress:
    """Prints how far an analysis is: on one line of a terminal, else as a line per minute."""

    def __init__(self) -> None:
        self.shown, self.printed = False, time.monotonic()

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self.shown = False

    def __call__(self, analysis: Analysis) -> None:
        """Print the state, if it is time."""
        terminal = sys.stderr.isatty()
        if not terminal and time.monotonic() < self.printed + 60:
            return
        self.printed, self.shown = time.monotonic(), terminal
        line = _progress_line(analysis)
        if terminal:
            line = f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}"
        print(line, end="" if terminal else "\n", file=sys.stderr, flush=True)


def _progress_line(analysis: Analysis) -> str:
    """Describe how far an analysis is: files, failures, rate, time left, files in work."""
    done, new = analysis.done, analysis.done - analysis.skipped
    parts = [f"{done:,} of {analysis.inputs:,} inputs"]
    if analysis.failures:
        parts.append(f"{len(analysis.failures):,} failed")
    frames = analysis.new_frames + sum(analysis.running.values())
    parts.append(f"{frames / max(analysis.seconds, 1e-9):.0f} images/s")
    if new:
        parts.append(f"{text.duration((analysis.inputs - done) * analysis.seconds / new)} left")
    return "; ".join([", ".join(parts), *(f"{text.printable(n)}: {f:,} images" for n, f in analysis.running.items())])


def _face_lines(result: FileResult, rows: Sequence[dict[str, Any]] = ()) -> list[str]:
    """A few short lines for the faces of one input.

    Args:
        result: Its result.
        rows: Its rows, if it is a photo.
    """
    faces = rows or result.summary
    lines = [f"{result.file}:"] if faces else []
    for face in faces:
        flags = face["quality_flags"].replace(",", ", ")
        words = _photo_parts(face) if rows else _video_parts(face)
        lines.append(f"  face {face['face']}: " + "; ".join(words) + (f"; quality: {flags}" if flags else ""))
    return lines


def _photo_parts(row: dict[str, Any]) -> list[str]:
    from triaffect.inference.draw import active_units

    parts = []
    if row.get("expression"):
        parts.append(f"{row['expression']} {row[row['expression'].lower()]:.0%}")
    if "valence" in row:
        parts.append(f"valence {row['valence']:+.2f}, arousal {row['arousal']:+.2f}")
    if "AU1" in row:
        units = [f"{unit} {AU_NAMES[unit]} {row[unit]:.0%}" for unit in active_units(row)]
        parts.append(", ".join(units) or "no active action unit")
    return parts


def _video_parts(face: dict[str, Any]) -> list[str]:
    parts = [f"{text.plural(face['frames'], 'frame')}, {face['start']:.1f} to {face['end']:.1f} s"]
    if "expression" in face:
        shares = {name: face[f"{name.lower()}_share"] for name in EXPRESSIONS}
        common = sorted((name for name in EXPRESSIONS if shares[name]), key=lambda name: -shares[name])[:3]
        parts.append(", ".join(f"{name} {shares[name]:.0%}" for name in common))
    if "valence_min" in face:
        parts += [f"{name} {face[f'{name}_min']:+.2f} to {face[f'{name}_max']:+.2f}" for name in VA]
    if "AU1_share" in face:
        active = {unit: face[f"{unit}_share"] for unit in ACTION_UNITS}
        often = sorted((unit for unit in ACTION_UNITS if active[unit] >= 0.1), key=lambda unit: -active[unit])
        parts.append(", ".join(f"{unit} {AU_NAMES[unit]} {active[unit]:.0%}" for unit in often) or "hardly any AU")
    return parts


def convert(
    faces: str,
    to: Literal["openface", "elan", "boris", "bids", "csv-wide"] = "csv-wide",
    out: str = "converted",
    threshold: float = 0.5,
) -> None:
    """Write a table of `analyze` in the format of another tool, with its provenance.

    Args:
        faces: faces.parquet or faces.csv.
        to: openface (a CSV per input), elan (an EAF file per video), boris (a project), bids (a data set), or csv-wide
            (a CSV with one row per frame).
        out: The folder to write into.
        threshold: Probability from which an action unit is active.
    """
    from triaffect.data.convert import convert

    notices = Notices()
    files = convert(faces, to, out, threshold, notices)
    for line in notices.lines():
        print(f"note: {line}", file=sys.stderr)
    print(f"{out}: {text.plural(len(files), 'file')}, {files[0].name}" + (" ..." if len(files) > 1 else ""))


def agree(
    faces: str,
    codes: list[str],
    threshold: float = 0.5,
    present: float = 1.0,
    resamples: int = 1000,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Compare a table of `analyze` with human codes, frame by frame: ICC, Cohen's kappa, CCC, F1.

    Args:
        faces: faces.parquet or faces.csv.
        codes: ELAN files (.eaf), or tables of intervals (start, stop, label, also as BORIS, ELAN and BIDS write them)
            or of frames (frame or time, and columns such as AU12 or valence). Videos are matched by name.
        threshold: Probability from which an action unit is active.
        present: Coded intensity (0 to 5) from which an action unit counts as present.
        resamples: Number of resamples of the videos for the 95 % intervals; 0 for no intervals.
        seed: Seed of the resamples.
        json: Print JSON.
    """
    from triaffect.data.convert import read_faces
    from triaffect.metrics.agreement import agreement

    assumed = Notices()
    options: dict[str, Any] = {"threshold": threshold, "present": present, "resamples": resamples, "seed": seed}
    table, notices = agreement(read_faces(faces, assumed), codes, **options)
    for notice in assumed.lines() + notices:
        print(f"note: {notice}", file=sys.stderr)
    if json:
        print(table.write_json())
        return
    rows = []
    for target, measure, value, low, high, frames, videos in table.iter_rows():
        interval = "-" if low is None else f"{low:.3f} to {high:.3f}"
        rows.append((target, measure, text.format_number(value), interval, f"{frames:,}", f"{videos:,}"))
    print(text.text_table(("target", "measure", "value", "95 % interval", "frames", "videos"), rows))


def web(
    port: int = 7860,
    model: str = "triaffect-base",
    backend: Literal["auto", "onnx", "openvino", "torch"] = "auto",
    browser: bool = False,
    host: str = "127.0.0.1",
    aus_only: bool = False,
) -> None:
    """Open a web page on this machine: drop a photo or video, or use the camera, and see the predictions.

    What a face shows is not what a person feels. In the EU the law restricts inferring emotions at work and in
    education: see docs/use.md; --aus-only shows movements of the face without emotion words.

    Args:
        port: Port to listen on.
        model: triaffect-base, a run or model folder, a file from `triaffect export`, or hub:USER/NAME (Hugging Face).
        backend: What runs the model.
        browser: Open the page in the browser.
        host: Address to listen on; 0.0.0.0 lets every machine of the network use the page, without a password.
        aus_only: Show action units only: no expression, no valence, no arousal.
    """
    from triaffect.inference.web import serve

    if host not in ("127.0.0.1", "localhost", "::1"):
        print(f"warning: with --host {host} everybody who reaches this machine can use the page", file=sys.stderr)
    serve(port, model, backend, browser, host=host, aus_only=aus_only)
