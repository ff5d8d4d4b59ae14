"""The web page of `triaffect web`: a photo, a video or the camera in; the annotated image and its descriptors out."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.inference.analyzer import Analyzer
from triaffect.inference.draw import ACTIVE, annotate, write_annotated
from triaffect.inference.timeline import draw_timeline
from triaffect.inference.video import VideoWriter, read_ahead, read_video
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

NOTICE = (
    "What a face shows is not what a person feels. This is research software: use it on people who agreed, and never "
    "to rate, select, monitor or diagnose anyone. Nothing leaves this machine."
)


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


def panels(rows: pl.DataFrame) -> str:
    """The three descriptors of the largest face, as HTML."""
    if not rows.height:
        return '<div class="ta"><div class="head">No face found</div></div>'
    row = rows.sort(pl.col("w") * pl.col("h"), descending=True).row(0, named=True)
    parts: list[str] = []
    if "expression" in row:
        parts.append(f'<div class="head">{row["expression"]} {row[row["expression"].lower()]:.0%}</div>')
    rank = f"the largest of {rows.height} faces, " if rows.height > 1 else ""
    parts.append(f'<div class="sub">face {row["face"]}, {rank}{row["size"]:.0f} px between the eyes</div>')
    if row["quality_flags"]:
        flags = escape(row["quality_flags"].replace(",", ", "))
        parts.append(f'<div class="warning">Do not rely on this: {flags}.</div>')
    left = []
    if "valence" in row:
        left.append(plane(row["valence"], row["arousal"]))
    if "expression" in row:
        values = {name: row[name.lower()] for name in EXPRESSIONS}
        left.append(bars("Expression", values, max(values.values())))
    right = ""
    if "AU1" in row:
        right = bars("Action units", {AU_NAMES[unit]: row[unit] for unit in ACTION_UNITS}, ACTIVE)
    parts.append(f'<div class="two"><div>{"".join(left)}</div><div>{right}</div></div>')
    return f'<div class="ta">{"".join(parts)}</div>'


def build(analyzer: Analyzer) -> Any:
    """Build the page as a gradio `Blocks`.

    Args:
        analyzer: Describes the faces.
    """
    import gradio as gr

    folder = tempfile.mkdtemp(prefix="triaffect-web-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def describe_image(pixels: NDArray[np.uint8] | None) -> tuple[Any, str]:
        if pixels is None:
            return None, ""
        rows = analyzer.image(pixels)
        return annotate(pixels, rows.to_dicts()), panels(rows)

    def describe_video(path: str | None, bar: Any = gr.Progress()) -> tuple[str | None, Any, str]:  # noqa: B008
        if path is None:
            return None, None, ""
        name = Path(path)
        tables = []
        target = Path(tempfile.mkdtemp(dir=folder), "annotated.mp4")
        damage = ""
        with VideoWriter(target) as writer:
            try:
                for frames, rows in analyzer.run(read_ahead(read_video(name)), name.name):
                    tables.append(rows)
                    bar(0.5, f"{frames[-1].time:.1f} s")
                    write_annotated(writer, frames, rows)
            except InputError as error:
                damage = str(error).removeprefix(f"{path}: ")
        if not tables:
            raise gr.Error(damage)
        table = pl.concat(tables)
        note = f'<div class="ta"><div class="warning">{escape(damage)}</div></div>' if damage else ""
        if not table.height:
            return str(target), None, note + panels(table)
        return str(target), draw_timeline(table), note

    drawing: dict[str, Any] = {"label": "Predictions", "interactive": False, "height": 380, "format": "jpeg"}
    drawing["buttons"] = ["download", "fullscreen"]  # no sharing
    with gr.Blocks(title="triaffect", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.HTML('<div class="ta"><div class="head">triaffect</div><div class="sub">valence and arousal, expression, '
                f"action units · {escape(analyzer.backend.name)}</div></div>")  # fmt: skip
        with gr.Tab("Photo"), gr.Row():
            with gr.Column(scale=4):
                photo = gr.Image(sources=["upload", "webcam", "clipboard"], label="Photo", height=250)
                drawn = gr.Image(**drawing)
            with gr.Column(scale=6):
                panel = gr.HTML(padding=True)
            photo.change(describe_image, photo, [drawn, panel], api_name="photo", show_progress="minimal")
        with gr.Tab("Camera"), gr.Row():
            with gr.Column(scale=4):
                live = gr.Image(sources="webcam", streaming=True, label="Camera", height=250)
                live_drawn = gr.Image(**drawing)
            with gr.Column(scale=6):
                live_panel = gr.HTML(padding=True)
            live.stream(describe_image, live, [live_drawn, live_panel], stream_every=0.15, concurrency_limit=1,
                        show_progress="hidden")  # fmt: skip
        with gr.Tab("Video"):
            with gr.Row():
                clip = gr.Video(sources=["upload", "webcam"], label="Video", height=330)
                annotated = gr.Video(label="Predictions", interactive=False, height=330, buttons=["download"])
            note_panel = gr.HTML()
            timeline = gr.Plot(label="Over time")
            clip.change(describe_video, clip, [annotated, timeline, note_panel], api_name="video", concurrency_limit=1)
        gr.HTML(f'<div class="ta"><div class="notice">{NOTICE}</div></div>')
    return blocks


def serve(port: int = 7860, model: str = "triaffect-base", backend: str = "auto", browser: bool = False) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C.

    Args:
        port: Port on 127.0.0.1.
        model: As for `Analyzer`.
        backend: As for `Analyzer`.
        browser: Open it in the browser.

    Raises:
        InputError: The port is in use; or as `Analyzer`.
    """
    import gradio as gr

    blocks = build(Analyzer(model, backend=backend))
    sans = ["ui-sans-serif", "system-ui", "sans-serif"]
    # System fonts: gradio's own default is fetched from the network.
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=["ui-monospace", "monospace"])
    css = resources.files("triaffect.inference").joinpath("web.css").read_text(encoding="utf-8")
    print(f"http://127.0.0.1:{port}  (stop with Ctrl-C)")
    try:
        blocks.launch(
            server_name="127.0.0.1", server_port=port, share=False, inbrowser=browser, quiet=True, theme=theme, css=css,
            footer_links=[], ssr_mode=False,
        )  # fmt: skip
    except OSError:
        raise InputError(f"--port {port}: is in use; choose another one") from None
