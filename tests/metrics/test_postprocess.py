"""Post-processing: made-up predictions with a known optimum, noise without one, and files."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from sklearn.metrics import f1_score, log_loss

from triaffect.cli.main import main
from triaffect.data.index import provenance
from triaffect.data.predictions import load_predictions, save_predictions
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, PREDICTION_COLUMNS
from triaffect.metrics.bootstrap import number_sources
from triaffect.metrics.postprocess import (
    PostProcessing,
    VaScaling,
    best_biases,
    best_temperature,
    best_threshold,
    smooth,
)
from triaffect.metrics.scores import score
from triaffect.metrics.tuning import calibration_error, tune


def frames(n, videos, step=1):
    video = np.repeat(np.arange(videos), n // videos)
    frame = np.tile(np.arange(n // videos) * step + 1, videos)
    return video, frame


def made(video, frame, labels, predictions):
    names = [f"v{v:02d}/{f:05d}.jpg" for v, f in zip(video, frame, strict=True)]
    empty = {"valence": None, "arousal": None, "expression": None, **dict.fromkeys(ACTION_UNITS)}
    key = {"image": names, "video": [f"v{v:02d}" for v in video], "frame": frame, "split": ["val"] * len(names)}
    index = pl.DataFrame({**key, "exists": [True] * len(names)}).with_columns(
        [pl.Series(c, labels[c]) if c in labels else pl.lit(v, pl.Float64).alias(c) for c, v in empty.items()]
    )
    return pl.DataFrame({"image": names, **predictions}), index


def slow_smooth(values, video, frame, sigma):
    """The formula, in float64."""
    out = np.array(values, float)
    for i in range(len(out)):
        distance = frame - frame[i]
        near = (video == video[i]) & (abs(distance) <= int(4 * sigma + 0.5))
        weight = np.exp(-(distance[near] ** 2) / (2 * sigma**2))
        out[i] = (weight[:, None] * values[near]).sum(0) / weight.sum()
    return out


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("sigma", [1.0, 2.5, 8.0])
def test_at_constant_gaps_smoothing_is_scipys(step, sigma):
    values = np.random.default_rng(0).normal(size=(400, 2))
    video, frame = frames(400, 1, step)
    order = np.random.default_rng(1).permutation(400)
    result = np.empty_like(values)
    result[order] = smooth(values[order], video[order], frame[order], sigma * step)
    inner = slice(60, -60)
    expected = gaussian_filter1d(values, sigma, axis=0)
    np.testing.assert_allclose(result[inner], expected[inner], atol=1e-9 if step == 1 else 2e-4)


@given(st.integers(0, 10_000), st.floats(0.5, 6))
def test_smoothing_over_gaps_and_videos_is_the_formula(seed, sigma):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 4, 60)
    frame = rng.choice(90, 60, replace=False) * rng.choice([1, 1, 40], 60) + 1
    values = rng.normal(size=(60, 2))
    np.testing.assert_allclose(smooth(values, video, frame, sigma), slow_smooth(values, video, frame, sigma), atol=1e-9)


def test_missing_values_have_no_weight_and_stay():
    values = np.array([[1.0], [np.nan], [3.0], [5.0]])
    result = smooth(values, np.zeros(4, int), np.arange(4), 2.0)
    assert np.isnan(result[1, 0])
    finite = np.array([0, 2, 3])
    np.testing.assert_allclose(result[finite], slow_smooth(values[finite], np.zeros(3), finite, 2.0))
    far = np.array([1, 10**9, 2 * 10**9, 5])  # neither a line of a billion cells nor a neighbour
    np.testing.assert_array_equal(smooth(values[[0, 2, 3, 3]], np.array([0, 0, 0, 1]), far, 8.0)[:, 0], [1, 3, 5, 5])


def test_a_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    y = (rng.random(3000) < 0.15).astype(float)
    p = np.clip(0.12 + 0.1 * y + rng.normal(0, 0.06, 3000), 0, 1)
    best = max(f1_score(y, p >= cut) for cut in np.unique(p)[::5])
    assert f1_score(y, p >= best_threshold(p, y)) == pytest.approx(best, abs=0.005)
    assert f1_score(y, p >= 0.5, zero_division=0) < 0.1
    assert best_threshold(p, np.zeros(3000)) == best_threshold(p, np.full(3000, -1.0)) == 0.5


def test_biases_recover_priors_that_were_taken_away():
    rng = np.random.default_rng(0)
    target = rng.choice(8, 6000, p=[0.4, 0.05, 0.05, 0.05, 0.2, 0.1, 0.05, 0.1])
    scores = rng.normal(0, 1, (6000, 8))
    scores[np.arange(6000), target] += 2.5
    wrong = np.array([2.0, -1, 0.5, -2, 0, 1, 0, 1])
    best = f1_score(target, scores.argmax(1), average="macro")
    spoilt = f1_score(target, (scores + wrong).argmax(1), average="macro")
    result = np.array(best_biases(scores + wrong, target))
    corrected = f1_score(target, (scores + wrong + result).argmax(1), average="macro")
    assert spoilt < best - 0.15
    assert corrected >= best - 0.002  # the even priors are not quite the best for macro F1
    assert best_biases(np.zeros((0, 8)), np.zeros(0, int)) == [0.0] * 8


def test_the_temperature_is_the_one_that_spoilt_the_probabilities():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (20_000, 8))
    truth = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    target = (truth.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    result = best_temperature(scores * 3, target)
    assert result == pytest.approx(3, rel=0.05)

    def p(t):
        z = np.exp(scores * 3 / t)
        return z / z.sum(1, keepdims=True)

    losses = [log_loss(target, p(t), labels=range(8)) for t in (result * 0.97, result, result * 1.03)]
    assert losses[1] == min(losses)
    assert calibration_error(p(1), target) > 0.1
    assert calibration_error(p(result), target) < 0.015


def test_matched_moments_give_the_correlation_and_intervals_hold_what_they_say():
    rng = np.random.default_rng(0)
    video, frame = frames(4000, 20, step=500)  # too far apart to be neighbours
    y = rng.normal(0, 0.25, (4000, 2)).clip(-1, 1)
    x = (0.3 * y + rng.normal(0, 0.05, y.shape) + 0.2).clip(-1, 1)
    predictions, index = made(
        video, frame, {"valence": y[:, 0], "arousal": y[:, 1]}, {"valence": x[:, 0], "arousal": x[:, 1]}
    )
    tuned = tune(predictions, index)
    assert tuned.post.va.sigma == 0
    best = np.mean([np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(2)])
    assert tuned.cross_fitted.tasks["va"] == pytest.approx(best, abs=0.01)
    assert tuned.raw.tasks["va"] < best - 0.3
    assert tuned.gain.intervals["va"][0] > 0.2
    assert tuned.coverage == pytest.approx((0.9, 0.9), abs=0.02)
    assert score(tuned.post.apply(predictions), index).tasks["va"] == pytest.approx(tuned.in_sample.tasks["va"])


def test_smoothing_is_found_where_frames_are_noisy_and_left_alone_where_they_are_not():
    rng = np.random.default_rng(0)
    video, frame = frames(3000, 10)
    slow = np.concatenate([gaussian_filter1d(rng.normal(size=(300, 2)), 15, axis=0) for _ in range(10)])
    y = np.clip(slow / slow.std() * 0.3, -1, 1)
    clear = (y + 0.02 * rng.normal(size=y.shape)).clip(-1, 1)
    noisy = (y + 0.4 * rng.normal(size=y.shape)).clip(-1, 1)
    widths = []
    for x in (clear, noisy):
        predictions, index = made(
            video, frame, {"valence": y[:, 0], "arousal": y[:, 1]}, {"valence": x[:, 0], "arousal": x[:, 1]}
        )
        tuned = tune(predictions, index)
        widths.append(tuned.post.va.sigma)
    assert widths[0] <= 2
    assert 4 <= widths[1] <= 16
    assert tuned.cross_fitted.tasks["va"] > tuned.raw.tasks["va"] + 0.1


@pytest.mark.parametrize("seed", range(4))
def test_on_noise_the_cross_fitted_gain_is_zero(seed):
    rng = np.random.default_rng(seed)
    n = 2400
    video, frame = frames(n, 24)
    labels = {"valence": rng.uniform(-1, 1, n), "arousal": rng.uniform(-1, 1, n), "expression": rng.integers(0, 8, n)}
    labels |= {name: rng.integers(0, 2, n) for name in ACTION_UNITS}
    noise = rng.random((n, 8)) + 1e-3
    predictions = dict(zip(PREDICTION_COLUMNS["expr"], (noise / noise.sum(1, keepdims=True)).T, strict=True))
    predictions |= {"valence": rng.uniform(-1, 1, n), "arousal": rng.uniform(-1, 1, n)}
    predictions |= {name: rng.uniform(0.5, 1, n) for name in ACTION_UNITS}  # always saying yes is best on noise
    tuned = tune(*made(video, frame, labels, predictions))
    for task in ("va", "expr", "au", "total"):
        low, high = tuned.gain.intervals[task]
        assert low <= 0 <= high + 0.001, task


def test_thresholds_that_help_on_other_videos_are_kept_from_few(monkeypatch):
    """Halves of 15 short videos fit twelve thresholds too badly to keep any of these."""
    monkeypatch.setattr("triaffect.metrics.tuning.SIGMAS", (0,))

    def units(rng, videos):
        video, frame = frames(8 * videos, videos)
        y = rng.random((len(video), 12)) < 0.2
        logits = 2.0 * y + rng.normal(0, 1.5, y.shape) + rng.normal(0, 0.5, (videos, 12))[video]
        labels, values = (dict(zip(ACTION_UNITS, x.T, strict=True)) for x in (y * 1.0, 1 / (1 + np.exp(-logits))))
        return made(video, frame, labels, values)

    gains = []
    for seed in (5, 6, 8, 9):
        rng = np.random.default_rng(seed)
        post = tune(*units(rng, 15)).post
        predictions, index = units(rng, 200)
        after, before = (
            score(table, index, resamples=0).tasks["au"] for table in (post.apply(predictions), predictions)
        )
        gains.append(after - before)
    assert min(gains) > 0.01


def test_with_seven_classes_nothing_is_fitted_to_other():
    rng = np.random.default_rng(0)
    n = 1200
    video, frame = frames(n, 12)
    y = rng.integers(0, 7, n)
    logits = rng.normal(size=(n, 8)) + 2 * np.eye(8)[y] + np.array([0, 0, 0, 0, 3, 0, 0, 0])
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = PREDICTION_COLUMNS["expr"]
    full = dict(zip(names, probability.T, strict=True))
    # Seven probabilities that sum to one: the conditional ones, and Other never predicted.
    conditional = probability[:, :7] / probability[:, :7].sum(1, keepdims=True)
    seven = dict(zip(names, np.c_[conditional, np.zeros(n)].T, strict=True))
    fits = []
    for columns in (full, seven):
        predictions, index = made(video, frame, {"expression": y}, columns)
        tuned = tune(predictions, index, classes=7)
        fits.append(tuned)
        after = tuned.post.apply(predictions).select(names).to_numpy()
        assert (after[:, 7] == 0).all()
        np.testing.assert_allclose(after.sum(1), 1)
        assert f1_score(y, after.argmax(1), average="macro") == pytest.approx(tuned.in_sample.tasks["expr"])
        assert tuned.cross_fitted.tasks["expr"] > tuned.raw.tasks["expr"] + 0.02
    np.testing.assert_allclose(fits[0].post.expr.bias[:7], fits[1].post.expr.bias[:7], atol=1e-6)
    assert fits[0].post.expr.temperature == pytest.approx(fits[1].post.expr.temperature)
    assert fits[0].calibration == pytest.approx(fits[1].calibration)


def test_both_persons_of_a_video_stay_together():
    names = pl.Series("video", [f"a{i}{end}" for i in range(9) for end in ("", "_right")])
    units, sources = number_sources(names)
    unit = dict(zip(names, units, strict=True))
    assert sources == 9
    assert all(unit[f"a{i}"] == unit[f"a{i}_right"] for i in range(9))
    assert sorted(set(unit.values())) == list(range(9))


def test_missing_labels_and_tasks_are_left_alone(make):
    predictions, index = make(seed=3)
    tuned = tune(predictions, index)
    assert set(tuned.post.tasks) == {"va", "expr", "au"}
    assert tuned.cross_fitted.frames == tuned.raw.frames
    only = tune(predictions.select("image", "valence", "arousal"), index)
    assert set(only.post.tasks) == {"va"}
    done = only.post.apply(predictions)
    assert done.drop("valence", "arousal").equals(predictions.drop("valence", "arousal"))
    assert "gain" in tuned.table()
    first_video = index.filter(pl.col("video") == "v00")
    with pytest.raises(InputError, match="two"):
        tune(predictions, first_video)


def test_an_analysis_is_smoothed_by_file_face_and_frame():
    rng = np.random.default_rng(0)
    va = rng.uniform(-1, 1, (40, 2))
    post = PostProcessing(va=VaScaling(sigma=2.0))
    key = {"file": ["clip.mp4"] * 40, "face": [0, 1] * 20, "frame": np.repeat(np.arange(20) * 2, 2)}
    table = pl.DataFrame({**key, "valence": va[:, 0], "arousal": va[:, 1]})
    result = post.apply(table)
    expected = slow_smooth(va, np.array(key["face"]), key["frame"], 2.0)
    np.testing.assert_allclose(result.select("valence", "arousal").to_numpy(), expected, atol=1e-9)


def test_tune_fuse_and_submit_through_files(make, tmp_path, capsys):
    predictions, index = make()
    save_predictions(predictions, tmp_path / "p.parquet", {"model": "m"})
    index.write_parquet(tmp_path / "index.parquet")
    post = tmp_path / "post.json"
    assert main(["tune", str(tmp_path / "p.parquet"), str(tmp_path / "index.parquet"), "--out", str(post)]) == 0
    assert "cross-fitted" in capsys.readouterr().out
    post_processing = PostProcessing.load(post)
    assert post_processing.source["scores"]["raw"]["total"] == pytest.approx(score(predictions, index).total)
    out = tmp_path / "fused.parquet"
    same = [str(tmp_path / "p.parquet")] * 2
    assert main(["fuse", *same, "--weights", "1", "1", "--out", str(out), "--post", str(post)]) == 0
    expected = post_processing.apply(predictions)
    np.testing.assert_allclose(load_predictions(out)["AU1"], expected["AU1"], atol=1e-12)
    assert provenance(out)["post"]["au"]["thresholds"] == list(post_processing.au.thresholds)
    text = tmp_path / "submission.txt"
    words = ["submit", *same[:1], str(tmp_path / "index.parquet"), "--out", str(text)]
    assert main([*words, "--post", str(post)]) == 0
    rows = pl.read_csv(text, skip_rows=1, has_header=False)
    likeliest = expected.select(name.lower() for name in EXPRESSIONS).to_numpy().argmax(1)
    assert rows[:, 3].to_list() == likeliest.tolist()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"va": {}}', '{"au": {"sigma": 0, "thresholds": [1]}}', "missing"])
def test_a_broken_post_file_is_refused_in_one_line(make, tmp_path, capsys, text):
    save_predictions(make()[0], tmp_path / "p.parquet")
    if text != "missing":
        (tmp_path / "post.json").write_text(text)
    words = ["submit", str(tmp_path / "p.parquet"), "list.txt", "--post", str(tmp_path / "post.json")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "post.json" in error
    assert len(error.splitlines()) == 1


def test_a_bad_width_is_refused(tmp_path):
    post = {"va": {"sigma": -1, "scale": [1, 1], "shift": [0, 0], "interval": [0, 0]}}
    (tmp_path / "post.json").write_text(json.dumps(post))
    with pytest.raises(InputError, match=r"post\.json: va\.sigma"):
        PostProcessing.load(tmp_path / "post.json")
