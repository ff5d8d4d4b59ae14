"""How every picture looks: one page, one set of colours, quiet axes."""

from __future__ import annotations

import os
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from triaffect.io import atomic_path

PAPER, INK, SOFT, GRID = "#ffffff", "#24292f", "#66707a", "#e3e6e9"
SERIES = ("#2b6496", "#dc8a2a", "#5aa79a", "#8c5b95")
"""Told apart with every kind of colour vision, and in grey by their lightness."""

SEQUENTIAL = LinearSegmentedColormap.from_list("triaffect", ["#e4eef5", "#b4cfe3", "#6ea3cb", "#2b6496", "#12304d"])


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a picture (PNG, SVG or PDF by the name's end), the same bytes for the same figure."""
    with atomic_path(path) as tmp_path:
        figure.savefig(tmp_path, dpi=160, metadata={"Software": None} if tmp_path.suffix == ".png" else None)


def page(width: float, height: float, title: str, note: str = "") -> Figure:
    """An empty page with its title at the top left; sizes in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.04, hspace=0.05)
    figure = Figure(figsize=(width, height), layout=layout, facecolor=PAPER)
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
    if note:
        figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color=SOFT)
    return figure


def tidy(axes: Axes, x: str = "", y: str = "", title: str = "", grid: Literal["", "x", "y", "both"] = "") -> Axes:
    """One look: no frame but a thin baseline, quiet ticks, grid lines on the axis of the values only."""
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
    """A legend without a frame."""
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=1.2, **where)
