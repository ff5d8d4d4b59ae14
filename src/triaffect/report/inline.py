"""Figures and pictures inside a page: SVG that follows the page's theme, small JPEGs as data."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from triaffect.images import read_image
from triaffect.report.style import GRID, INK, PAPER, SERIES, SOFT

THEME = {INK: "ink", SOFT: "soft", GRID: "grid", PAPER: "paper"} | {c: f"s{i}" for i, c in enumerate(SERIES, 1)}
"""Colour of the pictures -> CSS variable of the page, which has a light and a dark value."""


def svg(figure: Figure, label: str) -> Markup:
    """A figure as an SVG element whose text is text and whose colours are the page's variables.

    Args:
        figure: It has no words from data files: those stand beside it, escaped.
        label: What a reader hears who cannot see it; also keeps this element's ids apart from another's.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(file, format="svg", transparent=True, dpi=200, metadata={"Date": None})
    text = file.getvalue()
    size = re.search(r'viewBox="[^"]*"', text)
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", _themed, text)
    text = re.sub(r" ?font-family: [^;]*;", "", text)  # the page's own
    text = re.sub(r' transform="rotate\(-?0 [^"]*"', "", text)
    text = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', _rounded, text)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r'<path d="[^"]*" style="fill: none"/>|<g/>|<defs></defs>', "", text)  # nothing to be seen
    text = re.sub(r">\s+<", "><", text).replace(" \n", " ")
    opening = Markup('<svg {} role="img" aria-label="{}">').format(Markup(size[0] if size else ""), label)
    return opening + Markup(text.strip())


def _themed(found: re.Match[str]) -> str:
    name = THEME.get(found[2])
    return f"{found[1]}: var(--{name})" if name else found[0]


def _rounded(found: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", found[0])


def thumbnail(path: str | os.PathLike[str], side: int = 112) -> str | None:
    """A small copy of a picture as a `data:` address, without its metadata; None where it cannot be decoded."""
    try:
        picture = Image.fromarray(read_image(Path(path)))
    except ValueError:
        return None
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
