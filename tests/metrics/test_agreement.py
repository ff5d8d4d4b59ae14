"""Agreement with human coders: measures against pingouin and scikit-learn, codes in every form against plain Python."""

import json

import numpy as np
import polars as pl
import pytest

from triaffect.cli.main import main
from triaffect.data.codes import codes_of_frames, read_codes
from triaffect.data.convert import convert
from triaffect.io import InputError
from triaffect.labels import EXPRESSIONS
from triaffect.metrics import measures
from triaffect.metrics.agreement import agreement, categorical_agreement, continuous_agreement

rng = np.random.default_rng(0)
FRAMES, STEP = 60, 0.1


def video(name, face=1):
    n = FRAMES
    columns = {"file": f"data/{name}.mp4", "frame": np.arange(n), "time": np.arange(n) * STEP, "face": face}
    codes = rng.integers(0, 8, n)
    return pl.DataFrame(columns).with_columns(
        valence=pl.Series(rng.uniform(-1, 1, n)),
        AU12=pl.Series(np.repeat(rng.permutation(n // 5) / (n // 5 - 1), 5)),  # intervals bridge shorter dips
        expression=pl.Series([EXPRESSIONS[code] for code in codes]),
    )


@pytest.fixture(scope="module")
def faces():
    return pl.concat([video("a"), video("b"), video("c")])


def value(table, target, measure):
    return table.filter((pl.col("target") == target) & (pl.col("measure") == measure)).row(0, named=True)


def test_icc_is_that_of_pingouin():
    """The figures are those of pingouin 0.7.0, intraclass_corr, ICC(A,1) and ICC(C,1)."""
    ours = np.array([0.1, 0.4, 0.35, 0.8, 0.9, 0.2, 0.55, 0.7])
    coded = np.array([0.3, 0.5, 0.3, 0.9, 1.0, 0.5, 0.4, 0.95])
    for codes, icc2, icc3 in ((coded, 0.8262722487, 0.8675967360), (coded[::-1], 0.2763832659, 0.2695446170)):
        result = continuous_agreement({"moments": measures.moments(ours, codes, np.zeros(8, np.intp), 1)[0]})
        assert result["ICC(2,1)"] == pytest.approx(icc2)
        assert result["ICC(3,1)"] == pytest.approx(icc3)
        squares = ours.var() + codes.var() + (ours - codes).mean() ** 2
        assert result["CCC"] == pytest.approx(2 * np.cov(ours, codes, ddof=0)[0, 1] / squares)


def test_kappa_and_f1_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    for classes in (2, 8):
        coded, ours = rng.integers(0, classes, 200), rng.integers(0, classes, 200)
        ours[:120] = coded[:120]
        counts = np.zeros((classes, classes))
        np.add.at(counts, (coded, ours), 1)
        result = categorical_agreement({"counts": counts})
        assert result["kappa"] == pytest.approx(sklearn.cohen_kappa_score(coded, ours))
        average = "binary" if classes == 2 else "macro"
        assert result["F1"] == pytest.approx(sklearn.f1_score(coded, ours, average=average))


def test_intervals_frames_and_intensities(faces, tmp_path):
    """Codes that follow ours exactly agree exactly; a video without a code of a unit counts as 0 for it."""
    active = (faces["AU12"] >= 0.5).to_numpy()
    convert_from = tmp_path / "faces.parquet"
    faces.write_parquet(convert_from)
    exact = [str(path) for path in convert(convert_from, "elan", tmp_path / "elan")]
    table, notices = agreement(faces, exact)
    assert notices == []
    for target in ("AU12", "expression"):
        assert value(table, target, "kappa")["value"] == pytest.approx(1)
        assert value(table, target, "kappa")["low"] == pytest.approx(1)
        assert value(table, target, "F1")["frames"] == 3 * FRAMES
    rows = faces.select("file", "frame", "valence", AU12_r=pl.col("AU12") * 5)
    rows.with_columns(pl.col("file").str.replace("data/", "other\\")).write_csv(tmp_path / "codes.csv", separator=";")
    table, _ = agreement(faces, [str(tmp_path / "codes.csv")], present=2.5)
    for target, measure in (("valence", "ICC(2,1)"), ("valence", "CCC"), ("AU12", "ICC(3,1)"), ("AU12", "kappa")):
        assert value(table, target, measure)["value"] == pytest.approx(1), (target, measure)
    (tmp_path / "a.csv").write_text("Behavior,Start (s),Stop (s),Subject\nau12,0,1,face 1\nother,1,2,\n")
    (tmp_path / "b.csv").write_text("onset\tduration\ttrial_type\n1\t2\tHAPPINESS\n")
    coded, _ = codes_of_frames(faces, [str(tmp_path / name) for name in ("a.csv", "b.csv")])
    a, b = (coded.filter(pl.col("file") == f"data/{name}.mp4") for name in "ab")
    assert a["AU12_code"].to_list() == [1.0] * 10 + [0.0] * 50
    assert b["AU12_code"].to_list() == [0.0] * 60
    assert b["expression_code"].to_list() == [None] * 10 + [4.0] * 20 + [None] * 30
    hits = active[:10].sum()
    precision, recall = hits / active[:120].sum(), hits / 10
    table, _ = agreement(faces, [str(tmp_path / name) for name in ("a.csv", "b.csv")])
    assert value(table, "AU12", "F1")["value"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert value(table, "AU12", "F1")["videos"] == 2


def test_times_are_matched_within_half_a_step_and_faces_by_number(faces, tmp_path):
    two_faces = pl.concat([video("a"), video("a", 2).head(30)])
    codes = pl.DataFrame({"time": np.arange(0, 3, STEP) + 0.04, "AU12": 1})
    codes.write_csv(tmp_path / "a.csv")
    coded, notices = codes_of_frames(two_faces, [str(tmp_path / "a.csv")])
    assert coded["face"].unique().to_list() == [1]
    assert coded["AU12_code"].null_count() == 30
    assert "names no face" in notices[0]
    codes.with_columns(face=2).write_csv(tmp_path / "a.csv")
    coded, notices = codes_of_frames(two_faces, [str(tmp_path / "a.csv")])
    assert coded["face"].unique().to_list() == [2]
    assert notices == []


def test_the_interval_is_over_videos_and_needs_two(faces, tmp_path):
    rows = faces.select("file", "frame", valence=pl.col("valence") * 0.5 + pl.Series(rng.normal(0, 0.3, faces.height)))
    rows.write_csv(tmp_path / "codes.csv")
    ccc = value(agreement(faces, [str(tmp_path / "codes.csv")])[0], "valence", "CCC")
    assert ccc["low"] < ccc["value"] < ccc["high"]
    assert ccc["videos"] == 3
    rows.filter(pl.col("file") == "data/a.mp4").write_csv(tmp_path / "codes.csv")
    assert value(agreement(faces, [str(tmp_path / "codes.csv")])[0], "valence", "CCC")["low"] is None


def test_the_verb_and_its_errors(faces, tmp_path, capsys):
    faces.write_csv(tmp_path / "faces.csv")
    faces.select("file", "frame", "AU12").with_columns(pl.col("AU12").round()).write_csv(tmp_path / "c.csv")
    words = ["agree", str(tmp_path / "faces.csv"), str(tmp_path / "c.csv"), "--resamples", "50"]
    assert main(words) == 0
    assert "AU12         F1" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["value"] == pytest.approx(1)
    for text, message in (
        ("a,b\n1,2\n", "needs start, stop and label"),
        ("start,stop,label\n0,1,smile\n", "no label is an action unit"),
        ("AU12,au12_c,time\n0,1,0\n", "two columns mean the same"),
        ("file,time,AU12\nz.mp4,0,1\n", "codes z, which is no video of the table; it has a, b, c"),
        ("file,time,AU12\na.mp4,99,1\n", "no coded frame is a frame of the table"),
        ("file,time,AU4\na.mp4,0,1\n", "codes nothing that the table has"),
    ):
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            agreement(faces, [str(tmp_path / "c.csv")])
    (tmp_path / "c.csv").write_text("file,time,AU12\na.mp4,0,1\n")
    twice = pl.concat([faces, faces.with_columns(file=pl.lit("other/a.mp4"))])
    with pytest.raises(InputError, match="codes a, which is more than one video of the table"):
        agreement(twice, [str(tmp_path / "c.csv")])
    (tmp_path / "c.eaf").write_text("<nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        read_codes(tmp_path / "c.eaf")
