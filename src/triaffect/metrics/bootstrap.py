"""The bootstrap over source videos: how far would a score differ on other videos like these?

Frames of one video resemble each other, and the two persons of one video do as well. So what is drawn, with
replacement, is the source video: all frames of both persons (`_left` and `_right`) together. A measure that is made of
sums over frames (see measures.py) needs the sums of each source video only, not the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.index import source_video
from triaffect.io import InputError
from triaffect.metrics.measures import Floats

Sums = Mapping[str, Floats]
"""Name -> sums, one row per unit or per resample."""

UNIT = "source-video"
"""What is resampled, for the signature of a score."""

MAX_WEIGHTS = 4_000_000
"""Number of resamples x units that are worked on at once."""


def number_sources(videos: pl.Series) -> tuple[pl.Series, int]:
    """Number the source videos of a column `video`.

    Args:
        videos: (n,) names; missing ones count as one video.

    Returns:
        `unit`, (n,) whole numbers from 0 in the order of the names, the same for both persons of a video; and the
        number of source videos.
    """
    names = videos.fill_null("")
    sources = {name: source_video(name) for name in names.unique()}
    numbers = {source: number for number, source in enumerate(sorted(set(sources.values())))}
    units = {name: numbers[source] for name, source in sources.items()}
    return names.replace_strict(units, return_dtype=pl.Int64).alias("unit"), len(numbers)


def source_folds(
    index: pl.DataFrame, folds: int, seed: int, least: int = 2
) -> tuple[pl.DataFrame, NDArray[np.integer], int]:
    """Divide the source videos of an index into folds at random.

    Args:
        index: Rows with `video`.
        folds: Maximum number of folds.
        seed: Seed of the draw.
        least: Number of folds that there must be.

    Returns:
        The index with the column `unit` of `number_sources`; the fold of each source video, from 0; how many folds.

    Raises:
        InputError: There are fewer source videos or folds than `least`.
    """
    units, sources = number_sources(index["video"])
    if min(folds, sources) < least:
        raise InputError(f"{sources} source videos in {folds} folds; cross-fitting needs two of both")
    folds = min(folds, sources)
    return index.with_columns(units), np.random.default_rng(seed).permutation(sources) % folds, folds


def bootstrap(
    sums: Sums, measure: Callable[[Sums], Sums], *, resamples: int, seed: int, units: NDArray[np.bool_] | None = None
) -> dict[str, Floats]:
    """Evaluate a measure on resamples of the units (Efron and Tibshirani 1993, An Introduction to the Bootstrap).

    Args:
        sums: Name -> (units, ...) sums over the frames of each unit.
        measure: A function of such a mapping, here with one row per resample, that returns (resamples, ...) values.
        resamples: Number of resamples.
        seed: Seed of the draws. The same seed draws the same units, whatever is measured.
        units: (units,) which of them to draw from; all by default.

    Returns:
        Name -> (resamples, ...), what `measure` returns; empty without resamples or with fewer than two units.
    """
    total = len(next(iter(sums.values())))
    drawn = np.full(total, True) if units is None else units
    count = int(drawn.sum())
    rng, parts = np.random.default_rng(seed), []
    step = max(1, MAX_WEIGHTS // total)
    for start in range(0, resamples if count > 1 else 0, step):
        # How often each unit is drawn, times its sums.
        weights = rng.multinomial(count, drawn / count, min(step, resamples - start)).astype(float)
        parts.append(measure({name: np.tensordot(weights, value, 1) for name, value in sums.items()}))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def percentile_intervals(samples: Sums) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each (resamples,) array: its 2.5 % and 97.5 % percentiles."""
    limits = {name: np.percentile(values, [2.5, 97.5]) for name, values in samples.items()}
    return {name: (float(low), float(high)) for name, (low, high) in limits.items()}
