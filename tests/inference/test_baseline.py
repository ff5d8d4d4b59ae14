"""Change against a person's own baseline: the arithmetic, the options of `analyze`, and renders with exact labels."""

from statistics import median

import numpy as np
import polars as pl
import pytest

import triaffect as ta
from triaffect.inference.baseline import Baseline, add_change
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, VA
from worlds import analyzer, film, jpeg, plain


def table(valence, flags=None, face=1, file="a.mp4"):
    n = len(valence)
    columns = {"file": file, "face": face, "time": np.arange(n) * 0.5, "quality_flags": flags or [""] * n}
    return pl.DataFrame({**columns, "valence": valence, "AU1": np.linspace(0, 1, n)})


def test_the_change_is_the_value_minus_the_median_of_the_same_face():
    rows = pl.concat([table([0.1, 0.2, 0.9, 0.2]), table([-0.5, -0.5, 0.5, 0.5], face=2), table([0.3], file="b.mp4")])
    changed = add_change(rows)
    assert changed.drop("valence_change", "AU1_change").equals(rows)
    expected = [0.1 - 0.2, 0, 0.7, 0, -0.5, -0.5, 0.5, 0.5, 0]
    assert changed["valence_change"].to_list() == pytest.approx(expected)
    first = add_change(rows, 1.0)["valence_change"].to_list()
    base = median([0.1, 0.2])
    assert first == pytest.approx([0.1 - base, 0.2 - base, 0.9 - base, 0.2 - base, 0, 0, 1, 1, 0])
    with pytest.raises(InputError, match="longer than 0 s"):
        add_change(rows, 0)


def test_flagged_rows_do_not_count_unless_there_are_no_others():
    assert add_change(table([0.9, 0.1], ["turned", ""]))["valence_change"].to_list() == pytest.approx([0.8, 0])
    assert add_change(table([0.9, 0.1], ["turned"] * 2))["valence_change"].to_list() == pytest.approx([0.4, -0.4])


def test_analyze_adds_the_change_and_keeps_the_raw_values(tmp_path):
    """Red rises slowly after the first second; the neutral photo is darker. Green is sharp: no face is blurred."""
    green = np.random.default_rng(0).integers(60, 200, plain().shape[:2], np.uint8)

    def rising(i):
        pixels = plain(100 + max(0, i - 30) // 3)
        pixels[..., 1] = green
        return pixels

    clip = str(film(tmp_path / "a.mp4", 60, pixels=rising))
    photo = str(jpeg(tmp_path / "neutral.jpg", plain(60)))

    def faces_of(path, **options):
        ta.analyze([path], analyzer(), str(tmp_path / "out"), ta.AnalyzeOptions(**options))
        return pl.read_parquet(tmp_path / "out" / "faces.parquet")

    raw = faces_of(clip)
    for option, early in (("first:1s", 0.0), ("median", 0.0), (photo, 40 / 127.5)):
        faces = faces_of(clip, baseline=option)
        assert faces.select(raw.columns).equals(raw)
        change = faces["valence_change"].to_numpy()
        assert change[:30].mean() == pytest.approx(early, abs=0.02), option
        assert change[-1] == pytest.approx(early + 9 / 127.5, abs=0.02), option
        assert "AU26_change" in faces.columns
    missing = faces_of(str(tmp_path / "none"), baseline="median")
    assert missing.height == 0
    assert missing.schema == faces.schema


def test_a_baseline_that_cannot_be_used_is_one_line(tmp_path):
    two = str(jpeg(tmp_path / "two.jpg", plain(40, 200, 255, (100, 60))))
    for text, message in ((two, "shows 2 faces"), ("first3", "no such file; give first:3s, median")):
        with pytest.raises(InputError, match=message):
            Baseline.load(text, analyzer())


def test_on_renders_the_change_follows_the_true_change_better_than_the_raw_value(tmp_path):
    """Twelve invented people of the bundled sample, described by the bundled model; the truth is exact."""
    truth = pl.read_parquet(ta.sample(tmp_path / "sample") / "truth.parquet").filter(pl.col("split") == "val")
    truth = truth.filter(pl.col("video").is_in(truth["video"].unique().sort()[:12].implode()))
    predicted = ta.predict("triaffect-base", truth, tmp_path / "sample" / "cropped_aligned")
    key = truth.select("image", "video").rename({"video": "file"}).with_columns(
        face=pl.lit(1), time=truth["frame"] * 0.6, quality_flags=pl.lit("")
    )  # fmt: skip
    ours = add_change(key.join(predicted, on="image"), 3.0)
    true_values = {unit: truth[f"{unit}_intensity"] for unit in ACTION_UNITS} | {name: truth[name] for name in VA}
    true = add_change(key.with_columns(**true_values), 3.0)
    for name in (*VA, "AU4", "AU12", "AU25"):
        target = true[f"{name}_change"].to_numpy()
        raw, change = (ta.ccc(ours[column].to_numpy(), target) for column in (name, f"{name}_change"))
        assert change > raw + 0.1, (name, raw, change)
