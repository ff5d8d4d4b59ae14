"""Agreement of our descriptors with human coders, frame by frame, with 95 % intervals over videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect.data.codes import TARGETS, codes_of_frames
from triaffect.io import InputError
from triaffect.labels import EXPRESSIONS, VA
from triaffect.metrics import measures
from triaffect.metrics.bootstrap import Floats, Sums, bootstrap, number_sources, percentile_intervals


def continuous_agreement(sums: Sums) -> dict[str, Floats]:
    """Intraclass correlations of two raters and CCC, from moments.

    ICC(2,1), absolute agreement, and ICC(3,1), consistency, of Shrout and Fleiss 1979, Psychological Bulletin 86.

    Args:
        sums: `moments`, (..., 7) as of `measures.moments`.
    """
    moments = sums["moments"]
    n = np.maximum(moments[..., 0], 2)
    mean_p, mean_t, square_p, square_t, product, difference = np.moveaxis(moments[..., 1:] / n[..., None], -1, 0)
    var_p, var_t, cov = square_p - mean_p**2, square_t - mean_t**2, product - mean_p * mean_t
    unbiased = n / (n - 1)
    between = unbiased * (var_p + var_t + 2 * cov) / 2
    error = unbiased * (var_p + var_t - 2 * cov) / 2
    raters = n * difference**2 / 2
    icc2 = _ratio(between - error, between + error + 2 * (raters - error) / n)
    return {"ICC(2,1)": icc2, "ICC(3,1)": _ratio(between - error, between + error),
            "CCC": measures.values("va", moments)}  # fmt: skip


def categorical_agreement(sums: Sums) -> dict[str, Floats]:
    """Cohen's kappa (1960) and F1: of the positive class of two, or the mean over all classes that were coded.

    Args:
        sums: `counts`, (..., k, k) counts [coded, ours].
    """
    counts = sums["counts"]
    n = np.maximum(counts.sum((-1, -2)), 1)
    observed = np.trace(counts, axis1=-2, axis2=-1) / n
    expected = (counts.sum(-1) * counts.sum(-2)).sum(-1) / n**2
    f1 = _ratio(2 * np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1) + counts.sum(-2))
    is_coded = counts.sum(-1) > 0
    mean = f1[..., 1] if counts.shape[-1] == 2 else _ratio((f1 * is_coded).sum(-1), is_coded.sum(-1))
    return {"kappa": _ratio(observed - expected, 1 - expected), "F1": mean}


MEASURES = {"moments": continuous_agreement, "counts": categorical_agreement}
"""What a function needs the sums of -> the function."""


def _ratio(top: Floats, bottom: NDArray) -> Floats:
    """The quotient; 0 where nothing varies."""
    bottom = np.asarray(bottom, float)
    return np.divide(top, bottom, out=np.zeros_like(bottom), where=np.abs(bottom) > 1e-12)


def agreement(
    rows: pl.DataFrame,
    codes: Sequence[str],
    *,
    threshold: float = 0.5,
    present: float = 1.0,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[pl.DataFrame, list[str]]:
    """Compare a table of `analyze` with human codes.

    Args:
        rows: The table.
        codes: Files of codes, see `data.codes.read_codes`.
        threshold: Our probability from which an action unit is active.
        present: Coded intensity (0 to 5) from which an action unit counts as present.
        resamples: Resamples of the videos for the intervals; 0 for no intervals.
        seed: Seed of the resamples.

    Returns:
        One row per target and measure: `target`, `measure`, `value`, `low`, `high` (null with fewer than two videos),
        `frames` and `videos`; and notices. An action unit that was coded as present or absent has kappa and F1; one
        with intensities has ICC and CCC too, with five times our intensity (or probability, if there is none).

    Raises:
        InputError: As `data.codes.codes_of_frames`; or nothing of ours was coded.
    """
    table, notices = codes_of_frames(rows, list(codes))
    results = []
    for target in TARGETS:
        code = f"{target}_code"
        if code not in table.columns or target not in table.columns:
            continue
        coded_rows = table.filter(pl.col(code).is_not_null() & pl.col(target).is_not_null())
        if not coded_rows.height:
            continue
        units, videos = number_sources(coded_rows["file"])
        group, coded = units.to_numpy(), coded_rows[code].to_numpy()
        sums: dict[str, Floats] = {}
        if target == "expression":
            ours = coded_rows[target].replace_strict(EXPRESSIONS, range(8), return_dtype=pl.Int64).to_numpy()
            sums["counts"] = measures.count(group, videos, coded, 8, ours, 8)
        else:
            values, is_graded = coded_rows[target].to_numpy().astype(float), target in VA
            if not is_graded:
                is_graded = bool(((coded != 0) & (coded != 1)).any())
                hits, active = coded >= (present if is_graded else 0.5), values >= threshold
                sums["counts"] = measures.count(group, videos, hits, 2, active, 2)
            if is_graded:
                grade = f"{target}_intensity" if f"{target}_intensity" in coded_rows.columns else target
                scaled = values if target in VA else 5 * coded_rows[grade].to_numpy().astype(float)
                sums["moments"] = measures.moments(scaled, coded.astype(float), group, videos)
        for kind, by_video in sums.items():
            limits = percentile_intervals(bootstrap({kind: by_video}, MEASURES[kind], resamples=resamples, seed=seed))
            for name, value in MEASURES[kind]({kind: by_video.sum(0)}).items():
                low, high = limits.get(name, (None, None))
                results.append((target, name, float(value), low, high, coded_rows.height, videos))
    if not results:
        raise InputError(f"{codes[0]}: codes nothing that the table has; it has {', '.join(rows.columns)}")
    schema = {"target": pl.String, "measure": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(results, schema | {"frames": pl.Int64, "videos": pl.Int64}, orient="row"), notices
