"""Figures of a video's predictions over time (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from triaffect.inference.draw import ACTIVE
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS, VA
from triaffect.report.style import GRID, INK, SEQUENTIAL, SERIES, SOFT, legend, page, tidy


def draw_timeline(rows: pl.DataFrame, title: str = "", faces: int = 3) -> Figure:
    """Draw valence and arousal, the most frequent expressions and the active AUs of a video's faces over time.

    Args:
        rows: An `Analyzer` table of one video.
        title: Title of the figure.
        faces: Draw only this number of faces, those visible longest.
    """
    shown = rows.group_by("face").len().sort("len", "face", descending=[True, False])["face"][:faces].sort().to_list()
    tables = [_thinned(rows.filter(pl.col("face") == face)) for face in shown]
    units = [unit for unit in ACTION_UNITS if unit in rows.columns and any((t[unit] >= ACTIVE).any() for t in tables)]
    parts: dict[str, float] = {}
    if "valence" in rows.columns:
        parts["va"] = 1.6
    if "expression" in rows.columns:
        parts["expr"] = 1.6
    if units:
        parts["au"] = 0.35 + 0.2 * len(units)
    hidden = rows["face"].n_unique() - len(shown)
    classes = [name.lower() for name in EXPRESSIONS if name.lower() in rows.columns]
    common = sorted(classes, key=lambda name: -float(rows[name].mean() or 0))[:4]  # type: ignore[arg-type]
    series = {"va": list(VA), "expr": common, "au": units}
    note = "grey background: frames with quality flags; action units: the darker, the more probable"
    note += f"; {hidden} faces visible for less time are not drawn" if hidden else ""
    figure = page(1.6 + 5.4 * len(shown), 1.2 + sum(parts.values()) * 1.15, title, note)
    grid = figure.subplots(
        len(parts), len(shown), squeeze=False, sharex="col", sharey="row", height_ratios=list(parts.values())
    )
    for column, (face, table) in enumerate(zip(shown, tables, strict=True)):
        for part, axes in zip(parts, grid[:, column], strict=True):
            _panel(axes, part, table, series[part])
            if column == 0:
                axes.set_ylabel({"va": "-1 to 1", "expr": "probability", "au": ""}[part], fontsize=9, color=SOFT)
        grid[0, column].set_title(f"face {face}" if len(shown) > 1 else "", fontsize=10, color=INK, loc="left", pad=24)
        grid[-1, column].set_xlabel("time (s)", fontsize=9, color=SOFT)
    return figure


def _thinned(rows: pl.DataFrame, points: int = 2000) -> pl.DataFrame:
    """Rows of one face by time, averaged if there are too many to draw, with an empty row in each gap."""
    step = -(-rows.height // points)
    columns = [name for name in rows.columns if name in {*VA, *map(str.lower, EXPRESSIONS), *ACTION_UNITS}]
    means = pl.col("time", *columns).mean()
    thinned = (
        rows.sort("time")
        .group_by(pl.int_range(pl.len()) // step, maintain_order=True)
        .agg(means, (pl.col("quality_flags") != "").any())
    )
    wide = pl.col("time").diff()
    after = thinned.filter((wide > 3 * wide.median()).fill_null(False)).select(pl.col("time") - 1e-6)
    before = thinned.filter((wide > 3 * wide.median()).shift(-1, fill_value=False)).select(pl.col("time") + 1e-6)
    return (
        pl.concat([thinned, before, after], how="diagonal")
        .sort("time")
        .with_columns(pl.col("quality_flags").fill_null(False))
    )


def _panel(axes: Axes, part: str, table: pl.DataFrame, names: Sequence[str]) -> None:
    time = table["time"].to_numpy()
    tidy(axes, grid="" if part == "au" else "y")
    if table["quality_flags"].any():
        axes.fill_between(
            time, 0, 1, where=table["quality_flags"].to_numpy(), color=GRID, linewidth=0, alpha=0.7,
            transform=axes.get_xaxis_transform(), zorder=0,
        )  # fmt: skip
    if part == "au":
        values = table.select(names).to_numpy().T
        edges = np.r_[time[0], (time[1:] + time[:-1]) / 2, time[-1] + 1e-6]
        axes.pcolormesh(
            edges, np.arange(len(names) + 1), np.ma.masked_invalid(values), cmap=SEQUENTIAL, vmin=0, vmax=1,
            rasterized=True,
        )  # fmt: skip
        axes.set_yticks(np.arange(len(names)) + 0.5, [f"{AU_NAMES[unit]}  {unit}" for unit in names])
        axes.hlines(np.arange(1, len(names)), *axes.get_xlim(), color="white", linewidth=2)
        axes.set(ylim=(len(names), 0), xlim=(time[0], time[-1]))
        return
    for name, colour in zip(names, SERIES, strict=False):
        axes.plot(time, table[name].to_numpy(), color=colour, linewidth=1.6, label=name)
    axes.set(ylim=(-1.05, 1.05) if part == "va" else (-0.02, 1.02), yticks=(-1, 0, 1) if part == "va" else (0, 0.5, 1))
    legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names), borderaxespad=0.2)
