"""The look of every figure, and figures and images as part of an HTML page."""

from __future__ import annotations

import base64
import io
import os
import re
from typing import Any, Literal

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from triaffect.images import read_image
from triaffect.io import atomic_path

PAPER, INK, SOFT, GRID = "#ffffff", "#24292f", "#66707a", "#e3e6e9"
SERIES = ("#2b6496", "#dc8a2a", "#5aa79a", "#8c5b95")
"""Distinct for every kind of colour vision, and by lightness in grey."""

SEQUENTIAL = LinearSegmentedColormap.from_list("triaffect", ["#e4eef5", "#b4cfe3", "#6ea3cb", "#2b6496", "#12304d"])


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, SVG or PDF by its suffix; the same figure gives the same bytes."""
    with atomic_path(path) as tmp_path:
        figure.savefig(tmp_path, dpi=160, metadata={"Software": None} if tmp_path.suffix == ".png" else None)


class PageFigure(Figure):
    """A figure that a notebook shows as the value of a cell; matplotlib's own is only shown after importing pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=80)
        return file.getvalue()


def page(width: float, height: float, title: str, note: str = "") -> Figure:
    """Return an empty figure with its title at the top left, in which `$` is a character; sizes in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.04, hspace=0.05)
    figure = PageFigure(figsize=(width, height), layout=layout, facecolor=PAPER)
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK, parse_math=False)
    if note:
        figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color=SOFT, parse_math=False)
    return figure


def tidy(axes: Axes, x: str = "", y: str = "", title: str = "", grid: Literal["", "x", "y", "both"] = "") -> Axes:
    """Style axes: no frame, no tick marks, grid lines on the axis of the values only."""
    axes.set_facecolor(PAPER)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, colors=SOFT, labelcolor=INK)
    axes.set_xlabel(x, fontsize=9, color=SOFT)
    axes.set_ylabel(y, fontsize=9, color=SOFT)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return axes


def legend(axes: Axes, **where: Any) -> None:
    """Add a legend without a frame."""
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=1.2, **where)


def format_signed(value: float | None) -> str:
    """Format with sign and two decimals; a dash for None."""
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


# HTML -------------------------------------------------------------------------------------------------------------

THEME = {INK: "ink", SOFT: "soft", GRID: "grid", PAPER: "paper"} | {c: f"s{i}" for i, c in enumerate(SERIES, 1)}
"""Colour of the figures -> CSS variable of the page, which has a light and a dark value."""


def svg(figure: Figure, label: str) -> Markup:
    """Return a figure as an SVG element whose text is text and whose colours are variables of the page.

    Args:
        figure: A figure without names from data files.
        label: Description for screen readers; also makes the ids of this element unique.
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
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(r'<path d="[^"]*" style="fill: none"/>|<g/>|<defs></defs>', "", text)  # invisible
    text = re.sub(r">\s+<", "><", text).replace(" \n", " ")
    opening = Markup('<svg {} role="img" aria-label="{}">').format(Markup(size[0] if size else ""), label)
    return opening + Markup(text.strip())


def _themed(match: re.Match[str]) -> str:
    name = THEME.get(match[2])
    return f"{match[1]}: var(--{name})" if name else match[0]


def _rounded(match: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", match[0])


def thumbnail(image: bytes, side: int = 112) -> str | None:
    """Return a small copy of an image file as a `data:` address, without metadata; None if it cannot be decoded."""
    try:
        picture = Image.fromarray(read_image(image))
    except ValueError:
        return None
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
