"""The pictures hold what they were given: bars, cells, lines and words are read back from the figures."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from triaffect.annotations.statistics import statistics
from triaffect.files import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS
from triaffect.scoring import plots
from triaffect.scoring.fusion import tune_fusion
from triaffect.scoring.metrics import score
from triaffect.scoring.style import SERIES


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


def test_expression_balance_shows_shares_and_counts():
    figure = plots.expression_balance({"train": range(1, 9), "val": [5] * 8})
    drawn(figure)
    assert widths(figure.axes[0]) == pytest.approx([i / 36 for i in range(1, 9)] + [1 / 8] * 8)
    assert words(figure)[:8] == [str(i) for i in range(1, 9)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(EXPRESSIONS)


def test_au_prevalence_tells_an_au_without_labels():
    figure = plots.au_prevalence({"val": [0.5] * 11 + [None]})
    drawn(figure)
    assert widths(figure.axes[0]) == [0.5] * 11 + [0]
    assert words(figure)[-1] == "not labelled"
    assert figure.axes[0].get_yticklabels()[0].get_text() == "inner brow raiser  AU1"


def test_statistics_figures_follow_the_index(make):
    _, index = make()
    index = pl.concat([index, index.with_columns(split=pl.lit("train"), expression=None).cast(index.schema)])
    figures = plots.statistics_figures(statistics(index))
    assert set(figures) == {"expressions", "action_units", "va_density", "missing"}
    counts = [int((index["expression"] == code).sum()) for code in range(8)]
    assert words(figures["expressions"]) == [f"{n:,}" for n in counts]
    rates = [index[unit].mean() for unit in ACTION_UNITS]
    assert widths(figures["action_units"].axes[0]) == pytest.approx(rates * 2)
    assert "100.0%" in words(figures["missing"])  # train has no expressions
    both = index.filter(pl.col("split") == "val").drop_nulls(("valence", "arousal")).height
    assert figures["va_density"].axes[0].get_title("left") == f"train: {both:,} frames"
    for figure in figures.values():
        drawn(figure)


def test_alike_missing_aus_are_one_line(make):
    _, index = make(missing=False)
    figure = plots.statistics_figures(statistics(index))["missing"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "valence",
        "arousal",
        "expression",
        "action units",
    ]


def test_va_density_has_valence_across():
    counts = np.zeros((20, 20))
    counts[19, 10] = 7  # high valence, neutral arousal
    figure = plots.va_density({"val": counts})
    drawn(figure)
    assert figure.axes[0].collections[0].get_array()[10, 19] == 7
    assert "valence" in figure.axes[0].get_xlabel()
    drawn(plots.va_density({"val": np.zeros((20, 20)), "train": np.full((5, 5), 123_456)}))


def test_va_scatter_puts_labels_across_and_tells_the_ccc():
    target = np.array([[-0.9, np.nan], [0.9, 0.5], [0.5, 0.1]])
    pred = np.array([[-0.9, 0.9], [0.9, 0.5], [-0.5, 0.1]])
    figure = plots.va_scatter(pred, target)
    drawn(figure)
    left, right = (axes.collections[0].get_array() for axes in figure.axes)
    assert left.sum() == 3
    assert right.sum() == 2
    assert left[12, 37] == 1  # label .5 across, prediction -.5 up
    assert figure.axes[1].get_title("left") == "arousal: CCC 1.000"


def test_confusion_matrix_shows_shares_of_the_label():
    counts = np.diag(np.arange(1, 9))
    counts[0, 7] = 3
    counts[4] = 0
    figure = plots.confusion_matrix(counts)
    drawn(figure)
    assert figure.axes[0].images[0].get_array()[0, 7] == 0.75
    assert words(figure)[:4] == ["25", "1", "75", "3"]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "Neutral  (4)"


@pytest.mark.parametrize("task", ["expr", "au"])
def test_f1_bars_show_scores_intervals_and_floors(make, task):
    predictions, index = make()
    index = index.with_columns(pl.lit(None, pl.Int8).alias("AU7"))
    found = score(predictions, index, resamples=30)
    figure = plots.f1_bars(found, task)
    drawn(figure)
    values = {name: f1 for name, f1 in getattr(found, task).items() if f1 is not None}
    assert widths(figure.axes[0]) == list(values.values())
    whiskers, floors = figure.axes[0].collections
    assert [tuple(line[:, 0]) for line in whiskers.get_segments()] == [found.intervals[name] for name in values]
    alone = [2 * found.positives[n] / (found.labelled[n] + found.positives[n]) for n in values]
    assert [line[0, 0] for line in floors.get_segments()] == pytest.approx(alone)
    drawn(plots.f1_bars(score(predictions, index, resamples=0), task))


def test_lambda_curves_mark_the_tuned(make):
    single, index = make(1, noise=0.4)
    multi, _ = make(1, noise=0.6)
    lambdas, tuning = tune_fusion(single, multi, index)
    figure = plots.lambda_curves(tuning.curves, lambdas)
    drawn(figure)
    assert [axes.get_title("left") for axes in figure.axes] == ["valence-arousal", "expression", "action units"]
    for axes, task in zip(figure.axes, lambdas, strict=True):
        paper, curve, dot = axes.lines
        assert paper.get_xdata()[0] == {"va": 0.4, "expr": 0.6, "au": 0.6}[task]
        assert len(curve.get_xdata()) == 21
        assert dot.get_xdata() == [lambdas[task]]
        assert dot.get_ydata()[0] == pytest.approx(max(curve.get_ydata()))
    drawn(plots.lambda_curves(tuning.curves.filter(pl.col("task") == "au")))


def metrics(epochs: int, *tasks: str) -> pl.DataFrame:
    epoch = np.arange(1, epochs + 1)
    found = {"epoch": epoch, "lr": 0.1 / epoch, "seconds": 3.0, "val/total": np.sin(epoch), "train/loss": 1 / epoch}
    for task in tasks:
        found |= {f"train/loss_{task}": 1 / epoch, f"val/loss_{task}": 2 / epoch, f"val/{task}": np.sin(epoch)}
    return pl.DataFrame(found)


@pytest.mark.parametrize(("tasks", "panels"), [(("va", "expr", "au"), 8), (("expr",), 2), (("va", "au"), 6)])
def test_training_curves_mark_the_best_epoch(tmp_path, tasks, panels):
    metrics(9, *tasks).write_csv(tmp_path / "metrics.csv")
    figure = plots.training_curves(tmp_path / "metrics.csv")
    drawn(figure)
    assert len(figure.axes) == panels
    upper, lower = figure.axes[panels // 2 - 1], figure.axes[-1]
    assert [to_hex(line.get_color()) for line in upper.lines] == [SERIES[1], SERIES[0]]
    assert upper.lines[1].get_ydata()[0] == 2  # validation
    assert lower.lines[1].get_xdata() == [8]  # sin is highest at 8 among 1..9
    assert words(figure)[-1] == f"{np.sin(8):.3f}"


def test_training_curves_of_a_run_that_has_just_begun():
    drawn(plots.training_curves(metrics(1, "va")))
    drawn(
        plots.training_curves(pl.DataFrame({"epoch": [1, 2], "train/loss": [1.0, None], "val/va": [float("nan")] * 2}))
    )


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
    figure = plots.contact_sheet(index, root, 30)
    drawn(figure)
    said = words(figure)
    broken = index["image"].gather_every(3).to_list()
    assert sorted(word for word in said if word.startswith("cannot")) == [
        f"cannot be decoded\n{name}" for name in broken
    ]
    told = {word.split("\n")[0]: word for word in said if word.startswith("frame")}
    assert len(told) == 30
    for row in index.to_dicts():
        lines = told[f"frame {row['frame']}, val"].split("\n")
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
    figure = plots.contact_sheet(index, root, 100, task="expr", split="train")
    kept = index[:20].drop_nulls("expression")
    told = [word.split("\n") for word in words(figure) if word.startswith("frame")]
    assert sorted(lines[0] for lines in told) == sorted(f"frame {f}, train" for f in kept["frame"])
    assert all(len(lines) == 2 for lines in told)
    assert words(plots.contact_sheet(index, root, 4, seed=1)) == words(plots.contact_sheet(index, root, 4, seed=1))
    assert words(plots.contact_sheet(index, root, 4, seed=1)) != words(plots.contact_sheet(index, root, 4, seed=2))


def test_contact_sheet_refuses(crops):
    index, root = crops
    for options, named in (
        ({"split": "test"}, "no frame with a crop in split test"),
        ({"task": "eyes"}, "no task 'eyes'"),
        ({"n": 0}, "no frame"),
    ):
        with pytest.raises(InputError, match=named):
            plots.contact_sheet(index, root, **options)
    with pytest.raises(InputError, match="no frame"):
        plots.contact_sheet(index.with_columns(exists=False), root)
    with pytest.raises(InputError, match="leaves the image root"):
        plots.contact_sheet(index[:1].with_columns(image=pl.lit("../secret.jpg")), root)


def test_a_crop_of_absurd_size_is_not_decoded(crops, monkeypatch):
    index, root = crops
    monkeypatch.setattr("triaffect.pictures.MAX_PIXELS", 112 * 100 - 1)
    figure = plots.contact_sheet(index, root, 5)
    assert sum(word.startswith("cannot be decoded") for word in words(figure)) == 5


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        plots.save_figure(plots.missing_rates({"val": {"valence": 0.2}}), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    plots.save_figure(plots.missing_rates({"val": {"valence": 0.2}}), tmp_path / "deep" / "c.svg")
    assert (tmp_path / "deep" / "c.svg").read_text().startswith("<?xml")
    assert not list(tmp_path.glob(".*"))
