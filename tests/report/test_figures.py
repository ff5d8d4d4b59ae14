"""The pictures hold what they were given: bars, cells, lines and words are read back from the figures."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from matplotlib.text import Text
from PIL import Image

from triaffect.data.statistics import statistics
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS
from triaffect.report import figures
from triaffect.report.style import page


def widths(axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches]


def words(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def drawn(figure) -> np.ndarray:
    """Pixels; drawing must not warn."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    pixels = np.asarray(Image.open(file).convert("RGB"))
    assert (pixels[0] == 255).all()  # white paper to the edge
    return pixels


def test_statistics_figures_follow_the_index(make):
    _, index = make()
    index = pl.concat([index, index.with_columns(split=pl.lit("train"), expression=None).cast(index.schema)])
    drawings = figures.statistics_figures(statistics(index))
    assert set(drawings) == {"expressions", "action_units", "va_density", "missing"}
    counts = [int((index["expression"] == code).sum()) for code in range(8)]
    assert words(drawings["expressions"]) == [f"{n:,}" for n in counts]
    axes = drawings["expressions"].axes[0]
    assert widths(axes) == pytest.approx([n / sum(counts) for n in counts])
    assert [label.get_text() for label in axes.get_yticklabels()] == list(EXPRESSIONS)
    rates = [index[unit].mean() for unit in ACTION_UNITS]
    assert widths(drawings["action_units"].axes[0]) == pytest.approx(rates * 2)
    assert "100.0%" in words(drawings["missing"])  # train has no expressions
    both = index.filter(pl.col("split") == "val").drop_nulls(("valence", "arousal")).height
    assert drawings["va_density"].axes[0].get_title("left") == f"train: {both:,} frames"
    for figure in drawings.values():
        drawn(figure)


def test_alike_missing_aus_are_one_line(make):
    _, index = make(missing=False)
    figure = figures.statistics_figures(statistics(index))["missing"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "valence",
        "arousal",
        "expression",
        "action units",
    ]


def test_an_action_unit_without_labels_is_marked(make):
    _, index = make(missing=False)
    index = index.with_columns(pl.lit(None, pl.Int8).alias("AU26"))
    figure = figures.statistics_figures(statistics(index))["action_units"]
    assert widths(figure.axes[0])[-1] == 0
    assert words(figure)[-1] == "not labelled"
    assert figure.axes[0].get_yticklabels()[0].get_text() == "inner brow raiser  AU1"


def test_the_density_has_valence_across(make):
    _, index = make(missing=False)
    counts = statistics(index.with_columns(valence=0.95, arousal=0.02))
    (picture,) = figures.statistics_figures(counts)["va_density"].axes[0].images
    cells = picture.get_array().filled(0)
    assert cells[len(cells) // 2, -1] == cells.sum() == index.height


def metrics(epochs: int, *tasks: str) -> pl.DataFrame:
    epoch = np.arange(1, epochs + 1)
    columns = {
        "epoch": epoch,
        "lr": 0.1 / epoch,
        "seconds": 3.0,
        "val/total": np.sin(epoch),
        "train/loss": 1 / epoch,
        "val/loss": 2 / epoch,
    }
    for task in tasks:
        columns[f"val/{task}"] = np.sin(epoch)
    return pl.DataFrame(columns)


@pytest.mark.parametrize("tasks", [("va", "expr", "au"), ("expr",)])
def test_training_curves_mark_the_kept_epoch(tasks):
    figure = figures.training_curves(metrics(9, *tasks), 7)
    drawn(figure)
    panels = {axes.get_ylabel(): axes.lines for axes in figure.axes if axes.lines}
    assert list(panels) == ["loss", "validation score"]
    assert [line.get_label() for line in panels["loss"][:2]] == ["training", "validation"]
    assert panels["loss"][1].get_ydata()[0] == 2
    *scores, best_line = panels["validation score"]
    assert len(scores) == len(tasks)
    assert best_line.get_xdata()[0] == 8
    assert f"kept: epoch 8, total {np.sin(8):.3f}" in figure.get_supxlabel()


def test_training_curves_show_accuracy_ccc_the_loss_of_each_task_and_conflicts():
    names = ["train/cosine_va_expr"]
    names += ["train/accuracy", "val/accuracy", "val/valence", "val/arousal"]
    names += [f"{split}/loss_{task}" for split in ("train", "val") for task in ("va", "expr")]
    table = metrics(4, "va", "expr").with_columns(pl.lit(0.5).alias(name) for name in names)
    panels = {axes.get_ylabel(): len(axes.lines) for axes in figures.training_curves(table).axes if axes.lines}
    assert panels == {
        "loss": 2,
        "loss, valence-arousal": 2,
        "loss, expression": 2,
        "expression accuracy": 2,
        "CCC": 2,
        "validation score": 2,
        "cosine of the gradients": 1,
    }


def test_training_curves_of_a_run_that_has_just_begun():
    assert (drawn(figures.training_curves(metrics(1, "va"))) < 255).any()
    early = {"epoch": [1, 2], "train/loss": [1.0, None], "val/total": [float("nan")] * 2}
    assert (drawn(figures.training_curves(pl.DataFrame(early))) < 255).any()


@pytest.fixture
def crops(make, tmp_path):
    """An index of 30 frames whose crops lie below tmp_path, every third one broken in another way."""
    _, index = make(videos=2, frames=20)
    index = index[:30].with_columns(exists=True)
    for i, image in enumerate(index["image"]):
        path = tmp_path / image
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (112, 100), (10 * i % 255, 90, 90)).save(path)
        if i % 9 == 0:
            path.write_bytes(path.read_bytes()[:400])
        elif i % 9 == 3:
            path.write_bytes(b"")
        elif i % 9 == 6:
            path.unlink()
    return index, tmp_path


def test_contact_sheet_shows_every_crop_with_its_labels(crops):
    index, root = crops
    figure = figures.contact_sheet(index, root, 30)
    drawn(figure)
    texts = words(figure)
    broken = index["image"].gather_every(3).to_list()
    assert sorted(word for word in texts if word.startswith("cannot")) == [
        f"cannot be decoded\n{name}" for name in broken
    ]
    labels = {word.split("\n")[0]: word for word in texts if word.startswith("frame")}
    assert len(labels) == 30
    for row in index.to_dicts():
        lines = labels[f"frame {row['frame']}, val"].split("\n")
        valence = "–" if row["valence"] is None else f"{row['valence']:+.2f}".replace("-", "−")
        assert lines[1].startswith(f"V {valence} ")
        assert lines[2] == ("expression –" if row["expression"] is None else EXPRESSIONS[row["expression"]])
        active = [unit[2:] for unit in ACTION_UNITS if row[unit]]
        assert lines[3].removeprefix("AU ").split(" (")[0] in (" ".join(active), "none", "–")


def test_contact_sheet_draws_of_one_task_and_split(crops):
    index, root = crops
    index = index.with_columns(
        split=pl.when(pl.int_range(pl.len()) < 20).then(pl.lit("train")).otherwise(pl.lit("val"))
    )
    figure = figures.contact_sheet(index, root, 100, task="expr", split="train")
    rows = index[:20].drop_nulls("expression")
    labels = [word.split("\n") for word in words(figure) if word.startswith("frame")]
    assert sorted(lines[0] for lines in labels) == sorted(f"frame {f}, train" for f in rows["frame"])
    assert all(len(lines) == 2 for lines in labels)
    assert words(figures.contact_sheet(index, root, 4, seed=1)) == words(figures.contact_sheet(index, root, 4, seed=1))
    assert words(figures.contact_sheet(index, root, 4, seed=1)) != words(figures.contact_sheet(index, root, 4, seed=2))


def test_a_dollar_in_a_name_is_a_character(crops):
    index, root = crops
    broken = index.head(2).with_columns(video=pl.lit("$x_{$"), image=pl.lit("$x_{$/") + pl.col("image"))
    for figure in (figures.contact_sheet(broken, root, 2), page(3, 2, "$x_{$.mp4", "$x_{$")):
        drawn(figure)
        assert any("$x_{$" in text.get_text() for text in figure.findobj(Text))


def test_contact_sheet_refuses(crops):
    index, root = crops
    for options, named in (
        ({"split": "test"}, "no frame with a crop in split test"),
        ({"task": "eyes"}, "no task 'eyes'"),
        ({"n": 0}, "no frame"),
    ):
        with pytest.raises(InputError, match=named):
            figures.contact_sheet(index, root, **options)
    with pytest.raises(InputError, match="no frame"):
        figures.contact_sheet(index.with_columns(exists=False), root)
    with pytest.raises(InputError, match="leaves the image root"):
        figures.contact_sheet(index[:1].with_columns(image=pl.lit("../secret.jpg")), root)


def test_a_crop_of_absurd_size_is_not_decoded(crops, monkeypatch):
    index, root = crops
    monkeypatch.setattr("triaffect.images.MAX_PIXELS", 100)
    figure = figures.contact_sheet(index, root, 5)
    assert sum(word.startswith("cannot be decoded") for word in words(figure)) == 5


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png", "deep/c.svg"):
        figures.save_figure(figures.training_curves(metrics(3, "va")), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "deep" / "c.svg").read_text().startswith("<?xml")
    assert not list(tmp_path.glob(".*"))
