"""The official scores of predictions, with trivial baselines, 95 % intervals over videos and a signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from triaffect import __version__
from triaffect.data.index import provenance
from triaffect.data.predictions import Thresholds, tasks_of, threshold_row
from triaffect.io import from_plain
from triaffect.labels import AU_NAMES, TASK_NAMES, TASKS, VA
from triaffect.metrics import measures
from triaffect.metrics.bootstrap import UNIT, Sums, bootstrap, percentile_intervals
from triaffect.metrics.matching import Table, VideoSums, common_tasks, read_index, read_predictions, video_sums
from triaffect.metrics.measures import COLUMNS, Floats
from triaffect.text import format_number, text_table


@dataclass
class Gap:
    """The groups with the lowest and the highest score, and the difference between them."""

    worst: str
    best: str
    gap: float


@dataclass
class Scores:
    """Official scores, as `score` returns them.

    Attributes:
        tasks: Score of each task that is both predicted and labelled.
        total: Their sum; the papers' P if all three are present.
        va: CCC of valence and arousal.
        expr: F1 of each class.
        au: F1 of each AU. In all three, a column without any label is None and left out of the task's mean.
        intervals: 95 % interval of each task, column and `total`, from a bootstrap over source videos; empty with fewer
            than two of them.
        baseline: Score of the best trivial predictor, for each task and `total`.
        baseline_prediction: What that predictor predicts, for each task.
        frames: Labelled frames of each task.
        labelled: Labelled frames of each column.
        positives: Frames that show each class and AU.
        confusion: (classes, classes) counts, labels in rows, predictions in columns; None without expressions.
        videos: Number of source videos; the two persons of one video count once.
        left_out: Frames of an expression beyond the declared classes, which are not scored.
        signature: How the numbers were made, in one line.
        by: The index column of the groups.
        groups: With `by`, the scores of each group.
        gaps: With `by`, the widest gap between groups for each task and `total`.
    """

    tasks: dict[str, float]
    total: float
    va: dict[str, float | None] = field(default_factory=dict)
    expr: dict[str, float | None] = field(default_factory=dict)
    au: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    baseline_prediction: dict[str, str] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    positives: dict[str, int] = field(default_factory=dict)
    confusion: list[list[int]] | None = None
    videos: int = 0
    left_out: int = 0
    signature: str = ""
    by: str | None = None
    groups: dict[str, Scores] = field(default_factory=dict)
    gaps: dict[str, Gap] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scores:
        """Read what `to_dict` returned, also after JSON."""
        return from_plain(cls, data)

    def value(self, name: str) -> float | None:
        """Return the score of a task, or the total; None for a task that is not scored."""
        return self.total if name == "total" else self.tasks.get(name)

    def table(self) -> str:
        """Format the scores as text: tasks, classes, AUs, groups, notes and the signature."""
        parts = [self._task_table()]
        if self.expr:
            rows = [(name, [name, format_number(f1), f"{self.positives[name]:,}"]) for name, f1 in self.expr.items()]
            parts.append(self._with_intervals(["expression", "F1", "frames"], rows))
        if self.au:
            rows = []
            for name, f1 in self.au.items():
                frames, positives = self.labelled[name], self.positives[name]
                rate = f"{positives / frames:.1%}" if frames else "-"
                rows.append((name, [f"{name:<5} {AU_NAMES[name]}", format_number(f1), rate, f"{frames:,}"]))
            parts.append(self._with_intervals(["action unit", "F1", "present", "frames"], rows))
        if self.groups:
            parts.append(self._group_table())
        return "\n\n".join([*parts, "\n".join([*self._notes(), self.signature])])

    def _task_table(self) -> str:
        rows = []
        for task, value in self.tasks.items():
            cells = [format_number(value), format_number(self.baseline[task]), f"{self.frames[task]:,}"]
            rows.append((task, [TASK_NAMES[task], *cells]))
            if task == "va":
                for name in VA:
                    cells = [format_number(self.va[name]), "", f"{self.labelled[name]:,}"]
                    rows.append((name, [f"  {name}", *cells]))
        total = "total" if len(self.tasks) == len(TASKS) else f"total ({' + '.join(self.tasks)} only)"
        rows.append(("total", [total, format_number(self.total), format_number(self.baseline["total"]), ""]))
        return self._with_intervals(["task", "score", "baseline", "frames"], rows)

    def _with_intervals(self, head: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
        """Format rows, each with the name of its interval; the intervals become the third column."""
        if not self.intervals:
            return text_table(head, [cells for _, cells in rows])
        spans = [_span(self.intervals.get(name)) for name, _ in rows]
        wide = [[*cells[:2], span, *cells[2:]] for span, (_, cells) in zip(spans, rows, strict=True)]
        return text_table([*head[:2], "95 % interval", *head[2:]], wide)

    def _group_table(self) -> str:
        names, rows = [*self.tasks, "total"], []
        for name, group in self.groups.items():
            values = [format_number(group.value(task)) for task in names]
            frames, baseline = f"{max(group.frames.values()):,}", format_number(group.baseline["total"])
            rows.append([name, str(group.videos), frames, *values, baseline])
        lines = [text_table([self.by or "", "videos", "frames", *names, "baseline"], rows)]
        for name, gap in self.gaps.items():
            lines.append(f"{name}: worst {gap.worst}, best {gap.best}, gap {format_number(gap.gap)}")
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        words = self.baseline_prediction | {"va": "constant valence and arousal", "au": "every AU present"}
        notes = [f"baseline: the best trivial predictor ({', '.join(words[task] for task in self.tasks)})"]
        if not self.intervals:
            reason = f"{self.videos} video; resampling needs two" if self.videos < 2 else "without resamples"
            notes.append(f"95 % intervals: not available ({reason})")
        if missing := [name for row in (self.va, self.au) for name, value in row.items() if value is None]:
            notes.append(f"not labelled, so left out of the task's mean: {', '.join(missing)}")
        if absent := [name for name in self.expr if not self.positives[name]]:
            hint = "; if the data has no Other, declare 7 classes" if absent == ["Other"] else ""
            notes.append(f"without any frame, so F1 0 in the mean of {len(self.expr)}: {', '.join(absent)}{hint}")
        if self.left_out:
            notes.append(f"not scored: {self.left_out:,} frames labelled Other")
        return notes


@dataclass
class Comparison:
    """Difference of two predictions on the same videos, as `compare` returns it, for each task, column and `total`.

    Attributes:
        difference: First minus second.
        intervals: 95 % interval of the difference, from a bootstrap over source videos; empty with fewer than two.
        p: Two-sided p-value: twice the share of resamples in which the difference has the opposite sign. 1 if nothing
            differs; None with fewer than two source videos.
        signature: How the numbers were made, in one line.
    """

    difference: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    p: dict[str, float | None]
    signature: str

    def table(self) -> str:
        """Format the differences as text."""
        rows = []
        for name, value in self.difference.items():
            rows.append([name, f"{value:+.4f}", _span(self.intervals.get(name)), format_number(self.p[name])])
        return text_table(["", "difference", "95 % interval", "p"], rows) + "\n" + self.signature


def _span(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def score(
    predictions: Table,
    index: Table,
    *,
    split: str | None = None,
    tasks: Sequence[str] | None = None,
    thresholds: Thresholds = None,
    resamples: int = 1000,
    seed: int = 0,
    by: str | None = None,
    classes: int = 8,
) -> Scores:
    """Score predictions by the official measures.

    Args:
        predictions: A predictions table, its file, or an ABAW submission in text.
        index: An index table, its file, or an annotation file or tree.
        split: Only this split of the index.
        tasks: Only these tasks; all that both sides hold by default.
        thresholds: Thresholds of AU probabilities: one number, twelve, or by name (0.5 for the others); 0.5 by default.
        resamples: Number of resamples of the source videos; 0 for no intervals.
        seed: Seed of the resamples.
        by: Also score each group of this index column.
        classes: Number of expressions to average over: 8, or 7 for data without Other, which is then never predicted.

    Raises:
        InputError: A labelled frame has no prediction, a prediction is not finite, or there is nothing to score.
    """
    cuts, all_labels, table = threshold_row(thresholds), read_index(index, split), read_predictions(predictions)
    labels = read_index(all_labels, None, classes)
    videos = video_sums(table, labels, common_tasks(tasks_of(table), labels, tasks), cuts, by, classes)
    if not isinstance(index, pl.DataFrame) and (full_index := provenance(index).get("part_of")):
        videos.split += f",{all_labels.height}/{full_index}"
    scores = _summarise(videos, cuts, resamples, seed)
    scores.left_out = labels["expression"].null_count() - all_labels["expression"].null_count()
    if by is not None:
        scores.by = by
        groups = videos.rows.with_row_index("row").sort("group").group_by("group", maintain_order=True)
        for (name,), rows in groups:
            scores.groups[str(name)] = _summarise(videos.take(rows["row"].to_numpy()), cuts, resamples, seed)
        scores.gaps = _gaps(scores)
    return scores


def compare(
    a: Table | list[Table],
    b: Table | list[Table],
    index: Table,
    *,
    split: str | None = None,
    tasks: Sequence[str] | None = None,
    thresholds: Thresholds = None,
    resamples: int = 1000,
    seed: int = 0,
    classes: int = 8,
) -> Comparison:
    """Test whether one prediction is better than another on the same videos, by a paired bootstrap.

    Both are scored on the same resamples of the source videos.

    Args:
        a: Predictions, as for `score`; or a list, such as of several seeds, whose mean score is compared.
        b: Predictions of the same frames, or a list.
        index: Labels, as for `score`.
        split: Only this split of the index.
        tasks: Only these tasks; all that the three hold by default.
        thresholds: Thresholds of AU probabilities, as for `score`.
        resamples: Number of resamples, at least 1.
        seed: Seed of the resamples.
        classes: As for `score`.

    Returns:
        Differences a - b, their intervals and p-values.

    Raises:
        InputError: As for `score`, or the two share no task.
    """
    cuts, labels = threshold_row(thresholds), read_index(index, split, classes)
    sides = [side if isinstance(side, list) else [side] for side in (a, b)]
    tables, count = [read_predictions(table) for side in sides for table in side], len(sides[0])
    shared = common_tasks([task for task in TASKS if all(task in tasks_of(t) for t in tables)], labels, tasks)
    videos = [video_sums(table, labels, shared, cuts, classes=classes) for table in tables]
    first, labelled = videos[0], _labelled(videos[0].total())
    by_source = [of_table.by_source() for of_table in videos]
    stacked = {task: np.stack([sums[task] for sums in by_source], 1) for task in shared}

    def measure(sums: Sums) -> Sums:
        scores = _evaluate(sums, labelled)
        means = ({k: v[:, part].mean(1) for k, v in scores.items()} for part in (slice(count), slice(count, None)))
        return _difference(*means)

    point = {name: value[0] for name, value in measure({k: v.sum(0)[None] for k, v in stacked.items()}).items()}
    samples = bootstrap(stacked, measure, resamples=resamples, seed=seed)
    p: dict[str, float | None] = {}
    for name, value in point.items():
        p[name] = 1.0 if value == 0 else None
        if value != 0 and name in samples:
            opposite = min((samples[name] <= 0).sum(), (samples[name] >= 0).sum())
            p[name] = float(min(1, 2 * (opposite + 1) / (resamples + 1)))
    difference = {name: float(value) for name, value in point.items()}
    signature = _signature(first, cuts, resamples, seed) + (f"|means:{count}-{len(tables) - count}" * (len(tables) > 2))
    return Comparison(difference, percentile_intervals(samples), p, signature)


def _difference(a: Sums, b: Sums) -> dict[str, Floats]:
    """First minus second, without rounding: rows in another order must not make a difference."""
    return {name: np.where(abs(a[name] - b[name]) < 1e-12, 0, a[name] - b[name]) for name in a}


def _labelled(total: Sums) -> dict[str, NDArray[np.bool_]]:
    """Return task -> whether each column has any label, (columns,)."""
    return {task: measures.labelled(task, value) > 0 for task, value in total.items()}


def _evaluate(sums: Sums, labelled: Mapping[str, NDArray[np.bool_]]) -> dict[str, Floats]:
    """Return the score of every column, task and the total, (...) each, from sums (..., columns, k)."""
    scores: dict[str, Floats] = {}
    for task, value in sums.items():
        columns = measures.values(task, value)
        scores |= {name: columns[..., i] for i, name in enumerate(_names(task, value)) if labelled[task][i]}
        scores[task] = columns[..., labelled[task]].mean(-1)
    scores["total"] = np.sum([scores[task] for task in sums], axis=0)
    return scores


def _summarise(videos: VideoSums, cuts: Floats, resamples: int, seed: int) -> Scores:
    total = videos.total()
    labelled = _labelled(total)
    point = _evaluate(total, labelled)
    samples = bootstrap(videos.by_source(), lambda sums: _evaluate(sums, labelled), resamples=resamples, seed=seed)
    baselines = {task: measures.trivial_baseline(task, value) for task, value in total.items()}
    frames = {task: measures.labelled(task, value) for task, value in total.items()}
    positives = {task: measures.positives(task, value) for task, value in total.items() if task != "va"}
    columns: dict[str, Any] = {
        task: {c: float(point[c]) if c in point else None for c in _names(task, value)} for task, value in total.items()
    }
    return Scores(
        tasks={task: float(point[task]) for task in total},
        total=float(point["total"]),
        **columns,
        intervals=percentile_intervals(samples),
        baseline={task: value for task, (value, _) in baselines.items()}
        | {"total": sum(value for value, _ in baselines.values())},
        baseline_prediction={task: words for task, (_, words) in baselines.items()},
        frames={task: int(videos.frames[task].sum()) for task in total},
        labelled=_by_column(frames),
        positives=_by_column(positives),
        confusion=total["expr"].astype(int).tolist() if "expr" in total else None,
        videos=videos.sources,
        signature=_signature(videos, cuts, resamples, seed),
    )


def _names(task: str, sums: NDArray) -> tuple[str, ...]:
    """Return the columns that sums (..., columns, k) are of."""
    return COLUMNS[task][: sums.shape[-2]]


def _by_column(counts: Sums) -> dict[str, int]:
    return {c: int(n) for task, row in counts.items() for c, n in zip(COLUMNS[task], row, strict=False)}


def _signature(videos: VideoSums, cuts: Floats, resamples: int, seed: int) -> str:
    tasks, labelled = list(videos.sums), _labelled(videos.total())
    unlabelled = [name for task in tasks for name, any_ in zip(COLUMNS[task], labelled[task], strict=False) if not any_]
    thresholds = [f"{cut:g}" for cut in (cuts if np.ptp(cuts) else cuts[:1])]
    parts = {
        "tasks": "+".join(tasks),
        "split": videos.split,
        "frames": "+".join(str(videos.frames[task].sum()) for task in tasks),
        "videos": videos.sources,
        "unit": UNIT,
        "unlabelled": "+".join(unlabelled),
        "classes": videos.sums["expr"].shape[-1] if "expr" in tasks else "",
        "thresholds": ",".join(thresholds) if "au" in tasks else "",
        "resamples": resamples,
        "seed": seed,
        "version": __version__,
    }
    return "triaffect|" + "|".join(f"{name}:{value}" for name, value in parts.items() if value != "")


def _gaps(scores: Scores) -> dict[str, Gap]:
    """Compare the groups by each task's score, and by the total of those that have all tasks."""
    gaps = {}
    for name in (*scores.tasks, "total"):
        values = {
            group: value
            for group, of_group in scores.groups.items()
            if (value := of_group.value(name)) is not None
            and (name != "total" or of_group.tasks.keys() == scores.tasks.keys())
        }
        if len(values) > 1:
            worst, best = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
            gaps[name] = Gap(worst, best, values[best] - values[worst])
    return gaps
