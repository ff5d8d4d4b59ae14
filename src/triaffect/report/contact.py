"""The contact sheet: random crops with their labels, to check data by eye."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from triaffect.images import read_image
from triaffect.io import InputError, inside
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, TASKS, VA
from triaffect.report.style import INK, SOFT, page


def contact_sheet(
    index: pl.DataFrame,
    images: str | os.PathLike[str],
    n: int = 20,
    task: str | None = None,
    split: str | None = None,
    seed: int = 0,
) -> Figure:
    """Random crops with their annotations beside them, to check data and labels by eye.

    It is the "random image generator" of Asim 2024. A crop that cannot be decoded is an empty cell with its name.

    Args:
        index: An index.
        images: The folder that its column `image` is relative to.
        n: Crops drawn.
        task: Only frames that are labelled for this task, and only its labels.
        split: Only this split.
        seed: Of the draw.

    Raises:
        InputError: No frame is left, or an image's name leaves the root.
    """
    tasks = TASKS if task is None else (task,)
    if task is not None and task not in TASKS:
        raise InputError(f"no task {task!r}; there are {', '.join(TASKS)}")
    rows = index.filter(pl.col("exists").fill_null(True))  # null: nobody has looked
    if split is not None:
        rows = rows.filter(pl.col("split") == split)
    if task is not None:
        rows = rows.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in LABEL_COLUMNS[task]))
    if not rows.height or n < 1:
        which = f"labelled for {task} " if task else ""
        raise InputError(
            f"no frame {which}with a crop{f' in split {split}' if split else ''} to show; see triaffect stats"
        )
    chosen = rows[np.random.default_rng(seed).choice(rows.height, min(n, rows.height), replace=False)]
    columns = min(4, chosen.height)
    lines = -(-chosen.height // columns)
    where = f"{chosen.height} of {rows.height:,} crops" + (f", split {split}" if split else "") + f", seed {seed}"
    figure = page(3.5 * columns, 0.6 + 1.72 * lines, "Crops and their labels", where)
    cells = figure.subplots(lines, 2 * columns, squeeze=False, width_ratios=[1.5, 1.75] * columns).reshape(-1, 2)
    for picture, text in cells:
        picture.axis("off")
        picture.set_anchor("NW")
        text.axis("off")
    for (picture, text), row in zip(cells, chosen.iter_rows(named=True), strict=False):
        pixels = _picture(inside(images, row["image"]))
        if pixels is None:
            pixels = np.full((8, 8, 3), 238, np.uint8)
            picture.text(
                3.5,
                3.5,
                f"cannot be decoded\n{row['image']}",
                ha="center",
                va="center",
                fontsize=7,
                color=SOFT,
                wrap=True,
            )
        picture.imshow(pixels)
        words = [f"frame {row['frame']}, {row['split']}", *(words for task in tasks for words in _words(task, row))]
        text.text(0, 1, _short(str(row["video"])), va="top", fontsize=9, fontweight="bold", color=INK)
        text.text(0, 0.85, "\n".join(words), va="top", fontsize=9, linespacing=1.45, color=INK)
    return figure


def _short(name: str) -> str:
    return name if len(name) < 24 else f"{name[:8]}…{name[-14:]}"


def _words(task: str, row: Mapping[str, Any]) -> list[str]:
    """What is annotated, in a line or two."""
    if task == "va":
        values = ("–" if row[name] is None else f"{row[name]:+.2f}".replace("-", "−") for name in VA)
        return ["   ".join(f"{name[0].upper()} {value}" for name, value in zip(VA, values, strict=True))]
    if task == "expr":
        return ["expression –" if row["expression"] is None else EXPRESSIONS[row["expression"]]]
    known = [unit for unit in ACTION_UNITS if row[unit] is not None]
    active = [unit[2:] for unit in known if row[unit]]
    if not known:
        return ["AU –"]
    lacking = f" ({12 - len(known)} missing)" if len(known) < 12 else ""
    return [f"AU {' '.join(active) or 'none'}{lacking}"]


def _picture(path: Path) -> NDArray[np.uint8] | None:
    """Pixels, or None where the file is no sound picture."""
    try:
        return read_image(path)
    except ValueError:
        return None
