"""A data set of rendered faces in the layouts of Aff-Wild2 and s-Aff-Wild2, made by several processes, resumable.

Every video has its own random numbers, so that the same seed gives the same bytes whatever the number of processes.
"""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import polars as pl

from triaffect.io import InputError, atomic_path, write_text
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, VA
from triaffect.render.ranges import Ranges

CHALLENGES = {"va": "VA_Estimation_Challenge", "expr": "EXPR_Recognition_Challenge", "au": "AU_Detection_Challenge"}
SPLIT_FOLDERS = {"train": "Train_Set", "val": "Validation_Set"}
SPLIT_FILES = {"train": "training_set_annotations.txt", "val": "validation_set_annotations.txt"}
HEADERS = {"va": ",".join(VA), "expr": ",".join(EXPRESSIONS), "au": ",".join(ACTION_UNITS)}
LAYOUTS = ("affwild2", "s-affwild2", "both")
FAULTS = {
    "annotations": "missing annotations: 40 % of the EXPR lines, 6 % of VA, 4 % of AU, in runs; lines without a frame",
    "crops": "3 % of the crops are missing, in runs",
    "tasks": "each task has its own four fifths of the videos",
    "lengths": "videos are half to one and a half times as long",
    "pair": "the first two videos are the two persons of one, _left and _right",
}
"""What the real data set has and a clean one lacks."""


@dataclass(frozen=True)
class Plan:
    """What is rendered; written to `render.json`, and the same again when a run is resumed.

    Attributes:
        videos: Number of videos; each has its own person, so that no person is in two splits.
        frames: Frames a video.
        seed: Decides everything.
        size: Side of a crop in pixels.
        seconds: Time between two frames; more than .04 gives fewer near copies.
        val: Part of the videos in the validation split.
        irregular: Which of the real set's `FAULTS` this one has.
        ranges: What people, stories and pictures are drawn from.
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
        """`val` for every so many videos, spread evenly; the two-person video is in `train`."""
        if "pair" in self.irregular and video < 2:
            return "train"
        return "val" if int((video + 1) * self.val + 1e-9) > int(video * self.val + 1e-9) else "train"

    def name(self, video: int) -> str:
        """Folder and file stem of a video."""
        if "pair" in self.irregular and video < 2:
            return f"face0000{('_left', '_right')[video]}"
        return f"face{video:04d}"

    def seeds(self, video: int) -> list[np.random.SeedSequence]:
        """Random numbers of the person, the film, the grain and the faults."""
        return np.random.SeedSequence([self.seed, video]).spawn(4)


def render(
    model: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    plan: Plan,
    *,
    processes: int = 1,
    layout: str = "both",
    progress: bool = True,
) -> Path:
    """Renders a data set; a second call with the same plan finishes what the first one left.

    `out` gets `cropped_aligned/<video>/00001.jpg`, the annotation files, `truth.parquet` and `render.json`.

    Args:
        model: ICT-FaceKit's folder or packed form.
        out: Folder of the data set.
        plan: What to render.
        processes: How many videos are rendered at once.
        layout: `affwild2` (a text file for each video and task), `s-affwild2` (a text file for each split) or `both`.
        progress: Whether a progress bar is shown.

    Returns:
        `out`.

    Raises:
        InputError: There is no model, the plan makes no sense, or `out` holds another plan's data.
    """
    out = Path(out)
    _check(plan, layout, processes)
    from triaffect.render.model import load_model

    path = os.fspath(model or os.environ.get("TRIAFFECT_ICT", ""))
    load_model(path)  # before any worker: what is wrong with it, or not installed, is told once and plainly
    said = json.dumps(asdict(plan), indent=1)  # tuples become lists
    record = out / "render.json"
    if record.exists() and record.read_text(encoding="utf-8").strip() != said:
        raise InputError(f"{record}: was begun with other settings; give the same ones, or another --out")
    write_text(record, said + "\n")

    todo = [v for v in range(plan.videos) if not _part(out, plan, v).exists()]
    if todo:
        _work(path, out, plan, todo, processes, progress)
    truth = pl.concat([pl.read_parquet(_part(out, plan, v)) for v in range(plan.videos)])
    with atomic_path(out / "truth.parquet") as tmp_path:
        truth.write_parquet(tmp_path)
    _annotate(out, plan, truth, layout)
    return out


def read_ranges(path: str | os.PathLike[str] | None) -> Ranges:
    """Ranges with what a YAML file changes of them.

    Raises:
        InputError: The file is not there, or names a range that does not exist or of another kind.
    """
    import yaml

    if path is None:
        return Ranges()
    known = asdict(Ranges())
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})") from None
    changes: dict[str, Any] = {}
    for name, value in given.items() if isinstance(given, dict) else [(str(given), None)]:
        pair = isinstance(known.get(name), tuple)
        numbers = value if pair and isinstance(value, list) and len(value) == 2 else [value]
        if name not in known or len(numbers) != 1 + pair or not all(isinstance(n, int | float) for n in numbers):
            kind = "two numbers" if pair else "a number"
            raise InputError(f"{path}: {name}: {value!r} must be {kind} for one of {', '.join(known)}")
        changes[name] = tuple(numbers) if pair else value
    return Ranges(**changes)


def _check(plan: Plan, layout: str, processes: int) -> None:
    for name, low in (("videos", 1), ("frames", 1), ("size", 32)):
        if getattr(plan, name) < low:
            raise InputError(f"--{name} {getattr(plan, name)}: must be {low} or more")
    if processes < 1:
        raise InputError(f"--processes {processes}: must be 1 or more")
    if not 0 <= plan.val < 1:
        raise InputError(f"--val {plan.val}: must be 0 or more and below 1")
    if unknown := sorted(set(plan.irregular) - FAULTS.keys()):
        raise InputError(f"--irregular {unknown[0]}: must be among {', '.join(FAULTS)}")
    if layout not in LAYOUTS:
        raise InputError(f"--layout {layout}: must be one of {', '.join(LAYOUTS)}")


def _part(out: Path, plan: Plan, video: int) -> Path:
    """The truth of one finished video; written last, so that it also marks the video as finished."""
    return out / ".parts" / f"{plan.name(video)}.parquet"


def _work(model: str, out: Path, plan: Plan, todo: list[int], processes: int, progress: bool) -> None:
    from tqdm import tqdm

    # Fresh processes with one thread each: forked ones would inherit thread pools; more threads sum in another order.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    with (
        ProcessPoolExecutor(min(processes, len(todo)), get_context("spawn"), _set_up, (model, plan.ranges)) as pool,
        tqdm(total=plan.videos, initial=plan.videos - len(todo), unit="video", disable=not progress) as bar,
    ):
        jobs = [pool.submit(_film, out, plan, video) for video in todo]
        try:
            for job in as_completed(jobs):
                job.result()
                bar.update()
        except BaseException:
            # Videos under way are finished, the rest is for the next call.
            pool.shutdown(cancel_futures=True)
            raise


_studio: Any = None


def _set_up(model: str, ranges: Ranges) -> None:
    import cv2

    from triaffect.render.film import Studio
    from triaffect.render.model import load_model

    global _studio
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where the run is killed, its workers must not draw on into a folder that another run has taken over.
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    cv2.setNumThreads(1)
    _studio = Studio(load_model(model), ranges)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _film(out: Path, plan: Plan, video: int) -> None:
    """Renders one video: crops first, then its truth."""
    import simplejpeg

    person_seed, film_seed, grain_seed, fault_seed = plan.seeds(video)
    faults = np.random.default_rng(fault_seed)
    frames = plan.frames
    if "lengths" in plan.irregular:
        frames = max(int(frames * faults.uniform(0.5, 1.5)), 2)
    filmed = _studio.film(person_seed, film_seed, frames, plan.seconds)
    lost = _blocks(faults, frames, 0.03) if "crops" in plan.irregular else np.zeros(frames, bool)
    with atomic_path(out / "cropped_aligned" / plan.name(video)) as folder:
        folder.mkdir(parents=True)
        pictures = _studio.pictures(filmed, grain_seed, plan.size)
        for number, (picture, scene) in enumerate(zip(pictures, filmed.scenes, strict=True), 1):
            if not lost[number - 1]:
                data = simplejpeg.encode_jpeg(picture, quality=scene.quality, colorspace="RGB", colorsubsampling="420")
                (folder / f"{number:05d}.jpg").write_bytes(data)
    with atomic_path(_part(out, plan, video)) as tmp_path:
        _truth(plan, video, filmed, lost).write_parquet(tmp_path)


def _truth(plan: Plan, video: int, filmed: Any, lost: Any) -> pl.DataFrame:
    """One row a frame: labels, true intensities, and who and how, for `score --by`."""
    story, person, name = filmed.story, filmed.person, plan.name(video)
    count = len(story.valence)
    degrees = np.degrees(story.turn)
    occurrence = pl.DataFrame(dict(zip(ACTION_UNITS, story.occurrence.T, strict=True)))
    intensities = {f"{au}_intensity": story.intensity[:, k] for k, au in enumerate(ACTION_UNITS)}
    others = {
        f"{movement.replace(' ', '_')}_intensity": level
        for movement, level in story.actions.items()
        if movement not in ACTION_UNITS
    }
    table = pl.DataFrame(
        {
            "image": [f"{name}/{n:05d}.jpg" for n in range(1, count + 1)],
            "video": [name] * count,
            "frame": np.arange(1, count + 1, dtype=np.int32),
            "split": [plan.split(video)] * count,
            "exists": ~lost,
            "person": np.full(count, video, np.int32),
            "skin": np.full(count, person.skin_group, np.int8),
            "glasses": np.full(count, person.glasses is not None),
            "occluded": filmed.occluded,
            "yaw": degrees[:, 0],
            "pitch": degrees[:, 1],
            "roll": degrees[:, 2],
            "valence": story.valence,
            "arousal": story.arousal,
            "expression": story.expression,
            "expression_intensity": story.shown,
        }
    )
    return pl.concat([table, occurrence, pl.DataFrame(intensities), pl.DataFrame(others)], how="horizontal")


def _blocks(rng: np.random.Generator, count: int, part: float, length: int = 12) -> Any:
    """(count,) marks in runs, about `part` of all."""
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
            _spoil(faults, lines)
        split = plan.split(video)
        if layout != "s-affwild2":
            for task in tasks:
                extra = lines[task][-1:] if "annotations" in plan.irregular and faults.random() < 0.5 else []
                path = out / CHALLENGES[task] / SPLIT_FOLDERS[split] / f"{plan.name(video)}.txt"
                write_text(path, "\n".join([HEADERS[task], *lines[task], *extra]) + "\n")
        if layout != "affwild2":
            for task in set(HEADERS) - set(tasks):
                lines[task] = [MISSING[task]] * len(table)
            stride = faults.random(len(table)) < (0.6 if plan.irregular else 1.0)
            for keep, image, exists, *labels in zip(
                stride, table["image"], table["exists"], *lines.values(), strict=True
            ):
                if keep and exists:
                    rows[split].append(",".join([image, *labels]))
    for split, found in rows.items():
        if found:
            write_text(out / SPLIT_FILES[split], "\n".join([f"image,{HEADERS['va']},expression,aus", *found]) + "\n")


MISSING = {"va": "-5.0,-5.0", "expr": "-1", "au": ",".join(["-1"] * 12)}


def _lines(table: pl.DataFrame) -> dict[str, list[str]]:
    """Annotation lines of one video for each task."""
    va = zip(table["valence"], table["arousal"], strict=True)
    return {
        "va": [f"{v:.4f},{a:.4f}" for v, a in va],
        "expr": [str(e) for e in table["expression"]],
        "au": [",".join(map(str, row)) for row in table.select(ACTION_UNITS).iter_rows()],
    }


def _spoil(rng: np.random.Generator, lines: dict[str, list[str]]) -> None:
    """Leaves annotations out as the real set does, in place."""
    for task, part in (("va", 0.06), ("expr", 0.4), ("au", 0.04)):
        for at in np.flatnonzero(_blocks(rng, len(lines[task]), part * rng.uniform(0.5, 1.5))):
            lines[task][at] = MISSING[task]
