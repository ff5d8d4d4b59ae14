"""A user's mypy sees the types of the public names."""

import subprocess
import sys
from pathlib import Path

import pytest

import triaffect

pytest.importorskip("mypy")

USER_FILE = """
import triaffect
from triaffect import Analyzer, load_index

reveal_type(load_index)
reveal_type(Analyzer().image)
reveal_type(triaffect.score)
reveal_type(triaffect.TrainConfig().training.epochs)
"""


def run_mypy(tmp_path, text):
    """Run mypy as a user does, on a file outside the project; types of other packages are those of `make test`."""
    (tmp_path / "user.py").write_text(text)
    words = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", str(tmp_path / "user.py")]
    return subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent.parent)


@pytest.mark.timeout(600)
def test_types_are_visible_and_wrong_names_are_errors(tmp_path):
    names = "\n".join(f"reveal_type(triaffect.{name})" for name in triaffect.__all__)
    wrong = "\ntriaffect.load_indexx\nfrom triaffect import Analyser\nload_index(3)\n"
    lines = run_mypy(tmp_path, USER_FILE + names + wrong).stdout.splitlines()
    revealed = [line.partition("Revealed type is ")[2] for line in lines if "Revealed type" in line]
    assert "str | " in revealed[0] or "Union[" in revealed[0]
    assert "DataFrame" in revealed[0]
    assert "DataFrame" in revealed[1]
    assert "Scores" in revealed[2]
    assert "int" in revealed[3]
    assert len(revealed) == 4 + len(triaffect.__all__)
    assert '"Any"' not in revealed
    errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
    assert len(errors) == 3, lines
    assert 'no attribute "load_indexx"' in errors[0]
    assert 'no attribute "Analyser"' in errors[1]
    assert 'incompatible type "int"' in errors[2]
