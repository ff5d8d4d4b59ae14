"""Scores as aligned text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from triaffect.labels import AU_NAMES, TASK_NAMES, VA
from triaffect.text import format_number, text_table

if TYPE_CHECKING:
    from triaffect.metrics.scores import Comparison, Scores


def scores_text(scores: Scores) -> str:
    """Tasks, classes, AUs, groups and signature."""

    def table(head: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
        """Rows come with the name of their interval; the column of intervals is third."""
        if not scores.intervals:
            return text_table(head, [row for _, row in rows])
        spans = [_span(scores.intervals.get(name)) for name, _ in rows]
        full = [[*row[:2], span, *row[2:]] for span, (_, row) in zip(spans, rows, strict=True)]
        return text_table([*head[:2], "95 % interval", *head[2:]], full)

    rows = []
    for task, value in scores.tasks.items():
        rows.append(
            (
                task,
                [TASK_NAMES[task], format_number(value), format_number(scores.floor[task]), f"{scores.frames[task]:,}"],
            )
        )
        if task == "va":
            rows += [
                (name, [f"  {name}", format_number(scores.va[name]), "", f"{scores.labelled[name]:,}"]) for name in VA
            ]
    total = "total" if len(scores.tasks) == 3 else f"total ({' + '.join(scores.tasks)} only)"
    rows.append(("total", [total, format_number(scores.total), format_number(scores.floor["total"]), ""]))
    parts = [table(["task", "score", "floor", "frames"], rows)]
    if scores.expr:
        rows = [(name, [name, format_number(f1), f"{scores.positives[name]:,}"]) for name, f1 in scores.expr.items()]
        parts.append(table(["expression", "F1", "frames"], rows))
    if scores.au:
        rows = []
        for name, f1 in scores.au.items():
            n, rate = scores.labelled[name], scores.positives[name] / max(1, scores.labelled[name])
            rows.append(
                (name, [f"{name:<5} {AU_NAMES[name]}", format_number(f1), f"{rate:.1%}" if n else "-", f"{n:,}"])
            )
        parts.append(table(["action unit", "F1", "present", "frames"], rows))
    if scores.groups:
        parts.append(_groups_text(scores))
    said = {"va": "constant valence and arousal", "expr": scores.trivial.get("expr", ""), "au": "every AU present"}
    notes = [f"floor: the best trivial predictor ({', '.join(said[task] for task in scores.tasks)})"]
    if not scores.intervals:
        few = f"{scores.videos} video; resampling needs two" if scores.videos < 2 else "no resamples asked for"
        notes.append(f"95 % intervals: not available ({few})")
    if absent := [name for row in (scores.va, scores.au) for name, value in row.items() if value is None]:
        notes.append(f"not labelled, so left out of the task's mean: {', '.join(absent)}")
    return "\n\n".join([*parts, "\n".join([*notes, scores.signature])])


def _span(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def _groups_text(scores: Scores) -> str:
    names = [*scores.tasks, "total"]
    rows = []
    for group, each in scores.groups.items():
        values = [*(format_number(each.tasks.get(task)) for task in scores.tasks), format_number(each.total)]
        rows.append(
            [group, str(each.videos), f"{max(each.frames.values()):,}", *values, format_number(each.floor["total"])]
        )
    lines = [text_table([scores.by or "", "videos", "frames", *names, "floor"], rows)]
    for name, found in scores.gaps.items():
        lines.append(f"{name}: worst {found['worst']}, best {found['best']}, gap {format_number(found['gap'])}")
    return "\n".join(lines)


def comparison_text(comparison: Comparison) -> str:
    """Differences with interval and p."""
    rows = [
        [name, f"{value:+.4f}", _span(comparison.intervals.get(name)), format_number(comparison.p[name])]
        for name, value in comparison.difference.items()
    ]
    return text_table(["", "difference", "95 % interval", "p"], rows) + "\n" + comparison.signature
