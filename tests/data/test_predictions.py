"""The predictions file: writing, reading and what is refused."""

from __future__ import annotations

from collections.abc import Callable
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
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, PREDICTION_COLUMNS
from triaffect.metrics.scores import score


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
        (predictions(["a"], "expr", value=-0.1), "neutral of 'a' is -0.1 (1 such row); write numbers from 0 to 1"),
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
    (tmp_path / "p.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"p\.parquet: cannot be read as a table"):
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
        in_video = values[has_crop[: 30 * number].sum() :][: len(there)]
        for i, name in enumerate(("valence", "arousal")):
            result = filled[name][rows].to_numpy()
            if method == "linear":
                np.testing.assert_allclose(result, np.interp(at, there, in_video[:, i]), atol=1e-12)
            else:
                distance = abs(at[:, None] - there)
                allowed = [in_video[d == d.min(), i] for d in distance]
                assert all(np.isin(value, near) for value, near in zip(result, allowed, strict=True))
        distance = abs(at[:, None] - there)
        near = [abs(in_video[d == d.min(), 0]) for d in distance]
        assert all(np.isin(v, n) for v, n in zip(filled["AU1"][rows].to_numpy(), near, strict=True))
    assert filled["valence"][60:90].to_numpy() == pytest.approx(values[:, 0].mean())


# Files of other programs, and the tables of analyze.

IMAGES = [f"v{video}/{frame:05d}.jpg" for video in range(2) for frame in range(1, 6)]


@pytest.fixture
def predicted() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    columns = [name for names in PREDICTION_COLUMNS.values() for name in names]
    return pl.DataFrame({"image": IMAGES, **{name: rng.random(10) for name in columns}})


@pytest.fixture
def index(predicted: pl.DataFrame) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    units = {name: rng.integers(0, 2, 10) for name in ACTION_UNITS}
    labels = {"valence": rng.random(10), "arousal": rng.random(10), "expression": rng.integers(0, 8, 10), **units}
    videos = [image.split("/")[0] for image in IMAGES]
    return pl.DataFrame({"image": IMAGES, "video": videos, "split": "val", **labels})


@pytest.mark.parametrize("name", ["p.csv", "p.json", "p.tsv", "p.parquet"])
def test_a_file_of_any_kind_scores_the_same(
    tmp_path: Path, predicted: pl.DataFrame, index: pl.DataFrame, name: str
) -> None:
    path, expected = tmp_path / name, score(predicted, index, resamples=0).to_dict()
    write = {".csv": predicted.write_csv, ".json": predicted.write_json, ".parquet": predicted.write_parquet}
    write.get(path.suffix, lambda p: predicted.write_csv(p, separator="\t"))(path)
    assert score(path, index, resamples=0).to_dict() == expected


@pytest.mark.parametrize(
    "rename",
    [
        lambda image: image.replace(".jpg", ".png"),
        lambda image: image.replace(".jpg", ""),
        lambda image: f"/data/crops/{image}",
        lambda image: "C:\\data\\" + image.replace("/", "\\").replace(".jpg", ".JPG"),
        lambda image: f"batch1/{image}",
        lambda image: image.upper(),
        lambda image: image.replace("/0000", "_"),
        lambda image: image.replace("/0", "/"),
    ],
)
def test_images_are_matched_under_other_names(
    tmp_path: Path, predicted: pl.DataFrame, index: pl.DataFrame, rename: Callable[[str], str]
) -> None:
    path = tmp_path / "p.csv"
    names = pl.Series("image", [rename(image) for image in IMAGES])
    predicted.with_columns(names).sample(fraction=1, shuffle=True, seed=0).write_csv(path)
    assert score(path, index, resamples=0).to_dict() == score(predicted, index, resamples=0).to_dict()


def test_other_videos_are_not_matched_by_the_names_of_their_frames(
    predicted: pl.DataFrame, index: pl.DataFrame
) -> None:
    other_video = index.filter(video="v1").with_columns(image=pl.col("image").str.replace("v1/", "w/"))
    with pytest.raises(
        InputError, match=r"5 of 5 images have no prediction.*predictions are named like 'v0/00001.jpg'"
    ):
        score(predicted.head(5), other_video, resamples=0)


@pytest.mark.parametrize("classes", [[str(i % 8) for i in range(10)], [EXPRESSIONS[i % 8] for i in range(10)]])
def test_classes_without_probabilities(
    tmp_path: Path, index: pl.DataFrame, predicted: pl.DataFrame, classes: list[str]
) -> None:
    pl.DataFrame({"image": IMAGES, "Expression": classes}).write_csv(tmp_path / "p.csv")
    with pytest.warns(UserWarning, match="'Expression' as expression"):
        table = load_predictions(tmp_path / "p.csv")
    np.testing.assert_array_equal(table.select(PREDICTION_COLUMNS["expr"]).to_numpy().argmax(1), np.arange(10) % 8)


def test_columns_in_capitals(tmp_path: Path, predicted: pl.DataFrame) -> None:
    predicted.rename(str.title).rename({"Au1": "AU01"}).write_csv(tmp_path / "p.csv")
    with pytest.warns(UserWarning, match="columns read under another name"):
        assert_frame_equal(load_predictions(tmp_path / "p.csv").select(predicted.columns), predicted)


def test_rounding_and_repeated_rows_are_accepted(tmp_path: Path, predicted: pl.DataFrame) -> None:
    table = predicted.with_columns(AU1=pl.lit(1.0000001), valence=pl.lit(-1.00001))
    pl.concat([table, table.head(3)]).write_parquet(tmp_path / "p.parquet")
    loaded = load_predictions(tmp_path / "p.parquet")
    assert loaded.height == 10
    assert loaded["AU1"].to_list() == [1.0] * 10
    assert loaded["valence"].to_list() == [-1.0] * 10
    pl.concat([table, table.head(1).with_columns(AU1=pl.lit(0.5))]).write_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"predicts 'v0/00001.jpg' more than once, with different values"):
        load_predictions(tmp_path / "p.parquet")


@pytest.mark.parametrize("first", [0, 1])
def test_frames_by_number(tmp_path: Path, index: pl.DataFrame, predicted: pl.DataFrame, first: int) -> None:
    number = pl.col("image").str.extract("([0-9]+)[.]").cast(pl.Int64) - 1 + first
    video = pl.col("image").str.extract("^(v[0-9])") + ".mp4"
    table = predicted.select(number.alias("Frame"), video.alias("video_id"), pl.exclude("image"))
    table.rename({"valence": "pred_valence", "happiness": "happiness_prob"}).write_csv(tmp_path / "p.csv")
    with (
        pytest.warns(UserWarning, match="images named by video and frame"),
        pytest.warns(UserWarning, match="'video_id' as video"),
    ):
        loaded = load_predictions(tmp_path / "p.csv")
    assert score(loaded, index, resamples=0).to_dict() == score(predicted, index, resamples=0).to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col(ACTION_UNITS) * 100, "these look like percentages: divide them by 100"),
        (pl.col("neutral") * 9 - 5, r"raw outputs \(logits\), apply softmax"),
        (pl.lit("high").alias("valence"), "p.csv:2: valence is 'high'"),
        (pl.lit(None).alias("valence"), "valence of 'v0/00001.jpg' is None .*write numbers from -1 to 1, in every row"),
        (pl.col("valence") * 100, "if these are percentages, divide them by 100"),
        (pl.col(ACTION_UNITS) * 4.9, "if these are intensities, write 1 where the unit is active"),
    ],
)
def test_the_reason_why_values_are_refused(
    tmp_path: Path, predicted: pl.DataFrame, change: pl.Expr, message: str
) -> None:
    predicted.with_columns(change).write_csv(tmp_path / "p.csv")
    with pytest.raises(InputError, match=message):
        load_predictions(tmp_path / "p.csv")


def test_predictions_without_rows_are_refused(tmp_path: Path, predicted: pl.DataFrame) -> None:
    predicted.head(0).write_csv(tmp_path / "p.csv")
    with pytest.raises(InputError, match=r"p\.csv: has no rows below its header"):
        load_predictions(tmp_path / "p.csv")


def faces(file: str, frames: int, predicted: pl.DataFrame, first: int = 0) -> pl.DataFrame:
    """A table as `analyze` writes it, with a small second face in every frame and one frame without any."""
    rows = predicted[first : first + frames].drop("image")
    keys = {"file": [file] * frames, "frame": range(frames), "face": 1, "w": 50.0, "h": 50.0, "expression": "Anger"}
    large = pl.DataFrame(keys).hstack(rows)
    small = large.with_columns(face=pl.lit(2), w=pl.lit(20.0), valence=pl.lit(-1.0))
    nobody = large.head(1).with_columns(pl.lit(None).cast(large.schema[c]).alias(c) for c in large.columns[2:])
    return pl.concat([small, large, nobody.with_columns(frame=pl.lit(frames, pl.Int64))], how="vertical_relaxed")


def test_the_tables_of_analyze_keep_the_order_of_videos_and_sort_their_frames(
    tmp_path: Path, predicted: pl.DataFrame
) -> None:
    table = pl.concat([faces("b.mp4", 5, predicted), faces("a.mp4", 5, predicted, 5)])
    first, rest = table.head(1), table[1:].sample(fraction=1, shuffle=True, seed=0)  # the frames of both, mixed
    pl.concat([first, rest]).write_csv(tmp_path / "faces.csv")
    with pytest.warns(UserWarning, match="the largest face of each image counts"):
        images = load_predictions(tmp_path / "faces.csv")["image"].to_list()
    assert images == [f"{video}/{frame:05d}.jpg" for video in "ba" for frame in range(1, 6)]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_the_tables_of_analyze_score_as_they_are(
    tmp_path: Path, predicted: pl.DataFrame, index: pl.DataFrame, ending: str
) -> None:
    videos = pl.concat([faces("../clips/v0.mp4", 5, predicted), faces("../clips/v1.avi", 5, predicted, 5)])
    photos = pl.concat([faces(f"in/{image}", 1, predicted, i).head(2) for i, image in enumerate(IMAGES)])
    for table in (videos, photos):
        path = tmp_path / f"faces{ending}"
        table.write_csv(path) if ending == ".csv" else table.write_parquet(path)
        with pytest.warns(UserWarning, match="the largest face of each image counts"):
            scores = score(path, index, resamples=0)
        assert scores.to_dict()["tasks"] == pytest.approx(score(predicted, index, resamples=0).to_dict()["tasks"])
