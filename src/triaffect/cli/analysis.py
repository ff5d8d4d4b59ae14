"""Verbs for models in the world: photos, videos, a camera, a web page."""

from __future__ import annotations

from typing import Literal


def analyze(
    inputs: list[str],
    out: str | None = None,
    annotate: bool = False,
    plot: bool = False,
    cropped: bool = False,
    every: int = 1,
    fps: float | None = None,
    max_faces: int | None = None,
    model: str = "triaffect-base",
    engine: Literal["auto", "onnx", "openvino", "torch"] = "auto",
    post: str | None = None,
) -> int:
    """Describes every face of photos, videos or a camera by valence, arousal, expression and action units.

    Args:
        inputs: Photos, videos, folders with all below them, globs, or the number of a camera (Ctrl-C ends it).
        out: Folder for faces.csv and faces.parquet, a row a face; where left out the findings are only printed.
        annotate: Write each picture or video again into out/annotated, with the findings drawn on it.
        plot: Draw each video's time lines into out/plots.
        cropped: The pictures are ready crops, one face each.
        every: Of a video, only each so-manieth frame.
        fps: Of a video, at most so many frames a second.
        max_faces: Only the largest so many faces of a picture.
        model: triaffect-base, a run or model folder, or a file from `triaffect export`.
        engine: What runs the model; auto takes the fastest that is installed.
        post: Post-processing from `triaffect tune`, applied to tables and time lines.
    """
    from triaffect.inference.analyze import analyze
    from triaffect.inference.analyzer import Analyzer

    def make(faces: int | None) -> Analyzer:
        return Analyzer(model, engine=engine, max_faces=max_faces, faces=faces)

    return analyze(
        inputs, out, make=make, annotated=annotate, plots=plot, cropped=cropped, every=every, fps=fps, post=post
    )


def web(port: int = 7860, model: str = "triaffect-base", engine: str = "auto", browser: bool = False) -> None:
    """Opens a web page on this machine: drop a photo or video, or use the camera, and see what is found.

    Args:
        port: Of 127.0.0.1, where the page is served, and nowhere else.
        model: triaffect-base, a run or model folder, or a file from `triaffect export`.
        engine: auto, onnx, openvino or torch.
        browser: Open it in the browser.
    """
    from triaffect.inference.web import serve

    serve(port, model, engine, browser)
