"""Counts and balance of an index, as plain data and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import polars as pl

from triaffect.data.index import split_leaks
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS, LABEL_COLUMNS, SPLITS, TASK_NAMES, TASKS, VA
from triaffect.text import text_table

TABLE_COLUMNS = {
    "expr": {"frames": ",", "share": ".1%", "videos": ",", "weight": ".2f"},
    "au": {"active": ",", "rate": ".1%", "missing": ".1%", "pos_weight": ".2f"},
}
"""Task -> what the table shows of each class or AU, and the format of its numbers."""

BINS = 20
"""Bins of valence and of arousal, from -1 to 1, in the density."""


def class_weights(counts: Sequence[float]) -> list[float | None]:
    """Return the weight w_c = N / N_c of every expression: N labelled frames in all, N_c of the class.

    From Chang et al. 2022 (Multi-Task Learning for Emotion Descriptors Estimation at the fourth ABAW Challenge), sec.
    2, whose expression loss is the mean of w * cross entropy. A class without frames has no weight (None).
    """
    return [sum(counts) / count if count else None for count in counts]


def statistics(index: pl.DataFrame) -> dict[str, Any]:
    """Count an index, split by split.

    Args:
        index: From `build_index`.

    Returns:
        Plain data. Split (`none` for rows without one) -> `frames`, `videos`, `crops` (None if unknown), `duplicates`
        (rows with the image of another row), `labelled` (task -> frames with any of its labels, and `all`: with all
        three tasks), `missing` (column -> share of the frames, 0 to 1), and for each labelled task:
        `va` (`mean` and `sd` of each, `correlation`, `edges` (21), `density` (20 valence bins of 20 arousal bins)),
        `expr` (class -> `frames`, `share`, `videos`, `weight`, see `class_weights`),
        `au` (AU -> `labelled`, `active`, `rate`, `pos_weight`: inactive over active frames, None without active ones).
    """
    by_split = {split: index.filter(pl.col("split").eq_missing(split)) for split in (*SPLITS, None)}
    return {split or "none": _count_split(rows) for split, rows in by_split.items() if rows.height}


def _count_split(rows: pl.DataFrame) -> dict[str, Any]:
    is_labelled = {task: pl.any_horizontal(pl.col(LABEL_COLUMNS[task]).is_not_null()) for task in TASKS}
    is_labelled["all"] = pl.all_horizontal(*is_labelled.values())
    labelled = rows.select(flags.sum().alias(task) for task, flags in is_labelled.items()).row(0, named=True)
    columns = [column for task in TASKS for column in LABEL_COLUMNS[task]]
    result: dict[str, Any] = {
        "frames": rows.height,
        "videos": rows["video"].n_unique(),
        "crops": None if rows["exists"].null_count() == rows.height else int(rows["exists"].sum()),
        "duplicates": rows.height - rows["image"].n_unique(),
        "labelled": labelled,
        "missing": {column: rows[column].null_count() / rows.height for column in columns},
    }
    if labelled["va"]:
        result["va"] = _count_va(rows)
    if labelled["expr"]:
        groups = rows.drop_nulls("expression").group_by("expression").agg(pl.len(), pl.n_unique("video"))
        by_code = groups.rows_by_key("expression", unique=True)
        counts, videos = zip(*(by_code.get(code, (0, 0)) for code in range(len(EXPRESSIONS))), strict=True)
        result["expr"] = {
            name: {"frames": n, "share": n / sum(counts), "videos": in_videos, "weight": weight}
            for name, n, in_videos, weight in zip(EXPRESSIONS, counts, videos, class_weights(counts), strict=True)
        }
    if labelled["au"]:
        result["au"] = {name: count_unit(rows[name]) for name in ACTION_UNITS}
    return result


def _count_va(rows: pl.DataFrame) -> dict[str, Any]:
    both = rows.select(VA).drop_nulls()
    valence, arousal = (both[name].to_numpy() for name in VA)
    edges = np.linspace(-1, 1, BINS + 1)
    varies = both.height > 1 and valence.std() > 0 and arousal.std() > 0
    return {
        "mean": {name: rows[name].mean() for name in VA},
        "sd": {name: rows[name].std(ddof=0) for name in VA},
        "correlation": float(np.corrcoef(valence, arousal)[0, 1]) if varies else None,
        "edges": edges.tolist(),
        "density": np.histogram2d(valence, arousal, (edges, edges))[0].astype(int).tolist(),
    }


def count_unit(column: pl.Series) -> dict[str, Any]:
    """Count the labels of an action unit (0, 1 or null); see `statistics`."""
    labelled, active = len(column) - column.null_count(), int(column.sum() or 0)
    return {
        "labelled": labelled,
        "active": active,
        "rate": active / labelled if labelled else None,
        "pos_weight": (labelled - active) / active if active else None,
    }


def leak_lines(index: pl.DataFrame) -> list[str]:
    """Return a warning for every two splits of an index that share source videos, with the videos."""
    lines = []
    for (a, b), leaks in groupby(split_leaks(index), itemgetter("splits")):
        videos = [" / ".join(dict.fromkeys(leak["videos_a"] + leak["videos_b"])) for leak in leaks]
        lines.append(f"{a} and {b} share {len(videos):,} source videos, so scores on {b} leak: {', '.join(videos)}")
    return lines


def contradiction_lines(index: pl.DataFrame) -> list[str]:
    """Return a warning for each expression whose mean valence has the wrong sign, as after another order of classes."""
    lines = []
    for name, sign in {"Anger": -1, "Disgust": -1, "Fear": -1, "Happiness": 1, "Sadness": -1}.items():
        valence = index.filter(pl.col("expression") == EXPRESSIONS.index(name))["valence"].drop_nulls()
        mean = float(np.mean(valence.to_numpy())) if len(valence) else 0.0
        if mean * sign < (-0.1 if len(valence) >= 10 else -0.3):
            lines.append(
                f"expressions contradict valence: {name} has a mean valence of {mean:+.2f}; if the codes are"
                " AffectNet's (1 Happiness, 2 Sadness), index with --format affectnet"
            )
    return lines


def summary(result: dict[str, Any]) -> str:
    """Format the first table of `tables`: frames, videos, missing crops and labelled frames of every split."""
    rows = []
    for split, counts in result.items():
        crops = "unknown" if counts["crops"] is None else f"{counts['frames'] - counts['crops']:,}"
        labelled = [f"{counts['labelled'][task]:,}" for task in (*TASKS, "all")]
        rows.append([split, f"{counts['frames']:,}", f"{counts['videos']:,}", crops, *labelled])
    head = ["split", "frames", "videos", "no crop", *(f"{task} labelled" for task in TASKS), "all three"]
    return text_table(head, rows)


def tables(result: dict[str, Any]) -> str:
    """Format the result of `statistics` as text tables."""
    parts = [summary(result)]
    rows = []
    for split, counts in result.items():
        if va := counts.get("va"):
            for name, correlation in zip(VA, (_number(va["correlation"], "+.3f"), ""), strict=True):
                mean, sd = _number(va["mean"][name], "+.3f"), _number(va["sd"][name], ".3f")
                rows.append([f"{split} {name}", mean, sd, f"{counts['missing'][name]:.1%}", correlation])
    if rows:
        parts.append(text_table([TASK_NAMES["va"], "mean", "sd", "missing", "correlation"], rows))
    parts += [_table_by_name("expr", EXPRESSIONS, result), _table_by_name("au", ACTION_UNITS, result)]
    return "\n\n".join(filter(None, parts))


def _table_by_name(task: str, names: Sequence[str], result: dict[str, Any]) -> str:
    """Format one row per class or AU, the splits side by side."""
    labelled = {split: counts for split, counts in result.items() if task in counts}
    columns = TABLE_COLUMNS[task]
    titles = ["N/N_c" if key == "weight" else key for key in columns]
    head = [TASK_NAMES[task], *(f"{split} {title}" for split in labelled for title in titles)]
    rows = [[f"{name} {AU_NAMES.get(name, '')}".strip()] for name in names]
    for counts in labelled.values():
        for row, name in zip(rows, names, strict=True):
            cell = {"missing": counts["missing"].get(name)} | counts[task][name]
            row += [_number(cell[key], format_spec) for key, format_spec in columns.items()]
    return text_table(head, rows) if labelled else ""


def _number(value: float | None, format_spec: str) -> str:
    return "–" if value is None else f"{value:{format_spec}}"
