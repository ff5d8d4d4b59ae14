"""The data dictionary: meaning, unit and range of every column of `analyze`; docs/columns.md is written from it."""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import yaml

from triaffect.labels import VA


class Column(NamedTuple):
    """What a column holds.

    Attributes:
        meaning: A phrase; empty if the column is none of ours.
        unit: Unit of the numbers, or empty.
        range: Lowest and highest value, as text; empty if there is no limit.
    """

    meaning: str = ""
    unit: str = ""
    range: str = ""


def resource(name: str) -> str:
    """Return the text of a file of this folder."""
    return resources.files("triaffect.data").joinpath(name).read_text(encoding="utf-8")


COLUMNS = {name: Column(*values) for name, values in yaml.safe_load(resource("columns.yaml")).items()}
"""Every column of `analyze`, in its order."""


def describe_column(name: str) -> Column:
    """Return what a column holds, those of `--baseline` included."""
    if (base := name.removesuffix("_change")) != name and base in COLUMNS:
        limit = "-2 to 2" if base in VA else "-1 to 1"
        return Column(f"change of {base} against the person's baseline (--baseline): value minus baseline", "", limit)
    return COLUMNS.get(name, Column())


COLUMNS_PAGE = """# Columns

`triaffect analyze --out FOLDER` writes `faces.parquet` and `faces.csv`: one row per face and frame. A value that cannot
be measured is empty. `--baseline` adds the columns of change, one for each action unit.

`AU12` is the probability that the action unit is **present**. `AU12_intensity` is how strong it is, from 0 to 1 (the
strongest movement that the renderer draws); models without intensities leave these columns out. What a face shows is
not what a person feels.

| column | meaning | unit | range |
|---|---|---|---|
"""


def columns_page() -> str:
    """Return docs/columns.md: the table of all columns."""
    names = [*COLUMNS, *(f"{name}_change" for name in (*VA, "AU1"))]
    return COLUMNS_PAGE + "".join(f"| `{name}` | {' | '.join(describe_column(name))} |\n" for name in names)
