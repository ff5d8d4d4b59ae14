"""A study as one self-contained page: what was asked, what came out, and what it rests on."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from triaffect.io import write_text
from triaffect.labels import EXPRESSIONS, TASK_NAMES
from triaffect.report import exhibits, sections
from triaffect.report.figures import CLASS_COLOURS
from triaffect.report.study_folder import Study

TITLES = {
    "scores": "Scores",
    "comparisons": "Is the difference real?",
    "paper": "Beside the paper",
    "cost": "Cost",
    "va": "Valence and arousal",
    "expr": "Expressions",
    "au": "Action units",
    "timelines": "Time lines",
    "images": "Worst and best frames",
    "fusion": "Fusion",
    "training": "Training",
    "search": "Search",
    "data": "Data",
    "failures": "Failures",
    "making": "How this was made",
}
"""Section -> heading, in the order of the page."""

FORMS = {"score": ".3f", "signed": "+.3f", "count": "", "percent": ".1%", "share": ".2f"}
"""How the page's filters print numbers."""


def write_report(study: str | os.PathLike[str]) -> Path:
    """Writes the page of a study, `report.html`: one file that needs no network, the same bytes for the same folder.

    Args:
        study: The folder that `triaffect study` made. A section whose data is missing is left out.

    Returns:
        The page.

    Raises:
        InputError: The folder holds no results of a study.
    """
    found = Study.read(study)
    parts: dict[str, Any] = {
        "scores": sections.scores(found),
        "comparisons": sections.comparisons(found),
        "paper": sections.paper(found),
        "cost": sections.cost(found),
        **{task: sections.values(found, task) for task in TASK_NAMES},
        "timelines": exhibits.timelines(found),
        "images": exhibits.images(found),
        "fusion": sections.fusion(found),
        "training": exhibits.training(found),
        "search": sections.search(found),
        "data": sections.data(found),
        "failures": found.results.get("failures"),
        "making": sections.making(found),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: partial(_number, form=form) for name, form in FORMS.items()}
    environment.filters["time"] = _time
    page = environment.get_template("report.html").render(
        results=found.results,
        study=found,
        parts=parts,
        titles={name: title for name, title in TITLES.items() if parts[name]},
        classes=list(zip(EXPRESSIONS, CLASS_COLOURS, strict=True)),
        notes=list(dict.fromkeys(found.notes)),
    )
    path = found.folder / "report.html"
    write_text(path, page)
    return path


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any, form: str) -> str:
    if not _known(value):
        return "–"
    if not form:  # whole numbers with separators, others with three digits that count
        form = ",.0f" if isinstance(value, int) or abs(value) >= 100 else ".3g"
    return f"{value:{form}}".replace("-", "−").replace("%", " %")


def _time(seconds: Any) -> str:
    if not _known(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
