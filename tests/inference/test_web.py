"""The web page: its panels, its functions as the browser calls them, and no address of another machine."""

import asyncio
import json
import re
import warnings
from pathlib import Path

import polars as pl
import pytest

from triaffect.inference.web import Camera, build, panels, without_emotion
from triaffect.labels import AU_NAMES, EXPRESSIONS
from worlds import analyzer, film, jpeg, plain


def test_the_panels_name_everything_and_dim_what_is_improbable():
    rows = analyzer().image(plain(200, 100, 240))
    html = panels(rows)
    for name in (*EXPRESSIONS, *AU_NAMES.values(), "Happiness 94%", "Valence +0.5"):
        assert name in html
    assert html.count('class="row off"') == 7 + 11
    assert "Do not rely on this" in html  # 16 px between the eyes
    assert "No face found" in panels(rows.clear())
    two_faces = analyzer().image(plain(40, 200, 255, (100, 60)))
    assert "face 1 of 2" in panels(two_faces)  # the largest
    assert "face 2 of 2" in panels(two_faces, 2)
    units = panels(without_emotion(two_faces))
    assert "cheek raiser" in units
    assert not [name for name in (*EXPRESSIONS, "Valence", "Expression") if name in units]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """The page; the event loops that gradio makes and leaves open are closed in its place."""
    policy, loops = type(asyncio.get_event_loop_policy()), []
    make = policy.new_event_loop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "new_event_loop", lambda self: loops.append(make(self)) or loops[-1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gradio's own
            pytest.importorskip("gradio")
            page = build(analyzer(), tmp_path_factory.mktemp("web"))
        yield page
        asyncio.set_event_loop(None)
        for loop in loops:
            loop.close()


def call(blocks, name):
    return next(block.fn for block in blocks.fns.values() if block.fn.__name__ == name)


def test_the_functions_that_the_browser_calls(blocks, tmp_path):
    look, watch = call(blocks, "describe_photo"), call(blocks, "describe_video")
    picture, html, choice, rows, file = look(str(jpeg(tmp_path / "a.jpg", plain(40, 200, 255, (320, 240)))), False)
    assert picture["value"].shape == (240, 320, 3)
    assert "Happiness" in html
    assert choice["choices"] == [1, 2]
    assert pl.read_csv(file["value"])["face"].to_list() == rows["face"].to_list() == [1, 2]
    assert "valence" not in look(str(tmp_path / "a.jpg"), True)[3].columns
    assert "What this page does" in look(None, False)[1]
    shares = []
    path = str(film(tmp_path / "a.mp4", 30, pixels=lambda i: plain()))
    film_path, timeline, _, file = watch(path, False, lambda share, text: shares.append(share))
    assert Path(film_path).read_bytes()[4:8] == b"ftyp"
    assert Path(timeline).read_bytes()[:4] == b"\x89PNG"
    assert pl.read_csv(file["value"]).height == 30
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(29 / 30, abs=0.01)
    (tmp_path / "a.jpg").write_text("nonsense")
    for function, words in ((look, (False,)), (call(blocks, "describe_file"), ())):
        with pytest.raises(Exception, match=r"^'?not an image"):
            function(str(tmp_path / "a.jpg"), *words)


def test_a_camera_keeps_numbers_and_gives_a_temporal_model_the_frames_before():
    camera = Camera(analyzer())
    assert [camera.describe(plain())["face"].to_list() for _ in range(5)] == [[1]] * 5
    assert camera.describe(plain(0, 0, 0)).height == 0
    times = [camera.describe(plain())["time"][0] for _ in range(2)]
    assert times == sorted(times)


def test_the_page_contains_no_address(blocks):
    config = json.dumps(
        {k: v for k, v in blocks.config.items() if k in ("components", "css", "layout", "title")}, default=str
    )
    assert not blocks.analytics_enabled
    assert not [url for url in re.findall(r"https?://[^\"' ]+", config) if "gradio-app/gradio" not in url]
