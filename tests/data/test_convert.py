"""Every format is read back by a reader that is not ours: csv, pympi for ELAN, the BIDS validator, BORIS's rules."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from triaffect.cli.main import main
from triaffect.data.columns import COLUMNS, columns_page, describe_column
from triaffect.data.convert import FORMATS, convert, read_faces
from triaffect.data.intervals import intervals
from triaffect.inference.analyzer import FACE_COLUMNS
from triaffect.io import InputError, Notices
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, INTENSITY_COLUMNS, PREDICTION_COLUMNS

STEP = 0.1


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Two videos with the same name, one of them with two faces and a gap, and a photo; (path, table)."""
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    rows = []
    for file, numbers in (("a/clip 1.mp4", (1, 2)), ("b/clip 1.mp4", (1,)), ("photo.jpg", (1,))):
        for face in numbers:
            for frame in [0] if file == "photo.jpg" else [i for i in range(40) if not (face == 2 and 10 <= i < 20)]:
                row = dict.fromkeys(FACE_COLUMNS, 1.0) | {"file": file, "frame": frame, "time": frame * STEP}
                row |= {"face": face, "score": 0.9, "quality_flags": "", "valence": rng.uniform(-1, 1), "arousal": 0.1}
                code = (frame // 8 + face) % 8
                row |= {n.lower(): float(i == code) for i, n in enumerate(EXPRESSIONS)}
                row |= {unit: round(rng.uniform(), 3) for unit in ACTION_UNITS} | {"AU12": float(frame % 10 < 4)}
                rows.append(row | {"expression": EXPRESSIONS[code]})
    table = pl.DataFrame(rows)
    path = folder / "faces.parquet"
    table.write_parquet(path, metadata={"triaffect": json.dumps({"model": "made up", "hash": "1234"})})
    return path, table


def runs(table, file, face, active):
    """The intervals of a face, frame by frame in plain Python: (start, stop) in seconds."""
    rows = table.filter((pl.col("file") == file) & (pl.col("face") == face)).sort("frame").to_dicts()
    result, last = [], None
    for row in rows:
        if active(row):
            if last is not None and row["frame"] - last <= 3:  # .2 s may be missing
                result[-1][1] = row["time"] + STEP
            else:
                result.append([row["time"], row["time"] + STEP])
            last = row["frame"]
    return result


def read_csv(path, delimiter=","):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_intervals_are_those_of_the_frames(faces):
    table = faces[1]
    spans = intervals(table)
    assert "photo.jpg" not in spans["file"].to_list()
    for file, face in (("a/clip 1.mp4", 1), ("a/clip 1.mp4", 2), ("b/clip 1.mp4", 1)):
        of_face = spans.filter((pl.col("file") == file) & (pl.col("face") == face))
        for tier, label, active in (
            ("AU12", "AU12", lambda row: row["AU12"] >= 0.5),
            ("AU4", "AU4", lambda row: row["AU4"] >= 0.5),
            ("expression", "Anger", lambda row: row["expression"] == "Anger"),
        ):
            part = of_face.filter((pl.col("tier") == tier) & (pl.col("label") == label))
            expected = np.reshape(runs(table, file, face, active), (-1, 2))
            assert part.select("start", "stop").to_numpy() == pytest.approx(expected), (tier, face)


def test_openface_has_its_column_names_and_a_file_per_input(faces, tmp_path):
    files = convert(faces[0], "openface", tmp_path)
    assert [path.name for path in files if path.suffix == ".csv"] == ["clip 1.csv", "clip 1-2.csv", "photo.csv"]
    rows = read_csv(tmp_path / "clip 1.csv")
    names = [f"AU{n:02d}" for n in (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)]
    head = ["frame", "face_id", "timestamp", "confidence", "success"]
    assert list(rows[0]) == head + [f"{n}_r" for n in names] + [f"{n}_c" for n in names]
    source = faces[1].filter(pl.col("file") == "a/clip 1.mp4").sort("frame", "face").to_dicts()
    assert len(rows) == len(source)
    for ours, theirs in zip(source, rows, strict=True):
        assert (int(theirs["frame"]), int(theirs["face_id"])) == (ours["frame"] + 1, ours["face"] - 1)
        assert float(theirs["AU04_r"]) == pytest.approx(5 * ours["AU4"], abs=1e-4)
        assert int(theirs["AU04_c"]) == (ours["AU4"] >= 0.5)
    sidecar = json.loads((tmp_path / "clip 1.json").read_text(encoding="utf-8"))
    assert "no intensity" in sidecar["AU04_r"]["Description"]
    graded = tmp_path / "graded.parquet"
    faces[1].with_columns(AU4_intensity=pl.lit(0.2)).write_parquet(graded)
    convert(graded, "openface", tmp_path)
    assert {float(row["AU04_r"]) for row in read_csv(tmp_path / "photo.csv")} == {1.0}


def test_elan_is_read_by_pympi(faces, tmp_path):
    pympi = pytest.importorskip("pympi", reason="pympi-ling is not installed")
    files = convert(faces[0], "elan", tmp_path)
    assert [path.name for path in files] == ["clip 1.eaf", "clip 1-2.eaf"]
    eaf = pympi.Eaf(files[0])
    assert {"face 1: expression", "face 2: expression", "face 1: AU12"} <= set(eaf.get_tier_names())
    for face in (1, 2):
        expected = runs(faces[1], "a/clip 1.mp4", face, lambda row: row["AU12"] >= 0.5)
        spans = sorted(eaf.get_annotation_data_for_tier(f"face {face}: AU12"))
        assert [(a / 1000, b / 1000) for a, b, _ in spans] == [pytest.approx(pair) for pair in expected]
    assert json.loads(dict(eaf.properties)["GeneratedBy"])["Analysis"]["hash"] == "1234"
    times = list(eaf.timeslots.values())
    assert times == sorted(times)


def test_boris_events_come_in_pairs_of_known_behaviours_and_subjects(faces, tmp_path):
    """What BORIS checks when it opens a project; its own check_project_integrity finds nothing (checked by hand)."""
    (path,) = convert(faces[0], "boris", tmp_path)
    project = json.loads(path.read_text(encoding="utf-8"))
    codes = {behaviour["code"] for behaviour in project["behaviors_conf"].values()}
    subjects = {subject["name"] for subject in project["subjects_conf"].values()}
    assert list(project["observations"]) == ["clip 1", "clip 1-2"]
    for observation in project["observations"].values():
        times = [event[0] for event in observation["events"]]
        assert times == sorted(times)
        pairs = defaultdict(list)
        for at, subject, code, _, _ in observation["events"]:
            assert subject in subjects
            assert code in codes
            pairs[subject, code].append(at)
        assert all(len(ends) % 2 == 0 for ends in pairs.values())
    smiles = pairs["face 1", "AU12"]
    expected = runs(faces[1], "b/clip 1.mp4", 1, lambda row: row["AU12"] >= 0.5)
    assert list(zip(smiles[::2], smiles[1::2], strict=True)) == [pytest.approx(pair) for pair in expected]


def test_bids_passes_the_validator(faces, tmp_path):
    convert(faces[0], "bids", tmp_path / "set")
    rows = read_csv(tmp_path / "set/sub-clip1/beh/sub-clip1_task-video_beh.tsv", "\t")
    assert len(rows) == 70
    assert {row["participant_id"] for row in read_csv(tmp_path / "set/participants.tsv", "\t")} == {
        "sub-clip1", "sub-clip12", "sub-photo"
    }  # fmt: skip
    description = json.loads((tmp_path / "set/dataset_description.json").read_text(encoding="utf-8"))
    assert description["GeneratedBy"][0]["Analysis"] == {"model": "made up", "hash": "1234"}
    validator = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([validator, "--json", str(tmp_path / "set")], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert done.returncode == 0


def test_wide_has_a_row_per_frame_and_empty_cells_for_absent_faces(faces, tmp_path):
    convert(faces[0], "csv-wide", tmp_path)
    rows = read_csv(tmp_path / "faces_wide.csv")
    assert len(rows) == 40 + 40 + 1
    first = [row for row in rows if row["file"] == "a/clip 1.mp4"]
    assert [row["valence_face2"] == "" for row in first] == [10 <= i < 20 for i in range(40)]
    of_face = faces[1].filter((pl.col("file") == "a/clip 1.mp4") & (pl.col("face") == 1)).sort("frame")
    assert [float(row["valence_face1"]) for row in first] == pytest.approx(of_face["valence"].to_list(), abs=1e-4)
    assert rows[-1]["expression_face1"] == faces[1]["expression"][-1]


def test_the_verb_and_its_errors(faces, tmp_path, capsys):
    assert main(["convert", str(faces[0]), "--to", "openface", "--out", str(tmp_path / "o")]) == 0
    assert "6 files" in capsys.readouterr().out
    with pytest.raises(InputError, match="choose from openface, elan"):
        convert(faces[0], "spss", tmp_path)
    photos = tmp_path / "photos.parquet"
    faces[1].filter(pl.col("file") == "photo.jpg").write_parquet(photos)
    for to in ("elan", "boris"):
        with pytest.raises(InputError, match="holds no video"):
            convert(photos, to, tmp_path)
    assert len(convert(photos, "bids", tmp_path / "bids")) == 6
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="has no column file"):
        convert(tmp_path / "a.csv", "elan", tmp_path)
    empty = tmp_path / "empty.parquet"
    faces[1].clear().write_parquet(empty)
    for to in FORMATS:
        with pytest.raises(InputError, match="holds no face"):
            convert(empty, to, tmp_path)


def test_a_csv_converts_as_the_parquet_file_does(faces, tmp_path):
    faces[1].write_csv(tmp_path / "faces.csv")
    for source, folder in ((faces[0], "p"), (tmp_path / "faces.csv", "c")):
        convert(source, "csv-wide", tmp_path / folder)
    assert read_csv(tmp_path / "p/faces_wide.csv") == read_csv(tmp_path / "c/faces_wide.csv")


def test_every_column_has_a_meaning_and_the_page_is_up_to_date():
    predictions = [name for names in PREDICTION_COLUMNS.values() for name in names]
    assert [*FACE_COLUMNS, "expression", *predictions, *INTENSITY_COLUMNS] == list(COLUMNS)
    assert describe_column("AU12_change").range == "-1 to 1"
    assert describe_column("nonsense").meaning == ""
    page = Path(__file__).parents[2] / "docs/columns.md"
    assert page.read_text(encoding="utf-8") == columns_page(), "run: make columns"


def test_a_table_that_a_spreadsheet_saved_is_the_same(faces, tmp_path):
    path, words = tmp_path / "faces.csv", faces[1].write_csv(separator=";")
    path.write_text(re.sub(r"(?<=\d)\.(?=\d)", ",", words), encoding="utf-16")
    notices = Notices()
    assert_frame_equal(read_faces(path, notices), read_faces(faces[0]), check_dtypes=False, abs_tol=1e-12)
    assert [line for line in notices.lines() if "separated by ';'" in line]
    own = tmp_path / "own.csv"  # with a column of the user's own
    faces[1].with_columns(condition=pl.lit("A")).write_csv(own)
    assert set(read_faces(own)["condition"]) == {"A"}
    path.write_text(words.replace("0.9;", "high;", 1))
    with pytest.raises(InputError, match=r"faces.csv:2: score is 'high'.*write a number"):
        read_faces(path)
