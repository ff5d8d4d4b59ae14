"""Pictures that every run draws, made small."""

from importlib.util import find_spec

import pytest
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def small_curves(request, monkeypatch):
    """Drawing the curves takes longer than a run of the tests; the test of the run folder has the real ones."""
    if "real_curves" not in request.fixturenames and find_spec("torch"):
        monkeypatch.setattr("triaffect.training.run_folder.training_curves", lambda table, kept_row: Figure((1, 1)))


@pytest.fixture
def real_curves():
    return True
