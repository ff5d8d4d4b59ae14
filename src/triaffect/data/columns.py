"""The data dictionary: meaning, unit and range of every column of `analyze`; docs/columns.md is written from it."""

from __future__ import annotations

from typing import NamedTuple

from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS


class Column(NamedTuple):
    """What a column holds.

    Attributes:
        meaning: One sentence.
        unit: Unit of the numbers, or empty.
        range: Lowest and highest value, in words; empty if there is no limit.
    """

    meaning: str
    unit: str = ""
    range: str = ""


_POINTS = {
    "right_eye": "centre of the person's right eye",
    "left_eye": "centre of the person's left eye",
    "nose": "tip of the nose",
    "mouth_right": "corner of the mouth on the person's right",
    "mouth_left": "corner of the mouth on the person's left",
}

COLUMNS: dict[str, Column] = {
    "file": Column("the photo, video or camera, as it was named"),
    "frame": Column("number of the frame in its video", "", "from 0; 0 for a photo"),
    "time": Column("time of the frame from the start of the video", "s", "from 0; 0 for a photo"),
    "face": Column(
        "number of the face: in a video the same person keeps it, in a photo from left to right", "", "from 1"
    ),
    "x": Column("left edge of the face's box", "px"),
    "y": Column("top edge of the face's box", "px"),
    "w": Column("width of the face's box", "px", "from 0"),
    "h": Column("height of the face's box", "px", "from 0"),
    "score": Column("how sure the detector is that this is a face", "", "0 to 1"),
    **{
        f"{point}_{axis}": Column(f"{meaning}, {direction}", "px")
        for point, meaning in _POINTS.items()
        for axis, direction in (("x", "from the left edge"), ("y", "from the top edge"))
    },
    "size": Column("distance between the eyes, as if the face looked at the camera", "px", "from 0"),
    "yaw": Column("turn of the head, positive to the right of the image", "degrees", "-90 to 90"),
    "roll": Column("lean of the head, positive to the right of the image", "degrees", "-180 to 180"),
    "blur": Column("blur of the face in a crop of 112 px, as a standard deviation", "px", "from 0"),
    "quality_flags": Column("reasons not to rely on the row, joined by commas; empty if there is none"),
    "expression": Column("the most probable of the eight expressions", "", ", ".join(EXPRESSIONS)),
    "valence": Column("how pleasant the shown affect is", "", "-1 (negative) to 1 (positive)"),
    "arousal": Column("how activated the shown affect is", "", "-1 (calm) to 1 (active)"),
    **{
        name.lower(): Column(f"probability of the expression {name}; the eight add up to 1", "", "0 to 1")
        for name in EXPRESSIONS
    },
    **{
        unit: Column(f"probability that the action unit is present: {AU_NAMES[unit]}", "", "0 to 1")
        for unit in ACTION_UNITS
    },
}


def describe_column(name: str) -> Column:
    """Return what a column holds, those of `--baseline` included; an empty meaning if it is none of ours."""
    if (base := name.removesuffix("_change")) != name and base in COLUMNS:
        limit = "-2 to 2" if base in ("valence", "arousal") else "-1 to 1"
        return Column(f"change of {base} against the person's baseline (--baseline): value minus baseline", "", limit)
    return COLUMNS.get(name, Column(""))


COLUMNS_PAGE = """# Columns

`triaffect analyze --out FOLDER` writes `faces.parquet` and `faces.csv`: one row per face and frame. A value that cannot
be measured is empty. The columns of change are there with `--baseline`, one for each action unit.

The number of an action unit is the probability that it is **present**, not how strong it is. What a face shows is not
what a person feels.

| column | meaning | unit | range |
|---|---|---|---|
"""


def columns_page() -> str:
    """Return docs/columns.md: the table of all columns."""
    names = [*COLUMNS, *(f"{name}_change" for name in ("valence", "arousal", "AU1"))]
    return COLUMNS_PAGE + "".join(f"| `{name}` | {' | '.join(describe_column(name))} |\n" for name in names)
