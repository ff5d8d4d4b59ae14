"""Raw layouts with invented values, written file by file: headers, folder names and fixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

HEADERS = {
    "va": "valence,arousal",
    "expr": "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other",
    "au": "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26",
}
MTL = "image,valence,arousal,expression,aus"
ZEROS = ",".join("0" * 12)
FOLDERS = {
    "abaw2": {"va": "VA_Set", "expr": "EXPR_Set", "au": "AU_Set"},
    "abaw3": {"va": "VA_Estimation_Challenge", "expr": "EXPR_Classification_Challenge", "au": "AU_Detection_Challenge"},
    "abaw6": {"va": "VA_Estimation_Challenge", "expr": "EXPR_Recognition_Challenge", "au": "AU_Detection_Challenge"},
}

WriteVideo = Callable[..., Path]
WriteCrops = Callable[..., Path]


@pytest.fixture
def video_file(tmp_path: Path) -> WriteVideo:
    """Writes one per-video file below `tmp_path/annotations` and returns the annotations' folder."""

    def write(
        video: str,
        task: str,
        rows: Sequence[str],
        split: str = "Train_Set",
        edition: str = "abaw6",
        header: str | None = None,
        end: str = "\n",
    ) -> Path:
        path = tmp_path / "annotations" / FOLDERS[edition][task] / split / f"{video}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([HEADERS[task] if header is None else header, *rows]) + end, newline="")
        return tmp_path / "annotations"

    return write


@pytest.fixture
def crops(tmp_path: Path) -> WriteCrops:
    """Writes empty crops and returns the image root."""

    def write(video: str, frames: Sequence[int], below: str = "", root: str = "images") -> Path:
        folder = tmp_path / root / below / video
        folder.mkdir(parents=True, exist_ok=True)
        for frame in frames:
            (folder / f"{frame:05d}.jpg").touch()
        return tmp_path / root

    return write


@pytest.fixture
def text_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines (or bytes) to a file below `tmp_path`."""

    def write(name: str, *lines: str, data: bytes | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(("\n".join(lines) + "\n").encode() if data is None else data)
        return path

    return write
