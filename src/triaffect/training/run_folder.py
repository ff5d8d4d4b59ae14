"""The run folder: what it says of itself, when it may be continued, when it is finished. Imports no Lightning."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml

from triaffect.io import InputError, atomic_path, write_text
from triaffect.report.plots import conflict_curves, training_curves
from triaffect.report.style import save_figure
from triaffect.training.config import TrainConfig, TrainingConfig
from triaffect.training.model import AffectModel

PACKAGES = (
    "triaffect",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "numpy",
    "polars",
    "opencv-python-headless",
    "simplejpeg",
)


def open_run(run: Path, config: TrainConfig, resume: bool) -> None:
    """Makes a run folder with its configuration and environment, or checks that an old one may be continued.

    Raises:
        InputError: The folder holds another run, or one that was not asked to be continued.
    """
    known = run / "config.yaml"
    if known.exists():
        if not resume:
            raise InputError(f"{run}: already holds a run; continue it with --resume or name another folder")
        old, new = flat(yaml.safe_load(known.read_text(encoding="utf-8"))), flat(config.to_dict())
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if changed:
            key = changed[0]
            raise InputError(
                f"{known}: was started with {key} {old.get(key)!r}, not {new.get(key)!r}; "
                "give the same configuration to --resume, or name another folder"
            )
        return
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise InputError(f"{run}: exists and holds no run; name an empty or a new folder")
    write_text(known, yaml.safe_dump(config.to_dict(), sort_keys=False))
    write_text(run / "environment.json", json.dumps(environment(), indent=2) + "\n")


def begin(run: Path, config: TrainConfig) -> None:
    """`open_run` for a folder that is ours alone: what a kill left before the run had begun is cleared away."""
    if run.exists() and not (run / "config.yaml").exists():
        shutil.rmtree(run)
    open_run(run, config, resume=True)


def environment() -> dict[str, Any]:
    """Versions, machine and command, to stand beside every result."""
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


def close_run(run: Path, history: list[dict[str, float]], select: str, parameters: int, bad: dict[str, str]) -> None:
    """Writes `summary.json`, which marks the run as finished."""
    best = max(history, key=lambda row: row[f"val/{select}"])
    summary = {
        "epochs": len(history),
        "best": best,
        "parameters": parameters,
        "seconds": round(sum(row["seconds"] for row in history), 3),
        "skipped_images": bad,
    }
    write_text(run / "summary.json", json.dumps(summary, indent=2) + "\n")


def joules() -> float | None:
    """Energy that the GPUs in use and the CPU packages have counted so far; None where none of them counts.

    GPUs through NVML, where the package nvidia-ml-py is there; CPUs through Linux's powercap, where it may be read.
    """
    found = []
    for file in Path("/sys/class/powercap").glob("intel-rapl:[0-9]/energy_uj"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(file.read_text()) / 1e6)
    for device in range(torch.cuda.device_count()):
        with contextlib.suppress(Exception):  # no package, no driver, no counter
            import pynvml

            handle = torch.cuda._get_pynvml_handler(device)
            found.append(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
    return sum(found) if found else None


def finished(run: Path) -> bool:
    """Whether the run came to its end."""
    return (run / "summary.json").exists()


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested data with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def optimizer(training: TrainingConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a configuration names, over some parameters."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, training.lr, momentum=training.momentum, weight_decay=training.weight_decay, fused=True
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
    return kind(parameters, training.lr, weight_decay=training.weight_decay, fused=True)


def precision(asked: str, accelerator: str = "auto") -> str:
    """Lightning's name of a precision; `auto` is bfloat16 where the device computes it, else 32."""
    if asked == "auto":
        if torch.cuda.is_available() and accelerator != "cpu":
            asked = "bf16" if torch.cuda.is_bf16_supported() else "32"
        else:
            asked = "bf16" if cpu_has_bf16() else "32"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[asked]


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; emulated, it is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_model(run: Path, model: AffectModel, config: TrainConfig, metrics: dict[str, float], bad: dict) -> None:
    """Writes the best model so far, with the configuration and the scores that it was kept for."""
    kept = {k: v for k, v in metrics.items() if k.startswith("val/") or k == "epoch"}
    model.provenance = {"config": config.to_dict(), "validation": kept, "skipped_images": len(bad)}
    with atomic_path(run / "model") as tmp_path:
        model.save_pretrained(tmp_path)


def write_metrics(run: Path, history: list[dict[str, float]]) -> None:
    """Writes `metrics.csv`, a row an epoch."""
    with atomic_path(run / "metrics.csv") as tmp_path:
        pl.DataFrame(history).write_csv(tmp_path)


def draw(run: Path, history: list[dict[str, float]]) -> None:
    """Draws the curves so far, and the conflict of the tasks' gradients where it was measured."""
    table = pl.DataFrame(history)
    save_figure(training_curves(table), run / "curves.png")
    if (conflict := conflict_curves(table)) is not None:
        save_figure(conflict, run / "conflict.png")


def in_words(metrics: dict[str, float], tasks: tuple[str, ...], epochs: int) -> str:
    """An epoch's line."""
    scores = "  ".join(f"{task} {metrics[f'val/{task}']:.3f}" for task in tasks)
    return (
        f"epoch {metrics['epoch']:.0f}/{epochs}  loss {metrics.get('train/loss', math.nan):.3f}  {scores}  "
        f"{metrics['seconds']:.0f} s, {metrics['images_per_second']:.0f} images/s"
    )


def learning_rate(training: TrainingConfig, step: int, total: int, rate: float) -> float:
    """The rate of a step of `total`; `rate` is what `plateau` has left of it."""
    warm = int(training.warmup * total)
    if step < warm:
        return training.lr * (step + 1) / warm
    if training.schedule == "cosine":
        return training.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    return training.lr * rate
