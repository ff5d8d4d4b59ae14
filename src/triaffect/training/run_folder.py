"""The run folder: its files, when it may be resumed, when it is finished. Imports no Lightning."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import sys
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml

from triaffect.io import InputError, atomic_path, write_text
from triaffect.labels import loss_key, score_key
from triaffect.report.figures import training_curves
from triaffect.report.style import save_figure
from triaffect.training.config import TrainConfig, TrainingConfig
from triaffect.training.model import AffectModel

PACKAGES = (
    "triaffect", "torch", "torchvision", "timm", "lightning",
    "numpy", "polars", "opencv-python-headless", "simplejpeg",
)  # fmt: skip


def check_run(run: Path, config: TrainConfig, resume: bool) -> None:
    """Check that a run can be started or resumed in a folder.

    Raises:
        InputError: The folder holds another run, one that was not asked to be resumed, or something else.
    """
    config_file = run / "config.yaml"
    if config_file.exists():
        if not resume:
            raise InputError(f"{run}: already holds a run; continue it with --resume or name another folder")
        old, new = flat(yaml.safe_load(config_file.read_text(encoding="utf-8"))), flat(config.to_dict())
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise InputError(
                    f"{config_file}: was started with {key} {old.get(key)!r}, not {new.get(key)!r}; "
                    "give the same config to --resume, or name another folder"
                )
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise InputError(f"{run}: exists and holds no run; name an empty or a new folder")


def write_config(run: Path, config: TrainConfig) -> None:
    """Write a run's config and environment, unless they are there; the folder was checked before."""
    if not (run / "config.yaml").exists():
        write_text(run / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))
        write_text(run / "environment.json", json.dumps(environment(), indent=2) + "\n")


def begin(run: Path, config: TrainConfig) -> None:
    """Begin or resume a run in a folder that is ours alone: what a kill left before the run had begun is removed.

    Raises:
        InputError: As `check_run`.
    """
    if run.exists() and not (run / "config.yaml").exists():
        shutil.rmtree(run)
    check_run(run, config, resume=True)
    write_config(run, config)


def environment() -> dict[str, Any]:
    """Versions, machine and command, to store with every result."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def close_run(
    run: Path, history: list[dict[str, float]], best: dict[str, float], parameters: int, bad: dict[str, str]
) -> None:
    """Write `summary.json`, which marks the run as finished."""
    summary = {
        "epochs": len(history),
        "best": best,
        "parameters": parameters,
        "seconds": round(sum(row["seconds"] for row in history), 3),
        "skipped_images": bad,
    }
    write_text(run / "summary.json", json.dumps(summary, indent=2) + "\n")


def finished(run: Path) -> bool:
    """Whether the run came to its end."""
    return (run / "summary.json").exists()


def energy_joules() -> float | None:
    """Energy that the GPUs in use and the CPU packages have counted so far; None if none of them counts.

    GPUs through NVML, if the package nvidia-ml-py is installed; CPUs through Linux's powercap, if it may be read.
    """
    counters = []
    for file in Path("/sys/class/powercap").glob("intel-rapl:[0-9]/energy_uj"):
        with contextlib.suppress(OSError, ValueError):
            counters.append(int(file.read_text()) / 1e6)
    for device in range(torch.cuda.device_count()):
        with contextlib.suppress(Exception):  # no package, no driver, no counter
            import pynvml

            handle = torch.cuda._get_pynvml_handler(device)
            counters.append(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
    return sum(counters) if counters else None


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested data with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def make_optimizer(training: TrainingConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser of a config.

    Raises:
        InputError: Neither torch's nor timm's.
    """
    from timm.optim import create_optimizer_v2

    name = "momentum" if training.optimizer == "sgd" else training.optimizer  # timm's sgd is Nesterov's
    fused: dict[str, Any] = {"fused": True} if training.optimizer in ("adam", "adamw", "sgd") else {}
    try:
        return create_optimizer_v2(parameters, name, training.lr, training.weight_decay, training.momentum, **fused)
    except (ValueError, AssertionError):
        raise InputError(
            f"training.optimizer: timm has no {training.optimizer!r}; see timm.optim.list_optimizers()"
        ) from None


def precision(name: str, accelerator: str = "auto") -> str:
    """Lightning's name of a precision; `auto` is bfloat16 where the device computes it, else 32."""
    if name == "auto":
        on_gpu = torch.cuda.is_available() and accelerator != "cpu"
        has_bf16 = torch.cuda.is_bf16_supported() if on_gpu else cpu_has_bf16()
        name = "bf16" if has_bf16 else "32"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[name]


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; emulated, it is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_model(
    run: Path, model: AffectModel, config: TrainConfig, metrics: dict[str, float], bad: dict[str, str]
) -> None:
    """Write the best model, with the config and the scores that it was kept for."""
    scores = {k: v for k, v in metrics.items() if k.startswith("val/") or k == "epoch"}
    weights = {name: value for name, value in model.provenance.items() if name == "weights"}
    model.provenance = {**weights, "config": config.to_dict(), "validation": scores, "skipped_images": len(bad)}
    with atomic_path(run / "model") as tmp_path:
        model.save_pretrained(tmp_path)


def write_metrics(run: Path, history: list[dict[str, float]]) -> None:
    """Write `metrics.csv`, one row per epoch."""
    with atomic_path(run / "metrics.csv") as tmp_path:
        pl.DataFrame(history, infer_schema_length=None).write_csv(tmp_path)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Read `metrics.csv`."""
    return pl.read_csv(run / "metrics.csv", infer_schema_length=None).to_dicts()


def draw_curves(run: Path, history: list[dict[str, float]], kept_row: int | None = None) -> None:
    """Draw the curves so far.

    Args:
        run: The run folder.
        history: Its epochs.
        kept_row: The position of the epoch whose model is kept.
    """
    table = pl.DataFrame(history, infer_schema_length=None)
    save_figure(training_curves(table, kept_row), run / "curves.png")


def join_histories(runs: list[Path]) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The epochs of single-task runs as those of one model, and their best epochs as one row.

    A run that has ended stays at its best epoch.
    """
    histories, bests = [read_metrics(run) for run in runs], [read_summary(run)["best"] for run in runs]
    joined = []
    for epoch, of_runs in enumerate(zip_longest(*histories), 1):
        rows = [row or best for row, best in zip(of_runs, bests, strict=True)]
        running = [row for row in of_runs if row]
        seconds = sum(row["seconds"] for row in running)
        images = sum(row["images_per_second"] * row["seconds"] for row in running) / len(running)
        cost = {"seconds": seconds, "images_per_second": images / max(seconds, 1e-9)}
        joined.append({**_join(rows), "epoch": epoch, "lr": rows[0]["lr"], **cost})
    return joined, _join(bests)


def read_summary(run: Path) -> dict[str, Any]:
    """Read the `summary.json` of a finished run."""
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def _join(rows: list[dict[str, float]]) -> dict[str, float]:
    sums = {key: sum(row[key] for row in rows) for key in (loss_key("train"), loss_key("val"), score_key("total"))}
    tasks = {key: value for row in rows for key, value in row.items() if "/" in key and key not in sums}
    return {"epoch": rows[0]["epoch"], **sums, **tasks}


def epoch_line(metrics: dict[str, float], tasks: tuple[str, ...], epochs: int) -> str:
    """One line for an epoch: losses of both splits, the validation scores, and the time."""
    scores = "  ".join(f"{task} {metrics[score_key(task)]:.3f}" for task in tasks)
    losses = []
    for split in ("train", "val"):
        by_task = ", ".join(f"{task} {metrics.get(loss_key(split, task), math.nan):.3f}" for task in tasks)
        total = f"{split} loss {metrics.get(loss_key(split), math.nan):.3f}"
        losses.append(f"{total} ({by_task})" if len(tasks) > 1 else total)
    return (
        f"epoch {metrics['epoch']:.0f}/{epochs}  {'  '.join(losses)}  scores {scores}  "
        f"{metrics['seconds']:.0f} s, {metrics['images_per_second']:.0f} images/s"
    )
