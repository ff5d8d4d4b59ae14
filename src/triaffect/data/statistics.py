"""What an index holds, as plain data and as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from triaffect.data.index import split_leaks
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS, LABEL_COLUMNS, SPLITS, TASK_NAMES, TASKS, VA

BINS = 20
"""Bins of valence and of arousal, from -1 to 1, in the density."""


def class_weights(counts: list[int]) -> list[float | None]:
    """The weight w_c = N / N_c of every expression, N labelled frames in all, N_c of the class.

    From Chang et al. 2022 (Multi-task learning for expressions, action units and valence-arousal at the fourth ABAW
    competition), whose expression loss is the mean of w * cross entropy. A class without frames has no weight (None).
    """
    return [sum(counts) / count if count else None for count in counts]


def statistics(index: pl.DataFrame) -> dict[str, Any]:
    """Counts an index, split by split.

    Args:
        index: From `build_index`.

    Returns:
        Plain data. Split (`none` where a row has none) -> `frames`, `videos`, `crops` (None where it is not known),
        `duplicates` (rows whose image stands above), `labelled` (task -> frames with any of its labels, and `all`:
        with all three), `missing` (column -> share of the frames, 0 to 1), and for each labelled task:
        `va` (`mean` and `sd` of each, `correlation`, `edges` (21), `density` (20 valence bins of 20 arousal bins)),
        `expr` (class -> `frames`, `share`, `videos`, `weight`, see `class_weights`),
        `au` (AU -> `labelled`, `active`, `rate`, `pos_weight`: inactive over active frames, None without active ones).
    """
    splits = [split for split in (*SPLITS, None) if index.filter(pl.col("split").eq_missing(split)).height]
    return {split or "none": _one(index.filter(pl.col("split").eq_missing(split))) for split in splits}


def _one(rows: pl.DataFrame) -> dict[str, Any]:
    held = {task: pl.any_horizontal(pl.col(LABEL_COLUMNS[task]).is_not_null()) for task in TASKS}
    held["all"] = pl.all_horizontal(*held.values())
    labelled = rows.select(flags.sum().alias(task) for task, flags in held.items())
    found: dict[str, Any] = {
        "frames": rows.height,
        "videos": rows["video"].n_unique(),
        "crops": None if rows["exists"].null_count() == rows.height else int(rows["exists"].sum()),
        "duplicates": rows.height - rows["image"].n_unique(),
        "labelled": labelled.row(0, named=True),
        "missing": {
            column: rows[column].null_count() / rows.height for task in TASKS for column in LABEL_COLUMNS[task]
        },
    }
    if found["labelled"]["va"]:
        found["va"] = _va(rows)
    if found["labelled"]["expr"]:
        each = rows.drop_nulls("expression").group_by("expression").agg(pl.len(), pl.n_unique("video"))
        counts = each.rows_by_key("expression", unique=True)
        frames = [counts.get(code, (0, 0))[0] for code in range(len(EXPRESSIONS))]
        found["expr"] = {
            name: {"frames": n, "share": n / sum(frames), "videos": counts.get(code, (0, 0))[1], "weight": weight}
            for code, (name, n, weight) in enumerate(zip(EXPRESSIONS, frames, class_weights(frames), strict=True))
        }
    if found["labelled"]["au"]:
        found["au"] = {name: _unit(rows[name]) for name in ACTION_UNITS}
    return found


def _va(rows: pl.DataFrame) -> dict[str, Any]:
    both = rows.select(VA).drop_nulls()
    valence, arousal = (both[name].to_numpy() for name in VA)
    edges = np.linspace(-1, 1, BINS + 1)
    spread = both.height > 1 and valence.std() > 0 and arousal.std() > 0
    return {
        "mean": {name: rows[name].mean() for name in VA},
        "sd": {name: rows[name].std(ddof=0) for name in VA},
        "correlation": float(np.corrcoef(valence, arousal)[0, 1]) if spread else None,
        "edges": edges.tolist(),
        "density": np.histogram2d(valence, arousal, (edges, edges))[0].astype(int).tolist(),
    }


def _unit(column: pl.Series) -> dict[str, Any]:
    labelled, active = len(column) - column.null_count(), int(column.sum() or 0)
    return {
        "labelled": labelled,
        "active": active,
        "rate": active / labelled if labelled else None,
        "pos_weight": (labelled - active) / active if active else None,
    }


def leaks(index: pl.DataFrame) -> list[dict[str, Any]]:
    """Source videos that two splits share, as plain data: `splits` (the two), `source`, `videos_a`, `videos_b`."""
    shared = split_leaks(index).items()
    return [{"splits": list(splits), **row} for splits, table in shared for row in table.iter_rows(named=True)]


def leak_lines(index: pl.DataFrame) -> list[str]:
    """A warning for every two splits of an index that share a source video, naming the videos."""
    named: dict[tuple[str, str], list[str]] = {}
    for leak in leaks(index):
        one, other = leak["splits"]
        named.setdefault((one, other), []).append(" / ".join(dict.fromkeys(leak["videos_a"] + leak["videos_b"])))
    return [
        f"{one} and {other} share {len(videos):,} source videos, so scores on {other} leak: {', '.join(videos)}"
        for (one, other), videos in named.items()
    ]


def summary(found: dict[str, Any]) -> str:
    """The first table of `tables`: rows, videos, missing crops, labelled frames of every split."""
    rows = [["split", "frames", "videos", "no crop", *(f"{task} labelled" for task in TASKS), "all three"]]
    for split, of in found.items():
        crops = "unknown" if of["crops"] is None else _count(of["frames"] - of["crops"])
        labelled = [_count(of["labelled"][task]) for task in (*TASKS, "all")]
        rows.append([split, _count(of["frames"]), _count(of["videos"]), crops, *labelled])
    return _grid(rows)


def tables(found: dict[str, Any]) -> str:
    """What `statistics` found, for people."""
    parts = [summary(found)]
    va = {split: of for split, of in found.items() if "va" in of}
    if va:
        rows = [[TASK_NAMES["va"], "mean", "sd", "missing", "correlation"]]
        for split, of in va.items():
            for name, last in zip(VA, (_signed(of["va"]["correlation"]), ""), strict=True):
                mean, sd = of["va"]["mean"][name], of["va"]["sd"][name]
                rows.append([f"{split} {name}", _signed(mean), _signed(sd)[1:], f"{of['missing'][name]:.1%}", last])
        parts.append(_grid(rows))
    parts += [_by_name("expr", "frames|share|videos|N/N_c", EXPRESSIONS, found, _class_cells)]
    parts += [_by_name("au", "active|rate|missing|pos_weight", ACTION_UNITS, found, _unit_cells)]
    return "\n\n".join(filter(None, parts))


def _by_name(
    task: str, head: str, names: Sequence[str], found: dict[str, Any], cells: Callable[[dict[str, Any], str], list[str]]
) -> str:
    """A line for every class or AU, the splits side by side."""
    labelled = {split: of for split, of in found.items() if task in of}
    rows = [[TASK_NAMES[task], *(cell for split in labelled for cell in f"{split} {head}".split("|"))]]
    for name in names:
        told = f"{name} {AU_NAMES[name]}" if task == "au" else name
        rows.append([told, *(cell for of in labelled.values() for cell in cells(of, name))])
    return _grid(rows) if labelled else ""


def _class_cells(of: dict[str, Any], name: str) -> list[str]:
    cell = of["expr"][name]
    return [_count(cell["frames"]), f"{cell['share']:.1%}", _count(cell["videos"]), _ratio(cell["weight"])]


def _unit_cells(of: dict[str, Any], name: str) -> list[str]:
    cell = of["au"][name]
    rate = "–" if cell["rate"] is None else f"{cell['rate']:.1%}"
    return [_count(cell["active"]), rate, f"{of['missing'][name]:.1%}", _ratio(cell["pos_weight"])]


def _grid(rows: list[list[str]]) -> str:
    """Aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _count(number: int) -> str:
    return f"{number:,}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
