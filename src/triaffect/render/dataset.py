"""A data set of rendered faces in the layouts of Aff-Wild2 and s-Aff-Wild2, rendered in parallel and resumable.

Every video has its own random numbers, so the same seed gives the same bytes with any number of processes.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import simplejpeg
import yaml

from triaffect.io import InputError, atomic_path, write_text
from triaffect.jobs import run_all
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, VA
from triaffect.render.film import Studio, Video
from triaffect.render.model import Floats, load_model
from triaffect.render.ranges import Ranges
from triaffect.text import progress_bar

CHALLENGES = {"va": "VA_Estimation_Challenge", "expr": "EXPR_Recognition_Challenge", "au": "AU_Detection_Challenge"}
SPLIT_FOLDERS = {"train": "Train_Set", "val": "Validation_Set"}
SPLIT_FILES = {"train": "training_set_annotations.txt", "val": "validation_set_annotations.txt"}
HEADERS = {"va": ",".join(VA), "expr": ",".join(EXPRESSIONS), "au": ",".join(ACTION_UNITS)}
HEADER = f"image,{HEADERS['va']},expression,aus"
MISSING = {"va": "-5.0,-5.0", "expr": "-1", "au": ",".join(["-1"] * 12)}
LAYOUTS = ("affwild2", "s-affwild2", "both")
FAULTS = {
    "annotations": "missing annotations: 40 % of the EXPR lines, 6 % of VA, 4 % of AU, in runs; lines without a frame",
    "crops": "3 % of the crops are missing, in runs",
    "tasks": "each task has its own four fifths of the videos",
    "lengths": "videos are half to one and a half times as long",
    "pair": "the first two videos are the two persons of one, _left and _right",
}
"""Irregularities of the real data set."""


@dataclass(frozen=True)
class Plan:
    """What is rendered. It is written to `render.json`, and a run is resumed only with the same plan.

    Attributes:
        videos: Number of videos; each has its own person, so that no person is in two splits.
        frames: Frames per video.
        seed: The same seed gives the same data set.
        size: Side of a crop in pixels.
        seconds: Time between two frames; above .04 s the frames differ more.
        val: Share of the videos in the validation split.
        irregular: Which `FAULTS` of the real data set to imitate.
        ranges: Limits of people, stories and pictures.
    """

    videos: int = 40
    frames: int = 60
    seed: int = 0
    size: int = 112
    seconds: float = 0.15
    val: float = 0.25
    irregular: tuple[str, ...] = ()
    ranges: Ranges = field(default_factory=Ranges)

    def split(self, video: int) -> str:
        """Return `train` or `val`, spread evenly; the two-person video is in `train`."""
        if "pair" in self.irregular and video < 2:
            return "train"
        return "val" if int((video + 1) * self.val + 1e-9) > int(video * self.val + 1e-9) else "train"

    def name(self, video: int) -> str:
        """Return the folder name and file stem of a video."""
        if "pair" in self.irregular and video < 2:
            return f"face0000{('_left', '_right')[video]}"
        return f"face{video:04d}"

    def seeds(self, video: int) -> list[np.random.SeedSequence]:
        """Return the seeds of the person, the film, the noise and the faults."""
        return np.random.SeedSequence([self.seed, video]).spawn(4)


def render(
    model: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    plan: Plan,
    *,
    jobs: int = 1,
    ray: str | None = None,
    layout: str = "both",
    progress: bool = True,
) -> Path:
    """Render a data set; a second call with the same plan finishes an interrupted one.

    Writes `cropped_aligned/<video>/00001.jpg`, the annotation files, `truth.parquet` and `render.json` in `out`.

    Args:
        model: ICT-FaceKit's folder or packed form.
        out: Folder of the data set.
        plan: What to render.
        jobs: Number of videos rendered at a time.
        ray: Address of a Ray cluster to use instead, see `jobs.run_all`.
        layout: `affwild2` (one text file per video and task), `s-affwild2` (one per split) or `both`.
        progress: Show a progress bar.

    Returns:
        `out`.

    Raises:
        InputError: There is no model, the plan is invalid, or `out` was rendered with another plan.
    """
    out = Path(out)
    _check(plan, layout, jobs)
    path = os.fspath(model or os.environ.get("TRIAFFECT_ICT", ""))
    load_model(path)  # before any worker starts, so that a wrong model is one plain error
    text = json.dumps(asdict(plan), indent=1)
    record = out / "render.json"
    if record.exists() and record.read_text(encoding="utf-8").strip() != text:
        raise InputError(f"{record}: was begun with other settings; use the same ones or another --out")
    write_text(record, text + "\n")

    todo = [v for v in range(plan.videos) if not _part(out, plan, v).exists()]
    # One thread per process: several threads would sum in another order, and so give other bytes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    outcomes = run_all(partial(_render_video, path, out, plan), todo, jobs, threads=1, ray=ray)
    finished = plan.videos - len(todo)
    for outcome in progress_bar(outcomes, None, plan.videos, initial=finished, unit="video", disable=not progress):
        if outcome.error:
            raise outcome.error
    truth = pl.concat([pl.read_parquet(_part(out, plan, v)) for v in range(plan.videos)])
    with atomic_path(out / "truth.parquet") as tmp_path:
        truth.write_parquet(tmp_path)
    _annotate(out, plan, truth, layout)
    return out


def read_ranges(path: str | os.PathLike[str] | None) -> Ranges:
    """Read changes of the default ranges from a YAML file.

    Raises:
        InputError: The file does not exist, names an unknown range, or has a pair for a number or the reverse.
    """
    if path is None:
        return Ranges()
    defaults = asdict(Ranges())
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})") from None
    changes: dict[str, Any] = {}
    for name, value in loaded.items() if isinstance(loaded, dict) else [(str(loaded), None)]:
        pair = isinstance(defaults.get(name), tuple)
        numbers = value if pair and isinstance(value, list) and len(value) == 2 else [value]
        if name not in defaults or len(numbers) != 1 + pair or not all(isinstance(n, int | float) for n in numbers):
            kind = "two numbers" if pair else "a number"
            raise InputError(f"{path}: {name}: {value!r} must be {kind} for one of {', '.join(defaults)}")
        changes[name] = tuple(numbers) if pair else value
    return Ranges(**changes)


def _check(plan: Plan, layout: str, jobs: int) -> None:
    values = {**vars(plan), "jobs": jobs}
    for name, low in {"videos": 1, "frames": 1, "size": 32, "jobs": 1}.items():
        if values[name] < low:
            raise InputError(f"--{name} {values[name]}: must be {low} or more")
    if not 0 <= plan.val < 1:
        raise InputError(f"--val {plan.val}: must be 0 or more and below 1")
    if unknown := sorted(set(plan.irregular) - FAULTS.keys()):
        raise InputError(f"--irregular {unknown[0]}: must be among {', '.join(FAULTS)}")
    if layout not in LAYOUTS:
        raise InputError(f"--layout {layout}: must be one of {', '.join(LAYOUTS)}")


def _part(out: Path, plan: Plan, video: int) -> Path:
    """File with the true labels of one video; it is written last, and so marks the video as finished."""
    return out / ".parts" / f"{plan.name(video)}.parquet"


@cache
def _studio(model: str, ranges: Ranges) -> Studio:
    """The studio of this process."""
    cv2.setNumThreads(1)
    return Studio(load_model(model), ranges)


def _render_video(model: str, out: Path, plan: Plan, video: int) -> None:
    """Render one video: crops first, then its true labels."""
    studio = _studio(model, plan.ranges)
    person_seed, film_seed, grain_seed, fault_seed = plan.seeds(video)
    faults = np.random.default_rng(fault_seed)
    frames = plan.frames
    if "lengths" in plan.irregular:
        frames = max(int(frames * faults.uniform(0.5, 1.5)), 2)
    filmed = studio.film(person_seed, film_seed, frames, plan.seconds)
    missing = _runs(faults, frames, 0.03) if "crops" in plan.irregular else np.zeros(frames, bool)
    with atomic_path(out / "cropped_aligned" / plan.name(video)) as folder:
        folder.mkdir(parents=True)
        pictures = studio.pictures(filmed, grain_seed, plan.size)
        for number, (picture, scene) in enumerate(zip(pictures, filmed.scenes, strict=True), 1):
            if not missing[number - 1]:
                data = simplejpeg.encode_jpeg(picture, quality=scene.quality, colorspace="RGB", colorsubsampling="420")
                (folder / f"{number:05d}.jpg").write_bytes(data)
    with atomic_path(_part(out, plan, video)) as tmp_path:
        _truth(plan, video, filmed, missing).write_parquet(tmp_path)


def _truth(plan: Plan, video: int, filmed: Video, missing: Floats) -> pl.DataFrame:
    """One row per frame: labels, true intensities, and columns for `score --by`."""
    story, person, name = filmed.story, filmed.person, plan.name(video)
    count = len(story.valence)
    degrees = np.degrees(story.head_pose)
    others = {name.replace(" ", "_"): level for name, level in story.actions.items() if name not in ACTION_UNITS}
    intensities = dict(zip(ACTION_UNITS, story.intensity.T, strict=True)) | others
    return pl.DataFrame(
        {
            "image": [f"{name}/{n:05d}.jpg" for n in range(1, count + 1)],
            "video": [name] * count,
            "frame": np.arange(1, count + 1, dtype=np.int32),
            "split": [plan.split(video)] * count,
            "exists": ~missing,
            "person": np.full(count, video, np.int32),
            "skin": np.full(count, person.skin_group, np.int8),
            "glasses": np.full(count, person.glasses is not None),
            "occluded": [scene.occluder is not None for scene in filmed.scenes],
            "yaw": degrees[:, 0],
            "pitch": degrees[:, 1],
            "roll": degrees[:, 2],
            "valence": story.valence,
            "arousal": story.arousal,
            "expression": story.expression,
            "expression_intensity": story.shown,
            **dict(zip(ACTION_UNITS, story.occurrence.T, strict=True)),
            **{f"{name}_intensity": level for name, level in intensities.items()},
        }
    )


def _runs(rng: np.random.Generator, count: int, part: float, length: int = 12) -> Floats:
    """(count,) boolean, True in runs that cover about `part` of all."""
    marks = np.zeros(count, bool)
    for start in np.flatnonzero(rng.random(count) < part / (length / 2)):
        marks[start : start + int(rng.integers(1, length))] = True
    return marks


def _annotate(out: Path, plan: Plan, truth: pl.DataFrame, layout: str) -> None:
    rows: dict[str, list[str]] = {"train": [], "val": []}
    for video in range(plan.videos):
        table = truth.filter(pl.col("video") == plan.name(video))
        lines = _lines(table)
        faults = np.random.default_rng(plan.seeds(video)[3].spawn(1)[0])
        tasks = list(HEADERS)
        if "tasks" in plan.irregular:
            tasks = [task for task in HEADERS if faults.random() < 0.8] or tasks
        if "annotations" in plan.irregular:
            _remove_labels(faults, lines)
        split = plan.split(video)
        if layout != "s-affwild2":
            for task in tasks:
                extra = lines[task][-1:] if "annotations" in plan.irregular and faults.random() < 0.5 else []
                path = out / CHALLENGES[task] / SPLIT_FOLDERS[split] / f"{plan.name(video)}.txt"
                _write_lines(path, [HEADERS[task], *lines[task], *extra])
        if layout != "affwild2":
            for task in set(HEADERS) - set(tasks):
                lines[task] = [MISSING[task]] * len(table)
            stride = faults.random(len(table)) < (0.6 if plan.irregular else 1.0)
            kept = stride & table["exists"].to_numpy()
            for keep, *fields in zip(kept, table["image"], *lines.values(), strict=True):
                if keep:
                    rows[split].append(",".join(fields))
    for split, split_rows in rows.items():
        if split_rows:
            _write_lines(out / SPLIT_FILES[split], [HEADER, *split_rows])


def _write_lines(path: Path, lines: list[str]) -> None:
    write_text(path, "\n".join(lines) + "\n")


def _lines(table: pl.DataFrame) -> dict[str, list[str]]:
    """Annotation lines of one video for each task."""
    va = zip(table["valence"], table["arousal"], strict=True)
    return {
        "va": [f"{v:.4f},{a:.4f}" for v, a in va],
        "expr": [str(e) for e in table["expression"]],
        "au": [",".join(map(str, row)) for row in table.select(ACTION_UNITS).iter_rows()],
    }


def _remove_labels(rng: np.random.Generator, lines: dict[str, list[str]]) -> None:
    """Replace annotations by the codes for missing, in runs as in the real data set (in place)."""
    for task, part in (("va", 0.06), ("expr", 0.4), ("au", 0.04)):
        for row in np.flatnonzero(_runs(rng, len(lines[task]), part * rng.uniform(0.5, 1.5))):
            lines[task][row] = MISSING[task]
