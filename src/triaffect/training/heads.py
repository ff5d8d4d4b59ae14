"""Heads trained alone, on the features of a frozen backbone: seconds, and each head at its own best epoch."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from triaffect.io import InputError, atomic_path, write_text
from triaffect.report.plots import training_curves
from triaffect.report.style import save_figure
from triaffect.training import run_folder as runs
from triaffect.training.config import TrainConfig
from triaffect.training.dataset import FrameDataset, training_rows
from triaffect.training.features import load_features
from triaffect.training.judging import judge
from triaffect.training.losses import TaskLosses
from triaffect.training.model import AffectModel, load_model
from triaffect.training.temporal import WINDOW, in_videos


def train_heads(
    features_folder: str | Path, model: str | Path, config: TrainConfig, out: str | Path, joint: bool = False
) -> Path:
    """Trains new heads on the features of a frozen backbone and leaves a run folder with a whole model.

    Each head has its own optimiser and is kept at the epoch that its own official measure chooses; `joint` heads share
    both, as in a multi-task model. Augmentation, schedule and precision play no part: the features are fixed.

    Args:
        features_folder: From `extract_features`, with the training and the validation split.
        model: The run or model whose backbone made them.
        config: Data, `model.tasks`, `model.head`, losses, and of `training` epochs, batch, optimizer, lr, weight_decay,
            momentum, early_stop and seed.
        out: The run folder to make; a finished one is left as it is.
        joint: Choose one epoch for all heads, by the total.

    Returns:
        The run folder: `config.yaml`, `environment.json`, `metrics.csv`, `curves.png`, `summary.json`, `model/`.

    Raises:
        InputError: The features do not cover the index, or the folder holds another run.
    """
    run, training = Path(out), config.training
    if run.exists():
        runs.open_run(run, config, resume=True)
        if runs.finished(run):
            return run
    started, source = time.time(), load_model(model)
    torch.manual_seed(training.seed)
    own = ("tasks", "head", "hidden", "temporal", "causal", "fps")
    settings = {name: getattr(config.model, name) for name in own}
    network = AffectModel(**{**source.settings, **settings, "dropout": config.model.dropout})
    network.backbone.load_state_dict(source.backbone.state_dict())
    network._normalise_by(source.normalisation)
    place = torch.device("cuda" if torch.cuda.is_available() and training.accelerator != "cpu" else "cpu")
    train_rows, val_rows, images = training_rows(config)
    sides = [
        _tensors(features_folder, rows, images, place, network.temporal is not None) for rows in (train_rows, val_rows)
    ]
    network.heads.to(place)
    if network.temporal is not None:
        network.temporal.to(place)
    groups = [network.tasks] if joint or network.temporal is not None else [(task,) for task in network.tasks]
    parts = [_train_group(network, group, config, train_rows, *sides) for group in groups]
    bests = [max(part, key=lambda row: row["val/total"]) for part in parts]
    history = []
    for epoch in range(max(map(len, parts))):
        # A head that has ended stays at its best.
        now = [part[epoch] if epoch < len(part) else best for part, best in zip(parts, bests, strict=True)]
        seconds = sum(part[epoch]["seconds"] for part in parts if epoch < len(part))
        images_per_second = len(train_rows) / max(seconds, 1e-9)
        history.append({**_summed(now), "epoch": epoch + 1, "seconds": seconds, "images_per_second": images_per_second})
    best = _summed(bests)
    network.provenance = {"config": config.to_dict(), "features_of": str(model), "joint": joint, "validation": best}
    with atomic_path(run) as tmp_path:
        runs.open_run(tmp_path, config, resume=False)
        network.to("cpu").save_pretrained(tmp_path / "model")
        table = pl.DataFrame(history)
        table.write_csv(tmp_path / "metrics.csv")
        save_figure(training_curves(table), tmp_path / "curves.png")
        summary = {
            "epochs": len(history),
            "best": best,
            "parameters": sum(p.numel() for p in network.parameters()),
            "seconds": time.time() - started,
            "skipped_images": {},
        }
        write_text(tmp_path / "summary.json", json.dumps(summary, indent=2) + "\n")
    return run


def _summed(rows: list[dict[str, float]]) -> dict[str, float]:
    """One row of the metrics from those of the groups: sums of what all have, and the tasks' own."""
    total = {key: sum(row[key] for row in rows) for key in ("train/loss", "val/loss", "val/total")}
    own = {key: value for row in rows for key, value in row.items() if key.count("/") and key not in total}
    return {"epoch": rows[0]["epoch"], **total, **own}


def _tensors(
    folder: str | Path, rows: pl.DataFrame, images: Path, place: torch.device, in_order: bool
) -> dict[str, Tensor]:
    """The features and targets of index rows, `in_order` of their videos; those of unreadable images are left out."""
    if in_order:
        rows = rows.sort("video", "frame", maintain_order=True)
    names, values = load_features(folder)
    known = pl.DataFrame({"image": names}).with_row_index("place")
    at = rows.select("image").join(known, on="image", how="left", maintain_order="left")["place"]
    if at.null_count():
        raise InputError(
            f"{folder}: lacks {at.null_count():,} of {len(at):,} images of {rows['split'][0]} "
            f"(first {rows['image'].filter(at.is_null())[0]}); extract the features of both splits"
        )
    found = torch.from_numpy(np.asarray(values[at.to_numpy()]))
    readable = torch.isfinite(found).all(1)
    targets = FrameDataset(rows, images, 1).targets
    video = rows["video"].fill_null("").rank("dense").to_torch().long()
    frame = rows["frame"].fill_null(0).cast(pl.Float32).to_torch()
    kept = {task: torch.from_numpy(target.copy()) for task, target in targets.items()}
    kept |= {"features": found, "video": video, "frame": frame}
    return {name: tensor[readable].to(place) for name, tensor in kept.items()}


def _train_group(
    network: AffectModel,
    tasks: tuple[str, ...],
    config: TrainConfig,
    rows: pl.DataFrame,
    train: dict[str, Tensor],
    val: dict[str, Tensor],
) -> list[dict[str, float]]:
    """Trains the heads of some tasks together, puts them at their best epoch and returns the epochs' metrics."""
    training, heads = config.training, torch.nn.ModuleDict({task: network.heads[task] for task in tasks})
    if network.temporal is not None:
        heads["temporal"] = network.temporal
    losses = TaskLosses(config.losses, tasks, rows).to(train["features"].device)
    optimizer = runs.optimizer(training, list(heads.parameters()))
    history: list[dict[str, float]] = []
    targets = {task: val[task].cpu().numpy() for task in tasks}
    best, kept, stalled = -math.inf, {}, 0
    for epoch in range(training.epochs):
        started = time.perf_counter()
        torch.manual_seed(int(np.random.SeedSequence((training.seed, epoch)).generate_state(1)[0]))
        order = np.random.default_rng((training.seed, epoch)).permutation(len(train["features"]))
        heads.train()
        sums, steps = torch.zeros(len(tasks) + 1, device=train["features"].device), 0
        for part in _parts(order, training.batch, network.temporal is not None):
            if len(part) < 2:  # batch norm needs two
                continue
            batch = {name: tensor[part.to(tensor.device)] for name, tensor in train.items()}
            values = losses(_outputs(network, batch, tasks), batch)
            total = losses.total(values)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            sums, steps = sums + torch.stack([total, *values.values()]).detach(), steps + 1
        means = (sums / max(1, steps)).tolist()
        row = {"epoch": epoch + 1, "train/loss": means[0]}
        row |= {f"train/loss_{task}": value for task, value in zip(tasks, means[1:], strict=True)}
        heads.eval()
        with torch.inference_mode():
            found = _outputs(network, val, tasks)
            raw = {f"raw_{task}": found[task].cpu().numpy() for task in tasks}
        row |= judge({**raw, **targets}, losses, val["features"].device)
        history.append({**row, "seconds": time.perf_counter() - started})
        stalled += 1
        if history[-1]["val/total"] > best:
            best, stalled = history[-1]["val/total"], 0
            kept = {name: value.clone() for name, value in heads.state_dict().items()}
        if training.early_stop and stalled >= training.early_stop:
            break
    heads.load_state_dict(kept)
    return history


def _parts(order: np.ndarray, batch: int, in_videos: bool) -> list[Tensor]:
    """Row numbers of each step: single rows in random order, or neighbouring ones where frames see each other."""
    if not in_videos:
        return list(torch.from_numpy(order).split(batch))
    # Windows begin elsewhere in each epoch, and come in random order.
    windows = np.array_split(np.roll(np.arange(len(order)), int(order[0])), max(1, len(order) // WINDOW))
    windows = [windows[i] for i in np.argsort(order[: len(windows)])]
    several = max(1, batch // WINDOW)
    joined = [np.concatenate(windows[i : i + several]) for i in range(0, len(windows), several)]
    return [torch.from_numpy(np.sort(part)) for part in joined]


def _outputs(network: AffectModel, batch: dict[str, Tensor], tasks: tuple[str, ...]) -> dict[str, Tensor]:
    features = batch["features"].float()
    if network.temporal is None:
        return {task: network.heads[task](features) for task in tasks}
    time = batch["frame"] / network.settings["fps"]
    if network.heads[tasks[0]].training:
        return network.predict_from_features(features, time, batch["video"])
    return in_videos(network, features, time, batch["video"])
