"""The predictions file: writing, reading and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
from polars.testing import assert_frame_equal

from triaffect.data.index import provenance
from triaffect.data.predictions import (
    check_predictions,
    fill_gaps,
    load_predictions,
    save_predictions,
    tasks_of,
    threshold_row,
)
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, PREDICTION_COLUMNS


def predictions(images: list[str], *tasks: str, value: float = 0.25) -> pl.DataFrame:
    columns = [c for task in tasks for c in PREDICTION_COLUMNS[task]]
    return pl.DataFrame({"image": images, **{c: [value] * len(images) for c in columns}})


def test_saved_and_loaded(tmp_path: Path) -> None:
    table, path = predictions(["a/1.jpg", "b/1.jpg"], "va", "au").cast({"AU1": pl.Float32}), tmp_path / "p.parquet"
    save_predictions(table, path, {"model": "x", "epoch": 3})
    assert_frame_equal(load_predictions(path), table)
    assert provenance(path) == {"model": "x", "epoch": 3}
    assert tasks_of(table) == ("va", "au")
    assert pyarrow.parquet.read_table(path)["AU4"].to_pylist() == [0.25, 0.25]
    table.write_parquet(path)
    assert provenance(path) == {}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (predictions(["a"], "va").drop("image"), "no column 'image'"),
        (predictions(["a"]), "holds no task"),
        (predictions(["a"], "au").drop("AU4", "AU26"), "predictions of au lack AU4, AU26"),
        (predictions(["a", "b", "a"], "va"), "predicts 'a' more than once"),
        (predictions(["a"], "va").with_columns(valence=pl.lit(1.01)), "valence of 'a' is 1.01"),
        (predictions(["a"], "expr", value=-0.1), "neutral of 'a' is -0.1 (1 such rows); write numbers from 0 to 1"),
        (predictions(["a"], "va").with_columns(arousal=pl.lit(float("nan"))), "arousal of 'a' is nan"),
        (predictions(["a"], "va").with_columns(arousal=pl.lit(None, pl.Float32)), "arousal of 'a' is None"),
        (predictions(["a"], "va").with_columns(arousal=pl.lit("0.1")), "arousal holds no numbers"),
    ],
)
def test_an_invalid_table_is_refused_before_anything_is_written(
    table: pl.DataFrame, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        save_predictions(table, tmp_path / "p.parquet")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_text("image,valence\n")
    with pytest.raises(InputError, match=r"p\.parquet: cannot be read as Parquet"):
        load_predictions(tmp_path / "p.parquet")


def test_threshold_row() -> None:
    assert threshold_row(None).tolist() == [0.5] * 12
    assert threshold_row([0.3]).tolist() == [0.3] * 12
    assert threshold_row({"AU4": 0.2})[ACTION_UNITS.index("AU4")] == 0.2
    np.testing.assert_array_equal(threshold_row(np.linspace(0, 1, 12).tolist()), np.linspace(0, 1, 12))
    for wrong in ([0.1, 0.2], [float("nan")]):
        with pytest.raises(InputError, match="one finite number or twelve"):
            threshold_row(wrong)
    with pytest.raises(InputError, match="no AU 'AU3'"):
        threshold_row({"AU3": 0.2})


def test_extra_columns_are_accepted() -> None:
    table = predictions(["a"], "va").with_columns(filled=pl.lit(True), note=pl.lit("x"))
    check_predictions(table)
    assert tasks_of(table) == ("va",)


@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_gaps_are_filled_as_numpy_fills_them(method):
    rng = np.random.default_rng(0)
    videos = [f"v{number}" for number in range(4) for _ in range(30)]
    index = pl.DataFrame({"video": videos, "frame": [*range(1, 31)] * 4})
    index = index.with_columns(image=pl.format("{}/{}.jpg", "video", "frame"))
    has_crop = rng.random(120) < 0.5
    has_crop[60:90] = False  # a video without any crop
    values = rng.uniform(-1, 1, (int(has_crop.sum()), 2))
    columns = {"valence": values[:, 0], "arousal": values[:, 1], "AU1": abs(values[:, 0])}
    table = pl.DataFrame({"image": index["image"].filter(pl.Series(has_crop)), **columns}).sample(
        fraction=1, shuffle=True, seed=1
    )
    filled = fill_gaps(table, index, method)
    assert filled["image"].equals(index["image"])
    assert filled["filled"].to_list() == (~has_crop).tolist()
    at = np.arange(30)
    for number in (0, 1, 3):
        rows = slice(30 * number, 30 * number + 30)
        there = np.flatnonzero(has_crop[rows])
        own = values[has_crop[: 30 * number].sum() :][: len(there)]
        for i, name in enumerate(("valence", "arousal")):
            result = filled[name][rows].to_numpy()
            if method == "linear":
                np.testing.assert_allclose(result, np.interp(at, there, own[:, i]), atol=1e-12)
            else:
                distance = abs(at[:, None] - there)
                allowed = [own[d == d.min(), i] for d in distance]
                assert all(np.isin(value, near) for value, near in zip(result, allowed, strict=True))
        distance = abs(at[:, None] - there)
        near = [abs(own[d == d.min(), 0]) for d in distance]
        assert all(np.isin(v, n) for v, n in zip(filled["AU1"][rows].to_numpy(), near, strict=True))
    assert filled["valence"][60:90].to_numpy() == pytest.approx(values[:, 0].mean())
