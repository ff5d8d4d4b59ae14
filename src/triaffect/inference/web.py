"""The web page of `triaffect page`: a photo, a video or the camera in; the picture and its three descriptors out."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.inference.analyzer import Analyzer
from triaffect.inference.draw import ACTIVE, annotate
from triaffect.inference.timeline import time_lines
from triaffect.inference.video import Writer, ahead, frames
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

CARE = (
    "What a face shows is not what a person feels. This is research software: use it on people who agreed, and never "
    "to judge, select, monitor or diagnose anyone. Nothing leaves this machine."
)
CSS = """
.gradio-container {max-width: 1220px !important; margin: 0 auto !important}
.ta h3 {font-size: 13px; font-weight: 600; margin: 18px 0 6px; color: var(--body-text-color)}
.ta h3:first-child {margin-top: 0}
.ta .head {font-size: 26px; font-weight: 650; line-height: 1.15; color: var(--body-text-color)}
.ta .sub, .ta .care {font-size: 13px; color: color-mix(in srgb, var(--body-text-color) 66%, transparent)}
.ta .doubt {font-size: 13px; margin-top: 8px; padding: 6px 10px; border-left: 3px solid #dc8a2a;
  background: color-mix(in srgb, #dc8a2a 12%, transparent); color: var(--body-text-color)}
.ta .row {display: grid; grid-template-columns: 5.5em 1fr 2.6em; gap: 10px; align-items: center; font-size: 13px;
  line-height: 1.72; white-space: nowrap}
.ta .two > div + div .row {grid-template-columns: 9.6em 1fr 2.6em; line-height: 1.95}
.ta .row > * {color: var(--body-text-color)}
.ta .row.off > * {color: color-mix(in srgb, var(--body-text-color) 66%, transparent)}
.ta .bar {height: 9px; border-radius: 5px; background: color-mix(in srgb, var(--body-text-color) 9%, transparent)}
.ta .bar i {display: block; height: 100%; border-radius: 5px; background: #2b6496}
.dark .ta .bar i {background: #76b7e6}
.ta .off .bar i {opacity: .45}
.ta .row b {font-weight: 400; text-align: right; font-variant-numeric: tabular-nums}
.ta .two {display: grid; grid-template-columns: 10fr 13fr; gap: 28px; margin-top: 18px}
.ta svg text {font-size: 10.5px; fill: var(--body-text-color-subdued)}
@media (max-width: 700px) {.ta .two {grid-template-columns: 1fr}}
"""


def bars(title: str, values: dict[str, float], bold: float) -> str:
    """Horizontal bars of probabilities; those under `bold` step back."""
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
    shown: list[str] = []
    if "expression" in row:
        shown.append(f'<div class="head">{row["expression"]} {row[row["expression"].lower()]:.0%}</div>')
    more = f"the largest of {rows.height} faces, " if rows.height > 1 else ""
    shown.append(f'<div class="sub">face {row["face"]}, {more}{row["size"]:.0f} px between the eyes</div>')
    if row["doubt"]:
        words = escape(row["doubt"].replace(",", ", "))
        shown.append(f'<div class="doubt">Do not rely on this: {words}.</div>')
    left = []
    if "valence" in row:
        left.append(plane(row["valence"], row["arousal"]))
    if "expression" in row:
        values = {name: row[name.lower()] for name in EXPRESSIONS}
        left.append(bars("Expression", values, max(values.values())))
    right = ""
    if "AU1" in row:
        right = bars("Action units", {AU_NAMES[unit]: row[unit] for unit in ACTION_UNITS}, ACTIVE)
    shown.append(f'<div class="two"><div>{"".join(left)}</div><div>{right}</div></div>')
    return f'<div class="ta">{"".join(shown)}</div>'


def build(analyzer: Analyzer) -> Any:
    """The page as a gradio `Blocks`.

    Args:
        analyzer: Describes what is dropped.
    """
    import gradio as gr

    folder = tempfile.mkdtemp(prefix="triaffect-page-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def look(pixels: NDArray[np.uint8] | None) -> tuple[Any, str]:
        if pixels is None:
            return None, ""
        rows = analyzer.image(pixels)
        return annotate(pixels, rows.to_dicts()), panels(rows)

    def watch(path: str | None, bar: Any = gr.Progress()) -> tuple[str | None, Any, str]:  # noqa: B008
        if path is None:
            return None, None, ""
        name = Path(path)
        tables = []
        target = Path(tempfile.mkdtemp(dir=folder), "annotated.mp4")
        trouble = ""
        with Writer(target) as film:
            try:
                for some, rows in analyzer.run(ahead(frames(name)), name.name):
                    tables.append(rows)
                    bar(0.5, f"{some[-1].time:.1f} s")
                    for frame in some:
                        drawn = rows.filter(pl.col("frame") == frame.number).to_dicts()
                        film.write(annotate(frame.pixels, drawn), frame.time)
            except InputError as error:
                trouble = str(error).removeprefix(f"{path}: ")
        if not tables:
            raise gr.Error(trouble)
        table = pl.concat(tables)
        words = f'<div class="ta"><div class="doubt">{escape(trouble)}</div></div>' if trouble else ""
        if not table.height:
            return str(target), None, words + panels(table)
        return str(target), time_lines(table), words

    buttons: Any = ["download", "fullscreen"]  # no sharing
    with gr.Blocks(title="triaffect", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.HTML('<div class="ta"><div class="head">triaffect</div><div class="sub">valence and arousal, expression, '
                f"action units · {escape(analyzer.engine.name)}</div></div>")  # fmt: skip
        with gr.Tab("Photo"), gr.Row():
            with gr.Column(scale=4):
                picture = gr.Image(sources=["upload", "webcam", "clipboard"], label="Photo", height=250)
                drawn = gr.Image(label="What was found", interactive=False, height=380, format="jpeg", buttons=buttons)
            with gr.Column(scale=6):
                found = gr.HTML(padding=True)
            picture.change(look, picture, [drawn, found], api_name="photo", show_progress="minimal")
        with gr.Tab("Camera"), gr.Row():
            with gr.Column(scale=4):
                live = gr.Image(sources="webcam", streaming=True, label="Camera", height=250)
                seen = gr.Image(label="What is seen", interactive=False, height=380, format="jpeg", buttons=buttons)
            with gr.Column(scale=6):
                said = gr.HTML(padding=True)
            live.stream(look, live, [seen, said], stream_every=0.15, concurrency_limit=1, show_progress="hidden")
        with gr.Tab("Video"):
            with gr.Row():
                clip = gr.Video(sources=["upload", "webcam"], label="Video", height=330)
                film = gr.Video(label="What was found", interactive=False, height=330, buttons=["download"])
            note = gr.HTML()
            lines = gr.Plot(label="Through time")
            clip.change(watch, clip, [film, lines, note], api_name="video", concurrency_limit=1)
        gr.HTML(f'<div class="ta"><div class="care">{CARE}</div></div>')
    return blocks


def serve(port: int = 7860, model: str = "triaffect-base", engine: str = "auto", browser: bool = False) -> None:
    """Serves the page on 127.0.0.1 until Ctrl-C.

    Args:
        port: Where.
        model: As for `Analyzer`.
        engine: As for `Analyzer`.
        browser: Open it in the browser.

    Raises:
        InputError: The port is taken; as `Analyzer`.
    """
    import gradio as gr

    blocks = build(Analyzer(model, engine=engine))
    sans = ["ui-sans-serif", "system-ui", "sans-serif"]
    # Plain names: gradio's own default fetches its letters from the network.
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=["ui-monospace", "monospace"])
    print(f"http://127.0.0.1:{port}  (Ctrl-C ends it)")
    try:
        blocks.launch(
            server_name="127.0.0.1", server_port=port, share=False, inbrowser=browser, quiet=True, theme=theme, css=CSS,
            footer_links=[], ssr_mode=False,
        )  # fmt: skip
    except OSError:
        raise InputError(f"--port {port}: is taken; name another one") from None
