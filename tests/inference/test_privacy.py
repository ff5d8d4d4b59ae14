"""Analyzing a photo contacts nobody and writes nothing outside the package's own cache."""

import os
import re
import shutil
import subprocess
import sys

import pytest

CODE = """
import sys
from triaffect.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def analyze(tmp_path, backend, *before):
    """Runs `analyze` in a new process with an empty home folder, as on a user's machine: without `CI`."""
    home = tmp_path / "home"
    home.mkdir()
    photo = tmp_path / "photo.png"
    shutil.copy(os.path.join(os.path.dirname(__file__), "..", "..", "docs", "analyze.png"), photo)
    variables = {k: v for k, v in os.environ.items() if not re.match(r"CI$|GITHUB_|TF_BUILD|XDG_|ORT_|OPENVINO|HF_", k)}
    variables |= {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home)}
    words = [sys.executable, "-c", CODE, "analyze", str(photo), "--backend", backend, "--out", str(tmp_path / "out")]
    subprocess.run([*before, *words], env=variables, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    return [path for path in home.rglob("*") if path.is_file() and path.parent != home / ".cache" / "triaffect"]


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_no_file_appears_outside_the_cache(tmp_path, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    assert not analyze(tmp_path, backend)


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_no_process_connects_or_resolves_a_name(tmp_path, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    log = tmp_path / "trace.txt"
    analyze(tmp_path, backend, "strace", "-f", "-qq", "-e", "trace=connect,sendto,openat", "-o", str(log))
    lines = log.read_text(errors="replace").splitlines()
    assert lines, "strace wrote nothing"
    network = [line for line in lines if re.search(r"(connect|sendto)\(.*AF_INET", line)]
    resolver = [line for line in lines if re.search(r"openat\(.*(resolv\.conf|/etc/hosts|nsswitch\.conf)", line)]
    assert not network, network[:3]
    assert not resolver, resolver[:3]


def test_a_photo_needs_neither_matplotlib_nor_openvino_nor_torch(tmp_path):
    photo = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "analyze.png")
    code = f"""
import sys
from triaffect.cli.main import main
main(["analyze", {photo!r}, "--backend", "onnx"])
print({{"matplotlib", "openvino", "torch", "jinja2", "scipy"}} & {{*sys.modules}} or "none")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "none"
