"""What a person showed over a whole photo or video: a row per face, and the episodes of its action units."""

from __future__ import annotations

from typing import Any

import polars as pl

from triaffect.data.intervals import intervals
from triaffect.labels import ACTION_UNITS, ACTIVE, EXPRESSIONS, VA

SUMMARY_COLUMNS = (
    *("file", "face", "file_frames", "frames_without_face", "frames", "start", "end", "seconds"),
    *(f"{name}_{measure}" for name in VA for measure in ("mean", "sd", "min", "max")),
    *("expression", *(f"{name.lower()}_share" for name in EXPRESSIONS)),
    *(f"{unit}_{measure}" for unit in ACTION_UNITS for measure in ("share", "rate", "seconds")),
    *("flagged_share", "quality_flags"),
)
EPISODE_COLUMNS = ("file", "face", "AU", "onset", "apex", "offset", "peak")


def summarize(rows: pl.LazyFrame) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Summarize the faces of one photo or video.

    Args:
        rows: Its `Analyzer` table.

    Returns:
        A dictionary per face and one per episode.

        Per face: `face`; `frames` it is seen in; `start`, `end` and `seconds` (the time covered, frames times the usual
        distance of two frames; 0 for a photo); of valence and arousal `_mean`, `_sd`, `_min` and `_max`; `expression`,
        the most frequent, and the share of its frames (0 to 1) with each as `neutral_share` and so on; of each AU
        `_share` (of frames with a probability of at least .5), `_rate` (episodes per minute) and `_seconds` (mean
        duration of an episode); `flagged_share` (of frames with a quality flag) and `quality_flags`, all that occur.

        Per episode, an interval of `data.intervals` in which an AU is active: `face`, `AU`, `onset`, `apex`, `offset`
        in seconds, and `peak`, the probability at the apex.
    """
    columns = rows.collect_schema().names()
    units = [unit for unit in ACTION_UNITS if unit in columns]
    measures = [pl.len().alias("frames"), pl.col("time").min().alias("start"), pl.col("time").max().alias("end")]
    for name in (name for name in VA if name in columns):
        value = pl.col(name)
        statistics = {"mean": value.mean(), "sd": value.std(), "min": value.min(), "max": value.max()}
        measures += [statistic.alias(f"{name}_{measure}") for measure, statistic in statistics.items()]
    if "expression" in columns:
        measures += [(pl.col("expression") == name).mean().alias(f"{name.lower()}_share") for name in EXPRESSIONS]
    measures += [(pl.col(unit) >= ACTIVE).mean().alias(f"{unit}_share") for unit in units]
    measures += [(pl.col("quality_flags") != "").mean().alias("flagged_share"), pl.col("quality_flags").unique()]
    steps = rows.select(pl.col("time").unique().sort().diff().median()).collect(engine="streaming").item()
    step = float(steps or 0.0)
    names = {"tier": "AU", "start": "onset", "stop": "offset"}
    active = intervals(rows.drop("expression", strict=False)).rename(names).drop("file", "label")
    episodes = active.with_columns(pl.col("onset", "apex", "offset", "peak").round(3)).to_dicts()
    faces = []
    for face in rows.group_by("face").agg(measures).sort("face").collect(engine="streaming").to_dicts():
        face["seconds"] = face["frames"] * step
        if "expression" in columns:
            face["expression"] = max(EXPRESSIONS, key=lambda name: face[f"{name.lower()}_share"])
        for unit in units:
            durations = [e["offset"] - e["onset"] for e in episodes if (e["face"], e["AU"]) == (face["face"], unit)]
            if step:
                face[f"{unit}_rate"] = 60 * len(durations) / face["seconds"]
            if durations:
                face[f"{unit}_seconds"] = sum(durations) / len(durations)
        face["quality_flags"] = ",".join(sorted({f for flags in face["quality_flags"] for f in flags.split(",") if f}))
        faces.append({name: round(value, 5) if isinstance(value, float) else value for name, value in face.items()})
    return faces, episodes
