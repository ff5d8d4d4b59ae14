"""Small data that many tests read: coloured pictures whose labels can be seen in them."""

import os

# Before torch is imported: two workers on two threads must not fight over them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import pytest
import simplejpeg

from made_predictions import make  # noqa: F401 (fixture)
from raw_layout import crops, text_file, video_file  # noqa: F401 (fixtures)
from triaffect.labels import ACTION_UNITS


def picture(code, rng, size=48):
    """A square whose colour and stripes tell the expression code."""
    pixels = np.full((size, size, 3), 40 + 20 * code, np.uint8)
    pixels[:, :, code % 3] = 230
    pixels[:: 2 + code // 3] //= 2
    return np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def frames(tmp_path_factory):
    """A generic index of 72 pictures in 12 videos, two thirds for training; (index path, image root)."""
    root = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    rows = []
    for video in range(12):
        split = "train" if video < 8 else "val"
        for frame in range(1, 7):
            code = (video + frame) % 8
            name = f"v{video:02d}/{frame:05d}.jpg"
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(simplejpeg.encode_jpeg(picture(code, rng), 90))
            units = {au: int((code >> (i % 3)) & 1) for i, au in enumerate(ACTION_UNITS)}
            va = {"valence": code / 3.5 - 1, "arousal": 1 - code / 3.5}
            key = {"image": name, "video": f"v{video:02d}", "frame": frame, "split": split}
            rows.append({**key, "exists": True, **va, "expression": code, **units})
    path = root / "index.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return path, root / "images"
