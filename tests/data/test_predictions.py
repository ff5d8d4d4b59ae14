"""The predictions file: writing, reading and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
from polars.testing import assert_frame_equal

from triaffect.data.index import provenance
from triaffect.data.predictions import check_predictions, load_predictions, save_predictions, tasks_of, threshold_row
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
