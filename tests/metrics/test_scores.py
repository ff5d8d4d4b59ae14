"""Scores of tables: against independent references, whatever is missing, shuffled, doubled or absent."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import f1_score

from triaffect import __version__
from triaffect.data.index import save_index
from triaffect.data.predictions import save_predictions
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, PREDICTION_COLUMNS
from triaffect.metrics.scores import Scores, compare, score


def reference(predictions: pl.DataFrame, index: pl.DataFrame) -> dict[str, float]:
    """Every score by scikit-learn and the float64 formula, row by row and null by null."""
    by_image = {row["image"]: row for row in predictions.iter_rows(named=True)}
    rows, result = index.to_dicts(), {}
    for name in ("valence", "arousal"):
        pairs = [(by_image[r["image"]][name], r[name]) for r in rows if r[name] is not None]
        p, t = np.array(pairs).T
        result[name] = 2 * ((p - p.mean()) * (t - t.mean())).mean() / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)
    names = PREDICTION_COLUMNS["expr"]
    pairs = [
        (max(range(8), key=lambda i, r=r: by_image[r["image"]][names[i]]), r["expression"])
        for r in rows
        if r["expression"] is not None
    ]
    p, t = np.array(pairs).T
    result |= dict(zip(EXPRESSIONS, f1_score(t, p, labels=range(8), average=None, zero_division=0), strict=True))
    for name in ACTION_UNITS:
        pairs = [(by_image[r["image"]][name] >= 0.5, r[name]) for r in rows if r[name] is not None]
        p, t = np.array(pairs).T
        result[name] = f1_score(t, p, zero_division=0)
    result["va"] = (result["valence"] + result["arousal"]) / 2
    result["expr"] = np.mean([result[name] for name in EXPRESSIONS])
    result["au"] = np.mean([result[name] for name in ACTION_UNITS])
    return result | {"total": result["va"] + result["expr"] + result["au"]}


def flat(scores) -> dict[str, float]:
    return scores.va | scores.expr | scores.au | scores.tasks | {"total": scores.total}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("videos", [1, 5])
def test_scores_equal_the_reference(make, seed, videos):
    predictions, index = make(seed, videos)
    result, expected = flat(score(predictions, index, resamples=0)), reference(predictions, index)
    assert result == pytest.approx(expected, abs=1e-12)


def test_rows_may_be_shuffled_and_more_than_the_labels(make):
    predictions, index = make()
    expected = score(predictions, index, resamples=20)
    extra = predictions.with_columns(image=pl.concat_str(pl.lit("more/"), "image"))
    shuffled = pl.concat([predictions, extra]).sample(fraction=1, shuffle=True, seed=1)
    result = score(shuffled, index.sample(fraction=1, shuffle=True, seed=2), resamples=20)
    assert flat(result) == pytest.approx(flat(expected), abs=1e-12)
    assert result.intervals["total"] == pytest.approx(expected.intervals["total"], abs=1e-12)
    assert result.signature == expected.signature


def test_columns_of_several_types_are_numbers_all_the_same(make):
    predictions, index = make(0, 5)
    hard = predictions.with_columns(pl.lit(0.0).alias("neutral"), pl.col("anger").cast(pl.Float32))
    mixed = hard.with_columns(pl.col("neutral").cast(pl.Int64))
    assert flat(score(mixed, index, resamples=0)) == flat(score(hard, index, resamples=0))


def test_names_that_share_a_hash_are_given_apart(make, monkeypatch):
    predictions, index = make(0, 5)
    expected = flat(score(predictions, index, resamples=0))
    monkeypatch.setattr(pl.Expr, "hash", lambda self: self.str.slice(0, 3).str.len_chars())
    monkeypatch.setattr(pl.Series, "hash", lambda self: self.str.slice(0, 3).str.len_chars())
    assert flat(score(predictions.reverse(), index, resamples=0)) == expected
    with pytest.raises(InputError, match="more than once"):
        score(pl.concat([predictions, predictions[:1]]), index)


def test_duplicate_rows_count_as_they_stand(make):
    predictions, index = make()
    doubled = pl.concat([index, index.head(40)])
    result = score(predictions, doubled, resamples=0)
    assert flat(result) == pytest.approx(reference(predictions, doubled), abs=1e-12)
    assert result.total != pytest.approx(score(predictions, index, resamples=0).total, abs=1e-6)


def test_frames_without_a_crop_are_scored(make):
    predictions, index = make()
    gone = index.filter(~pl.col("exists"))["image"]
    assert len(gone)
    with pytest.raises(InputError, match="images have no prediction"):
        score(predictions.filter(~pl.col("image").is_in(gone.implode())), index)


def test_constant_predictions_have_ccc_0_and_no_warning(make):
    predictions, index = make()
    constant = predictions.with_columns(valence=pl.lit(0.1), arousal=pl.lit(0.0))
    result = score(constant, index, resamples=200)
    assert result.va == {"valence": 0, "arousal": 0}
    assert result.intervals["va"] == (0, 0)


def test_tasks_present_is_named(make):
    predictions, index = make()
    single = predictions.select("image", *PREDICTION_COLUMNS["expr"])
    result = score(single, index, resamples=0)
    assert list(result.tasks) == ["expr"]
    assert result.total == result.tasks["expr"] == result.baseline["total"] + (result.total - result.baseline["expr"])
    assert result.va == result.au == {}
    assert "tasks:expr|" in result.signature
    assert "total (expr only)" in result.table()
    both = score(predictions, index.with_columns(pl.lit(None, pl.Int8).alias(c) for c in ACTION_UNITS), resamples=0)
    assert list(both.tasks) == ["va", "expr"]
    assert list(score(predictions, index, tasks=["au", "va"], resamples=0).tasks) == ["va", "au"]


def test_an_au_that_nobody_labelled_is_left_out_and_named(make):
    predictions, index = make()
    partial = index.with_columns(pl.lit(None, pl.Int8).alias(name) for name in ("AU7", "AU24"))
    result, expected = score(predictions, partial, resamples=10), score(predictions, index, resamples=0)
    assert result.au["AU7"] is None
    assert result.tasks["au"] == pytest.approx(np.mean([v for k, v in expected.au.items() if k not in ("AU7", "AU24")]))
    assert "unlabelled:AU7+AU24" in result.signature
    assert "left out of the task's mean: AU7, AU24" in result.table()
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_baseline_is_the_best_trivial_predictor(make):
    predictions, index = make()
    result = score(predictions, index, resamples=0)
    trivial = predictions.with_columns(
        pl.lit(0.0).alias("valence"), pl.lit(0.0).alias("arousal"), *(pl.lit(1.0).alias(n) for n in ACTION_UNITS)
    )
    constant = {}
    for name in EXPRESSIONS:
        guess = trivial.with_columns(pl.lit(float(name == e)).alias(e.lower()) for e in EXPRESSIONS)
        constant[name] = score(guess, index, resamples=0)
    best = max(constant, key=lambda name: constant[name].tasks["expr"])
    assert result.baseline_prediction["expr"] == f"always {best}"
    assert result.baseline == pytest.approx(constant[best].tasks | {"total": constant[best].total}, abs=1e-12)


def test_counts_are_given(make):
    predictions, index = make()
    result = score(predictions, index, resamples=0)
    assert result.frames == {
        task: index.filter(pl.any_horizontal(pl.col(list(columns)).is_not_null())).height
        for task, columns in LABEL_COLUMNS.items()
    }
    assert result.labelled["arousal"] == index["arousal"].count()
    assert result.positives["AU6"] == index["AU6"].sum()
    assert result.positives["Anger"] == (index["expression"] == 1).sum()
    assert np.sum(result.confusion) == index["expression"].count()
    assert np.sum(result.confusion, 1).tolist() == [result.positives[name] for name in EXPRESSIONS]


def test_signature_says_how_the_numbers_were_made(make):
    predictions, index = make()
    result = score(predictions, index, split="val", thresholds={"AU1": 0.3}, resamples=7, seed=5)
    rows = "+".join(str(n) for n in result.frames.values())
    assert result.signature == (
        f"triaffect|tasks:va+expr+au|split:val|frames:{rows}|videos:6|unit:source-video|classes:8"
        f"|thresholds:0.3{',0.5' * 11}|resamples:7|seed:5|version:{__version__}"
    )


def test_same_seed_same_intervals(make):
    predictions, index = make()
    first, second, third = (score(predictions, index, resamples=50, seed=s).intervals for s in (0, 0, 1))
    assert first == second != third


def test_one_video_has_no_intervals(make):
    predictions, index = make(videos=1)
    result = score(predictions, index)
    assert result.intervals == {}
    assert "not available (1 video" in result.table()


def test_both_persons_of_a_video_are_resampled_together(make):
    predictions, index = make(videos=4)
    paired = index.with_columns(pl.col("video").replace({"v01": "v00_left", "v03": "v02_right"}))
    joined = index.with_columns(pl.col("video").replace({"v01": "v00", "v03": "v02"}))
    scores, expected = (score(predictions, rows, resamples=50) for rows in (paired, joined))
    assert scores.videos == 2
    assert scores.intervals["total"] == pytest.approx(expected.intervals["total"], abs=1e-12)
    assert flat(scores) == pytest.approx(flat(expected), abs=1e-12)
    one_source = index.filter(pl.col("video").is_in(["v00", "v01"]))
    one_source = one_source.with_columns(pl.col("video").replace({"v01": "v00_left"}))
    assert score(predictions, one_source).intervals == {}
    worse, _ = make(videos=4, noise=0.9)
    pair, same = (compare(predictions, worse, rows, resamples=50) for rows in (paired, joined))
    assert pair.intervals["total"] == pytest.approx(same.intervals["total"], abs=1e-12)


def test_scores_survive_json(make):
    predictions, index = make(videos=4)
    scores = score(predictions, index, by="video", resamples=10)
    assert Scores.from_dict(json.loads(json.dumps(scores.to_dict()))) == scores


def test_intervals_are_those_of_resampled_frames(make):
    """Each resample scored anew from its frames, video by video: the slow and certain way."""
    predictions, index = make(videos=4, frames=30)
    result = score(predictions, index, resamples=40, seed=3)
    names, rng, slow = sorted(index["video"].unique()), np.random.default_rng(3), []
    parts = {name: index.filter(pl.col("video") == name) for name in names}
    for counts in rng.multinomial(4, np.full(4, 1 / 4), 40):
        drawn = pl.concat([parts[name] for name, count in zip(names, counts, strict=True) for _ in range(count)])
        others = score(predictions, drawn, resamples=0, tasks=["va", "au"]).tasks
        slow.append(others | {"expr": reference_expr(predictions, drawn)})
    for task in ("va", "expr", "au"):
        assert result.intervals[task] == pytest.approx(np.percentile([s[task] for s in slow], [2.5, 97.5]), abs=1e-12)


def reference_expr(predictions, index):
    rows = index.drop_nulls("expression").join(predictions, on="image", how="left", maintain_order="left")
    best = rows.select(PREDICTION_COLUMNS["expr"]).to_numpy().argmax(1)
    return f1_score(rows["expression"], best, labels=range(8), average="macro", zero_division=0)


def test_by_scores_each_group_and_names_the_worst(make):
    predictions, index = make(videos=8)
    odd = pl.col("video").str.slice(-1).is_in(["1", "3", "5", "7"])
    index = index.with_columns(sex=pl.when(odd).then(pl.lit("f")).when(pl.col("video") != "v00").then(pl.lit("m")))
    result = score(predictions, index, by="sex", resamples=30)
    assert list(result.groups) == ["(missing)", "f", "m"]
    for name, rows in (("f", index.filter(odd)), ("m", index.filter(pl.col("sex") == "m"))):
        alone = score(predictions, rows, resamples=30)
        assert flat(result.groups[name]) == pytest.approx(flat(alone), abs=1e-12)
        assert result.groups[name].intervals["total"] == pytest.approx(alone.intervals["total"], abs=1e-12)
    assert flat(result) == pytest.approx(flat(score(predictions, index, resamples=0)), abs=1e-12)
    totals = {name: group.total for name, group in result.groups.items()}
    gap = result.gaps["total"]
    assert gap.worst == min(totals, key=totals.get)
    assert gap.best == max(totals, key=totals.get)
    assert gap.gap == max(totals.values()) - min(totals.values())
    assert f"total: worst {gap.worst}" in result.table()


def test_by_a_column_that_changes_within_videos(make):
    predictions, index = make(videos=3)
    index = index.with_columns(half=pl.int_range(pl.len()) % 2)
    result = score(predictions, index, by="half", resamples=30)
    assert flat(result) == pytest.approx(reference(predictions, index), abs=1e-12)
    assert result.videos == result.groups["0"].videos == 3
    for name, interval in score(predictions, index, resamples=30).intervals.items():
        assert result.intervals[name] == pytest.approx(interval, abs=1e-12)
    by_video = score(predictions, index, by="video", resamples=30)
    assert len(by_video.groups) == 3
    assert all(group.intervals == {} for group in by_video.groups.values())


def test_a_group_without_a_task_is_not_its_worst(make):
    predictions, index = make(videos=5)  # v01 has no expression and v02 no valence
    index = index.with_columns(
        pl.when(pl.col("video") != "v02").then(name).alias(name) for name in ("valence", "arousal")
    )
    result = score(predictions, index, by="video", resamples=0)
    assert "va" not in result.groups["v02"].tasks
    assert result.groups["v02"].total < result.groups[result.gaps["total"].worst].total
    assert "v02" in result.table()


def test_comparison_of_a_copy_finds_nothing(make):
    predictions, index = make()
    copy = predictions.sample(fraction=1, shuffle=True, seed=3)
    result = compare(predictions, copy, index, resamples=100)
    assert set(result.p.values()) == {1.0}
    assert set(result.difference.values()) == {0.0}
    assert set(result.intervals.values()) == {(0.0, 0.0)}


def test_comparison_sees_a_real_difference_and_both_ways_alike(make):
    better, index = make(1, videos=12, noise=0.2)
    worse, _ = make(1, videos=12, noise=0.9)
    result, back = (compare(*pair, index, resamples=400) for pair in ((better, worse), (worse, better)))
    for name in ("va", "expr", "au", "total"):
        assert result.p[name] < 0.01
        assert result.intervals[name][0] > 0
        assert result.p[name] == back.p[name]
        assert result.difference[name] == -back.difference[name]
        assert score(better, index, resamples=0).total - score(worse, index, resamples=0).total == pytest.approx(
            result.difference["total"]
        )


def test_models_of_several_seeds_are_compared_by_their_mean_score(make):
    made = [make(1, videos=12, noise=noise) for noise in (0.2, 0.4, 0.6)]
    tables, index = [table for table, _ in made], made[0][1]
    singles = [score(table, index, resamples=0).total for table in tables]
    result = compare(tables[:2], tables[2:], index, resamples=300)
    assert result.difference["total"] == pytest.approx(np.mean(singles[:2]) - singles[2])
    assert result.signature.endswith("|means:2-1")
    # The same model twice is as itself, and a list of one as a table.
    assert compare(tables[:1] * 2, tables[:1], index, resamples=20).intervals["total"] == (0, 0)
    one = compare(tables[0], tables[1], index, resamples=50)
    assert compare([tables[0]], [tables[1]], index, resamples=50) == one


def test_comparison_agrees_with_scipys(make):
    """scipy resamples the same videos, paired; the limits may differ by what 4,000 draws leave to chance."""
    a, index = make(2, videos=25, frames=20, missing=False)
    b, _ = make(2, videos=25, frames=20, missing=False, noise=0.55)
    result = compare(a, b, index, resamples=4000, tasks=["va"])
    target = index.select("valence", "arousal").to_numpy()
    sides = [side.select("valence", "arousal").to_numpy() for side in (a, b)]
    rows = [np.flatnonzero((index["video"] == video).to_numpy()) for video in index["video"].unique().sort()]

    def concordance(pred, target):
        spread = pred.var(0) + target.var(0) + (pred.mean(0) - target.mean(0)) ** 2
        return (2 * ((pred - pred.mean(0)) * (target - target.mean(0))).mean(0) / spread).mean()

    def difference(one, two):
        drawn, same = (np.concatenate([rows[int(v)] for v in videos]) for videos in (one, two))
        return concordance(sides[0][drawn], target[drawn]) - concordance(sides[1][same], target[same])

    videos = np.arange(25)
    theirs = bootstrap(
        (videos, videos), difference, paired=True, vectorized=False, method="percentile", n_resamples=4000, rng=1
    )
    low, high = theirs.confidence_interval
    assert result.difference["va"] == pytest.approx(difference(videos, videos), abs=1e-12)
    assert result.intervals["va"] == pytest.approx((low, high), abs=4 * theirs.standard_error / np.sqrt(4000) * 3)
    sign = (theirs.bootstrap_distribution <= 0).mean()
    assert result.p["va"] == pytest.approx(min(1, 2 * min(sign, 1 - sign)), abs=0.04)


def test_comparison_needs_two_videos(make):
    a, index = make(0, videos=1)
    b, _ = make(0, videos=1, noise=0.6)
    result = compare(a, b, index)
    assert result.intervals == {}
    assert result.p["total"] is None
    assert f"{result.difference['total']:+.4f}" in result.table()
    assert compare(a, a, index).p["total"] == 1.0


def test_crops_unpacked_deeper_are_the_same_frames(make):
    predictions, index = make()
    deeper = index.with_columns(image=pl.concat_str(pl.lit("batch1/"), "image"))
    assert score(predictions, deeper, resamples=10) == score(predictions, index, resamples=10)
    # ... but two videos of one name in different folders are not the same.
    ambiguous = pl.concat([deeper, index.with_columns(image=pl.concat_str(pl.lit("batch2/"), "image"))])
    with pytest.raises(InputError, match="have no prediction"):
        score(predictions, ambiguous)


def test_files_do_as_well_as_tables(make, tmp_path):
    predictions, index = make()
    save_predictions(predictions, tmp_path / "p.parquet", {"model": "made up"})
    save_index(index, tmp_path / "i.parquet", root=tmp_path, images=None, format="table")
    result = score(tmp_path / "p.parquet", tmp_path / "i.parquet", split="val", resamples=10)
    assert result == score(predictions, index, resamples=10)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p, i: (p.with_columns(AU4=pl.lit(float("nan"))), i), "AU4 of 'v00/00000.jpg' is nan"),
        (lambda p, i: (p.with_columns(valence=pl.lit(None, float)), i), "valence of 'v00/00000.jpg' is None"),
        (lambda p, i: (p[5:], i), "of va: 2 of 289 images have no prediction: v00/00000.jpg, v00/00002.jpg;"),
        (lambda p, i: (pl.concat([p, p[:1]]), i), "more than once"),
        (lambda p, i: (p.select("image", "valence", "arousal"), i.with_columns(valence=None, arousal=None)), "hold va"),
        (lambda p, i: (p[5:], pl.concat([i, i.with_columns(split=pl.lit("train"))])), "or name one split"),
    ],
)
def test_bad_tables_are_refused_by_name(make, change, named):
    with pytest.raises(InputError, match=named):
        score(*change(*make()))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split": "tes"}, "holds no frame of split 'tes'"),
        ({"tasks": ["eyes"]}, "no task 'eyes'"),
        ({"by": "age"}, "no column 'age' in the index"),
        ({"by": "image"}, "too many groups"),
        ({"thresholds": {"AU3": 0.1}}, "no AU 'AU3'"),
        ({"thresholds": [0.1, 0.2]}, "one finite number or twelve"),
    ],
)
def test_bad_options_are_refused_by_name(make, options, named):
    predictions, index = make(videos=40)
    with pytest.raises(InputError, match=named):
        score(predictions, index, **options)


def test_scoring_never_loads_torch():
    code = (
        "import sys, triaffect.metrics.scores, triaffect.metrics.fusion, triaffect.report.figures;"
        "print([m for m in ('torch', 'torchvision', 'timm', 'lightning', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_perfect_predictions_of_seven_classes_score_one(make):
    _, index = make(0)
    seven = index.filter(pl.col("expression").fill_null(0) < 7)
    codes = seven["expression"].fill_null(0).to_numpy()
    perfect = pl.DataFrame(
        {"image": seven["image"], **dict(zip(PREDICTION_COLUMNS["expr"], np.eye(8)[codes].T, strict=True))}
    )
    eight, of_seven = (score(perfect, seven, resamples=0, classes=classes) for classes in (8, 7))
    assert eight.tasks["expr"] == pytest.approx(7 / 8)
    assert "F1 0 in the mean of 8: Other; if the data has no Other, declare 7 classes" in eight.table()
    assert of_seven.tasks["expr"] == 1.0
    assert list(of_seven.expr) == list(EXPRESSIONS[:7])
    assert "|classes:7|" in of_seven.signature
    with pytest.raises(InputError, match="classes is 6"):
        score(perfect, seven, classes=6)


def test_seven_classes_leave_other_out_and_say_how_many_frames(make):
    predictions, index = make(1)
    result = score(predictions, index, resamples=0, classes=7)
    rows = index.filter(pl.col("expression") < 7).join(predictions, on="image", maintain_order="left")
    guess = rows.select(PREDICTION_COLUMNS["expr"][:7]).to_numpy().argmax(1)
    expected = f1_score(rows["expression"], guess, labels=range(7), average="macro", zero_division=0)
    assert result.tasks["expr"] == pytest.approx(expected, abs=1e-12)
    assert result.left_out == (index["expression"] == 7).sum() > 0
    assert f"not scored: {result.left_out} frames labelled Other" in result.table()
    assert compare(predictions, predictions, index, resamples=1, classes=7).difference["expr"] == 0
