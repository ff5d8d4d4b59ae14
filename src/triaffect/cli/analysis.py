"""Verbs for using a model: photos, videos, a camera, a web page."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import polars as pl


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
    model: str = "triaffect-base",
    backend: Literal["auto", "onnx", "openvino", "torch"] = "auto",
    post: str | None = None,
    baseline: str | None = None,
    aus_only: bool = False,
) -> int:
    """Describe every face of photos, videos or a camera by valence, arousal, expression and action units.

    What a face shows is not what a person feels. For research and teaching with people who agreed; not to rate, select,
    monitor or diagnose anyone. In the EU the law restricts it at work and in education: see docs/use.md.

    Args:
        inputs: Photos, videos, folders with everything below them, globs, or the number of a camera (end with Ctrl-C).
        out: Folder for faces.csv and faces.parquet, one row per face; by default the results are only printed.
        annotate: Also write a copy of each photo or video with the predictions drawn on it, into OUT/annotated.
        plot: Also draw each video over time, into OUT/plots.
        cropped: The images are ready crops, one face each.
        every: Process every n-th frame of a video.
        fps: Process at most this number of frames per second of a video.
        sequence: The photos of each folder are the frames of one video, in natural order (frame2 before frame10).
        sequence_fps: Photos of such a video per second.
        strict: Refuse damaged photos; by default a JPEG that lacks at most its last quarter is read, with a note.
        max_faces: Keep only this number of faces per image, the largest.
        model: triaffect-base, a run or model folder, or a file from `triaffect export`.
        backend: What runs the model; auto is OpenVINO if it is installed, else ONNX Runtime.
        post: Post-processing from `triaffect tune`, applied to tables and figures.
        baseline: Also write each value's change against the person's own baseline: first:3s (the first 3 seconds of
            each face), median (of the whole video), or the path of a neutral photo or clip of the person.
        aus_only: Write action units only: no expression, no valence, no arousal.
    """
    from triaffect.inference.analyze import analyze as run
    from triaffect.inference.analyzer import Analyzer
    from triaffect.text import plural, printable

    analyzer = Analyzer(model, backend=backend, max_faces=max_faces, tasks=["au"] if aus_only else None)
    result = run(
        inputs, analyzer, out, annotated=annotate, plots=plot, cropped=cropped, every=every, fps=fps, sequence=sequence,
        sequence_fps=sequence_fps, strict=strict, post=post, baseline=baseline,
    )  # fmt: skip
    if out is None or result.inputs == 1:
        for table in result.tables:
            print("\n".join(_face_lines(table)))
    print(
        f"{plural(result.inputs, 'input')}, {plural(result.frames, 'image')}, {plural(result.faces.height, 'face')} "
        f"in {result.seconds:.1f} s"
        + (f" ({result.frames / result.seconds:.0f} images/s)" if result.frames > 1 else "")
        + (f": {out}/faces.csv, {out}/faces.parquet" if out is not None else "")
        + (f"; stopped, {plural(result.unprocessed, 'input')} not processed" if result.stopped else "")
    )
    for line in result.notices:
        print(f"note: {printable(line)}")
    for line in result.failures:
        print(f"failed: {printable(line)}", file=sys.stderr)
    return 130 if result.stopped else 1 if result.failures else 0


def _face_lines(rows: pl.DataFrame) -> list[str]:
    """A few short lines for the faces of one input.

    Args:
        rows: The `Analyzer` table of one input.
    """
    from triaffect.text import printable

    if not rows.height:
        return []
    lines = [printable(rows["file"][0])]
    for (face,), table in rows.group_by("face", maintain_order=True):
        parts = _photo_parts(table.row(0, named=True)) if table.height == 1 else _video_parts(table)
        flags = sorted({flag for flags in table["quality_flags"] for flag in flags.split(",") if flag})
        lines.append(f"  face {face}: " + "; ".join(parts) + (f"; quality: {', '.join(flags)}" if flags else ""))
    return lines


def _photo_parts(row: dict[str, Any]) -> list[str]:
    from triaffect.inference.draw import active_units
    from triaffect.labels import AU_NAMES

    parts = []
    if row.get("expression"):
        parts.append(f"{row['expression']} {row[row['expression'].lower()]:.0%}")
    if "valence" in row:
        parts.append(f"valence {row['valence']:+.2f}, arousal {row['arousal']:+.2f}")
    if "AU1" in row:
        units = [f"{unit} {AU_NAMES[unit]} {row[unit]:.0%}" for unit in active_units(row)]
        parts.append(", ".join(units) or "no active action unit")
    return parts


def _video_parts(rows: pl.DataFrame) -> list[str]:
    from triaffect.inference.draw import ACTIVE
    from triaffect.labels import ACTION_UNITS, AU_NAMES, VA
    from triaffect.text import plural

    times = rows["time"].to_numpy()
    parts = [f"{plural(rows.height, 'frame')}, {times.min():.1f} to {times.max():.1f} s"]
    if "expression" in rows.columns:
        shares = rows["expression"].value_counts(sort=True, normalize=True).head(3)
        parts.append(", ".join(f"{name} {share:.0%}" for name, share in shares.iter_rows()))
    if "valence" in rows.columns:
        for name in VA:
            values = rows[name].to_numpy()
            parts.append(f"{name} {values.min():+.2f} to {values.max():+.2f}")
    if "AU1" in rows.columns:
        active = {unit: float((rows[unit].to_numpy() >= ACTIVE).mean()) for unit in ACTION_UNITS}
        often = sorted((unit for unit in ACTION_UNITS if active[unit] >= 0.1), key=lambda unit: -active[unit])
        parts.append(", ".join(f"{unit} {AU_NAMES[unit]} {active[unit]:.0%}" for unit in often) or "hardly any AU")
    return parts


def convert(
    faces: str,
    to: Literal["openface", "elan", "boris", "bids", "csv-wide"] = "csv-wide",
    out: str = "converted",
    threshold: float = 0.5,
) -> None:
    """Write a table of `analyze` in the format of another tool, with where it comes from.

    Args:
        faces: faces.parquet or faces.csv.
        to: openface (a CSV per input), elan (an EAF file per video), boris (a project), bids (a data set), or csv-wide
            (a CSV with one row per frame).
        out: The folder to write into.
        threshold: Probability from which an action unit is active.
    """
    from triaffect.data.convert import convert
    from triaffect.text import plural

    files = convert(faces, to, out, threshold)
    print(f"{out}: {plural(len(files), 'file')}, {files[0].name}" + (" ..." if len(files) > 1 else ""))


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
    from triaffect.text import format_number, text_table

    table, notices = agreement(
        read_faces(faces), codes, threshold=threshold, present=present, resamples=resamples, seed=seed
    )
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
    if json:
        print(table.write_json())
        return
    rows = [
        (target, measure, format_number(value), f"{low:.3f} to {high:.3f}" if low is not None else "-", f"{frames:,}",
         f"{videos:,}")
        for target, measure, value, low, high, frames, videos in table.iter_rows()
    ]  # fmt: skip
    print(text_table(("target", "measure", "value", "95 % interval", "frames", "videos"), rows))


def web(
    port: int = 7860,
    model: str = "triaffect-base",
    backend: Literal["auto", "onnx", "openvino", "torch"] = "auto",
    browser: bool = False,
) -> None:
    """Open a web page on this machine: drop a photo or video, or use the camera, and see the predictions.

    Args:
        port: Port on 127.0.0.1; the page is served nowhere else.
        model: triaffect-base, a run or model folder, or a file from `triaffect export`.
        backend: What runs the model.
        browser: Open the page in the browser.
    """
    from triaffect.inference.web import serve

    serve(port, model, backend, browser)
