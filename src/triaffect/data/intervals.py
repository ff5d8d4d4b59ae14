"""Frames to intervals: when a face shows an expression, and when an action unit is active."""

from __future__ import annotations

import polars as pl

from triaffect.labels import ACTION_UNITS, ACTIVE

PERSON = ("file", "face")
"""A face of one input is one person."""

GAP = 0.2
"""Seconds for which a face may not be seen, or its action unit be inactive, within one interval."""

COLUMNS = (*PERSON, "tier", "label", "start", "apex", "stop", "peak")


def intervals(rows: pl.DataFrame | pl.LazyFrame, threshold: float = ACTIVE) -> pl.DataFrame:
    """Find the intervals in which a face shows the same expression or an active action unit.

    An interval ends when the face shows something else, or is not seen, for more than `GAP` seconds (or one and a half
    frames); a change from one expression to another ends it at once.

    Args:
        rows: An `Analyzer` table of any number of videos.
        threshold: Probability from which an action unit is active.

    Returns:
        `file`, `face`, `tier` (`expression`, or the action unit), `label` (the expression, or the action unit),
        `start`, `apex` and `stop` in seconds, and `peak`, the probability at the apex (both null for an expression);
        sorted by file, face and start. A photo, which has no duration, has none.
    """
    rows = rows.lazy().filter(pl.col("face").is_not_null())
    names = rows.collect_schema().names()
    time, step = pl.col("time"), pl.col("step")
    seen = (
        rows.select(*PERSON, "time").unique().sort(*PERSON, "time")
        .with_columns(step=time.unique().sort().diff().median().over("file"), next=time.shift(-1).over(PERSON))
        .drop_nulls("step")
        .with_columns(limit=pl.max_horizontal(GAP, 0.5 * step) + 1.01 * step)
        .with_columns(next=pl.when(pl.col("next") - time <= pl.col("limit")).then("next").otherwise(time + step))
        .collect()
    )  # fmt: skip
    parts = [seen.select(*PERSON, pl.lit("").alias("tier")).clear()]
    for tier in (name for name in ("expression", *ACTION_UNITS) if name in names):
        is_unit = tier != "expression"
        states = rows.filter(pl.col(tier) >= threshold if is_unit else pl.col(tier).is_not_null())
        label, value = (pl.lit(tier), pl.col(tier)) if is_unit else (pl.col(tier), pl.lit(None, pl.Float32))
        states = states.select(*PERSON, "time", label=label, value=value)
        is_new = (time.diff() > pl.col("limit")) | (pl.col("label") != pl.col("label").shift())
        parts.append(
            states.collect()
            .join(seen, on=[*PERSON, "time"])
            .sort(*PERSON, "time")
            .with_columns(run=is_new.over(PERSON).fill_null(True).cum_sum())
            .group_by(*PERSON, "run", maintain_order=True)
            .agg(
                pl.lit(tier).alias("tier"),
                pl.col("label").first(),
                time.first().alias("start"),
                time.get(pl.col("value").arg_max()).alias("apex"),
                pl.col("next").last().alias("stop"),
                pl.col("value").max().cast(pl.Float64).alias("peak"),
            )
            .drop("run")
        )
    return pl.concat(parts, how="diagonal").select(COLUMNS).sort("file", "face", "start", "tier")
