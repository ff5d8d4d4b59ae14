"""A model goes to a Hugging Face hub and comes back by name: against a small copy of the hub's HTTP API."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from PIL import Image

import triaffect as ta
from triaffect.io import model_folder
from triaffect.training.model import AffectModel

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answers what `push_to_hub`, `from_pretrained` and `snapshot_download` ask; keeps the files of one repository."""

    files: ClassVar[dict[str, bytes]] = {}

    def log_message(self, *_):
        pass

    def answer(self, content, headers=(), status=200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **dict(headers)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        host = f"http://{self.headers['Host']}"
        if self.path.endswith("/repos/create"):
            self.answer({"url": f"{host}/someone/model", "id": "1"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/validate-yaml" in self.path:
            self.answer({"errors": [], "warnings": []})
        else:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{host}/someone/model/commit/{COMMIT}"
            self.answer({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def do_GET(self):
        *_, name = self.path.split("?")[0].split("/")
        if "/someone/model" not in self.path:
            self.answer({"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}, 404)
        elif self.path.startswith("/api/"):
            listing = [
                {"rfilename": n, "type": "file", "path": n, "size": len(b), "oid": n} for n, b in self.files.items()
            ]
            information = {
                "id": "someone/model",
                "sha": COMMIT,
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
            self.answer(listing if "/tree/" in self.path else information | {"siblings": listing})
        elif name in self.files:
            self.answer(self.files[name], {"ETag": f'"{name}"'})
        else:
            self.answer({"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}, 404)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(tmp_path):
    """The environment of a process whose hub is ours."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.files = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": "hf_made_up",
        "PYTHONPATH": str(ROOT / "src"),
    }
    server.shutdown()
    server.server_close()


def run(words, environment):
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)


def test_a_model_goes_to_the_hub_and_comes_back(hub, tmp_path):
    model = AffectModel("test_resnet", size=32, pretrained=False)
    model.save_pretrained(tmp_path / "model")
    script = (
        "import sys, torch, triaffect as ta\n"
        "model = ta.load_model(sys.argv[1])\n"
        "model.push_to_hub('someone/model')\n"
        "again = ta.AffectModel.from_pretrained('someone/model')\n"
        "assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))\n"
    )
    done = run(["-c", script, str(tmp_path / "model")], hub)
    assert done.returncode == 0, done.stderr
    assert sorted(Hub.files) == ["README.md", "config.json", "model.safetensors"]
    assert Hub.files["model.safetensors"] == (tmp_path / "model/model.safetensors").read_bytes()


def test_analyze_takes_a_model_of_the_hub_which_is_downloaded_once(hub, tmp_path):
    Hub.files = {path.name: path.read_bytes() for path in model_folder("triaffect-base").iterdir() if path.is_file()}
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "crop.png")
    words = ["-m", "triaffect.cli.main", "analyze", str(tmp_path / "crop.png"), "--cropped", "--backend", "onnx"]
    done = run([*words, "--model", "hub:someone/model", "--out", str(tmp_path / "out")], hub)
    assert done.returncode == 0, done.stderr
    ours = ta.Analyzer(backend="onnx").image(tmp_path / "crop.png", cropped=True)
    assert pl.read_parquet(tmp_path / "out/faces.parquet")["valence"].to_list() == ours["valence"].to_list()

    find = (
        "import sys, triaffect.io as io\n"
        "try: print(io.model_folder(sys.argv[1]))\n"
        "except io.InputError as error: print(error)"
    )
    assert run(["-c", find, "hub:someone/else"], hub).stdout.startswith("hub:someone/else: cannot be fetched (")
    no_network = hub | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run(["-c", find, "hub:someone/else"], no_network)
    assert done.stdout.startswith("hub:someone/else: cannot be fetched (")
    assert done.stdout.count("\n") == 1
    assert Path(run(["-c", find, "hub:someone/model"], no_network).stdout.strip(), "config.json").is_file()
