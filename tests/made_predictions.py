"""Made-up labels with every kind of missing value, and predictions that are near them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from triaffect.labels import ACTION_UNITS, EXPRESSIONS, INDEX_COLUMNS

Made = Callable[..., tuple[pl.DataFrame, pl.DataFrame]]


def made_up(seed: int = 0, videos: int = 6, frames: int = 60, noise: float = 0.5, missing: bool = True) -> tuple:
    """Predictions and an index; videos differ in length, labels are missing by value, task, video and frame."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(max(1, frames // 2), frames * 2, videos)
    video = np.repeat(np.arange(videos), lengths)
    n = len(video)
    tendency = rng.normal(0, 0.3, (videos, 2))[video]
    va = (tendency + rng.normal(0, 0.3, (n, 2))).clip(-1, 1)
    expression = rng.integers(0, 8, n)
    au = (rng.random((n, 12)) < np.linspace(0.05, 0.8, 12)).astype(float)
    labelled = rng.random((n, 15)) > (0.2 if missing else -1)
    if missing:
        labelled[rng.random(n) < 0.1] = False
        labelled[video == 1, 2] = False
        labelled[video == 2, :2] = False
        labelled[rng.random(n) < 0.2, 3:] = False
    index = pl.DataFrame(
        {
            "image": [f"v{v:02d}/{f:05d}.jpg" for v, f in zip(video, np.arange(n), strict=True)],
            "video": [f"v{v:02d}" for v in video],
            "frame": pl.Series(np.arange(n) + 1, dtype=pl.Int32),
            "split": ["val"] * n,
            "exists": rng.random(n) > 0.1,
            **{name: _null(va[:, i], labelled[:, i]) for i, name in enumerate(("valence", "arousal"))},
            "expression": _null(expression, labelled[:, 2]).cast(pl.Int8),
            **{name: _null(au[:, i], labelled[:, 3 + i]).cast(pl.Int8) for i, name in enumerate(ACTION_UNITS)},
        }
    ).select(INDEX_COLUMNS)
    scores = rng.normal(0, 2 * noise, (n, 8))
    scores[np.arange(n), expression] += 1
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    near = (va + rng.normal(0, noise, va.shape)).clip(-1, 1)
    predictions = pl.DataFrame(
        {
            "image": index["image"],
            "valence": near[:, 0],
            "arousal": near[:, 1],
            **{name.lower(): probabilities[:, i] for i, name in enumerate(EXPRESSIONS)},
            **{name: (au[:, i] + rng.normal(0, noise, n)).clip(0, 1) for i, name in enumerate(ACTION_UNITS)},
        }
    )
    return predictions, index


def _null(values: np.ndarray, labelled: np.ndarray) -> pl.Series:
    return pl.select(pl.when(pl.Series(labelled)).then(pl.Series(values))).to_series()


@pytest.fixture
def make() -> Made:
    return made_up
