"""The report of a made-up study: what the page has, what it leaves out; it is safe, complete, reproducible."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from PIL import Image

from made_study import make_study
from triaffect.cli.main import main
from triaffect.data.image_store import pack
from triaffect.data.index import load_index
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS
from triaffect.report import image_sections, panels, sections
from triaffect.report.figures import contact_sheet
from triaffect.report.report import SECTIONS, write_report
from triaffect.report.study_folder import StudyFolder, epochs_to, extreme_frames, typical_videos
from triaffect.report.style import svg, thumbnail

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The page as lists: tags with their attributes, ids, tables of words; raises where tags do not pair."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.label = ""
        self.feed(text)
        assert self.open == []
        self.ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        self.sections = [attributes["id"] for tag, attributes in self.tags if tag == "section"]

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if attributes.get("role") == "region":
            self.label = attributes["aria-label"]
            self.tables[self.label] = []
        if tag == "tr" and self.label:
            self.tables[self.label].append([])
        if tag in ("td", "th") and self.label:
            self.tables[self.label][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.label = ""

    def handle_data(self, data):
        if self.label and self.tables[self.label] and self.tables[self.label][-1]:
            self.tables[self.label][-1][-1] += data.strip() + " " if data.strip() else ""


def hostile(number: int) -> str:
    return f"<b onx={number}>&\"'$x_{{$%"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose validation videos have hostile names, and its page."""
    names = {24 + i: hostile(i) for i in range(12)}
    folder = make_study(tmp_path_factory.mktemp("report"), frames=24, resamples=60, names=names)
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def text(study):
    return (study / "report.html").read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture
def change(study, tmp_path):
    """A function that makes a study folder of changed results, without runs and predictions."""

    def changed(**attributes):
        fewer = {"index": "gone", "images": "gone", "tuning": [], "search": None}
        results = json.loads((study / "results.json").read_text()) | fewer | attributes
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    return changed


# The page ---------------------------------------------------------------------------------------------------------


def test_every_section_is_there_in_order_and_in_the_contents(page):
    assert page.sections == list(SECTIONS)
    first, *contents = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert first == "#failures"  # beneath the answer
    assert contents == [f"#{name}" for name in SECTIONS]


def test_sections_without_data_are_left_out(change):
    lean = change(comparisons=[], halves=[], failures=[], paper=None)
    page = Page(write_report(lean).read_text())
    assert page.sections == ["scores", "cost", "va", "expr", "au", "reproduction"]
    text = (lean / "report.html").read_text()
    assert "index 'gone' is missing" in text.replace("&#39;", "'")
    assert "metrics.csv cannot be read" in text
    page = Page(write_report(change(models=[], comparisons=[], halves=[], paper=None)).read_text())
    assert page.sections == ["failures", "reproduction"]


def test_the_page_is_the_same_elsewhere_and_needs_no_torch(study, text):
    code = (
        "import sys; from triaffect.report.report import write_report; write_report(sys.argv[1]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'timm', 'lightning')))"
    )
    subprocess.run([sys.executable, "-c", code, study], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (study / "report.html").read_text() == text


def test_the_page_says_what_it_is_for(text):
    assert "What a face shows is not what a person feels." in text


def test_nothing_is_fetched(page, text):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert re.match(r"#|data:image/(jpeg|png);base64,", attributes.get(name) or "#"), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
    assert set(re.findall(r"url\(\s*['\"]?(.)", text)) == {"#"}
    assert "http" not in text
    assert "@import" not in text
    assert len(text) < 1_500_000


def test_hostile_names_are_words(page, text):
    assert "<b onx" not in text
    assert "&lt;b onx=" in text
    assert not any("onx" in attributes for _, attributes in page.tags)


def test_hostile_results_are_words(change, study):
    evil = "<script>alert('x')</script>\n\x00\"$\\frac"
    results = json.loads((study / "results.json").read_text())
    for model in results["models"]:
        model["name"] = evil + model["name"]
    lean = change(title=evil, question=evil, answer=[evil], commands=[evil], models=results["models"])
    text = write_report(lean).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 20
    Page(text)


def test_figures_have_descriptions(page):
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) > 25
    labels = [attributes["aria-label"] for attributes in pictures]
    assert all(attributes["role"] == "img" for attributes in pictures)
    assert all(len(label) > 20 for label in labels)
    assert len(set(labels)) == len(labels)
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert len(alts) == 28  # ten worst, ten best, a sample of eight
    assert all(alts)
    assert len(set(page.ids)) == len(page.ids)


def test_scores_are_those_of_the_study(page, study):
    results = json.loads((study / "results.json").read_text())
    head, *rows, floor = page.tables["Scores of all models"]
    assert [word.strip() for word in head] == ["Model", "Valence-arousal", "Expression", "Action units", "Total"]
    for row, model in zip(rows, results["models"], strict=True):
        assert row[0].startswith(model["name"])
        scores = model["scores"]
        for cell, task in zip(row[1:4], ("va", "expr", "au"), strict=True):
            if task in scores["tasks"]:
                low, high = scores["intervals"][task]
                assert cell == f"{scores['tasks'][task]:.3f} {low:.3f} to {high:.3f} "
            else:
                assert cell == ""
        assert row[4].startswith(f"{scores['total']:.3f}" if len(scores["tasks"]) == 3 else "")
    assert [float(cell) for cell in floor[1:]] == pytest.approx(
        [results["models"][3]["scores"]["baseline"][name] for name in ("va", "expr", "au", "total")], abs=5e-4
    )


def test_the_papers_figures_need_the_papers_data(change, text, study):
    assert "only on the same data" not in text
    assert "on s-Aff-Wild2. This study uses other data" in text
    rows = Page(write_report(change(same_data=True)).read_text()).tables["The paper's scores and ours"]
    assert [cell.strip() for cell in rows[1]][1:] == ["0.100", "0.200", "0.300", "0.600"]
    assert len(rows) == 2 + len(json.loads((study / "results.json").read_text())["models"])


def test_leaks_are_warned_of(study, tmp_path, change):
    index = pl.read_parquet(study.parent / "index.parquet")
    names = {"face0000": "film_left", hostile(0): "film_right"}
    leaking = index.with_columns(
        pl.col("video").replace(names), pl.col("image").str.replace_many(list(names), list(names.values()))
    )
    leaking.write_parquet(tmp_path / "leaks.parquet")
    text = write_report(change(index=str(tmp_path / "leaks.parquet"))).read_text()
    assert "train and val share 1 source videos" in text
    assert "film_left / film_right" in text
    assert "the splits share videos" in text


def test_the_verb(change, capsys):
    lean = change()
    assert main(["report", str(lean)]) == 0
    assert capsys.readouterr().out.strip() == str(lean / "report.html")
    assert (lean / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("content", [None, "{", "[]", '{"models": 3}'])
def test_a_folder_that_is_no_study(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"triaffect report: {tmp_path}")
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


# What it rests on -------------------------------------------------------------------------------------------------


def error_of(row) -> tuple[float, int]:
    """A frame's error, computed in plain Python."""
    parts = []
    va = [abs(row[n] - row[f"predicted_{n}"]) / 2 for n in ("valence", "arousal") if row[n] is not None]
    if va:
        parts.append(sum(va) / len(va))
    if row["expression"] is not None:
        parts.append(1 - row[f"predicted_{EXPRESSIONS[row['expression']].lower()}"])
    au = [abs(row[n] - row[f"predicted_{n}"]) for n in ACTION_UNITS if row[n] is not None]
    if au:
        parts.append(sum(au) / len(au))
    return sum(parts) / len(parts), len(parts)


def test_worst_and_best_frames(study):
    shown = StudyFolder.read(study).best_predictions()
    rows = [row | dict(zip(("is", "tasks"), error_of(row), strict=True)) for row in shown.to_dicts()]
    assert shown["error"].to_list() == pytest.approx([row["is"] for row in rows])
    shown_rows = [row for row in rows if row["exists"] and not row["filled"] and row["tasks"] == 3]
    worst, best = extreme_frames(shown)
    for side, sign in ((worst, -1), (best, 1)):
        taken: list[str] = []
        for row in sorted(shown_rows, key=lambda row: (sign * row["is"], row["image"])):
            video = row["video"]
            if sum(image.startswith(video) for image in taken) < 2 and len(taken) < 10:
                taken.append(row["image"])
        assert side["image"].to_list() == taken
    video_rows = shown.filter(pl.col("video") == shown["video"][0])
    assert extreme_frames(video_rows)[0].height == 10  # a single video gives all of them


def test_a_planted_mistake_is_the_worst(study):
    loaded = StudyFolder.read(study)
    shown = loaded.best_predictions()
    image = shown.filter(pl.col("labelled_tasks") == 3, pl.col("exists"))["image"][5]
    planted = shown.with_columns(error=pl.when(pl.col("image") == image).then(1.0).otherwise("error"))
    assert extreme_frames(planted)[0]["image"][0] == image
    assert image not in extreme_frames(planted.with_columns(filled=pl.col("image") == image))[0]["image"]


def test_videos_from_the_best_to_the_worst(study):
    shown = StudyFolder.read(study).best_predictions()
    means = dict(shown.group_by("video").agg(pl.col("error").mean()).iter_rows())
    videos = typical_videos(shown)
    assert len(videos) == 4
    assert [means[video] for video in videos] == sorted(means[video] for video in videos)
    assert (means[videos[0]], means[videos[-1]]) == (min(means.values()), max(means.values()))


@pytest.mark.parametrize(
    ("scores", "epoch"),
    [([0.1, 0.89, 0.9, 1.0], 3), ([1.0, 0.5], 1), ([-1.0, -0.5], None), ([None, float("nan"), 0.2], 3), ([], None)],
)
def test_epochs_to_90(scores, epoch):
    assert epochs_to(scores) == epoch


def test_epochs_to_90_agree_with_the_runs(page, study):
    _, _, *rows = page.tables["Epochs to 90 % of the best"]
    for row in rows:
        metrics = pl.read_csv(study / "runs" / row[0].strip() / "metrics.csv")
        expected_cells = ["26", "24", "best total"] if row[0].strip() == "multi" else ["20", "20", "the last epoch"]
        assert [cell.strip() for cell in row[1:4]] == expected_cells
        for cell, name in zip(row[4:], ("total", "va", "expr", "au"), strict=True):
            if f"val/{name}" in metrics.columns:
                values = metrics[f"val/{name}"].to_numpy()
                assert int(cell) == metrics["epoch"].to_numpy()[values >= 0.9 * values.max()][0]
            else:
                assert cell == ""


def test_who_is_looked_at_closely(study):
    loaded = StudyFolder.read(study)
    score = {model.name: model.score("expr") for model in loaded.models}
    names = [name for name in score if score[name] is not None and name != "expr"]  # which single-task has
    assert [model.name for model in loaded.leading("expr", 9)] == sorted(names, key=score.__getitem__, reverse=True)
    assert len(loaded.leading("expr")) == 3
    assert {model.name for model in loaded.best().values()} == {"fused, tuned λ"}
    loaded.results.models = [model for model in loaded.models if model.kind == "single"]
    assert {task: model.name for task, model in loaded.best().items()} == {"va": "va", "expr": "expr", "au": "au"}
    assert [model.name for model in loaded.leading("va")] == ["va"]
    columns = loaded.best_predictions().select("predicted_valence", "predicted_neutral", "predicted_AU26")
    assert columns.null_count().row(0) == (0, 0, 0)
    assert sections.scores(loaded)["head"] == ["Valence-arousal", "Expression", "Action units"]  # no totals to compare


def test_pairs_are_turned_to_the_one_ahead(change):
    measures = {
        "va": {"difference": -0.1, "low": -0.2, "high": 0.05, "p": 0.3},
        "total": {"difference": -0.3, "low": -0.4, "high": -0.2, "p": 0.002},
    }
    part = sections.comparisons(StudyFolder.read(change(comparisons=[{"a": "one", "b": "two", "measures": measures}])))
    (row,) = part["rows"]
    assert (row["a"], row["b"]) == ("two", "one")
    va, total = row["cells"]
    assert (va["value"], va["low"], va["high"], va["significant"], va["p"]) == (0.1, -0.05, 0.2, False, 0.3)
    assert (total["value"], total["low"], total["high"], total["significant"]) == (0.3, 0.2, 0.4, True)
    assert va["place"]["reference"] == 50  # zero is in the middle
    assert (part["count"], part["significant"]) == (2, 1)


def test_paths_of_the_folder_the_study_ran_in(study, tmp_path, monkeypatch):
    above = study.parent.parent
    results = json.loads((study / "results.json").read_text())
    results |= {name: os.path.relpath(results[name], above) for name in ("index", "images")}
    (study.parent / "other").mkdir()
    (study.parent / "other" / "results.json").write_text(json.dumps(results))
    monkeypatch.chdir(tmp_path)
    loaded = StudyFolder.read(study.parent / "other")
    assert loaded.index.height == 36 * 24
    assert loaded.image(loaded.labels["exists"].arg_max()).startswith(b"\xff\xd8")


def test_missing_predictions_leave_a_note(study, tmp_path, change):
    loaded = StudyFolder.read(change(index=str(study.parent / "index.parquet")))
    assert loaded.best_predictions() is None
    assert image_sections.timelines(loaded) is None
    assert image_sections.frames(loaded) is None
    assert any("sections that need these predictions are left out" in note for note in loaded.notes)
    loaded.models[0].predictions = "../../secret.parquet"
    loaded._tables.clear()
    assert loaded.predictions(loaded.models[0]) is None


# Pictures ---------------------------------------------------------------------------------------------------------


def test_svg_takes_the_pages_colours_and_letters():
    text = svg(panels.confusion(np.eye(8) * 3), 'a "label" <b>')
    assert text.startswith('<svg viewBox="0 0 ')
    assert 'aria-label="a &#34;label&#34; &lt;b&gt;"' in text
    assert ">Happiness</text>" in text
    assert "var(--s1)" in text
    assert "font-family" not in text
    assert not re.search(r"(fill|stroke): #", text)
    assert text == svg(panels.confusion(np.eye(8) * 3), 'a "label" <b>')


def test_confusion_tells_shares_of_the_label():
    counts = np.diag(np.arange(1, 9))
    counts[0, 7] = 3
    axes = panels.confusion(counts).axes[0]
    assert [t.get_text() for t in axes.texts][:3] == ["25", "75", "100"]
    assert {(t.get_position(), t.get_text()) for t in axes.texts} >= {((0, 0), "25"), ((7, 0), "75")}
    assert len(axes.patches) == 64


def test_timeline_keeps_gaps_and_tells_hits_from_misses():
    frame = np.array([1, 2, 3, 4, 5, 50, 51, 52, 53, 54])
    label = {"va": np.zeros((10, 2)), "expr": np.full(10, 3.0), "au": np.zeros((10, 12))}
    predicted = {"va": np.ones((10, 2)), "expr": np.full(10, 3.0), "au": np.zeros((10, 12))}
    label["au"][:5, 0] = 1  # missed, then detected
    label["au"][5:, 1] = predicted["au"][5:, 1] = 1
    predicted["au"][:, 2] = 1  # false alarm
    label["au"][:, 3] = np.nan
    valence, arousal, expr, au = panels.timeline(frame, label, predicted).axes
    assert len(arousal.lines) == 2
    truth, guess = (line.get_ydata() for line in valence.lines)
    assert len(truth) == 54
    assert np.isnan(truth[8:45]).all()
    assert not np.isnan(truth[:5]).any()
    assert (guess[~np.isnan(guess)] == 1).all()
    (band,) = expr.patches
    assert np.isclose(band.get_facecolor()[:3], [0x7B / 255, 0x5E / 255, 0xA7 / 255]).all()  # Fear
    neither, missed, alarm, hit = (patch.get_path().vertices[:, 1].round().astype(int) for patch in au.patches)
    assert set(missed) == {0}
    assert set(alarm) == {2}
    assert set(hit) == {1}
    assert 3 not in neither
    panels.timeline(np.array([7]), {"expr": np.array([1.0])}, {"expr": np.array([np.nan])})


def test_thumbnails_are_small_pictures(tmp_path):
    Image.new("RGB", (640, 320), (200, 30, 30)).save(tmp_path / "a.png")
    data = thumbnail((tmp_path / "a.png").read_bytes(), 64)
    with Image.open(io.BytesIO(base64.b64decode(data.removeprefix("data:image/jpeg;base64,")))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 32))
    assert thumbnail(b"\xff\xd8 no image") is None


def test_packed_images_are_shown(study, change, tmp_path):
    rows = load_index(study.parent / "index.parquet", "val")
    existing = rows.filter("exists")
    pack(existing, study.parent / "images", tmp_path / "val.safetensors", progress=False)
    loose = StudyFolder.read(study)
    index = str(study.parent / "index.parquet")
    packed = StudyFolder.read(change(index=index, images=str(tmp_path / "val.safetensors")))
    number = rows["exists"].arg_max()
    assert packed.image(number) == loose.image(number)
    assert packed.image(rows["exists"].arg_min()) is None
    sheets = [
        contact_sheet(existing, images, 4, seed=0) for images in (study.parent / "images", tmp_path / "val.safetensors")
    ]
    pixels = [[axes.images[0].get_array() for axes in sheet.axes[::2]] for sheet in sheets]
    assert all(np.array_equal(a, b) for a, b in zip(*pixels, strict=True))


def test_a_frame_without_its_picture(study, change):
    loaded = StudyFolder.read(study)
    loaded._images = None
    part = image_sections.frames(loaded)
    assert [card["picture"] for card in part["worst"]] == [None] * 10
    with pytest.raises(InputError, match=r"no results\.json"):
        StudyFolder.read(study / "nowhere")


def test_the_report_says_which_epoch_was_chosen_on_the_frames_that_it_is_scored_on(text):
    assert "The models of multi are of the epoch that is best on the frames they are scored on" in text


def test_every_table_of_the_paper_stands_beside_ours_if_the_data_is_the_papers(change, study):
    values = {"valence": 0.1652, "Neutral": 0.4758, "AU25": 0.7972}
    rows = [{"name": "single-task", "va": 0.2, "expr": 0.2, "au": 0.4, "total": 0.8, "values": values}]
    others = [{"name": "a system of that year", "year": 2022, "total": 1.742}, {"name": "an undated one", "va": 0.2}]
    paper = {"source": "Asim 2024", "dataset": "Aff-Wild2", "rows": rows, "others": others}
    lean = change(paper=paper, same_data=True)
    page = Page(write_report(lean).read_text())
    ours = json.loads((lean / "results.json").read_text())["models"]
    ours = next(model["scores"] for model in ours if model["name"] == "single-task")
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in page.tables["Value by value, single-task"]}
    assert table["Valence"] == ["0.165", f"{ours['va']['valence']:.3f}"]
    assert table["Neutral"] == ["0.476", f"{ours['expr']['Neutral']:.3f}"]
    assert table["AU25"] == ["0.797", f"{ours['au']['AU25']:.3f}"]
    assert table["Fear"][0] == "–"
    systems = [row[0] for row in page.tables["The paper's scores and ours"]]
    assert any("a system of that year" in name and "2022" in name for name in systems)
    assert any("an undated one" in name and "2022" not in name for name in systems)


def test_the_page_shows_a_sample_of_the_data_with_its_labels(page, text):
    assert "A sample with its labels" in text
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert sum(not re.search("error", alt) for alt in alts) >= 6
