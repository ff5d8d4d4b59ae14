"""Intensities of action units: read off the probabilities by a model's own curves."""

import numpy as np
import pytest

import triaffect as ta
from triaffect.inference.intensity import au_intensity
from triaffect.labels import ACTION_UNITS, INTENSITY_COLUMNS
from worlds import Model, find, plain

CURVES = {unit: {"log_odds": [-2.0, 0.0, 4.0], "intensity": [0.0, 0.3, 1.0]} for unit in ACTION_UNITS}


def test_intensity_is_interpolated_in_log_odds_and_rises_with_the_probability():
    probability = np.array([0.0, 1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-2), 1.0])
    values = au_intensity(np.repeat(probability[:, None], 12, 1), CURVES)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[:, 3], [0, 0, 0.3, 0.65, 1], atol=1e-6)
    rising = au_intensity(np.repeat(np.linspace(0, 1, 50)[:, None], 12, 1), CURVES)
    assert (np.diff(rising, axis=0) >= 0).all()


def test_tables_have_intensities_only_where_the_model_has_a_scale():
    class Calibrated(Model):
        provenance = {"au_intensity": CURVES}  # noqa: RUF012

    pixels = plain(40, 200, 255, (100, 60))
    table = ta.Analyzer(Calibrated(), detector=find).image(pixels)
    assert table.columns[-12:] == list(INTENSITY_COLUMNS)
    expected = au_intensity(table.select(ACTION_UNITS).to_numpy(), CURVES)
    np.testing.assert_allclose(table.select(INTENSITY_COLUMNS).to_numpy(), expected, atol=1e-6)
    plain_table = ta.Analyzer(Model(), detector=find).image(pixels)
    assert not set(INTENSITY_COLUMNS) & set(plain_table.columns)
    empty = ta.Analyzer(Calibrated(), detector=find).image(plain(0, 0, 0))
    assert empty.schema == table.schema
    assert float(table["AU12_intensity"][0]) == pytest.approx(float(expected[0, ACTION_UNITS.index("AU12")]))


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_the_bundled_model_has_a_scale_of_intensity(backend):
    if backend == "torch":
        pytest.importorskip("torch", reason="needs torch")
    crops = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    table = ta.Analyzer(backend=backend).image(crops, cropped=True)
    values = table.select(INTENSITY_COLUMNS).to_numpy()
    assert ((values >= 0) & (values <= 1)).all()
    curves = ta.Analyzer(backend=backend).curves
    assert list(curves) == list(ACTION_UNITS)
    assert all(np.all(np.diff(line[key]) >= 0) for line in curves.values() for key in ("log_odds", "intensity"))
