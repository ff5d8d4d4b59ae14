"""The functions of examples/calibrate.py on data whose calibration is known."""

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("scipy", reason="needs scipy")


@pytest.fixture(scope="module")
def example(load_example):
    return load_example("calibrate")


def test_the_temperature_of_sharpened_outputs_is_found(example):
    rng = np.random.default_rng(0)
    raw = rng.normal(0, 2, (4000, 8))
    p = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    codes = np.array([rng.choice(8, p=row) for row in p])
    assert example.temperature(1.7 * raw, codes) == pytest.approx(1.7, rel=0.08)
    np.testing.assert_allclose(np.exp(example.log_softmax(raw)), p)


def test_the_calibration_error_is_the_weighted_gap_of_each_bin(example):
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([1, 1, 1, 0, 1, 0])
    assert example.calibration_error(confidence, correct) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)


def test_scale_and_shift_of_a_sigmoid_are_found(example):
    rng = np.random.default_rng(1)
    z = rng.normal(0, 2, 20000)
    present = rng.random(len(z)) < 1 / (1 + np.exp(-(0.5 * z - 1)))
    scale, shift = example.platt(z, present.astype(int))
    assert scale == pytest.approx(0.5, abs=0.05)
    assert shift == pytest.approx(-1, abs=0.08)


def test_the_curve_of_intensity_rises_and_follows_the_truth(example):
    rng = np.random.default_rng(2)
    intensity = rng.uniform(0, 1, 5000)
    line = example.curve(8 * intensity - 4 + rng.normal(0, 0.3, 5000), intensity)
    assert np.all(np.diff(line["log_odds"]) > 0)
    assert np.all(np.diff(line["intensity"]) >= 0)
    assert np.interp(0, line["log_odds"], line["intensity"]) == pytest.approx(0.5, abs=0.03)


def test_halves_never_share_a_person(example):
    people = pl.Series([f"p{i // 5}" for i in range(60)])
    for fit, check in example.halves(people):
        assert not set(people.filter(fit)) & set(people.filter(check))
        assert (fit ^ check).all()
