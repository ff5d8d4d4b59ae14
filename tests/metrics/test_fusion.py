"""Fusion against the formula, and tuning against made-up predictions whose best λ is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from triaffect.io import InputError
from triaffect.labels import PREDICTION_COLUMNS, TASKS
from triaffect.metrics.fusion import DEFAULT_LAMBDAS, fuse, mean, tune_fusion
from triaffect.metrics.scores import score

COLUMNS = [(task, column) for task in TASKS for column in PREDICTION_COLUMNS[task]]


def only(predictions: pl.DataFrame, *tasks: str) -> pl.DataFrame:
    return predictions.select("image", *(column for task in tasks for column in PREDICTION_COLUMNS[task]))


@pytest.fixture
def pair(make):
    single, index = make(1, noise=0.4)
    multi, _ = make(1, noise=0.6)
    return single, multi, index


def test_the_papers_lambdas():
    assert DEFAULT_LAMBDAS == {"va": 0.4, "expr": 0.6, "au": 0.6}


@pytest.mark.parametrize("lambdas", [None, {"va": 0.0, "au": 1.0}, {"expr": 0.25}])
def test_fusion_is_the_papers_formula_whatever_the_order(pair, lambdas):
    single, multi, _ = pair
    files = [only(single, task).sample(fraction=1, shuffle=True, seed=i) for i, task in enumerate(TASKS)]
    fused = fuse(files, multi, lambdas)
    assert fused.columns == ["image", *(column for _, column in COLUMNS)]
    assert fused["image"].equals(multi["image"])
    for task, column in COLUMNS:
        share = (DEFAULT_LAMBDAS | (lambdas or {}))[task]
        expected = share * single[column].to_numpy() + (1 - share) * multi[column].to_numpy()
        assert fused[column].to_numpy() == pytest.approx(expected, abs=1e-12)


def test_a_task_of_one_side_is_that_sides(pair):
    single, multi, _ = pair
    fused = fuse([only(single, "expr"), only(single, "au")], only(multi, "va", "expr"))
    assert fused["valence"].equals(multi["valence"])
    assert fused["AU1"].equals(single["AU1"])
    assert fused["anger"].to_numpy() == pytest.approx(0.6 * single["anger"] + 0.4 * multi["anger"], abs=1e-12)


def test_single_precision_stays_in_range(pair):
    _, multi, index = pair
    high = multi.with_columns(pl.lit(1.0).cast(pl.Float32).alias(c) for _, c in COLUMNS)
    fused = fuse(high, high, dict.fromkeys(TASKS, 1 / 3))
    assert fused.schema["AU1"] == pl.Float32
    score(fused, index, resamples=0)  # nothing above 1


def test_marks_of_filled_frames_are_kept(pair):
    single, multi, _ = pair
    marked = only(single, "va").with_columns(filled=pl.int_range(pl.len()) == 3)
    assert fuse([marked, only(single, "au")], multi)["filled"].arg_true().to_list() == [3]
    assert "filled" not in fuse(single, multi).columns


def test_weighted_mean_of_any_number(make):
    tables = [
        make(1, noise=noise)[0].sample(fraction=1, shuffle=True, seed=i) for i, noise in enumerate((0.2, 0.4, 0.6))
    ]
    result = mean(tables, [2, 1, 1]).sort("image")
    expected = sum(w * t.sort("image")["AU4"].to_numpy() for w, t in zip((0.5, 0.25, 0.25), tables, strict=True))
    assert result["AU4"].to_numpy() == pytest.approx(expected, abs=1e-12)
    assert mean(tables)["fear"].sum() == pytest.approx(sum(t["fear"].sum() for t in tables) / 3)
    assert mean([tables[0]]).equals(tables[0])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda s, m: fuse([only(s, "va"), only(s, "va", "au")], m), "predictions 2: has va, as predictions 1 has"),
        (lambda s, m: fuse(s[3:], m), r"predictions 1: lacks 3 images of predictions 2 \(first v00/00000.jpg, "),
        (lambda s, m: fuse(s, m[3:]), "predictions 2: lacks 3 images of predictions 1"),
        (lambda s, m: fuse(s, m, {"va": 1.2}), "λ of va: 1.2"),
        (lambda s, m: fuse(s, m, {"eyes": 0.2}), "λ of eyes"),
        (lambda s, m: fuse([], m), "at least one single-task"),
        (lambda s, m: mean([s, m], [1]), "give 2 numbers"),
        (lambda s, m: mean([s, m], [1, -1]), "none negative"),
        (lambda s, m: mean([s, m], [0, 0]), "one above 0"),
        (lambda s, m: mean([s, only(m, "va")]), "predictions 2: has the tasks va, predictions 1 has va.expr.au"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(pair, call, named):
    with pytest.raises(InputError, match=named):
        call(*pair[:2])


def test_tuning_finds_a_known_optimum(make):
    """Two independent errors around the truth; the best mixture of them weighs by the inverse of their variances."""
    base, index = make(3, videos=12, frames=150, missing=False)
    rng, truth = np.random.default_rng(0), index.select("valence", "arousal").to_numpy()
    noisy = [(truth + rng.normal(0, sd, truth.shape)).clip(-1, 1) for sd in (0.1, 0.2)]
    sides = [base.with_columns(valence=pl.Series(va[:, 0]), arousal=pl.Series(va[:, 1])) for va in noisy]
    lambdas, tuning = tune_fusion(*sides, index)
    assert lambdas["va"] == pytest.approx(0.2**2 / (0.1**2 + 0.2**2), abs=0.1)
    row = tuning.scores.row(by_predicate=pl.col("task") == "va", named=True)
    assert row["cross_fitted"] > max(row["single"], row["multi"], row["paper"])
    assert row["in_sample"] >= row["cross_fitted"] - 1e-12
    # Where both sides are the same, every λ is as good, and neither side is preferred.
    assert (lambdas["expr"], lambdas["au"]) == (0.5, 0.5)


def test_tuned_scores_are_official_scores_of_the_fused(pair):
    single, multi, index = pair
    _, tuning = tune_fusion(single, multi, index, grid=[0, 0.3, 0.6, 1])
    assert tuning.curves.height == 12
    for share in (0, 0.3, 0.6, 1):
        tasks = score(fuse(single, multi, dict.fromkeys(TASKS, share)), index, resamples=0).tasks
        for task, expected in tasks.items():
            row = tuning.curves.filter(pl.col("task") == task, (pl.col("lambda") - share).abs() < 1e-9)
            assert row["score"].item() == pytest.approx(expected, abs=1e-12)
    rows = {row["task"]: row for row in tuning.scores.to_dicts()}
    for name, table in (("single", single), ("multi", multi), ("paper", fuse(single, multi))):
        tasks = score(table, index, resamples=0).tasks
        assert {task: row[name] for task, row in rows.items()} == pytest.approx(tasks, abs=1e-12)
    best = tuning.curves.group_by("task").agg(pl.col("score").max())
    assert {task: row["in_sample"] for task, row in rows.items()} == dict(best.rows())


@pytest.mark.parametrize("worse", [0, 1])
def test_a_clear_optimum_is_chosen_and_an_unclear_one_is_the_equal_mix(make, worse):
    """A side that is noise gets next to no weight, whichever it is; two of one strength stay near the equal mix."""
    base, index = make(5, videos=10, frames=60, missing=False)
    rng, truth = np.random.default_rng(worse), index.select("valence", "arousal").to_numpy()

    def side(sd: float) -> pl.DataFrame:
        valence, arousal = (truth + rng.normal(0, sd, truth.shape)).clip(-1, 1).T
        return base.select("image", valence=pl.Series(valence), arousal=pl.Series(arousal))

    good, bad = side(0.05), side(2.0)
    sides = (good, bad) if worse else (bad, good)
    assert tune_fusion(*sides, index)[0]["va"] == pytest.approx(worse, abs=0.1)
    assert tune_fusion(side(0.3), side(0.3), index)[0]["va"] == pytest.approx(0.5, abs=0.1)


def test_on_few_videos_the_rule_is_steadier_than_the_best_of_the_curve(make):
    """Two models of one strength, each good on some people and poor on others: who leads among six says little."""
    chosen: list = []
    greedy: list = []
    for seed in range(12):
        base, index = make(seed, videos=12, frames=15, missing=False)
        rng, truth = np.random.default_rng(seed), index.select("valence", "arousal").to_numpy()
        video = index["video"].rank("dense").to_numpy() - 1
        sides = []
        for _ in range(2):
            spread = rng.choice([0.1, 1.5], (12, 1))[video]
            va = (truth + rng.normal(0, 1, truth.shape) * spread).clip(-1, 1)
            sides.append(base.select("image", valence=pl.Series(va[:, 0]), arousal=pl.Series(va[:, 1])))
        first, second = (index.filter(pl.Series(video < 6)), index.filter(pl.Series(video >= 6)))
        lambdas, tuning = tune_fusion(*sides, first)
        best = tuning.curves["lambda"][tuning.curves["score"].arg_max()]
        for share, totals in ((lambdas["va"], chosen), (best, greedy)):
            totals.append(score(fuse(*sides, {"va": share}), second, resamples=0).total)
    assert np.mean(chosen) > np.mean(greedy) + 0.005


def test_tuning_does_not_leak(make):
    """On noise the in-sample score flatters; the cross-fitted one does not: its mean over seeds is that of chance."""
    gains = []
    for seed in range(12):
        _, index = make(seed, videos=6, frames=25, missing=False)
        rng = np.random.default_rng(100 + seed)
        sides = [
            pl.DataFrame({"image": index["image"], "valence": v, "arousal": a})
            for v, a in rng.uniform(-1, 1, (2, 2, index.height))
        ]
        row = tune_fusion(*sides, index)[1].scores.row(0, named=True)
        gains.append((row["in_sample"], row["cross_fitted"]))
    flattering, honest = np.mean(gains, 0)
    assert flattering > 0.02
    assert abs(honest) < 0.02


def test_both_persons_of_a_video_are_in_one_fold(make):
    """Two source videos of two persons each: with more folds than that, a fold would know its other half."""
    single, index = make(0, videos=4)
    names = {"v00": "a_left", "v01": "a_right", "v02": "b", "v03": "b_right"}
    index = index.with_columns(pl.col("video").replace(names))
    assert tune_fusion(single, single, index)[1].folds == 2


def test_one_video_cannot_be_cross_fitted(make):
    single, index = make(0, videos=1)
    multi, _ = make(0, videos=1, noise=0.8)
    lambdas, tuning = tune_fusion(single, multi, index)
    assert set(lambdas) == set(TASKS)
    assert tuning.scores["cross_fitted"].null_count() == 3
    assert "-" in tuning.table()


def test_tuning_tunes_what_both_sides_and_the_labels_hold(pair):
    single, multi, index = pair
    lambdas, _ = tune_fusion(
        [only(single, "va"), only(single, "au")], multi, index.with_columns(valence=None, arousal=None)
    )
    assert set(lambdas) == {"au"}
    with pytest.raises(InputError, match="nothing to score"):
        tune_fusion(only(single, "va"), only(multi, "au"), index)
    for options in ({"folds": 1}, {"grid": []}, {"grid": [0.5, 1.5]}):
        with pytest.raises(InputError, match="tune: give at least 2 folds"):
            tune_fusion(single, multi, index, **options)


def test_same_seed_same_tuning(pair):
    first, second = (tune_fusion(*pair, seed=4)[1].scores for _ in range(2))
    assert first.equals(second)
