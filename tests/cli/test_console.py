"""A console that cannot show every character still gets the result, with the character spelled out."""

import io
import sys

import pytest

from triaffect.cli.main import VERBS, main
from triaffect.data.index import save_index
from triaffect.data.predictions import save_predictions
from triaffect.report.results import Failure, StudyResults
from worlds import jpeg, plain


@pytest.fixture(params=["cp1252", "ascii"])
def run(request):
    """Returns a function that runs a verb on a narrow console; it returns the exit code and what was printed."""

    def run(*words):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=request.param) for _ in range(2)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            try:
                code = main(list(words))
            except SystemExit as stop:
                code = stop.code
        for stream in streams:
            stream.flush()
        return code, "".join(stream.buffer.getvalue().decode(request.param) for stream in streams)

    return run


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb, run):
    code, printed = run(verb, "--help")
    assert code == 0
    assert f"usage: triaffect {verb}" in printed


def test_study(run, monkeypatch):
    pytest.importorskip("torch")

    def finished_study(*arguments, progress, **options):
        progress("demo: epochs × images")
        lines = ["Fused with the λ of the other half: −0.300 to +0.100."]
        return StudyResults(answer=lines, failures=[Failure("Прогон", "нет")])

    monkeypatch.setattr("triaffect.study.study.run_study", finished_study)
    code, printed = run("study", "demo")
    assert code == 1
    assert r"\u03bb of the other half: \u2212" in printed
    assert r"failed: \u041f" in printed


def test_fuse_tuned(run, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    single, index = make(1, noise=0.4)
    multi, _ = make(1, noise=0.6)
    save_index(index, "index.parquet", root=tmp_path, images=tmp_path, format="table")
    save_predictions(single, "single.parquet", {})
    save_predictions(multi, "multi.parquet", {})
    code, printed = run("fuse", "single.parquet", "multi.parquet", "--tune", "index.parquet")
    assert code == 0
    assert (tmp_path / "fused.parquet").is_file()
    assert r"\u03bb" in printed


def test_analyze_a_file_with_a_cyrillic_name(run, tmp_path):
    image = jpeg(tmp_path / "лицо.jpg", plain())
    code, printed = run("analyze", str(image), "--cropped", "--backend", "onnx")
    assert code == 0
    assert r"\u043b\u0438\u0446\u043e.jpg" in printed
    assert "valence" in printed
