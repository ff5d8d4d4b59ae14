"""Tables as pictures: each function returns a matplotlib Figure, made without pyplot and its global state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS, TASK_NAMES
from triaffect.report.contact import contact_sheet
from triaffect.report.figures import bars, circumplex, draw_run
from triaffect.report.style import INK, SERIES, SOFT, legend, page, save_figure, tidy

__all__ = ["conflict_curves", "contact_sheet", "save_figure", "statistics_figures", "training_curves"]

Shares = Mapping[str, Mapping[str, float | None]]
"""Split -> name -> share."""


def _balance(shares: Shares, title: str, x: str, words: Mapping[str, Mapping[str, str]]) -> Figure:
    """Horizontal bars of shares in [0, 1] by split, with what is written beside each."""
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
    """Where the labels lie on the circumplex; (bins, bins) counts over [-1, 1]² by split, valence first."""
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
        bar.set_label("frames a cell", fontsize=8, color=SOFT)
    return figure


def statistics_figures(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """The pictures of an index.

    Args:
        found: From `annotations.statistics.statistics`.

    Returns:
        `expressions`, `action_units`, `va_density` (each where a split has the labels) and `missing`.
    """
    figures = {}
    if held := {split: of["expr"] for split, of in found.items() if "expr" in of}:
        shares = {split: {name: row[name]["share"] for name in EXPRESSIONS} for split, row in held.items()}
        words = {split: {name: f"{row[name]['frames']:,}" for name in EXPRESSIONS} for split, row in held.items()}
        x = "share of the labelled frames; beside the bars, frames"
        figures["expressions"] = _balance(shares, "Expressions", x, words)
    if held := {split: of["au"] for split, of in found.items() if "au" in of}:
        names = {f"{AU_NAMES[unit]}  {unit}": unit for unit in ACTION_UNITS}
        rates: Shares = {split: {n: row[unit]["rate"] for n, unit in names.items()} for split, row in held.items()}
        x = "present, share of the AU's labelled frames"
        figures["action_units"] = _balance(rates, "Action units", x, _percent(rates))
    if densities := {split: of["va"]["density"] for split, of in found.items() if "va" in of}:
        figures["va_density"] = _density(densities)
    missing = {split: dict(of["missing"]) for split, of in found.items()}
    if all(len({row[unit] for unit in ACTION_UNITS}) == 1 for row in missing.values()):
        for row in missing.values():  # one line for twelve alike
            row["action units"] = max(row.pop(unit) for unit in ACTION_UNITS)
    figures["missing"] = _balance(missing, "Missing labels", "share of the frames", _percent(missing))
    return figures


def _percent(shares: Shares) -> dict[str, dict[str, str]]:
    return {
        split: {name: "not labelled" if v is None or np.isnan(v) else f"{v:.1%}" for name, v in row.items()}
        for split, row in shares.items()
    }


def training_curves(metrics: pl.DataFrame) -> Figure:
    """Losses and official scores of a run by epoch, the best epoch marked.

    Args:
        metrics: The table of `metrics.csv`: `epoch`, `train/loss`, `val/loss`, `val/total`, `val/va` ..., `lr`; what is
            absent is left out.
    """
    note = f"learning rate {metrics['lr'][0]:.3g} to {metrics['lr'][-1]:.3g}" if "lr" in metrics.columns else ""
    figure = page(6.4, 5.6, "Training", note)
    upper, lower = figure.subplots(2, 1, sharex=True)
    draw_run(upper, lower, metrics)
    lower.set_ylabel("validation score")
    scores = metrics["val/total"].cast(pl.Float64).fill_nan(None) if "val/total" in metrics.columns else pl.Series([])
    if (best := scores.arg_max()) is not None:
        lower.axvline(metrics["epoch"][best], color=SERIES[1], linewidth=1, linestyle=(0, (4, 3)))
        lower.set_title(f"best total {scores[best]:.3f}, epoch {metrics['epoch'][best]}", fontsize=9, color=INK)
    for axes in (upper, lower):
        if axes.lines:
            legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def conflict_curves(metrics: pl.DataFrame) -> Figure | None:
    """Cosine between the gradients of each pair of tasks by epoch; below 0 a step for one harms the other.

    Args:
        metrics: The table of `metrics.csv` with `epoch` and `train/cosine_va_expr` and the like.

    Returns:
        None where no cosine was logged.
    """
    names = [name for name in metrics.columns if name.startswith("train/cosine_")]
    if not names:
        return None
    figure = page(6.4, 3.6, "Gradient conflict", "below 0, a step for one task harms the other")
    axes = tidy(figure.subplots(), "epoch", "cosine between the tasks' gradients", grid="y")
    axes.axhline(0, color=INK, linewidth=1)
    for name, colour in zip(names, SERIES, strict=False):
        first, second = (TASK_NAMES[task] for task in name.removeprefix("train/cosine_").split("_"))
        values = metrics[name].cast(pl.Float64).to_numpy()
        marker = "o" if len(values) < 3 else ""
        axes.plot(metrics["epoch"], values, color=colour, linewidth=2, marker=marker, label=f"{first}, {second}")
    axes.margins(y=0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
