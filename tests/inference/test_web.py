"""The web page: its panels, its functions as the browser calls them, and no address of another machine."""

import asyncio
import json
import re
import warnings
from pathlib import Path

import pytest

from triaffect.inference.web import build, panels
from triaffect.labels import AU_NAMES, EXPRESSIONS
from worlds import analyzer, film, plain


def test_the_panels_name_everything_and_dim_what_is_improbable():
    rows = analyzer().image(plain(200, 100, 240))
    html = panels(rows)
    for name in (*EXPRESSIONS, *AU_NAMES.values(), "Happiness 94%", "Valence +0.5"):
        assert name in html
    assert html.count('class="row off"') == 7 + 11
    assert "Do not rely on this" in html  # 16 px between the eyes
    assert "No face found" in panels(rows.clear())
    assert "the largest of 2 faces" in panels(analyzer().image(plain(40, 200, 255, (100, 60))))


@pytest.fixture(scope="module")
def blocks():
    """The page; the event loops that gradio makes and leaves open are closed in its place."""
    policy, loops = type(asyncio.get_event_loop_policy()), []
    make = policy.new_event_loop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "new_event_loop", lambda self: loops.append(make(self)) or loops[-1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gradio's own
            pytest.importorskip("gradio")
            page = build(analyzer())
        yield page
        asyncio.set_event_loop(None)
        for loop in loops:
            loop.close()


def test_the_functions_that_the_browser_calls(blocks, tmp_path):
    look, _, watch = (block.fn for block in blocks.fns.values())
    drawn, html = look(plain(200, 100, 240, (320, 240)))
    assert drawn.shape == (240, 320, 3)
    assert "Happiness" in html
    assert look(None) == (None, "")
    film_path, figure, _ = watch(str(film(tmp_path / "a.mp4", 6, pixels=lambda i: plain())), lambda *a: None)
    assert Path(film_path).read_bytes()[4:8] == b"ftyp"
    assert len(figure.axes) == 2


def test_the_page_contains_no_address(blocks):
    config = json.dumps(
        {k: v for k, v in blocks.config.items() if k in ("components", "css", "layout", "title")}, default=str
    )
    assert not blocks.analytics_enabled
    assert not [url for url in re.findall(r"https?://[^\"' ]+", config) if "gradio-app/gradio" not in url]
