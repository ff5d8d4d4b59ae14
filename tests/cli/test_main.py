"""The command line itself: help, typing errors, exit codes, and verbs whose extra is not installed."""

import inspect
import sys

import pytest

from triaffect import cli as verbs
from triaffect.cli import main as cli


def test_help_lists_every_verb(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_tells_its_options(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in inspect.signature(getattr(verbs, verb)).parameters:
        assert name in text


def test_every_verb_has_a_function_and_no_function_is_without_a_verb():
    functions = {name for name, value in vars(verbs).items() if inspect.isfunction(value) and name[0] != "_"}
    assert functions == set(cli.VERBS)
    assert set(cli.EXTRAS) <= set(cli.VERBS)


def test_a_misspelt_verb_is_told_the_right_one(capsys):
    assert cli.main(["scor"]) == 2
    assert "did you mean score?" in capsys.readouterr().err


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


@pytest.mark.parametrize("verb", ["train", "features"])
def test_a_verb_without_its_extra_says_which_one(verb, capsys, monkeypatch, tmp_path, frames):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    for module in [name for name in sys.modules if name.startswith("triaffect.learning.")]:
        monkeypatch.delitem(sys.modules, module)
    words = {
        "train": ["--data.index", str(frames[0]), "--out", str(tmp_path / "run")],
        "features": [str(tmp_path), str(frames[0]), "--images", str(frames[1])],
    }[verb]
    assert cli.main([verb, *words]) == 2
    assert f"needs torch: pip install 'triaffect[{cli.EXTRAS[verb]}]'" in capsys.readouterr().err


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def stopped(folder):
        raise KeyboardInterrupt

    stopped.__annotations__ = {"folder": str}
    monkeypatch.setattr(verbs, "sample", stopped)
    assert cli.main(["sample", "x"]) == 130
    assert capsys.readouterr().err == "triaffect sample: stopped\n"
