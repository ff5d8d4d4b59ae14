"""The page in a real browser at desktop and phone size, its API for programs, its limits, and its end."""

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg

from triaffect.inference.web import example_files

pytest.importorskip("gradio")
ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A page in its own process; (address, its temporary folder, the process)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("web")
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "triaffect.cli.main", "web", "--port", str(port), "--backend", "onnx"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    yield f"http://127.0.0.1:{port}", folder, process
    process.terminate()
    process.communicate(timeout=30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, with a camera that films an invented person."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        folder = tmp_path_factory.mktemp("camera")
        example_files(folder)
        with av.open(str(folder / "clip.mp4")) as clip:
            frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
        jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(frame)) for frame in frames]
        (folder / "camera.mjpeg").write_bytes(b"".join(jpegs))
        options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        options.append(f"--use-file-for-fake-video-capture={folder}/camera.mjpeg")
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


def visit(browser, address, size):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.foreign = []
    page.on("request", lambda request: None if address in request.url else page.foreign.append(request.url))
    page.goto(address)
    page.wait_for_selector("text=What this page does")
    return page


@pytest.mark.parametrize("size", SIZES)
def test_a_photo_of_three_people(server, browser, size, tmp_path):
    page = visit(browser, server[0], size)
    page.locator(".gallery-item").nth(1).click()
    page.wait_for_selector("text=of 3,")
    page.get_by_label("3", exact=True).check()
    page.wait_for_selector("text=face 3 of 3")
    assert page.is_visible("text=Valence")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the table").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    assert [row["face"] for row in rows] == ["1", "2", "3"]
    assert "expression" in rows[0]
    page.get_by_label("Action units only").check()
    page.wait_for_selector("text=Valence", state="hidden")
    assert page.is_visible("text=Action units")
    assert not page.is_visible("text=Happiness")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert [url for url in page.foreign if not url.startswith(("data:", "blob:"))] == []
    page.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_video_shows_its_progress_and_its_time_line(server, browser, size):
    page = visit(browser, server[0], size)
    page.get_by_role("tab", name="Video").click()
    page.locator(".gallery-item:visible").first.click()
    progress = set()
    while not page.is_visible("text=Download the table (CSV)"):
        progress |= set(re.findall(r"(\d+) of 6 s", page.inner_text("body")))
        assert not page.is_visible("text=Error")
        page.wait_for_timeout(50)
    assert len(progress) > 1
    page.wait_for_selector("img[src*='timeline']")
    page.close()


def test_the_camera_describes_its_frames(server, browser):
    page = visit(browser, server[0], "desktop")
    page.get_by_role("tab", name="Camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.locator("button[aria-label='capture photo']:visible").click()
    page.wait_for_selector("text=face 1,")
    page.wait_for_selector("img[alt]:visible, .drawn img:visible")
    page.close()


def post(url, data, kind="application/json"):
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def upload(address, name, content):
    body = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode() + content + b"\r\n--x--\r\n"  # fmt: skip
    return json.loads(post(f"{address}/gradio_api/upload", body, "multipart/form-data; boundary=x"))[0]


def describe(address, path):
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    event = json.loads(post(f"{address}/gradio_api/call/describe", json.dumps(data).encode()))["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/describe/{event}", timeout=60) as answer:
        return answer.read().decode()


def test_a_program_sends_a_photo_and_gets_a_table(server, tmp_path):
    example_files(tmp_path)
    answer = describe(server[0], upload(server[0], "three.png", (tmp_path / "three.png").read_bytes()))
    assert answer.startswith("event: complete")
    (rows,) = json.loads(answer.partition("data: ")[2])
    assert [row["face"] for row in rows] == [1, 2, 3]
    assert -1 <= rows[0]["valence"] <= 1
    assert rows[0]["file"] == "three.png"
    for name, content in (("no.png", b"nonsense"), ("no.svg", b"<svg/>"), ("cut.png", b"\x89PNG\r\n\x1a\n")):
        assert describe(server[0], upload(server[0], name, content)).startswith("event: error")
    assert "event: error" in describe(server[0], "/etc/passwd")


def test_the_commands_of_the_page_for_engineers(server, tmp_path, monkeypatch, capsys):
    """The curl and Python blocks of docs/howto/engineer.md, as they are written, with this server's address."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    example_files(tmp_path)
    (tmp_path / "one.png").rename(tmp_path / "photo.jpg")
    text = (ROOT / "docs/howto/engineer.md").read_text(encoding="utf-8").replace("http://127.0.0.1:7860", server[0])
    shell, python = (re.search(rf"^```{name}\n(.*?)^```$", text, re.M | re.S)[1] for name in ("http", "http-python"))
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "event: complete" in done.stdout
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True)
    assert re.search(r"^[A-Z][a-z]+ -?[01]?\.\d+", done.stdout, re.M), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither SIGTERM nor these file modes")
def test_uploads_are_private_and_gone_after_sigterm(server):
    """The last test of this module: it ends the server."""
    address, folder, process = server
    (private,) = folder.glob("triaffect-web-*")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert Path(upload(address, "a.bin", b"x" * 1000)).is_relative_to(private)
    assert any(path.is_file() for path in (private / "uploads").rglob("*"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
    for _ in range(50):
        if not private.exists():
            break
        time.sleep(0.1)
    assert [path for path in folder.rglob("*") if path.is_file()] == []
