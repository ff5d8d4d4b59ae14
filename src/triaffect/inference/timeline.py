"""Figures of a video's predictions over time (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from triaffect.data.intervals import intervals
from triaffect.labels import ACTION_UNITS, ACTIVE, AU_NAMES, EXPRESSIONS, VA
from triaffect.report.style import GRID, INK, SEQUENTIAL, SERIES, SOFT, legend, page, tidy
from triaffect.text import plural


def draw_timeline(rows: pl.DataFrame, title: str = "", faces: int = 3) -> Figure:
    """Draw valence and arousal, the most frequent expressions and the active AUs of a video's faces over time.

    Colours mean one thing each: blue is valence, orange arousal, and the darker a row of an expression or an action
    unit, the more probable. A green line marks its events, the intervals of `data.intervals`. Dashed lines are a
    person's baseline, if the table has columns of change.

    Args:
        rows: An `Analyzer` table of one video.
        title: Title of the figure.
        faces: Draw only this number of faces, those visible longest.
    """
    shown = rows.group_by("face").len().sort("len", "face", descending=[True, False])["face"][:faces].sort().to_list()
    tables = [rows.filter(pl.col("face") == face) for face in shown]
    series: dict[str, list[str]] = {}
    if "valence" in rows.columns:
        series["va"] = list(VA)
    if "expression" in rows.columns:
        classes = [name.lower() for name in EXPRESSIONS]
        series["expr"] = sorted(classes, key=lambda name: -float(rows[name].mean() or 0))[:4]  # type: ignore[arg-type]
    units = [unit for unit in ACTION_UNITS if unit in rows.columns and any((t[unit] >= ACTIVE).any() for t in tables)]
    if units or not series:  # of action units alone all are drawn if none is active
        series["au"] = units or list(ACTION_UNITS)
    heights = [1.6 if part == "va" else 0.35 + 0.2 * len(names) for part, names in series.items()]
    hidden = rows["face"].n_unique() - len(shown)
    note = "grey background: quality flags; rows: the darker, the more probable; green lines: events"
    note += "; dashed: the person's baseline" if "valence_change" in rows.columns else ""
    note += f"; not drawn: {plural(hidden, 'face')} visible for less time" if hidden else ""
    figure = page(1.6 + 5.4 * len(shown), 1.2 + sum(heights) * 1.15, title, note)
    grid = figure.subplots(len(series), len(shown), squeeze=False, sharex="all", sharey="row", height_ratios=heights)
    for column, (face, table) in enumerate(zip(shown, tables, strict=True)):
        thinned, events = _thinned(table), intervals(table, ACTIVE)
        for (part, names), axes in zip(series.items(), grid[:, column], strict=True):
            _flags(axes, thinned)
            if part == "va":
                _lines(axes, thinned, table, names)
            else:
                _heat(axes, thinned, events, names)
        grid[0, column].set_title(f"face {face}" if len(shown) > 1 else "", fontsize=10, color=INK, loc="left", pad=24)
        grid[-1, column].set_xlabel("time (s)", fontsize=9, color=SOFT)
    times = rows["time"].unique().sort().to_numpy()
    grid[0, 0].set_xlim(times[0], times[-1] + _frame_seconds(times))
    return figure


def _frame_seconds(times: NDArray[np.float64]) -> float:
    """How long a frame lasts: until the next one, as in `data.intervals`."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 1e-6


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
    wide, seconds = pl.col("time").diff(), _frame_seconds(thinned["time"].to_numpy())
    after = thinned.filter((wide > 3 * seconds).fill_null(False)).select(pl.col("time") - 1e-6)
    before = thinned.filter((wide > 3 * seconds).shift(-1, fill_value=False)).select(pl.col("time") + seconds)
    return (
        pl.concat([thinned, before, after], how="diagonal")
        .sort("time")
        .with_columns(pl.col("quality_flags").fill_null(False))
    )


def _flags(axes: Axes, table: pl.DataFrame) -> None:
    """A grey background where a row has quality flags."""
    tidy(axes)
    if table["quality_flags"].any():
        axes.fill_between(
            table["time"].to_numpy(), 0, 1, where=table["quality_flags"].to_numpy(), color=GRID, linewidth=0, alpha=0.7,
            transform=axes.get_xaxis_transform(), zorder=0,
        )  # fmt: skip


def _lines(axes: Axes, table: pl.DataFrame, rows: pl.DataFrame, names: Sequence[str]) -> None:
    """Valence and arousal, and the baselines that their changes are measured against."""
    for name, colour in zip(names, SERIES, strict=False):
        axes.plot(table["time"].to_numpy(), table[name].to_numpy(), color=colour, linewidth=1.6, label=name)
        if f"{name}_change" in rows.columns:
            baseline = (rows[name] - rows[f"{name}_change"]).median()
            axes.axhline(float(baseline or 0), color=colour, linewidth=1, linestyle=(0, (4, 3)))  # type: ignore[arg-type]
    axes.set(ylim=(-1.05, 1.05), yticks=(-1, 0, 1))
    axes.set_ylabel("-1 to 1", fontsize=9, color=SOFT)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names), borderaxespad=0.2)


def _heat(axes: Axes, table: pl.DataFrame, events: pl.DataFrame, names: Sequence[str]) -> None:
    """One row for each expression or action unit: the darker, the more probable; its events underlined."""
    time, values = table["time"].to_numpy(), table.select(names).to_numpy().T
    edges = np.r_[time, time[-1] + _frame_seconds(time)]
    axes.pcolormesh(
        edges, np.arange(len(names) + 1), np.ma.masked_invalid(values), cmap=SEQUENTIAL, vmin=0, vmax=1, rasterized=True
    )
    for row, name in enumerate(names):
        spans = events.filter(pl.col("label").str.to_lowercase() == name.lower())
        ends = spans["start"].to_numpy(), spans["stop"].to_numpy()
        axes.hlines(np.full(spans.height, row + 0.9), *ends, color=SERIES[2], linewidth=2)
    words = [f"{AU_NAMES[name]}  {name}" if name in AU_NAMES else name for name in names]
    axes.set_yticks(np.arange(len(names)) + 0.5, words)
    axes.hlines(np.arange(1, len(names)), edges[0], edges[-1], color="white", linewidth=2)
    axes.set_ylim(len(names), 0)
