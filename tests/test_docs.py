"""The pages of docs/: every command in them runs, and every block of Python and R; the site builds without warnings."""

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

import triaffect as ta
from triaffect.cli.main import VERBS, main, option_words, train_parser, verb_function, verb_parser
from triaffect.data.convert import convert
from triaffect.inference.video import read_video
from triaffect.inference.video_writer import VideoWriter
from triaffect.inference.web import example_files
from triaffect.labels import PREDICTION_COLUMNS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")])
PAGES = [path for path in PAGES if path.name not in ("log.md", "changelog.md", "model-card.md", "performance.md")]
LONG = {"train", "study", "render", "features", "demo", "export", "web"}
"""Verbs that take minutes, do not end, or need another program's files: their commands are parsed, not run."""


def blocks(path, language):
    """The fenced blocks of a page in a language, with their lines."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)


def commands(path):
    """The words after `triaffect` of each command of a page's shell blocks, comments removed."""
    for block in blocks(path, "(?:bash)?"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("triaffect "):
                yield shlex.split(line, comments=True)[1:]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with every file that the pages name."""
    folder = tmp_path_factory.mktemp("desk")
    pictures, clip = example_files(folder)
    shutil.copy(pictures[1], folder / "photo.jpg")
    shutil.copy(pictures[0], folder / "neutral.jpg")
    frames = [frame for frame in read_video(Path(clip)) if frame.number < 12]
    (folder / "sessions").mkdir()
    for name in ("sessions/one.mp4", "sessions/two.mp4", "clip.mp4"):
        with VideoWriter(folder / name) as writer:
            for frame in frames:
                writer.write(frame.pixels, frame.time)
    (folder / "pictures").mkdir()
    shutil.copy(pictures[0], folder / "pictures/one.png")
    (folder / "codes.csv").write_text("file,frame,AU12\none.png,0,1\n")
    assert main(["analyze", str(folder / "sessions"), "--out", str(folder / "made")]) == 0
    convert(folder / "made/faces.parquet", "elan", folder / "coder")
    tree = ta.sample(folder / "Third ABAW Annotations")
    for path in [*tree.rglob("face*.txt"), *tree.glob("cropped_aligned/face*")]:
        if path.stem not in ("face0000", "face0001", "face0003"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.move(tree / "cropped_aligned", folder / "cropped_aligned")
    words = [str(tree), "--images", str(folder / "cropped_aligned"), "--out", str(folder / "index.parquet")]
    assert main(["index", *words]) == 0
    index = ta.load_index(folder / "index.parquet")
    index = index.filter(pl.col("split") == "val")
    release = ["image,valence,arousal,expression,aus", *(f"{name}," for name in index["image"])]
    (folder / "MTL_Challenge_test_set_release.txt").write_text("\n".join(release) + "\n")
    predictions = ta.predict("triaffect-base", index, folder / "cropped_aligned")
    ta.save_predictions(predictions, folder / "multi.parquet")
    for task, columns in PREDICTION_COLUMNS.items():
        ta.save_predictions(predictions.select("image", *columns), folder / f"{task}.parquet")
    shutil.copytree(Path(ta.__file__).parent / "inference/base", folder / "runs/multi")
    (folder / "my.yaml").write_text("training: {epochs: 1}\n")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_of_the_page_runs(page, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    for verb, *words in commands(page):
        if verb.startswith("-") or verb == verb.upper():  # a placeholder
            continue
        assert verb in VERBS, verb
        if any(word in ("--help", "-h") for word in words):
            continue
        if verb in LONG:
            if VERBS[verb].extra == "train" and find_spec("torch") is None:
                continue
            function = verb_function(verb)
            parser = train_parser(function) if verb == "train" else verb_parser(verb, function)
            parser.parse_args(option_words(verb, words))
            continue
        words = [name for word in words for name in (sorted(glob.glob(word)) if glob.has_magic(word) else [word])]
        code = main([verb, *words])
        assert code == 0, (verb, words, capsys.readouterr().err)


@pytest.mark.parametrize("page", [path for path in PAGES if blocks(path, "python")], ids=lambda path: path.name)
def test_the_python_of_the_page_runs(page, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    names = {}
    for block in blocks(page, "python"):
        if "ta.train(" in block:
            compile(block, str(page), "exec")
        else:
            exec(block, names)


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_the_r_of_the_page_runs(desk):
    assert main(["analyze", str(desk / "sessions"), "--out", str(desk / "results"), "--baseline", "first:3s"]) == 0
    script = "\n".join(blocks(ROOT / "docs/howto/r.md", "r"))
    if subprocess.run(["Rscript", "-e", "library(lme4)"], capture_output=True).returncode:
        script = re.sub(r"library\(lme4\)|^model <-.*$|^print\(fixef.*$", "", script, flags=re.M)
    done = subprocess.run(["Rscript", "-e", script], cwd=desk, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (desk / "valence.png").stat().st_size > 1000


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="the group docs is not installed")
def test_the_site_builds_without_warnings(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(https?://fonts[^"]*)', html)


def test_pages_link_to_files_that_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
