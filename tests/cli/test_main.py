"""The command line itself: help, typing errors, exit codes, and verbs whose extra is missing."""

import inspect
import os
import pkgutil
import shutil
import subprocess
import sys
from importlib import import_module

import pytest

import triaffect.cli
from triaffect.cli import main as cli
from triaffect.cli.main import VERBS, verb_function

WITHOUT_TORCH = """
import sys
for name in ("torch", "timm", "lightning", "torchvision"):
    sys.modules[name] = None  # as if it were not installed
from triaffect.cli.main import VERBS, main
for verb in VERBS:
    try:
        main([verb, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, verb
print(sorted({"matplotlib", "onnxruntime", "openvino", "scipy", "cv2"} & set(sys.modules)))
"""


def test_help_lists_every_verb(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_lists_its_options(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name, parameter in inspect.signature(verb_function(verb)).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert (name if required and verb != "train" else f"--{name.replace('_', '-')}") in text


def test_no_help_needs_torch_or_loads_heavy_modules():
    result = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_every_public_function_of_the_verb_modules_is_a_verb():
    functions = set()
    for module in pkgutil.iter_modules(triaffect.cli.__path__):
        if module.name != "main":
            names = vars(import_module(f"triaffect.cli.{module.name}")).items()
            functions |= {n for n, value in names if inspect.isfunction(value) and n[0] != "_"}
    assert functions == set(VERBS)


def test_a_misspelt_verb_is_corrected(capsys):
    assert cli.main(["scor"]) == 2
    assert "did you mean score?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "a", "b", "--resamplez", "3"], "unrecognized arguments: --resamplez 3; did you mean --resamples?"),
        (["score", "a", "b", "--seed", "x"], "--seed: Expected int. Got value: x; see triaffect score --help"),
        (["score"], "the following arguments are required: predictions, index; see triaffect score --help"),
        (["train", "--out", "x", "--data.indx=y"], "unrecognized arguments: --data.indx=y; did you mean --data.index?"),
        (["train", "--out", "x", "--config", "none"], "none: no such file; name a YAML file or one of"),
    ],
)
def test_a_wrong_option_is_one_line(words, message, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"triaffect {words[0]}: ")
    assert error.count("\n") == 1


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


@pytest.mark.parametrize("flag", ["--max-faces", "--max_faces"])
def test_options_are_accepted_with_dashes_and_with_underscores(flag):
    words = cli.option_words("analyze", ["photo.jpg", flag, "3"])
    values = cli.verb_parser("analyze", verb_function("analyze")).parse_args(words)
    assert values.max_faces == 3


def test_train_accepts_dashes_and_the_name_of_a_bundled_config():
    words = cli.option_words("train", ["--config", "ferplus", "--training.early-stop", "3", "--data.index=a-b.csv"])
    assert words[1].endswith("ferplus.yaml")
    assert words[2:] == ["--training.early_stop", "3", "--data.index=a-b.csv"]


@pytest.mark.parametrize("verb", ["train", "features"])
def test_a_verb_without_its_extra_names_it(verb, capsys, monkeypatch, tmp_path, frames):
    pytest.importorskip("lightning")  # else another package of the extra is missed first
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    for module in [name for name in sys.modules if name.startswith("triaffect.training.")]:
        monkeypatch.delitem(sys.modules, module)
    words = {
        "train": ["--data.index", str(frames[0]), "--out", str(tmp_path / "run")],
        "features": [str(tmp_path), str(frames[0]), "--images", str(frames[1])],
    }[verb]
    assert cli.main([verb, *words]) == 2
    assert f"needs torch: pip install 'triaffect[{VERBS[verb].extra}]'" in capsys.readouterr().err


def test_help_keeps_its_lines_and_says_what_it_is_for(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert "\n  --training.epochs N     passes over the training split\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["analyze", "--help"])
    text = capsys.readouterr().out
    assert "What a face shows is not what a person feels." in text
    assert "null" not in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_shell_completes_verbs_and_options(capsys):
    assert cli.main(["--completion", "bash"]) == 0
    script = capsys.readouterr().out
    for words, expected in (
        ("an", "analyze"),
        ("analyze photo.jpg --max", "--max-faces"),
        ("score p i --sp", "--split"),
        ("analyze pho", ""),
    ):
        line = f"{script}\nCOMP_WORDS=(triaffect {words})\nCOMP_CWORD={len(words.split())}\n_triaffect"
        line += '\necho "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
    assert cli.main(["--completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert cli.main(["--completion", "fish"]) == 2
    assert "there is bash and zsh" in capsys.readouterr().err


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def stopped(folder):
        raise KeyboardInterrupt

    stopped.__annotations__ = {"folder": str}
    monkeypatch.setattr("triaffect.cli.data.sample", stopped)
    assert cli.main(["sample", "x"]) == 130
    assert capsys.readouterr().err == "triaffect sample: stopped\n"


def test_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "triaffect.cli.main", "--help"]
    result = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert result.returncode == 0
    assert result.stderr == ""
