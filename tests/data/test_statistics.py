"""Counts of an index, compared with numpy and the published formulas; warnings of leaks."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from sklearn.utils.class_weight import compute_class_weight

from triaffect.data.index import split_leaks
from triaffect.data.layout import SCHEMA
from triaffect.data.statistics import class_weights, leak_lines, statistics, summary, tables
from triaffect.labels import ACTION_UNITS, EXPRESSIONS


def an_index(rows: int = 400, seed: int = 3) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 9, rows)
    columns = {
        "image": [f"{v}/{i:05d}.jpg" for i, v in enumerate(video)],
        "video": [f"{v}{'_left' if v == 8 else ''}" for v in video],
        "frame": range(rows),
        "split": np.where(video < 5, "train", "val"),
        "exists": rng.random(rows) < 0.9,
        "expression": np.where(rng.random(rows) < 0.4, np.nan, rng.choice([0, 1, 2, 3, 4, 5, 7], rows)),
    }
    columns |= {n: np.where(rng.random(rows) < 0.2, np.nan, rng.uniform(-1, 1, rows)) for n in ("valence", "arousal")}
    columns |= {n: np.where(rng.random(rows) < 0.1, np.nan, rng.integers(0, 2, rows)) for n in ACTION_UNITS}
    return pl.DataFrame(columns).fill_nan(None).select(SCHEMA.names()).cast(SCHEMA)


def test_counts_and_balance_against_numpy() -> None:
    index = an_index()
    result = statistics(index)
    assert list(result) == ["train", "val"]
    for split, of in result.items():
        rows = index.filter(split=split)
        codes = rows["expression"].drop_nulls().to_numpy()
        assert of["frames"] == rows.height
        assert of["crops"] == rows["exists"].sum()
        assert of["missing"]["expression"] == pytest.approx(1 - len(codes) / rows.height)
        assert [of["expr"][name]["frames"] for name in EXPRESSIONS] == np.bincount(codes, minlength=8).tolist()
        # sklearn's "balanced" is the paper's weight divided by the number of classes.
        balanced = compute_class_weight("balanced", classes=np.unique(codes), y=codes) * len(np.unique(codes))
        weights = [of["expr"][name]["weight"] for name in EXPRESSIONS]
        np.testing.assert_allclose([w for w in weights if w is not None], balanced)
        assert weights[6] is None  # Surprise is absent
        unit = rows["AU12"].drop_nulls().to_numpy()
        assert of["au"]["AU12"]["rate"] == pytest.approx(unit.mean())
        assert of["au"]["AU12"]["pos_weight"] == pytest.approx((unit == 0).sum() / (unit == 1).sum())
        both = rows.select("valence", "arousal").drop_nulls().to_numpy()
        assert of["va"]["correlation"] == pytest.approx(np.corrcoef(both.T)[0, 1])
        assert of["va"]["sd"]["valence"] == pytest.approx(np.std(rows["valence"].drop_nulls().to_numpy()))
        density = np.array(of["va"]["density"])
        assert density.sum() == len(both)
        high = density[15:, :10].sum()  # valence above .5, arousal below 0
        assert high == ((both[:, 0] >= 0.5) & (both[:, 1] < 0)).sum()
        assert of["labelled"]["all"] <= min(of["labelled"][task] for task in ("va", "expr", "au"))


def test_everything_is_plain_data() -> None:
    result = statistics(an_index())
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_an_index_without_labels_or_splits() -> None:
    index = pl.DataFrame({"image": ["a", "a"], "video": ["a", "a"]}).select(
        pl.col(name).cast(dtype) if name in ("image", "video") else pl.lit(None, dtype).alias(name)
        for name, dtype in SCHEMA.items()
    )
    result = statistics(index)
    assert list(result) == ["none"]
    assert result["none"]["duplicates"] == 1
    assert result["none"]["crops"] is None
    assert not {"va", "expr", "au"} & set(result["none"])
    assert "unknown" in tables(result)
    assert statistics(index[:0]) == {}
    assert tables({}) == summary({})


def test_constant_values_have_no_correlation() -> None:
    index = an_index().with_columns(valence=pl.lit(0.5))
    assert statistics(index)["val"]["va"]["correlation"] is None
    assert "–" in tables(statistics(index))


def test_class_weights() -> None:
    assert class_weights([1, 3, 0, 0, 0, 0, 0, 4]) == [8, 8 / 3, None, None, None, None, None, 2]


def test_tables_are_aligned() -> None:
    for table in tables(statistics(an_index())).split("\n\n"):
        head, *rows = table.splitlines()
        assert rows
        assert max(map(len, rows)) <= len(head) + 1


def test_leaks_between_the_splits_are_named() -> None:
    index = an_index()
    assert leak_lines(index) == []
    leaking = index.with_columns(video=pl.col("video").replace("3", "8_right"))
    (line,) = leak_lines(leaking)
    assert "train and val share 1 source videos" in line
    assert line.endswith(": 8_right / 8_left")
    assert split_leaks(leaking) == [
        {"splits": ["train", "val"], "source": "8", "videos_a": ["8_right"], "videos_b": ["8_left"]}
    ]
