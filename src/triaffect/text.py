"""Text for people: aligned tables, numbers, and names that are safe on a terminal."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

INTENDED_USE = (
    "What a face shows is not what a person feels. This is research software: use it on people who agreed, and never "
    "to rate, select, monitor or diagnose anyone."
)


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table: the first column is aligned to the left, the others to the right."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )


def format_number(value: float | None) -> str:
    """Four decimals; a dash for None."""
    return "-" if value is None else f"{value:.4f}"


def printable(line: str) -> str:
    """Spell out the line ends, escape sequences and broken characters that a file's name may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def plural(count: int, noun: str) -> str:
    """`1 face`, `2 faces`, `1,000 faces`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """`12 s`, `45 min`, `3.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progress_bar(*items: Any, **options: Any) -> Any:
    """Tqdm's bar: of widgets in a notebook with ipywidgets, of text everywhere else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm

        return tqdm(*items, **options)
