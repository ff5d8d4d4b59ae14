"""Change against a person's own baseline, next to the raw values: people differ at rest, and a model sees that too."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from triaffect.data.intervals import PERSON
from triaffect.images import is_image
from triaffect.inference.analyzer import Analyzer
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, VA


def change_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns that get a column of change: valence, arousal, action units and their intensities."""
    units = {*ACTION_UNITS, *(f"{unit}_intensity" for unit in ACTION_UNITS)}
    return [name for name in columns if name in VA or name in units]


def add_change(rows: pl.DataFrame, seconds: float | None = None) -> pl.DataFrame:
    """Add the change of each value against the median of the same face: of its first seconds, or of all its rows.

    Rows with quality flags do not count for a baseline, unless a face has no others.

    Args:
        rows: An `Analyzer` table of any number of inputs.
        seconds: Length of the baseline from the face's first row; the whole video by default.

    Returns:
        The table with `valence_change`, `arousal_change`, `AU1_change` ... added: value minus baseline, so valence and
        arousal in [-2, 2] and probabilities in [-1, 1].

    Raises:
        InputError: `seconds` is not greater than 0.
    """
    if seconds is not None and not seconds > 0:
        raise InputError(f"baseline first:{seconds}s: must be longer than 0 s, such as first:3s")
    time, start = pl.col("time"), pl.col("time").min().over(PERSON)
    in_baseline = pl.lit(True) if seconds is None else time < start + seconds
    clear = in_baseline & (pl.col("quality_flags") == "")
    counts = pl.when(clear.any().over(PERSON)).then(clear).otherwise(in_baseline)
    return rows.with_columns(
        (pl.col(name) - pl.col(name).filter(counts).median().over(PERSON)).alias(f"{name}_change")
        for name in change_columns(rows.columns)
    )


@dataclass(frozen=True)
class Baseline:
    """What a change is measured against.

    Attributes:
        name: As the user wrote it.
        seconds: The first seconds of each face; all of them if None.
        values: Values of a neutral photo or clip, for every face alike; None if each face is its own baseline.
    """

    name: str
    seconds: float | None = None
    values: dict[str, float] | None = None

    @classmethod
    def load(cls, text: str, analyzer: Analyzer) -> Baseline:
        """Read `first:3s`, `median`, or the path of a neutral photo or clip of the person.

        Args:
            text: As above.
            analyzer: Describes the photo or clip.

        Raises:
            InputError: It is neither, cannot be read, or does not show exactly one face.
        """
        if text == "median":
            return cls(text)
        if match := re.fullmatch(r"first:(\d+(?:\.\d+)?)s?", text):
            return cls(text, float(match[1]))
        if not os.path.exists(text):
            raise InputError(f"--baseline {text}: no such file; give first:3s, median, or a neutral photo or clip")
        rows = analyzer.image(text) if is_image(text) else pl.concat(analyzer.video(text))
        if (faces := rows["face"].n_unique()) != 1:
            raise InputError(f"--baseline {text}: shows {faces} faces; give a photo or clip of the person alone")
        clear = rows.filter(pl.col("quality_flags") == "")
        columns = change_columns(rows.columns)
        return cls(text, values=(clear if clear.height else rows).select(pl.col(columns).median()).row(0, named=True))

    def apply(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add the columns of change to an `Analyzer` table; the raw values stay."""
        if self.values is None:
            return add_change(rows, self.seconds)
        return rows.with_columns(
            (pl.col(name) - value).cast(pl.Float32).alias(f"{name}_change") for name, value in self.values.items()
        )
