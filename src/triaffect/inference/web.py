"""The web page of `triaffect web`: a photo, a video or the camera in; the annotated image and its descriptors out."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.images import read_image
from triaffect.inference.analyzer import Analyzer
from triaffect.inference.draw import annotate, write_annotated
from triaffect.inference.inputs import read_photo
from triaffect.inference.timeline import draw_timeline
from triaffect.inference.video import read_video, video_seconds
from triaffect.inference.video_writer import VideoWriter
from triaffect.io import InputError
from triaffect.jobs import read_ahead
from triaffect.labels import ACTION_UNITS, ACTIVE, AU_NAMES, EXPRESSIONS, PREDICTION_COLUMNS
from triaffect.report.style import save_figure
from triaffect.text import INTENDED_USE

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

PLACE = "Pictures are sent only to the machine that serves this page, which deletes them."
MAX_UPLOAD = "200mb"
MAX_VISITORS = 200
"""Visitors whose last result is kept in memory."""
MAX_WAITING = 32
"""Requests that may wait; further ones are refused."""

WELCOME = """<div class="ta"><h3>What this page does</h3>
<p>Give it a photo of one or more faces: drop a file, take a picture, or click an example. It marks each face in the
picture and shows here:</p>
<ul><li><b>valence and arousal</b>: how pleasant and how activated the shown affect is, from -1 to 1;</li>
<li><b>expression</b>: eight classes and their probabilities;</li>
<li><b>action units</b>: movements of the face, such as a raised brow, and the probability of each.</li></ul>
<p>The people in the examples do not exist; they are computer-generated.</p></div>"""


CAMERA = """<div class="ta"><h3>Camera</h3><p>Click the camera, allow it, and start recording: each frame is
described as it comes. Browsers allow a camera only on pages of the same machine (127.0.0.1) or with https.</p></div>"""


def bars(title: str, values: dict[str, float], bold: float) -> str:
    """Horizontal bars of probabilities; those below `bold` are dimmed."""
    rows = (
        f'<div class="row{"" if value >= bold else " off"}"><span>{escape(name)}</span>'
        f'<span class="bar"><i style="width:{value:.1%}"></i></span><b>{value:.0%}</b></div>'
        for name, value in values.items()
    )
    return f"<h3>{title}</h3>" + "".join(rows)


def plane(valence: float, arousal: float) -> str:
    """The valence-arousal plane with its dot, as SVG."""
    x, y = 110 + 82 * valence, 100 - 82 * arousal
    edge = 'stroke="var(--body-text-color-subdued)" fill="none"'
    return f"""<h3>Valence {valence:+.2f}, arousal {arousal:+.2f}</h3>
<svg viewBox="-34 0 288 202" style="max-width:340px; display:block">
<circle cx="110" cy="100" r="82" {edge} stroke-width=".8"/>
<path d="M28 100H192M110 18V182" {edge} stroke-width=".6" opacity=".5"/>
<line x1="110" y1="100" x2="{x:.1f}" y2="{y:.1f}" stroke="#dc8a2a" stroke-width="1.6" opacity=".6"/>
<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="#dc8a2a" stroke="var(--background-fill-primary)" stroke-width="1.5"/>
<text x="110" y="12" text-anchor="middle">active</text><text x="110" y="196" text-anchor="middle">calm</text>
<text x="23" y="104" text-anchor="end">negative</text><text x="197" y="104">positive</text></svg>"""


def panels(rows: pl.DataFrame, face: int | None = None) -> str:
    """The descriptors of one face, as HTML.

    Args:
        rows: An `Analyzer` table of one image.
        face: Its number; the largest by default.
    """
    if not rows.height:
        return '<div class="ta"><div class="head">No face found</div></div>'
    chosen = rows.filter(pl.col("face") == face) if face else rows.sort(pl.col("w") * pl.col("h"), descending=True)
    row = chosen.row(0, named=True)
    parts: list[str] = []
    if "expression" in row:
        parts.append(f'<div class="head">{row["expression"]} {row[row["expression"].lower()]:.0%}</div>')
    count = f" of {rows.height}" if rows.height > 1 else ""
    parts.append(f'<div class="sub">face {row["face"]}{count}, {row["size"]:.0f} px between the eyes</div>')
    if row["quality_flags"]:
        flags = escape(row["quality_flags"].replace(",", ", "))
        parts.append(f'<div class="warning">Do not rely on this: {flags}.</div>')
    affect, units = "", ""
    if "valence" in row:
        affect += plane(row["valence"], row["arousal"])
    if "expression" in row:
        values = {name: row[name.lower()] for name in EXPRESSIONS}
        affect += bars("Expression", values, max(values.values()))
    if "AU1" in row:
        values = {AU_NAMES[unit]: row[unit] for unit in ACTION_UNITS}
        units = f'<div class="units">{bars("Action units", values, ACTIVE)}</div>'
    columns = "".join(f"<div>{column}</div>" for column in (affect, units) if column)
    parts.append(f'<div class="{"two" if affect and units else "one"}">{columns}</div>')
    return f'<div class="ta">{"".join(parts)}</div>'


def notes(lines: Sequence[object], path: str) -> str:
    """What a user should know of a file, as HTML; nothing if there is nothing."""
    warnings = "".join(f'<div class="warning">{escape(str(line).removeprefix(f"{path}: "))}</div>' for line in lines)
    return f'<div class="ta">{warnings}</div>' if warnings else ""


def without_emotion(rows: pl.DataFrame) -> pl.DataFrame:
    """The table without expression, valence and arousal."""
    return rows.drop("expression", *PREDICTION_COLUMNS["va"], *PREDICTION_COLUMNS["expr"], strict=False)


class Camera:
    """One visitor's camera: faces keep their numbers, and a causal temporal model sees the frames before.

    Args:
        analyzer: Describes the faces.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        self._frames: list[NDArray[np.uint8]] = []
        self._tables = analyzer.stream(self._arriving(), name="camera", batch=1)

    def _arriving(self) -> Iterator[NDArray[np.uint8]]:
        while self._frames:
            yield self._frames.pop()

    def describe(self, pixels: NDArray[np.uint8]) -> pl.DataFrame:
        """Return the table of the next frame."""
        self._frames.append(pixels)
        return next(self._tables)


def example_files(folder: Path) -> tuple[list[str], str]:
    """Make the pictures and the clip that a visitor can click, of the invented people of the bundled sample.

    Args:
        folder: Where to put them.

    Returns:
        Paths of two pictures, of one face and of three, and of the clip.
    """
    sample = Path(str(resources.files("triaffect.data.sample"))) / "data" / "cropped_aligned"

    def picture(person: int, frame: int) -> NDArray[np.uint8]:
        pixels = read_image(sample / f"face{person:04d}" / f"{frame:05d}.jpg")
        large = cv2.resize(pixels, None, fx=2.5, fy=2.5, interpolation=cv2.INTER_CUBIC)
        return cv2.copyMakeBorder(large, 60, 60, 60, 60, cv2.BORDER_REPLICATE).astype(np.uint8)

    files = {"one": picture(1, 12), "three": np.hstack([picture(person, 20) for person in (3, 8, 13)])}
    for name, pixels in files.items():
        cv2.imwrite(str(folder / f"{name}.png"), pixels[..., ::-1])
    with VideoWriter(folder / "clip.mp4") as writer:
        for frame in range(1, 34):
            writer.write(picture(1, frame), frame * 0.2)
    return [str(folder / f"{name}.png") for name in files], str(folder / "clip.mp4")


def build(analyzer: Analyzer, folder: Path) -> Any:
    """Build the page as a gradio `Blocks`.

    Args:
        analyzer: Describes the faces.
        folder: An empty private folder for everything that is written; the caller deletes it.
    """
    import gradio as gr

    def refusal(error: InputError, path: str) -> Exception:
        return gr.Error(str(error).removeprefix(f"{path}: "), print_exception=False)

    def table_file(rows: pl.DataFrame) -> Any:
        path = Path(tempfile.mkdtemp(dir=folder), "faces.csv")
        rows.write_csv(path, float_precision=5)
        return gr.update(value=str(path), visible=True)

    def describe_photo(path: str | None, units_only: bool) -> tuple[Any, ...]:
        if path is None:
            return gr.update(visible=False), WELCOME, gr.update(visible=False), None, gr.update(visible=False)
        notices: list[str] = []
        try:
            pixels = read_photo(path, notices=notices)
        except InputError as error:
            raise refusal(error, path) from None
        rows = analyzer.image(pixels).with_columns(file=pl.lit(Path(path).name))
        rows = without_emotion(rows) if units_only else rows
        largest = rows["face"][int((rows["w"] * rows["h"]).arg_max() or 0)] if rows.height else None
        choice = gr.update(choices=rows["face"].to_list(), value=largest, visible=rows.height > 1)
        picture = gr.update(value=annotate(pixels, rows.to_dicts()), visible=True)
        return picture, notes(notices, path) + panels(rows), choice, rows, table_file(rows)

    def describe_frame(pixels: NDArray[np.uint8] | None, units_only: bool, camera: Any) -> tuple[Any, ...]:
        if pixels is None:
            return gr.update(visible=False), CAMERA, None
        camera = camera or Camera(analyzer)
        rows = camera.describe(pixels)
        rows = without_emotion(rows) if units_only else rows
        return gr.update(value=annotate(pixels, rows.to_dicts()), visible=True), panels(rows), camera

    def describe_video(path: str | None, units_only: bool, bar: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        if path is None:
            return None, None, "", gr.update(visible=False)
        name = Path(path)
        target = Path(tempfile.mkdtemp(dir=folder), "annotated.mp4")
        tables, damage = [], list[InputError]()
        with VideoWriter(target, name) as writer:
            try:
                total = video_seconds(name)
                for frames, rows in analyzer.run(read_ahead(read_video(name))):
                    tables.append(without_emotion(rows) if units_only else rows)
                    seconds = frames[-1].time
                    bar(min(seconds / total, 1.0) if total else None, f"{seconds:.0f} of {total:.0f} s")
                    write_annotated(writer, frames, tables[-1])
            except InputError as error:
                damage.append(error)
        if not tables:
            raise refusal(damage[0], path)
        table = pl.concat(tables).with_columns(file=pl.lit(name.name))
        note = notes(damage, path)
        if not table.height:
            return str(target), None, note + panels(table), gr.update(visible=False)
        save_figure(draw_timeline(table), target.with_name("timeline.png"))
        return str(target), str(target.with_name("timeline.png")), note, table_file(table)

    def describe_file(path: str | None) -> list[dict[str, Any]]:
        if path is None:
            raise gr.Error("no image was given", print_exception=False)
        try:
            return analyzer.image(path).with_columns(file=pl.lit(Path(path).name)).to_dicts()
        except InputError as error:
            raise refusal(error, path) from None

    pictures, example_clip = example_files(folder)
    # A label would cover a part of the picture; the buttons leave out sharing.
    drawing: dict[str, Any] = {"show_label": False, "interactive": False, "format": "jpeg", "visible": False}
    drawing |= {"elem_classes": "drawn", "buttons": ["download", "fullscreen"]}
    units_fixed = analyzer.tasks == ("au",)
    with gr.Blocks(title="triaffect", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        name = f'<div class="head">triaffect</div><div class="sub">{escape(analyzer.backend.name)}</div>'
        gr.HTML(f'<div class="ta">{name}<div class="notice">{INTENDED_USE} {PLACE}</div></div>')
        units_only = gr.Checkbox(units_fixed, label="Action units only, no emotion words", visible=not units_fixed)
        with gr.Tab("Photo"), gr.Row():
            with gr.Column(scale=4, min_width=300):
                photo = gr.Image(sources=["upload", "webcam", "clipboard"], type="filepath", label="Photo", height=250)
                # The file as it was uploaded, for the decoder of the whole package.
                vars(photo)["preprocess"] = lambda payload: payload and payload.path
                gr.Examples(pictures, photo, label="Examples: invented people", cache_examples=False)
                drawn = gr.Image(**drawing)
            with gr.Column(scale=6, min_width=300):
                choice = gr.Radio([], label="Face", visible=False)
                panel = gr.HTML(WELCOME, padding=True)
                table = gr.DownloadButton("Download the table (CSV)", visible=False, size="sm")
            described = gr.State()
            photo_outputs = [drawn, panel, choice, described, table]
            photo.change(describe_photo, [photo, units_only], photo_outputs, api_name="photo", show_progress="minimal")
            units_only.change(describe_photo, [photo, units_only], photo_outputs, api_visibility="private")
            choice.input(panels, [described, choice], panel, api_visibility="private", show_progress="hidden")
        with gr.Tab("Camera"), gr.Row():
            with gr.Column(scale=4, min_width=300):
                live = gr.Image(sources="webcam", streaming=True, label="Camera", height=250)
                live_drawn = gr.Image(**drawing)
            with gr.Column(scale=6, min_width=300):
                live_panel = gr.HTML(CAMERA, padding=True)
            camera = gr.State()
            live.stream(describe_frame, [live, units_only, camera], [live_drawn, live_panel, camera], stream_every=0.15,
                        concurrency_limit=1, show_progress="hidden", api_visibility="private")  # fmt: skip
        with gr.Tab("Video"):
            with gr.Row():
                with gr.Column(min_width=300):
                    clip = gr.Video(sources=["upload", "webcam"], label="Video", height=400, elem_classes="clip")
                    gr.Examples([example_clip], clip, label="Example: an invented person", cache_examples=False)
                annotated = gr.Video(label="Predictions", interactive=False, height=400, buttons=["download"])
            note_panel = gr.HTML()
            # A label would cover the legend on a phone.
            timeline = gr.Image(show_label=False, interactive=False, buttons=["download", "fullscreen"])
            video_table = gr.DownloadButton("Download the table (CSV)", visible=False, size="sm")
            clip.change(describe_video, [clip, units_only], [annotated, timeline, note_panel, video_table],
                        api_name="video", concurrency_limit=1)  # fmt: skip
        # For programs: an image file in, the table as JSON out.
        file, answer = gr.File(visible=False, type="filepath"), gr.JSON(visible=False)
        file.upload(describe_file, file, answer, api_name="describe")
    return blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=2)


def serve(
    port: int = 7860,
    model: str = "triaffect-base",
    backend: str = "auto",
    browser: bool = False,
    *,
    host: str = "127.0.0.1",
    aus_only: bool = False,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM; uploads lie in a private folder, which is deleted at the end.

    Args:
        port: Port of `host`.
        model: As for `Analyzer`.
        backend: As for `Analyzer`.
        browser: Open it in the browser.
        host: Address to listen on; another one than 127.0.0.1 can be reached by other machines.
        aus_only: Show action units only.

    Raises:
        InputError: The port is in use; or as `Analyzer`.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        # Memory that the server's many threads have freed stays in glibc's arenas, so two (M_ARENA_MAX is -8) bound it.
        ctypes.CDLL(None).mallopt(-8, 2)
    analyzer = Analyzer(model, backend=backend, tasks=["au"] if aus_only else None)
    folder = Path(tempfile.mkdtemp(prefix="triaffect-web-"))  # readable by its owner only
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    import gradio as gr

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sans = ["ui-sans-serif", "system-ui", "sans-serif"]
    # System fonts: gradio's default is fetched from the network.
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=["ui-monospace", "monospace"])
    css = resources.files("triaffect.inference").joinpath("web.css").read_text(encoding="utf-8")
    try:
        blocks = build(analyzer, folder)
        blocks.launch(
            server_name=host, server_port=port, share=False, inbrowser=browser, quiet=True, theme=theme, css=css,
            footer_links=[], ssr_mode=False, max_file_size=MAX_UPLOAD, prevent_thread_lock=True,
            state_session_capacity=MAX_VISITORS,
        )  # fmt: skip
        print(f"http://{host}:{port}  (stop with Ctrl-C)", flush=True)
        while not stop.wait(1):  # Windows does not interrupt a wait without an end
            pass
        blocks.close(verbose=False)
    except OSError:
        raise InputError(f"--host {host} --port {port}: cannot be opened; choose another port or address") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
