"""Run a study: train many models, fuse and compare them; what is finished is not done again."""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml

import triaffect
from triaffect.data.index import image_root, load_index, provenance, save_subset
from triaffect.io import InputError, atomic_path, exclusive, model_folder, write_text
from triaffect.jobs import run_all
from triaffect.report import report
from triaffect.report.results import Failure, StudyResults
from triaffect.study import results, submission
from triaffect.study.plan import SYSTEM_KINDS, StudyPlan
from triaffect.study.recipe import read_study
from triaffect.study.search import run_search
from triaffect.text import duration, text_table
from triaffect.training import run_folder as runs
from triaffect.training.config import ModelConfig, TrainConfig
from triaffect.training.dataset import training_rows
from triaffect.training.features import extract_features
from triaffect.training.model import make_model
from triaffect.training.weights import check_pretrained

LOCK = ".lock"
"""In every study folder from its first moment."""


def run_study(
    study: str | Path,
    index: str,
    images: str | None = None,
    out: str | Path = "study",
    *,
    changes: Sequence[str] = (),
    jobs: int = 1,
    ray: str | None = None,
    search: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> StudyResults:
    """Train, fuse, predict, score and compare what a study names, and write the report.

    A study that was stopped at any point continues where it was and ends with the same results.

    Args:
        study: A YAML file, or the name of a bundled study.
        index: The index that every run reads.
        images: Its image folder; by default the one it was made with.
        out: The study folder to make or to continue.
        changes: `key=value` pairs that replace keys of the study.
        jobs: Number of runs at once, one per GPU if there are several.
        ray: Address of a Ray cluster to train on instead, see `jobs.run_all`.
        search: Total number of trials of the study's `search`.
        progress: Called with the plan and a line per step.

    Returns:
        The content of `results.json`, as typed data.

    Raises:
        InputError: The study, the index or the folder is not usable; nothing has been trained then.
    """
    start, folder = time.time(), Path(out)
    plan = read_study(study, index, images, changes)
    if search and plan.search is None:
        raise InputError(f"{study}: has no key search; add one, or do not pass --search")
    root = str(image_root(index, images))
    sizes = {name: [len(rows) for rows in training_rows(config)[:2]] for name, config in plan.configs.items()}
    notes = submission.leak_notes(plan, index)
    if folder.exists() and not (folder / LOCK).exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no study; name a new folder")
    models = [*(run.model for run in plan.runs.values()), *plan.encoders.values()]
    from_hub = [m for m in models if isinstance(m, ModelConfig) and m.pretrained is True and not m.weights]
    for backbone in dict.fromkeys(model.backbone for model in from_hub):
        check_pretrained(backbone)
    with exclusive(folder / LOCK, f"{folder}: another study is running in it; wait for it or stop it"):
        for name, run in plan.runs.items():
            runs.begin(folder / "runs" / name, run)
        write_text(folder / "study.yaml", yaml.safe_dump(plan.raw, sort_keys=False, allow_unicode=True))
        for note in notes:
            progress(f"note: {note}")
        progress(plan_text(plan, sizes, folder, jobs, search))
        command = _command(folder, index, images, jobs, ray, search)
        histories = [runs.read_metrics(file.parent) for file in (folder / "runs").glob("*/metrics.csv")]
        seconds = sum(row["seconds"] for history in histories for row in history)
        try:
            failures = train_runs(plan.runs, folder / "runs", jobs, progress, ray)
            content = _after_training(plan, folder, index, root, failures, search, progress)
        except KeyboardInterrupt:
            progress(f"stopped; continue with: {command}")
            raise
        content.study, content.index, content.images = str(folder / "study.yaml"), index, root
        content.notes, content.seconds = notes, seconds + time.time() - start
        content.commands = _commands(plan, folder, content, command)
        results.write_results(folder, content)
        report.write_report(folder)
    return content


def _command(folder: Path, index: str, images: str | None, jobs: int, ray: str | None, search: int) -> str:
    words = ["triaffect", "study", str(folder / "study.yaml"), "--index", str(index)]
    words += ["--images", images] if images else []
    words += ["--out", str(folder)] + (["--jobs", str(jobs)] if jobs > 1 else []) + (["--ray", ray] if ray else [])
    return shlex.join(words + (["--search", str(search)] if search else []))


# The plan --------------------------------------------------------------------------------------------------------


def plan_text(plan: StudyPlan, sizes: Mapping[str, Sequence[int]], folder: Path, jobs: int, search: int) -> str:
    """List the runs of a study with an estimate of their time; nothing is measured for it.

    Args:
        plan: The study.
        sizes: Model -> number of training and of validation images.
        folder: The study folder, which shows what is finished.
        jobs: Number of runs at once.
        search: Number of trials.
    """
    seconds = {name: estimate(run, *sizes[name]) for name, run in plan.runs.items()}
    rows, remaining = [], 0.0
    for name, run in plan.runs.items():
        done = runs.finished(folder / "runs" / name)
        remaining += 0 if done else seconds[name]
        epochs = f"{run.training.epochs} × {sizes[name][0]:,}"
        time_left = "finished" if done else duration(seconds[name])
        rows.append([name, "+".join(run.model.tasks), run.model.backbone, f"{run.model.size} px", epochs, time_left])
    if search and plan.search:
        remaining += search * seconds[plan.search.run]
    others: dict[str, Iterable[str]] = {"encoders": plan.encoders, "heads": plan.heads}
    for key, kind in SYSTEM_KINDS.items():
        others[key] = [name for name, system in plan.systems.items() if system.kind == kind]
    lines = [f"{plan.title}: {len(plan.runs)} runs" + (f", a search of {search} trials" if search else "")]
    if rows:
        lines.append(text_table(["run", "tasks", "backbone", "size", "epochs × images", "about"], rows))
    lines += [f"{key}: {', '.join(names)}" for key, names in others.items() if names]
    if remaining:
        seconds_here = remaining / max(1, min(jobs, torch.cuda.device_count(), len(plan.runs)))
        lines.append(f"time: about {duration(seconds_here)} here, an estimate from the number of parameters")
    elif all(runs.finished(folder / "runs" / name) for name in plan.heads):
        lines.append("nothing left to train")
    else:
        lines.append("time: minutes, since heads train on features; these are computed once")
    return "\n".join([*lines, ""])


def estimate(config: TrainConfig, train: int, val: int) -> float:
    """Estimate the seconds of a run, within a factor of a few: operations by parameters and size, at a typical rate.

    Args:
        config: The run.
        train: Number of training images.
        val: Number of validation images.
    """
    import timm

    model = config.model
    try:
        with torch.device("meta"):
            network = timm.create_model(model.backbone, pretrained=False, num_classes=0)
        parameters = sum(p.numel() for p in network.parameters())
    except Exception:  # some cannot be built without numbers, others come from a hub
        parameters = 25_000_000
    # A ResNet does 160 multiplications per parameter for 224 x 224 pixels; a CPU does 1.5e11 per second in bfloat16.
    operations = 160 * parameters * (model.size / 224) ** 2
    gpu = torch.cuda.is_available() and config.training.accelerator != "cpu"
    seconds_per_image = max(operations / (1e13 if gpu else 1.5e11), 5e-5 if gpu else 1e-3)  # decoding takes the rest
    return config.training.epochs * ((1 if model.frozen else 3) * train + val) * seconds_per_image


# Training --------------------------------------------------------------------------------------------------------


def train_runs(
    configs: Mapping[str, TrainConfig], folder: Path, jobs: int, progress: Callable[[str], None], ray: str | None = None
) -> dict[str, str]:
    """Train the runs that are not finished.

    Args:
        configs: Name -> config.
        folder: The folder of the run folders.
        jobs: Number of runs at once.
        progress: Called with a line per run that begins in this process, and per run that fails.
        ray: As for `run_study`.

    Returns:
        Name -> reason, for every run that failed.
    """
    items = [(config, folder / name) for name, config in configs.items() if not runs.finished(folder / name)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if items:
        progress(f"to train: {', '.join(run.name for _, run in items)}")
    failures = {}
    for outcome in run_all(_train, items, jobs, gpus[: torch.cuda.device_count()], ray=ray):
        if reason := str(outcome.error) if outcome.error else outcome.result:
            failures[outcome.item[1].name] = reason
    return failures


def _train(item: tuple[TrainConfig, Path]) -> str | None:
    """Train one run; return the reason if it fails."""
    from triaffect.training.trainer import train

    config, run = item
    threads = torch.get_num_threads()
    try:
        train(config, run, resume=True)
    except Exception as error:
        return _reason(error, run / "error.txt")
    finally:
        torch.set_num_threads(threads)
    return None


def _reason(error: Exception, file: Path) -> str:
    """Describe an error in one line; the traceback of anything but an InputError is written to a file."""
    if isinstance(error, InputError):
        return str(error)
    write_text(file, "".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]} (see {file})"


# After training --------------------------------------------------------------------------------------------------


def _after_training(
    plan: StudyPlan,
    folder: Path,
    index: str,
    images: str,
    failures: dict[str, str],
    search: int,
    progress: Callable[[str], None],
) -> StudyResults:
    def attempt(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            failures[name] = _reason(error, folder / f"{name}.error.txt")
            return None

    trials = run_search(plan, folder / "search", search, progress)
    for name in plan.heads:
        attempt(name, _train_heads, plan, folder, name, index, images)
    evaluated, labels = plan.evaluated(), Path(index)
    if evaluated:
        labels = folder / evaluated
        data = plan.data
        options: dict[str, Any] = {"fraction": data.val_fraction, "by": data.fraction_by, "stride": data.val_stride}
        save_subset(index, labels, plan.split, **options)
    rows = load_index(labels, plan.split)
    for name, config in plan.configs.items():
        if runs.finished(folder / "runs" / name):
            run, path = folder / "runs" / name, results.predictions_file(folder, name)
            source = {"index": config.data.index, "split": config.data.val}
            attempt(name, results.predict_run, run, config, rows, images, path, source)
    combined = results.combine(plan, folder, rows, attempt)
    models, comparisons = results.evaluate(plan, folder, labels, attempt, combined)
    sent = attempt("submission", submission.write, plan, folder, images, combined) if plan.submission else None
    content = StudyResults(
        title=plan.title,
        question=plan.question,
        models=models,
        comparisons=comparisons,
        tuning=combined.tuning,
        halves=combined.halves,
        search=trials,
        submission=sent,
        failures=[Failure(name, reason) for name, reason in failures.items()],
        paper=plan.paper,
        same_data=same_data(plan.paper, index),
        split=plan.split,
        evaluated=evaluated,
        environment=runs.environment(),
        triaffect=triaffect.__version__,
    )
    content.answer = report.answer(content)
    return content


def _train_heads(plan: StudyPlan, folder: Path, name: str, index: str, images: str) -> None:
    from triaffect.training.trainer import train_heads

    heads = plan.heads[name]
    data, model = heads.config.data, heads.config.model
    rows = load_index(index).filter(pl.col("split").is_in([data.train, data.val]))
    device = "cpu" if heads.config.training.accelerator == "cpu" else "auto"
    options: dict[str, Any] = {"workers": data.workers, "device": device, "progress": sys.stderr.isatty()}
    sources = [_encoder(plan, folder, source) for source in heads.features]
    folders = []
    for number, (source, path) in enumerate(zip(heads.features, sources, strict=True)):
        own = source if source in {**plan.runs, **plan.encoders} else f"{name}-{number}" if number else name
        folders.append(str(extract_features(path, rows, images, folder / "features" / own, **options)))
    encoders = list(map(str, sources))
    on_features = replace(data, features=folders if len(folders) > 1 else folders[0])
    model = replace(model, pretrained=encoders if len(encoders) > 1 else encoders[0])
    config = replace(heads.config, data=on_features, model=model)
    train_heads(config, folder / "runs" / name, heads.joint)


def _encoder(plan: StudyPlan, folder: Path, name: str) -> Path:
    """The model folder of a run, of an encoder (made if it is not there yet), or of a path."""
    if name in plan.runs:
        if not runs.finished(folder / "runs" / name):
            raise InputError(f"needs {name}, which is missing")
        return folder / "runs" / name
    encoder = plan.encoders.get(name, name)
    if isinstance(encoder, str):
        return model_folder(encoder)
    path = folder / "encoders" / name
    if not path.is_dir():
        with atomic_path(path) as tmp_path:
            make_model(TrainConfig(model=encoder)).save_pretrained(tmp_path)
    return path


def same_data(paper: Mapping[str, Any] | None, index: str) -> bool:
    """Return whether an index is the paper's data set: the same layout, and row counts within 2 % of the paper's."""
    frames = (paper or {}).get("frames")
    if not frames:
        return False
    rows, layout = load_index(index), frames.get("format")
    if "labelled" in frames:
        rows = rows.filter(pl.col("exists").fill_null(True) & pl.col(frames["labelled"]).is_not_null())
    counts = {split: rows.filter(pl.col("split") == split).height for split in ("train", "val")}
    return layout in (None, provenance(index).get("format")) and all(
        abs(counts[split] - frames[split]) <= 0.02 * frames[split] for split in counts
    )


def _commands(plan: StudyPlan, folder: Path, content: StudyResults, study_command: str) -> list[str]:
    """Shell commands that repeat the study: at once, then step by step."""
    lines = [study_command]
    labels = folder / content.evaluated if content.evaluated else content.index
    for model in content.models:
        predictions = f"{folder}/{model.predictions}"
        if model.name in plan.runs:
            lines.append(f"triaffect train --config {folder}/runs/{model.name}/config.yaml --out {model.name}")
        if model.run:
            options = f"--split {plan.split} --fill nearest --out {predictions}"
            lines.append(f"triaffect predict {folder}/{model.run} {labels} {options}")
        lines.append(f"triaffect score {predictions} {labels} --split {plan.split}")
    return lines
