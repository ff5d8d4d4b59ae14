"""Frames to intervals: when a face shows an expression, and when an action unit is active."""

from __future__ import annotations

import polars as pl

from triaffect.labels import ACTION_UNITS

PERSON = ("file", "face")
"""A face of one input is one person."""

GAP = 3.0
"""An interval ends where the next frame of its face is more than this number of usual steps away."""


def intervals(rows: pl.DataFrame, threshold: float = 0.5) -> pl.DataFrame:
    """Find the intervals in which a face shows the same expression or an active action unit.

    Args:
        rows: An `Analyzer` table of any number of videos.
        threshold: Probability from which an action unit is active.

    Returns:
        `file`, `face`, `tier` (`expression`, or the action unit), `label` (the expression, or the action unit), `start`
        and `stop` in seconds; sorted by file, face and start. A photo, which has no duration, has none.
    """
    units = [unit for unit in ACTION_UNITS if unit in rows.columns]
    tiers = [*(["expression"] if "expression" in rows.columns else []), *units]
    time, key = pl.col("time"), [*PERSON, "tier"]
    step = time.diff().over(PERSON)
    frames = (
        rows.filter(pl.col("face").is_not_null())
        .sort(*PERSON, "time")
        .with_columns(pl.when(pl.col(unit) >= threshold).then(pl.lit(unit)).alias(unit) for unit in units)
        .with_columns(usual=step.median().over(PERSON), step=step)
        .with_columns(part=(pl.col("step") > GAP * pl.col("usual")).fill_null(False).cum_sum().over(PERSON))
        .with_columns(next=time.shift(-1).over([*PERSON, "part"]).fill_null(time + pl.col("usual")))
    )
    states = frames.unpivot(
        tiers, index=[*PERSON, "time", "next", "part"], variable_name="tier", value_name="label"
    ).with_columns(run=pl.col("label").rle_id().over([*key, "part"]))
    return (
        states.drop_nulls(["label", "next"])
        .group_by(*key, "label", "part", "run", maintain_order=True)
        .agg(start=time.min(), stop=pl.col("next").max())
        .drop("part", "run")
        .sort("file", "face", "start", "tier")
    )
