"""Many inputs: one result each, resumed calls, processes, clusters, shards, summaries."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest

from triaffect.cli import analysis
from triaffect.inference import one_input, results
from triaffect.inference.analyze import analyze
from triaffect.inference.analyzer import Analyzer
from triaffect.inference.inputs import Input, collect
from triaffect.inference.one_input import AnalyzeOptions, Work
from triaffect.inference.predict import predict
from triaffect.inference.results import CHUNK, FileResult, Rows
from triaffect.inference.summary import summarize
from triaffect.io import InputError
from triaffect.jobs import PerProcess
from worlds import Model, analyzer, film, find, jpeg, plain

SCRIPT = """
import sys
from triaffect.inference.analyze import analyze
from worlds import analyzer

if __name__ == "__main__":
    analyze([sys.argv[1]], analyzer(), sys.argv[2], jobs=2)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Photos and short videos in two folders, one damaged, one dark."""
    root = tmp_path_factory.mktemp("archive") / "in"
    for i in range(6):
        film(root / f"part{i % 2}" / f"v{i}.mp4", 12, pixels=lambda n, i=i: plain(60 + 20 * i + n))
        jpeg(root / f"part{i % 2}" / f"p{i}.jpg", plain(40 * i, 99, 120))
    (root / "part1" / "broken.mp4").write_bytes(b"not a video")
    jpeg(root / "part1" / "dark.jpg", plain(0, 0, 0))
    return root


@pytest.fixture(scope="module")
def undisturbed(archive, tmp_path_factory):
    """What one undisturbed process writes."""
    out = tmp_path_factory.mktemp("whole")
    analyze([str(archive)], analyzer(), str(out))
    return out


def same_tables(a, b):
    assert pl.read_parquet(a / "faces.parquet").equals(pl.read_parquet(b / "faces.parquet"))
    for name in ("faces.csv", "summary.csv", "episodes.csv", "failures.csv"):
        assert (a / name).read_text() == (b / name).read_text(), name
    assert not [path for path in b.rglob("*") if "partial" in path.name]


def failures(out):
    with open(out / "failures.csv", encoding="utf-8") as file:
        return {os.path.basename(row["path"]): row["kind"] for row in csv.DictReader(file)}


def test_every_input_has_one_result(archive, undisturbed):
    results = sorted(str(path.relative_to(undisturbed / "faces")) for path in (undisturbed / "faces").rglob("*.*"))
    assert len(results) == 14
    assert "part0/v0.parquet" in results
    assert failures(undisturbed) == {"broken.mp4": "unreadable", "dark.jpg": "no face"}
    summary = pl.read_csv(undisturbed / "summary.csv")
    assert summary.height == 13
    row = summary.filter(pl.col("file").str.ends_with("v1.mp4")).row(0, named=True)
    assert (row["face"], row["file_frames"], row["frames"], row["frames_without_face"]) == (1, 12, 12, 0)
    dark = summary.filter(pl.col("file").str.ends_with("dark.jpg")).row(0, named=True)
    assert (dark["face"], dark["file_frames"], dark["frames_without_face"]) == (None, 1, 1)


def test_a_second_call_does_only_what_is_missing_or_failed(archive, undisturbed, tmp_path):
    analyze([str(archive)], analyzer(), str(tmp_path))
    removed = tmp_path / "faces" / "part0" / "v0.parquet"
    removed.unlink()
    (tmp_path / "faces.parquet").unlink()
    new = []
    result = analyze([str(archive)], analyzer(), str(tmp_path), on_result=lambda file, rows: new.append(file.file))
    assert sorted(map(os.path.basename, new)) == ["broken.mp4", "v0.mp4"]
    assert (result.skipped, result.done, result.inputs) == (12, 14, 14)
    same_tables(undisturbed, tmp_path)


def test_another_model_other_options_or_a_changed_file_are_done_again(archive, tmp_path):
    photo = jpeg(tmp_path / "a.jpg")

    def call(this=None, **options):
        return analyze([str(photo)], this or analyzer(), str(tmp_path / "out"), AnalyzeOptions(**options)).skipped

    assert (call(), call()) == (0, 1)
    other = Model()
    other.name = "other"
    assert call(Analyzer(other, detector=find)) == 0
    assert call() == 0
    assert call(cropped=True) == 0
    assert call(cropped=True) == 1
    jpeg(photo, plain(200))
    assert call(cropped=True) == 0


@pytest.mark.parametrize("jobs", [2, 3])
def test_processes_write_what_one_writes(archive, undisturbed, tmp_path, jobs):
    analyze([str(archive)], analyzer(), str(tmp_path), jobs=jobs)
    same_tables(undisturbed, tmp_path)


def test_shards_together_are_the_whole(archive, undisturbed, tmp_path):
    results = [analyze([str(archive)], analyzer(), str(tmp_path), shard=(i, 3)) for i in (2, 1, 3)]
    assert [(result.inputs, result.tables) for result in results] == [(5, False), (5, False), (4, True)]
    same_tables(undisturbed, tmp_path)


def test_two_calls_cannot_work_in_one_folder(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom triaffect.io import exclusive\n"
        "with exclusive(Path(sys.argv[1]), ''):\n    print('locked', flush=True)\n    time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "out" / ".running" / "all.lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="another analyze works in it"):
            analyze([str(jpeg(tmp_path / "a.jpg"))], analyzer(), str(tmp_path / "out"))
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_kill_9_loses_only_the_files_in_work(archive, undisturbed, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")])
    words, out = [sys.executable, str(tmp_path / "script.py"), str(archive), str(tmp_path / "out")], tmp_path / "out"
    for number in (2, 7):
        with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and len([*(out / "faces").rglob("*.parquet")]) < number:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        times = {file: file.stat().st_mtime_ns for file in (out / "faces").rglob("*.parquet")}
    subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, check=True)
    again = {file.stem for file, written in times.items() if file.stat().st_mtime_ns != written}
    assert again <= {"broken"}
    same_tables(undisturbed, out)


@pytest.mark.timeout(600)
@pytest.mark.skipif(not find_spec("ray"), reason="needs ray")
def test_a_cluster_gives_what_one_process_gives_when_a_machine_is_lost(
    archive, undisturbed, frames, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second, address = cluster.add_node(num_cpus=1), cluster.address
        removed = []

        def remove(*_):
            if not removed:
                removed.append(cluster.remove_node(second, allow_graceful=False))

        analyze([str(archive)], analyzer(), str(tmp_path), ray=address, on_result=remove)
        monkeypatch.setattr("triaffect.inference.predict.SLICE", 32)
        index, options = pl.read_parquet(frames[0]), {"batch": 32, "backend": "onnx", "progress": False}
        ours = predict("triaffect-base", index, frames[1], ray=address, **options)
    finally:
        cluster.shutdown()
    same_tables(undisturbed, tmp_path)
    alone = predict("triaffect-base", index, frames[1], **options)
    assert ours["image"].equals(alone["image"])
    assert np.allclose(ours.drop("image"), alone.drop("image"), atol=1e-5)


def test_an_input_that_kills_its_process_is_one_failure(archive, tmp_path):
    analyze([str(archive / "part0")], Analyzer(Model(), detector=kill_on_blue), str(tmp_path), jobs=2)
    assert failures(tmp_path) == {"p2.jpg": "died"}


def kill_on_blue(pixels):
    if abs(pixels.mean((0, 1)) - (80, 99, 120)).max() < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return find(pixels)


def test_an_unexpected_error_is_one_failure(archive, tmp_path, monkeypatch):
    real = one_input.summarize

    def failing(rows):
        if "p2" in rows.select(pl.col("file").first()).collect().item():
            raise KeyError("odd")
        return real(rows)

    monkeypatch.setattr(one_input, "summarize", failing)
    result = analyze([str(archive / "part0")], analyzer(), str(tmp_path))
    assert failures(tmp_path) == {"p2.jpg": "error"}
    assert "KeyError('odd')" in result.failures[0][2]


def test_a_list_adds_inputs_and_a_dry_run_writes_no_result(archive, tmp_path, capsys, monkeypatch):
    files = sorted(map(str, archive.rglob("v*.mp4")))
    (tmp_path / "list.txt").write_text("\n".join(files) + "\n\n")
    monkeypatch.setattr("triaffect.inference.analyzer.Analyzer", lambda *_, **__: analyzer())
    options = {"out": str(tmp_path / "out"), "list": str(tmp_path / "list.txt")}
    assert analysis.analyze([], dry_run=True, **options) == 0
    printed = capsys.readouterr().out
    assert "6 inputs" in printed
    assert files[0] in printed
    assert not (tmp_path / "out" / "faces").exists()
    assert analysis.analyze([], **options) == 0
    assert pl.read_csv(tmp_path / "out" / "summary.csv")["file"].unique(maintain_order=True).to_list() == files
    with pytest.raises(InputError, match="give a text file"):
        analysis.analyze([], list=str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="no inputs"):
        analysis.analyze([])


@pytest.mark.parametrize("shard", ["0/3", "4/3", "2", "a/b"])
def test_a_shard_out_of_range_is_one_line(tmp_path, shard):
    with pytest.raises(InputError, match="2/10"):
        analysis.analyze([str(jpeg(tmp_path / "a.jpg"))], out=str(tmp_path / "out"), shard=shard)


def test_progress_says_files_rate_and_time_left():
    state = one_analysis(inputs=1000, done=250, skipped=50, new_frames=4000, seconds=100.0, running={"a.mp4": 1000})
    assert analysis._progress_line(state) == (
        "250 of 1,000 inputs, 1 failed, 50 images/s, 6 min left; a.mp4: 1,000 images"
    )


def one_analysis(**values):
    from triaffect.inference.analyze import Analysis

    return Analysis(failures=[("b.mp4", "died", "b.mp4: died")], **values)


def rows_of(values, step=0.1, face=1, **columns):
    base = Analyzer(Model(), detector=find).image(plain())
    count = len(values)
    table = pl.concat([base] * count).with_columns(
        pl.Series("time", np.arange(count) * step), pl.Series("frame", range(count)), face=pl.lit(face)
    )
    return table.with_columns(pl.Series("AU12", values), **columns).select(base.columns).cast(base.schema)


def test_episodes_have_onset_apex_and_offset():
    low, values = [0.1] * 10, [0.6, 0.9, 0.7, 0.2, 0.8, 0.6]  # one frame below .5 is bridged
    table = rows_of([*low, *values, *low, 0.55, *low])
    (face,), episodes = summarize(table.lazy())
    mine = [e for e in episodes if e["AU"] == "AU12"]
    assert [(e["onset"], e["apex"], e["offset"]) for e in mine] == [(1.0, 1.1, 1.6), (2.6, 2.6, 2.7)]
    assert mine[0]["peak"] == pytest.approx(0.9)
    assert face["AU12_rate"] == pytest.approx(60 * 2 / 3.7, abs=1e-3)
    assert face["AU12_seconds"] == pytest.approx(0.35)
    assert face["AU12_share"] == pytest.approx(6 / 37, abs=1e-4)


def test_a_face_that_leaves_ends_its_episode_and_faces_are_apart():
    table = pl.concat(
        [rows_of([0.9] * 5), rows_of([0.9] * 5, face=2), rows_of([0.9] * 5).with_columns(pl.col("time") + 9)]
    )
    faces, episodes = summarize(table.lazy())
    assert [(e["face"], e["onset"], e["offset"]) for e in episodes if e["AU"] == "AU12"] == [
        (1, 0.0, 0.5), (1, 9.0, 9.5), (2, 0.0, 0.5)
    ]  # fmt: skip
    assert [face["frames"] for face in faces] == [10, 5]


@pytest.mark.parametrize("seed", range(3))
def test_statistics_are_numpys(seed):
    rng = random.Random(seed)
    values = [rng.random() for _ in range(50)]
    table = rows_of(values).with_columns(valence=pl.Series(values, dtype=pl.Float32))
    (face,), _ = summarize(table.lazy())
    expected = {"mean": np.mean(values), "sd": np.std(values, ddof=1), "min": min(values), "max": max(values)}
    assert {name: face[f"valence_{name}"] for name in expected} == pytest.approx(expected, abs=2e-5)


def test_a_long_video_is_kept_on_disk(tmp_path):
    part = pl.concat([rows_of([0.3] * 100)] * 90)
    with Rows(part.schema, tmp_path) as rows:
        for _ in range(8):
            rows.add(part)
        assert sum(table.height for table in rows.parts) <= CHUNK
        assert rows.scan().collect().equals(pl.concat([part] * 8))
        FileResult("a").save(rows.scan(), tmp_path / "a.parquet", tmp_path)
    assert pl.read_parquet(tmp_path / "a.parquet").height == 72_000
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_the_small_tables_of_a_long_video_are_joined():
    """A table of one row takes 50 kB: the fifty thousand of half an hour would take hundreds of megabytes."""
    part = rows_of([0.3])
    with Rows(part.schema, None) as rows:
        for _ in range(1000):
            rows.add(part)
        assert len(rows.parts) <= 201
        assert rows.scan().collect().equals(pl.concat([part] * 1000))


def test_the_rows_of_many_photos_reach_the_table_in_batches(tmp_path, monkeypatch):
    """Polars keeps 100,000 rows, and a table of one row takes 50 kB: a million photos would not fit into memory."""
    row, batches = rows_of([0.3]), []
    row.write_parquet(tmp_path / "row.parquet")

    def collected(tables, schema):
        batches.extend(tables())
        return pl.concat(batches).lazy()

    monkeypatch.setattr(results, "register_io_source", collected)
    every = ((FileResult(f"{n}.jpg"), tmp_path / "row.parquet") for n in range(450))
    results.write_tables(every, tmp_path / "out", row.schema, {})
    assert [table.height for table in batches] == [200, 200, 50]
    assert pl.read_parquet(tmp_path / "out" / "faces.parquet").equals(pl.concat([row] * 450))


def test_what_is_not_complete_is_where_the_next_call_removes_it(archive, tmp_path, monkeypatch):
    """A kill in the middle of the tables would leave it."""
    seen, real = [], results.register_io_source

    def looking(tables, schema):
        seen.extend(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*partial*"))
        return real(tables, schema=schema)

    monkeypatch.setattr(results, "register_io_source", looking)
    left = tmp_path / "out" / ".running" / "all" / ".faces.0.partial.csv"
    left.parent.mkdir(parents=True)
    left.write_text("of a call that was killed")
    analyze([str(archive / "part0")], analyzer(), str(tmp_path / "out"), AnalyzeOptions(plots=True))
    assert sorted(path.name.split(".")[1] for path in seen) == [
        "episodes",
        "faces",
        "failures",
        "summary",
    ]  # a parquet file follows
    assert {str(path.parent) for path in seen} == {".running/all"}
    assert not left.exists()
    assert not list((tmp_path / "out").rglob("*partial*"))


def test_a_cluster_without_a_shared_folder_is_one_line(tmp_path):
    work = Work(PerProcess(analyzer), AnalyzeOptions(), tmp_path / "elsewhere", tmp_path / "elsewhere" / ".running")
    with pytest.raises(InputError, match="not on this machine"):
        one_input.analyze_input(work, Input(jpeg(tmp_path / "a.jpg"), tmp_path / "a"))


def test_files_in_a_store_are_copied_and_known_by_their_state(archive, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for path in sorted((archive / "part0").iterdir()):
        store.put_file(str(path), f"/bucket/day/{path.name}")
    out = tmp_path / "out"
    result = analyze(["memory://bucket/day", "memory://bucket/day/v0.mp4", "memory://none"], analyzer(), str(out))
    assert result.inputs == 6
    assert [failure[1] for failure in result.failures] == ["not found"]
    rows = pl.read_parquet(out / "faces.parquet")
    assert rows["file"].unique(maintain_order=True)[0] == "memory:///bucket/day/p0.jpg"
    analyze([str(archive / "part0")], analyzer(), str(tmp_path / "local"))
    assert rows.drop("file").equals(pl.read_parquet(tmp_path / "local" / "faces.parquet").drop("file"))
    assert analyze(["memory://bucket/day/*.mp4"], analyzer(), str(out)).skipped == 3
    store.put_file(str(archive / "part0" / "v2.mp4"), "/bucket/day/v0.mp4")
    assert analyze(["memory://bucket/day/*.mp4"], analyzer(), str(out)).skipped == 2
    store.rm("/bucket", recursive=True)


def test_a_store_without_its_package_is_one_line():
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match="pip install"):
        collect(["abfs://container/a.mp4"])


def test_pictures_that_cannot_be_written_cost_no_row(archive, undisturbed, tmp_path):
    (tmp_path / "annotated").write_text("a file where the folder should be")
    (tmp_path / "plots").write_text("a file where the folder should be")
    options = AnalyzeOptions(annotated=True, plots=True)
    analyze([str(archive)], analyzer(), str(tmp_path), options)
    assert pl.read_parquet(tmp_path / "faces.parquet").equals(pl.read_parquet(undisturbed / "faces.parquet"))
    kinds = failures(tmp_path)
    assert (kinds["p0.jpg"], kinds["v0.mp4"], kinds["broken.mp4"]) == ("not drawn", "not drawn", "unreadable")
