"""Figures that are written as files: of an index, of some of its crops, of a training run.

Each function returns a matplotlib Figure, made without pyplot and its global state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from triaffect.data.image_store import open_images
from triaffect.data.index import HAS_CROP
from triaffect.images import read_image
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS, LABEL_COLUMNS, TASKS, VA, score_key
from triaffect.report.panels import bars, circumplex, draw_run
from triaffect.report.style import INK, SOFT, format_signed, legend, page, save_figure, tidy

__all__ = ["contact_sheet", "sample_frames", "save_figure", "statistics_figures", "training_curves"]

Shares = Mapping[str, Mapping[str, float | None]]
"""Split -> name -> share."""


def _balance(shares: Shares, title: str, x: str, words: Mapping[str, Mapping[str, str]] | None = None) -> Figure:
    """Draw horizontal bars of shares in [0, 1] by split, with a text after each bar: the share, or other words."""
    words = words or {split: {name: _percent(share) for name, share in row.items()} for split, row in shares.items()}
    names = list(next(iter(shares.values())))
    figure = page(7.2, 1.2 + len(names) * max(0.3, 0.2 * len(shares)), title)
    axes = tidy(figure.subplots(), x=x, grid="x")
    groups = bars(axes, names, [[row[name] for name in names] for row in shares.values()])
    for group, (split, row) in zip(groups, words.items(), strict=True):
        group.set_label(split)
        axes.bar_label(group, [row[name] for name in names], padding=4, fontsize=8, color=SOFT)
    axes.margins(x=0.14, y=0.02)
    axes.set_xlim(left=0)
    if len(shares) > 1:
        legend(axes, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(shares), borderaxespad=0)
    return figure


def _density(histograms: Mapping[str, Any]) -> Figure:
    """Draw the density of the labels on the circumplex; (bins, bins) counts over [-1, 1]² by split, valence first."""
    figure = page(0.9 + 4.1 * len(histograms), 4.4, "Valence and arousal")
    panels = figure.subplots(1, len(histograms), squeeze=False)[0]
    for axes, (split, counts) in zip(panels, histograms.items(), strict=True):
        bar = figure.colorbar(circumplex(axes, np.array(counts).T), ax=axes, shrink=0.8, aspect=28, pad=0.02)
        axes.set_title(f"{split}: {int(np.sum(counts)):,} frames", fontsize=10, color=INK, loc="left")
        bar.outline.set_visible(False)
        bar.set_ticks([tick for tick in (10**i * j for i in range(8) for j in (1, 3)) if tick <= np.max(counts)])
        bar.formatter = StrMethodFormatter("{x:,.0f}")
        bar.minorticks_off()
        bar.ax.tick_params(length=0, which="both", labelsize=8, labelcolor=SOFT)
        bar.set_label("frames per cell", fontsize=8, color=SOFT)
    return figure


def sample_frames(
    index: pl.DataFrame, n: int = 20, task: str | None = None, split: str | None = None, seed: int | None = None
) -> pl.DataFrame:
    """Draw random frames that have a crop.

    Args:
        index: An index.
        n: Number of frames.
        task: Only frames that are labelled for this task.
        split: Only this split.
        seed: Seed of the draw; each call draws anew by default.

    Returns:
        The drawn rows, with their position in the index as `row`.

    Raises:
        InputError: There is no such frame.
    """
    if task is not None and task not in TASKS:
        raise InputError(f"no task {task!r}; there are {', '.join(TASKS)}")
    rows = index.with_row_index("row").filter(HAS_CROP)
    if split is not None:
        rows = rows.filter(pl.col("split") == split)
    if task is not None:
        rows = rows.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in LABEL_COLUMNS[task]))
    if not rows.height or n < 1:
        which = f"labelled for {task} " if task else ""
        raise InputError(
            f"no frame {which}with a crop{f' in split {split}' if split else ''} to show; see triaffect stats"
        )
    return rows[np.random.default_rng(seed).choice(rows.height, min(n, rows.height), replace=False)]


def contact_sheet(
    index: pl.DataFrame,
    images: str | os.PathLike[str],
    n: int = 20,
    task: str | None = None,
    split: str | None = None,
    seed: int | None = None,
    augment: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]] | None = None,
) -> Figure:
    """Draw random crops next to their annotations, to check data and labels by eye.

    This is the "random image generator" of Asim 2024, secs. 1.9 to 1.11.1. A crop that cannot be decoded is an empty
    cell with its name.

    Args:
        index: An index.
        images: The folder that its column `image` is relative to, or a packed file.
        n: Number of crops.
        task: Only frames that are labelled for this task, and only its labels.
        split: Only this split.
        seed: Seed of the draw; each call draws anew by default.
        augment: Called with the pixels and the number of each crop; what it returns is shown.

    Raises:
        InputError: There is no such frame, or an image's name leaves the root.
    """
    tasks, chosen = TASKS if task is None else (task,), sample_frames(index, n, task, split, seed)
    columns = min(4, chosen.height)
    lines = -(-chosen.height // columns)
    where = f"{chosen.height} of {index.height:,} frames" + (f", split {split}" if split else "")
    where += f", seed {seed}" * (seed is not None) + ", augmented as in training" * (augment is not None)
    figure = page(3.5 * columns, 0.6 + 1.72 * lines, "Crops and their labels", where)
    cells = figure.subplots(lines, 2 * columns, squeeze=False, width_ratios=[1.5, 1.75] * columns).reshape(-1, 2)
    for picture, text in cells:
        picture.axis("off")
        picture.set_anchor("NW")
        text.axis("off")
    read = open_images(images, chosen["image"])
    for number, ((picture, text), row) in enumerate(zip(cells, chosen.iter_rows(named=True), strict=False)):
        try:
            pixels = read_image(read(number))
            pixels = pixels if augment is None else augment(pixels, number)
        except (OSError, ValueError):
            pixels = np.full((8, 8, 3), 238, np.uint8)
            note, style = f"cannot be decoded\n{row['image']}", {"ha": "center", "va": "center", "wrap": True}
            picture.text(3.5, 3.5, note, fontsize=7, color=SOFT, parse_math=False, **style)
        picture.imshow(pixels)
        words = [f"frame {row['frame']}, {row['split']}"]
        words += [line for task in tasks for line in label_words(task, row)]
        name = _short(str(row["video"]))
        text.text(0, 1, name, va="top", fontsize=9, fontweight="bold", color=INK, parse_math=False)
        text.text(0, 0.85, "\n".join(words), va="top", fontsize=9, linespacing=1.45, color=INK)
    return figure


def _short(name: str) -> str:
    return name if len(name) < 24 else f"{name[:8]}…{name[-14:]}"


def label_words(task: str, row: Mapping[str, Any]) -> list[str]:
    """Return the labels of a task in a row of an index, as lines."""
    if task == "va":
        return ["   ".join(f"{name[0].upper()} {format_signed(row[name])}" for name in VA)]
    if task == "expr":
        return ["expression –" if row["expression"] is None else EXPRESSIONS[row["expression"]]]
    labelled = [unit for unit in ACTION_UNITS if row[unit] is not None]
    active = [unit[2:] for unit in labelled if row[unit]]
    if not labelled:
        return ["AU –"]
    missing = len(ACTION_UNITS) - len(labelled)
    return [f"AU {' '.join(active) or 'none'}" + (f" ({missing} missing)" if missing else "")]


def statistics_figures(statistics: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """Draw the statistics of an index.

    Args:
        statistics: From `data.statistics.statistics`.

    Returns:
        `expressions`, `action_units`, `va_density` (each if a split has the labels) and `missing`.
    """
    figures = {}
    if rows := {split: of["expr"] for split, of in statistics.items() if "expr" in of}:
        shares = {split: {name: row[name]["share"] for name in EXPRESSIONS} for split, row in rows.items()}
        words = {split: {name: f"{row[name]['frames']:,}" for name in EXPRESSIONS} for split, row in rows.items()}
        x = "share of the labelled frames; after each bar, frames"
        figures["expressions"] = _balance(shares, "Expressions", x, words)
    if rows := {split: of["au"] for split, of in statistics.items() if "au" in of}:
        names = {f"{AU_NAMES[unit]}  {unit}": unit for unit in ACTION_UNITS}
        rates: Shares = {split: {n: row[unit]["rate"] for n, unit in names.items()} for split, row in rows.items()}
        x = "present, share of the AU's labelled frames"
        figures["action_units"] = _balance(rates, "Action units", x)
    if densities := {split: of["va"]["density"] for split, of in statistics.items() if "va" in of}:
        figures["va_density"] = _density(densities)
    missing = {split: dict(of["missing"]) for split, of in statistics.items()}
    if all(len({row[unit] for unit in ACTION_UNITS}) == 1 for row in missing.values()):
        for row in missing.values():  # one bar instead of twelve equal ones
            row["action units"] = max(row.pop(unit) for unit in ACTION_UNITS)
    figures["missing"] = _balance(missing, "Missing labels", "share of the frames")
    return figures


def _percent(share: float | None) -> str:
    return "not labelled" if share is None or np.isnan(share) else f"{share:.1%}"


def training_curves(metrics: pl.DataFrame, kept_row: int | None = None) -> Figure:
    """Draw the losses, accuracy, CCC and official scores of a run by epoch, and mark the kept epoch.

    Args:
        metrics: The table of `metrics.csv`; missing columns are left out.
        kept_row: Row of the epoch whose model is kept.
    """
    notes = [f"learning rate {metrics['lr'][0]:.3g} to {metrics['lr'][-1]:.3g}"] if "lr" in metrics.columns else []
    if kept_row is not None and score_key("total") in metrics.columns:
        kept = metrics.row(kept_row, named=True)
        notes.append(f"kept: epoch {kept['epoch']}, total {kept[score_key('total')]:.3f} (dotted)")
    figure = page(8.4, 7.2, "Training", "; ".join(notes))
    draw_run(figure, metrics, kept_row)
    for axes in figure.axes:
        if axes.lines:
            legend(axes, loc="best")
    return figure
