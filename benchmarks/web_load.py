"""The web page under load: 4 clients, good and hostile uploads; answers per second, memory, what is left at the end.

python benchmarks/web_load.py --seconds 60
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path


def hostile() -> dict[str, bytes]:
    """Uploads that are not what they seem."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    bomb += chunk(b"IDAT", zlib.compress(b"\0" * 10_000_000)) + chunk(b"IEND", b"")
    return {
        "bomb.png": bomb,  # 10.8 GB of pixels
        "noise.jpg": b"\xff\xd8" + os.urandom(50_000),
        "empty.png": b"",
        "page.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "list.m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "../../escape.png": b"\x89PNG",
        "big.bin": os.urandom(5_000_000),
    }


def post(url: str, data: bytes, kind: str) -> bytes:
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def ask(address: str, name: str, content: bytes) -> str:
    """Upload a file and have it described; `complete`, `error`, or the HTTP status that refused it."""
    form = (f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n").encode()  # fmt: skip
    try:
        paths = post(
            f"{address}/gradio_api/upload", form + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
        )
        data = {"data": [{"path": json.loads(paths)[0], "meta": {"_type": "gradio.FileData"}}]}
        event = json.loads(post(f"{address}/gradio_api/call/describe", json.dumps(data).encode(), "application/json"))
        with urllib.request.urlopen(f"{address}/gradio_api/call/describe/{event['event_id']}", timeout=60) as answer:
            text = answer.read().decode()
        return "complete" if "event: complete" in text else "error"
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"


def memory(process: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "triaffect.cli.main", "web", "--port", str(port), "--backend", "onnx"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": folder})
        assert server.stdout is not None
        server.stdout.readline()
        (private,) = Path(folder).glob("triaffect-web-*")
        good = {name: (private / name).read_bytes() for name in ("one.png", "three.png")}
        bad = hostile()
        ask(address, "one.png", good["one.png"])
        start, before, peaks = time.monotonic(), memory(server.pid), [0.0] * 4
        answers: collections.Counter[tuple[str, str]] = collections.Counter()
        waits: list[float] = []

        def client(seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() - start < options.seconds:
                name, content = rng.choice(list((good if rng.random() < 0.6 else bad).items()))
                begin = time.monotonic()
                answers[name, ask(address, name, content)] += 1
                waits.append(time.monotonic() - begin)

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(options.clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            quarter = min(3, int(4 * (time.monotonic() - start) / options.seconds))
            peaks[quarter] = max(peaks[quarter], memory(server.pid))
            time.sleep(0.2)
        seconds = time.monotonic() - start
        alive = server.poll() is None and ask(address, "one.png", good["one.png"]) == "complete"
        uploads = sum(path.stat().st_size for path in (private / "uploads").rglob("*") if path.is_file())
        after = memory(server.pid)
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
        left = [path for path in Path(folder).rglob("*") if path.is_file()]
    for (name, answer), count in sorted(answers.items()):
        print(f"{name:18} {answer:10} {count:5}")
    waits.sort()
    print(f"{sum(answers.values())} requests by {options.clients} clients in {seconds:.0f} s, "
          f"{sum(answers.values()) / seconds:.1f}/s; median {waits[len(waits) // 2]:.2f} s, "
          f"95 % under {waits[int(0.95 * len(waits))]:.2f} s")  # fmt: skip
    quarters = ", ".join(f"{peak:.0f}" for peak in peaks)
    print(f"memory: {before:.0f} MB before, at most {quarters} in each quarter, {after:.0f} after")
    print(f"uploads on disk: {uploads >> 20} MB")
    print(f"answers afterwards: {alive}; files left after SIGTERM: {len(left)}; exit code {server.returncode}")


if __name__ == "__main__":
    main()
