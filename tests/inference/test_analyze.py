"""The verb `analyze`: its inputs, the files it writes, the lines it prints, its exit codes."""

import json
import os

import av
import cv2
import numpy as np
import polars as pl
import pytest
from matplotlib.collections import LineCollection

from inference.test_video import Camera
from triaffect.cli import analysis
from triaffect.cli.analysis import _face_lines
from triaffect.cli.main import main
from triaffect.data.index import provenance
from triaffect.images import read_image
from triaffect.inference import draw as drawing
from triaffect.inference import inputs as reading
from triaffect.inference import video
from triaffect.inference.analyze import analyze
from triaffect.inference.draw import annotate
from triaffect.inference.inputs import collect
from triaffect.inference.one_input import AnalyzeOptions
from triaffect.inference.results import FileResult
from triaffect.inference.summary import summarize
from triaffect.inference.timeline import draw_timeline
from triaffect.io import InputError
from worlds import analyzer, film, jpeg, plain


def run(inputs, out=None, **options):
    """Calls the verb with a predictable model; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triaffect.inference.analyzer.Analyzer", lambda *_, **__: analyzer())
        return analysis.analyze([os.fspath(path) for path in inputs], out and os.fspath(out), **options)


def test_photos_and_videos_make_one_table(tmp_path, capsys):
    files = [jpeg(tmp_path / "in" / "a.jpg"), film(tmp_path / "in" / "b" / "c.mp4", 12, pixels=lambda i: plain())]
    assert run([tmp_path / "in"], tmp_path / "out") == 0
    table = pl.read_parquet(tmp_path / "out" / "faces.parquet")
    assert table["file"].unique(maintain_order=True).to_list() == [str(path) for path in files]
    assert table.height == 13
    csv = pl.read_csv(tmp_path / "out" / "faces.csv")
    assert csv.columns == table.columns
    assert np.allclose(csv["valence"], table["valence"], atol=1e-5)
    assert provenance(tmp_path / "out" / "faces.parquet")["model"] == "made up"
    assert "2 inputs, 13 images, 13 faces" in capsys.readouterr().out
    assert not [p for p in (tmp_path / "out").rglob("*") if "partial" in p.name]


def test_a_photo_is_described_on_one_line(tmp_path, capsys):
    assert run([jpeg(tmp_path / "a.jpg", plain(200, 100, 240, (64, 48)))]) == 0
    printed = capsys.readouterr().out
    assert "face 1: Happiness 94%; valence +0.58, arousal -0.22" in printed
    assert "AU12 lip corner puller 79%" in printed
    assert list(tmp_path.iterdir()) == [tmp_path / "a.jpg"]


def test_a_video_is_summarised_on_one_line(tmp_path):
    rows = pl.concat(analyzer().video(film(tmp_path / "a.mp4", 30, pixels=lambda i: plain(*[60 + 5 * i] * 3))))
    line = _face_lines(FileResult("a.mp4", summary=summarize(rows.lazy())[0]))[1]
    assert "30 frames, 0.0 to 1.0 s" in line
    assert "valence -0.5" in line
    assert "AU12 lip corner puller 53%" in line


def test_annotated_copies_have_the_folders_of_the_inputs(tmp_path):
    jpeg(tmp_path / "in" / "deep" / "a.jpg")
    jpeg(tmp_path / "in" / "deep" / "a.png")
    film(tmp_path / "in" / "v.mp4", 10, pixels=lambda i: plain(size=(320, 240)), times=[0.1 * i * i for i in range(10)])
    out = tmp_path / "out"
    assert run([tmp_path / "in"], out, annotate=True, plot=True) == 0
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*.*") if ".running" not in str(path))
    assert made == [
        *("annotated/deep/a-2.jpg", "annotated/deep/a.jpg", "annotated/v.mp4", "episodes.csv", "faces.csv"),
        *("faces.parquet", "faces/deep/a-2.parquet", "faces/deep/a.parquet", "faces/v.parquet", "failures.csv"),
        *("plots/v.png", "summary.csv"),
    ]
    with av.open(str(out / "annotated" / "v.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert np.allclose(times, [0.1 * i * i for i in range(10)], atol=1e-3)
    assert np.abs(read_image(out / "annotated" / "deep" / "a.jpg").astype(int) - plain()).max() > 50
    assert read_image(out / "plots" / "v.png").shape[0] > 400


def test_earlier_results_are_not_inputs(tmp_path):
    jpeg(tmp_path / "in" / "a.jpg")
    for _ in range(2):
        assert run([tmp_path / "in"], tmp_path / "in", annotate=True) == 0
    assert pl.read_parquet(tmp_path / "in" / "faces.parquet").height == 1


def test_each_input_is_collected_once(tmp_path):
    a, b = jpeg(tmp_path / "in" / "a.jpg"), jpeg(tmp_path / "in" / "b" / "b.JPEG")
    (tmp_path / "in" / "notes.txt").write_text("not an input")
    (tmp_path / "in" / ".hidden.jpg").write_text("not an input")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again.jpg").symlink_to(a)
    collection = collect([str(b), str(tmp_path / "in"), str(tmp_path / "**" / "*.jpg"), str(a)])
    assert [item.source for item in collection.inputs] == [b, a]
    assert not collection.failures
    assert collection.notices == [f"{tmp_path / 'in'}: 2 files not read, neither photo nor video: 1 hidden, 1 .txt"]


def test_the_same_camera_is_collected_once():
    assert [item.source for item in collect(["0", "0"]).inputs] == [0]


def test_a_file_named_by_a_number_is_not_a_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jpeg(tmp_path / "7")
    assert [str(item.source) for item in collect(["7", "8"]).inputs] == ["7", "8"]
    assert isinstance(collect(["8"]).inputs[0].source, int)


@pytest.mark.parametrize(
    "name", ["line\nend.jpg", "\x1b[31mred.jpg", "ünïcode 表情.jpg", "-dash.jpg", "a[1]*.jpg", "x" * 250 + ".jpg"]
)
def test_odd_names(tmp_path, name, capsys):
    jpeg(tmp_path / name)
    assert run([tmp_path], tmp_path / "out", annotate=True) == 0
    table = pl.read_csv(tmp_path / "out" / "faces.csv")
    assert table["file"].to_list() == [str(tmp_path / name)]
    assert len(list((tmp_path / "out" / "annotated").iterdir())) == 1
    printed = capsys.readouterr().out
    assert "\x1b" not in printed


def test_a_name_that_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(jpeg(tmp_path / "b.jpg").read_bytes())
    assert run([os.fsdecode(path)], tmp_path / "out", annotate=True) == 0
    assert pl.read_parquet(tmp_path / "out" / "faces.parquet")["file"][0].endswith("caf\\xe9.jpg")


def test_ctrl_c_keeps_finished_inputs(tmp_path, monkeypatch, capsys):
    paths = [jpeg(tmp_path / f"{i}.jpg") for i in range(4)]
    real = reading.read_photo

    def interrupted(path, **options):
        if path == paths[2]:
            raise KeyboardInterrupt
        return real(path, **options)

    monkeypatch.setattr(reading, "read_photo", interrupted)
    assert run(paths, tmp_path / "out") == 130
    assert pl.read_parquet(tmp_path / "out" / "faces.parquet")["file"].to_list() == [str(p) for p in paths[:2]]
    assert "stopped, 2 inputs not processed" in capsys.readouterr().out


def test_annotated_videos_are_at_most_1920_pixels_long(tmp_path, monkeypatch):
    path, drawn = film(tmp_path / "a.mp4", 3, pixels=lambda i: plain(size=(2400, 120))), []
    real = drawing._overlays
    monkeypatch.setattr(drawing, "_overlays", lambda shape, rows: drawn.append((shape, rows)) or real(shape, rows))
    assert run([path], tmp_path / "out", annotate=True) == 0
    with av.open(str(tmp_path / "out" / "annotated" / "a.mp4")) as container:
        assert [(frame.width, frame.height) for frame in container.decode(video=0)] == [(1920, 96)] * 3
    faces = pl.read_parquet(tmp_path / "out" / "faces.parquet")
    for (shape, rows), (x, y, w, h) in zip(drawn, faces["x", "y", "w", "h"].iter_rows(), strict=True):
        assert shape == (96, 1920)
        assert [rows[0][name] for name in "xywh"] == pytest.approx([0.8 * x, 0.8 * y, 0.8 * w, 0.8 * h])


def test_ctrl_c_in_a_video_keeps_a_whole_file(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", 40, pixels=lambda i: plain())
    real = video.read_video

    def interrupted(*args):
        for frame in real(*args):
            if frame.number == 20:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(video, "read_video", interrupted)
    assert run([path], tmp_path / "out", annotate=True) == 130
    assert pl.read_parquet(tmp_path / "out" / "faces.parquet").height == 16
    with av.open(str(tmp_path / "out" / "annotated" / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16


def test_ctrl_c_is_how_a_camera_ends(tmp_path, monkeypatch):
    class Stopping(Camera):
        def read(self):
            if len(self.shots) == 1:
                raise KeyboardInterrupt
            return super().read()

    monkeypatch.setattr(cv2, "VideoCapture", lambda index: Stopping([(True, plain())] * 18))
    assert run(["0"], tmp_path / "out", annotate=True) == 0
    assert pl.read_parquet(tmp_path / "out" / "faces.parquet")["file"].unique().to_list() == ["camera 0"]
    assert (tmp_path / "out" / "annotated" / "camera0.mp4").is_file()


def test_every_and_fps_apply_to_videos(tmp_path):
    path = film(tmp_path / "a.mp4", 30, pixels=lambda i: plain())
    assert run([path], tmp_path / "out", every=10) == 0
    assert pl.read_parquet(tmp_path / "out" / "faces.parquet")["frame"].to_list() == [0, 10, 20]
    assert run([path], tmp_path / "out", fps=2) == 0
    assert pl.read_parquet(tmp_path / "out" / "faces.parquet")["frame"].to_list() == [0, 15]


@pytest.mark.parametrize("wrong", [{"every": 0}, {"fps": 0.0}, {"fps": float("nan")}, {"annotate": True}])
def test_options_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(InputError):
        run([jpeg(tmp_path / "a.jpg")], **wrong)


def test_the_command_line_with_the_bundled_model(tmp_path, capsys):
    """A rendered face of the sample, already cut."""
    from triaffect.data.sample import sample

    image = sorted((sample(tmp_path / "sample") / "cropped_aligned").rglob("*.jpg"))[0]
    assert main(["analyze", str(image), "--cropped", "--backend", "onnx", "--out", str(tmp_path / "out")]) == 0
    row = pl.read_parquet(tmp_path / "out" / "faces.parquet").row(0, named=True)
    assert row["score"] == 1
    assert -1 <= row["valence"] <= 1
    assert "face 1:" in capsys.readouterr().out
    assert main(["analyze", str(tmp_path / "nothing.jpg")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_post_processing_reaches_the_table(tmp_path):
    film(tmp_path / "clip.mp4", 6)
    run([tmp_path / "clip.mp4"], tmp_path / "raw")
    sure = {"sigma": 0, "temperature": 1.0, "bias": [0.0, 0, 0, 9, 0, 0, 0, 0]}
    (tmp_path / "post.json").write_text(json.dumps({"expr": sure}))
    run([tmp_path / "clip.mp4"], tmp_path / "post", post=str(tmp_path / "post.json"))
    raw, post = (pl.read_parquet(tmp_path / name / "faces.parquet") for name in ("raw", "post"))
    assert post.schema == raw.schema
    assert set(post["expression"]) == {"Fear"}
    assert post["valence"].equals(raw["valence"])


def row(face, x, y, w, h, **others):
    base = analyzer().image(plain()).to_dicts()[0]
    return base | {"face": face, "x": x, "y": y, "w": w, "h": h} | others


@pytest.mark.parametrize("size", [(640, 360), (40, 40), (1, 1), (3000, 200)])
def test_drawing_covers_no_face_and_leaves_the_original_unchanged(size):
    pixels = plain(90, 90, 90, size)
    w, h = size
    box = (w * 0.1, h * 0.2, w * 0.3, h * 0.6)
    drawn = annotate(pixels, [row(1, *box), row(2, w * 0.55, *box[1:], quality_flags="small,turned")])
    assert (pixels == 90).all()
    assert drawn.shape == pixels.shape
    middle = drawn[int(h * 0.35) : int(h * 0.65), int(w * 0.16) : int(w * 0.34)]
    assert (middle == 90).all() or size == (1, 1)
    if size == (640, 360):
        assert (drawn != 90).any(axis=2).mean() > 0.03


def test_a_plot_without_a_video_is_a_notice(tmp_path):
    result = analyze([str(jpeg(tmp_path / "a.jpg"))], analyzer(), str(tmp_path / "out"), AnalyzeOptions(plots=True))
    assert [line for line in result.notices if "--plot" in line] == [
        "--plot drew nothing: no video with a face; --sequence makes numbered photos one video"
    ]


def test_the_timeline_of_action_units_alone_is_drawn_if_none_is_active():
    figure = draw_timeline(analyzer(tasks=["au"]).image(plain(60)))
    assert len(figure.axes[0].get_yticklabels()) == 12


def test_the_timeline_shows_gaps_and_every_face():
    first = analyzer().image(plain())
    lines = {"time": lambda i: i / 10 + 5 * (i > 20), "face": lambda i: 1 + i % 2, "valence": lambda i: np.sin(i / 5)}
    many = pl.concat(
        [first.with_columns(**{n: pl.lit(f(i), first.schema[n]) for n, f in lines.items()}) for i in range(60)]
    )
    figure = draw_timeline(many, "two faces")
    assert len(figure.axes) == 4  # no AU is ever active
    line = figure.axes[0].lines[0]
    assert np.isnan(line.get_ydata()).sum() == 2
    assert np.nanmax(line.get_ydata()) == pytest.approx(1, abs=0.02)
    assert [text.get_text() for axes in figure.axes for text in [axes.title, axes._left_title] if text.get_text()] == [
        "face 1",
        "face 2",
    ]


def test_the_timeline_shows_baselines_and_events():
    first = analyzer().image(plain())
    rising = [pl.lit(float(i >= 30)).alias("AU12") for i in range(60)]
    table = pl.concat(
        [first.with_columns(unit, time=pl.lit(i / 10), valence=pl.lit(0.5)) for i, unit in enumerate(rising)]
    ).cast(first.schema)
    figure = draw_timeline(table.with_columns(valence_change=pl.lit(0.3), arousal_change=pl.lit(0.1)))
    assert float(figure.axes[0].lines[1].get_ydata()[0]) == pytest.approx(0.2)
    (events,) = [lines for lines in figure.axes[2].collections if isinstance(lines, LineCollection)][:1]
    assert events.get_segments()[0][:, 0].tolist() == pytest.approx([3.0, 6.0])
