"""Many runs, their fusions and their comparison, from one recipe; whatever is finished is not done again."""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml

import triaffect
from triaffect.data.index import load_index, provenance
from triaffect.data.predictions import save_predictions
from triaffect.io import InputError, write_text
from triaffect.report.answer import answer, plain_table
from triaffect.study import results
from triaffect.study.recipe import Recipe, read_recipe
from triaffect.training import run_folder as runs
from triaffect.training.config import TrainConfig
from triaffect.training.dataset import image_root, training_rows

LOCK = ".lock"
"""In every study folder from its first moment."""

# A run of several at once: `triaffect train`, which ends when the study that started it ends (its standard input).
CHILD = (
    "import os, sys, threading\n"
    "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(130)), daemon=True).start()\n"
    "from triaffect.cli.main import main\n"
    "sys.exit(main(sys.argv[1:]))"
)


def run_study(
    recipe: str | Path,
    index: str,
    images: str | None = None,
    out: str | Path = "study",
    *,
    changes: Sequence[str] = (),
    jobs: int = 1,
    search: int = 0,
) -> dict[str, Any]:
    """Trains, fuses, predicts, scores and compares what a recipe names, and writes the report.

    A study that was stopped, at any point, goes on where it was and ends in the same results.

    Args:
        recipe: A YAML file, or the name of a bundled one.
        index: The index that every run reads.
        images: Its image root, where the index does not know it.
        out: The study folder to make, or to go on with.
        changes: `key=value` on top of the recipe.
        jobs: Runs at once, each on a GPU of its own where there are several.
        search: Trials of the recipe's `search`, in all.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: The recipe, the index or the folder does not fit; nothing has been trained then.
    """
    started, folder = time.time(), Path(out)
    plan = read_recipe(recipe, index, images, changes)
    if search and plan.search is None:
        raise InputError(f"{recipe}: has no key search, so there is nothing to search; add one or leave --search out")
    root = str(image_root(index, images))
    sizes = {name: tuple(map(len, training_rows(run)[:2])) for name, run in plan.runs.items()}
    if folder.exists() and not (folder / LOCK).exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no study; name a new folder")
    failures: dict[str, str] = {}
    with alone(folder):
        for name, run in plan.runs.items():
            runs.begin(folder / "runs" / name, run)
        write_text(folder / "recipe.yaml", yaml.safe_dump(plan.raw, sort_keys=False, allow_unicode=True))
        print(plan_text(plan, sizes, folder, jobs, search), flush=True)
        words = _command(folder, index, images, jobs, search)
        spent = sum(map(_spent, (folder / "runs").iterdir()))
        try:
            train_all({name: folder / "runs" / name for name in plan.runs}, plan.runs, jobs, failures)
            found = _after_training(plan, folder, index, root, failures, search)
        except KeyboardInterrupt:
            print(f"\nstopped; go on with: {words}", file=sys.stderr)
            raise
        found |= {"recipe": str(folder / "recipe.yaml"), "index": index, "images": root}
        found |= {
            "seconds": spent + time.time() - started,
            "commands": _commands(plan, folder, found["models"], index, words),
        }
        results.write_results(folder, found)
        from triaffect.report.report import write_report

        page = write_report(folder)
    if found["models"]:
        print(f"\n{plain_table(found)}\n")
    print("\n".join(found["answer"]))
    for failure in found["failures"]:
        print(f"failed: {failure['name']}: {failure['reason']}", file=sys.stderr)
    print(f"\n{page}")
    return found


def _spent(run: Path) -> float:
    """Seconds that earlier calls trained a run for, by its own record."""
    record = run / "metrics.csv"
    return float(pl.read_csv(record)["seconds"].sum()) if record.is_file() else 0.0


def _command(folder: Path, index: str, images: str | None, jobs: int, search: int) -> str:
    words = ["triaffect", "study", str(folder / "recipe.yaml"), "--index", str(index)]
    words += ["--images", images] if images else []
    words += ["--out", str(folder)] + (["--jobs", str(jobs)] if jobs > 1 else [])
    return shlex.join(words + (["--search", str(search)] if search else []))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second study out of the folder; the lock ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ModuleNotFoundError:  # Windows has no such locks
            pass
        except OSError:
            raise InputError(f"{folder}: another study is at work in it; wait for it or stop it") from None
        yield


# The plan --------------------------------------------------------------------------------------------------------


def plan_text(plan: Recipe, sizes: Mapping[str, tuple[int, ...]], folder: Path, jobs: int, search: int) -> str:
    """The runs that are to come and what they may cost; nothing is measured for it."""
    from triaffect.metrics.tables import text_table

    guesses = {name: estimate(run, *sizes[name]) for name, run in plan.runs.items()}
    rows, left = [], 0.0
    for name, run in plan.runs.items():
        done = runs.finished(folder / "runs" / name)
        left += 0 if done else guesses[name]
        model, epochs = run.model, f"{run.training.epochs} × {sizes[name][0]:,}"
        rows.append([name, "+".join(model.tasks), model.backbone, f"{model.size} px", epochs])
        rows[-1].append("finished" if done else _span(guesses[name]))
    if search and plan.search:
        left += search * guesses[plan.search["run"]]
    more: dict[str, Iterable[str]] = {"heads": plan.heads, "joined": plan.joined, "fusions": plan.fusions}
    also = [f"{kind}: {', '.join(names)}" for kind, names in more.items() if names]
    at_once = max(1, min(jobs, torch.cuda.device_count(), len(plan.runs)))
    return "\n".join(
        [
            f"{plan.title}: {len(plan.runs)} runs" + (f", a search of {search} trials" if search else ""),
            text_table(["run", "tasks", "backbone", "size", "epochs × images", "about"], rows),
            *also,
            f"cost: about {_span(left / at_once)} here, an estimate from the number of parameters"
            if left
            else "nothing left to train",
            "",
        ]
    )


def estimate(config: TrainConfig, train: int, val: int) -> float:
    """Seconds of a run, within a factor of a few: operations from parameters and size, at a usual rate."""
    import timm

    model = config.model
    try:
        with torch.device("meta"):
            network = timm.create_model(model.backbone, pretrained=False, num_classes=0)
        parameters = sum(p.numel() for p in network.parameters())
    except Exception:  # some cannot be built without numbers, others come from a hub
        parameters = 25_000_000
    # ResNets do .16 multiplications a parameter and pixel of 224 x 224; 1.5e11 a second is a CPU's bfloat16, measured.
    operations = 160 * parameters * (model.size / 224) ** 2
    gpu = torch.cuda.is_available() and config.training.accelerator != "cpu"
    each = max(operations / (1e13 if gpu else 1.5e11), 5e-5 if gpu else 1e-3)  # small networks wait for other things
    return config.training.epochs * ((1 if model.frozen else 3) * train + val) * each


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# Training --------------------------------------------------------------------------------------------------------


def train_all(
    folders: Mapping[str, Path], configs: Mapping[str, TrainConfig], jobs: int, failures: dict[str, str]
) -> None:
    """Trains what is not finished; a failure is noted with its reason and the others go on."""
    todo = {name: run for name, run in folders.items() if not runs.finished(run)}
    devices = torch.cuda.device_count()
    if jobs <= 1 and devices <= 1:
        for number, (name, run) in enumerate(todo.items(), 1):
            print(f"run {number} of {len(todo)}: {name}", file=sys.stderr, flush=True)
            reason = _train_here(configs[name], run)
            if reason:
                failures[name] = reason
        return
    free: queue.Queue[int] = queue.Queue()
    for job in range(jobs):
        free.put(job)
    children: list[subprocess.Popen[str]] = []

    def one(name: str) -> None:
        job = free.get()
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = _device(job % devices)
        words = [sys.executable, "-c", CHILD, "train", "--out", str(todo[name]), "--resume"]
        pipe = subprocess.PIPE
        last = ""
        with subprocess.Popen(
            words,
            stdin=pipe,
            stdout=subprocess.DEVNULL,
            stderr=pipe,
            text=True,
            env=environment,
            start_new_session=True,
        ) as child:
            children.append(child)
            for line in child.stderr or ():
                last = line.strip() or last
                sys.stderr.write(line)
            code = child.wait()
        if code:
            failures[name] = last.removeprefix("triaffect train: ") or f"ended with code {code}"
        free.put(job)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(one, todo))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.kill()  # its last epoch is on disk
            raise


def _device(number: int) -> str:
    """The name of a GPU among those that this process may see."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[number] if seen else str(number)


def _train_here(config: TrainConfig, run: Path) -> str | None:
    from triaffect.training.trainer import train

    threads = torch.get_num_threads()
    try:
        train(config, run, resume=True)
    except Exception as error:
        return _reason(error, run / "error.txt")
    finally:
        torch.set_num_threads(threads)
    return None


def _reason(error: Exception, file: Path) -> str:
    """One line; what is no InputError leaves its traceback in a file."""
    if isinstance(error, InputError):
        return str(error)
    write_text(file, "".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]} (see {file})"


# Afterwards ------------------------------------------------------------------------------------------------------


def _after_training(
    plan: Recipe, folder: Path, index: str, images: str, failures: dict[str, str], search: int
) -> dict[str, Any]:
    def attempt(name: str, function: Callable[..., Any], *given: Any) -> Any:
        try:
            return function(*given)
        except Exception as error:
            failures[name] = _reason(error, folder / f"{name}.error.txt")
            return None

    searched = None
    if plan.search:
        from triaffect.study.search import run_search

        searched = run_search(plan, folder / "search", search)
    for name in plan.heads:
        attempt(name, _heads, plan, folder, name, index, images)
    rows = load_index(index, plan.split)
    for name, config in [*plan.runs.items(), *((name, heads.config) for name, heads in plan.heads.items())]:
        if runs.finished(folder / "runs" / name):
            attempt(name, _predict, folder, name, config, rows, images)
    combined = results.combine(plan, folder, attempt)
    found: dict[str, Any] = {
        "title": plan.title,
        "question": plan.question,
        "answer": [],
        "split": plan.split,
        "triaffect": triaffect.__version__,
        "environment": runs.environment(),
        "paper": plan.paper,
        "same_data": same_data(plan.paper, index),
        **results.judge(plan, folder, attempt, combined.pop("lambdas")),
        **combined,
        "search": searched,
    }
    found["failures"] = [{"name": name, "reason": reason} for name, reason in failures.items()]
    found["answer"] = answer(found)
    return found


def _heads(plan: Recipe, folder: Path, name: str, index: str, images: str) -> None:
    from triaffect.training.features import extract_features
    from triaffect.training.heads import train_heads

    heads = plan.heads[name]
    data = heads.config.data
    source = folder / "runs" / heads.features if heads.features in plan.runs else Path(heads.features)
    if heads.features in plan.runs and not runs.finished(source):
        raise InputError(f"rests on {heads.features}, which is missing")
    rows = load_index(index).filter(pl.col("split").is_in([data.train, data.val]))
    features = folder / "features" / (heads.features if heads.features in plan.runs else name)
    place = "cpu" if heads.config.training.accelerator == "cpu" else "auto"
    extract_features(source, rows, images, features, workers=data.workers, device=place, progress=sys.stderr.isatty())
    train_heads(features, source, heads.config, folder / "runs" / name, heads.joint)


def _predict(folder: Path, name: str, config: TrainConfig, rows: pl.DataFrame, images: str) -> None:
    from triaffect.inference.predict import predict
    from triaffect.training.model import load_model

    path, run = folder / "predictions" / f"{name}.parquet", folder / "runs" / name
    if path.exists() and path.stat().st_mtime > (run / "summary.json").stat().st_mtime:
        return
    model = load_model(run)
    place = "cpu" if config.training.accelerator == "cpu" else "auto"
    found = predict(
        model, rows, images, fill="nearest", workers=config.data.workers, device=place, progress=sys.stderr.isatty()
    )
    source = {"model": str(run), "index": config.data.index, "split": config.data.val, "fill": "nearest"}
    save_predictions(found, path, {**source, "trained": model.provenance})


def same_data(paper: Mapping[str, Any] | None, index: str) -> bool:
    """Whether an index is the paper's data set: the same layout, and rows within 2 % of what the paper counts."""
    frames = (paper or {}).get("frames")
    if not frames:
        return False
    rows, found = load_index(index), provenance(index).get("format")
    kind = frames.get("format")
    if "labelled" in frames:
        rows = rows.filter(pl.col("exists").fill_null(True) & pl.col(frames["labelled"]).is_not_null())
    counts = {split: rows.filter(pl.col("split") == split).height for split in ("train", "val")}
    return kind in (None, found) and all(abs(counts[split] - frames[split]) <= 0.02 * frames[split] for split in counts)


def _commands(plan: Recipe, folder: Path, models: Sequence[Mapping[str, Any]], index: str, words: str) -> list[str]:
    """Shell lines that do it again: all at once, then piece by piece."""
    lines = [words]
    for model in models:
        name, made = model["name"], f"{folder}/{model['predictions']}"
        if name in plan.runs:
            lines.append(f"triaffect train --config {folder}/runs/{name}/config.yaml --out {name}")
        if model["run"]:
            lines.append(
                f"triaffect predict {folder}/{model['run']} {index} --split {plan.split} --fill nearest --out {made}"
            )
        lines.append(f"triaffect score {made} {index} --split {plan.split}")
    return lines
