"""Several processes, one loss: each sees the outputs and targets of all, so nothing depends on how rows are dealt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from triaffect.labels import TASKS


def gather_outputs(
    raw: Mapping[str, Tensor], batch: Mapping[str, Tensor], size: int
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Raw outputs and targets of all processes' batches, in the order of the processes.

    Losses divide by counts of labels, and CCC by moments, which differ between the parts of a batch: a mean of the
    parts' losses is not the loss of the whole. The loss of what is returned is; its gradient goes to this process's
    rows, times the number of processes, as distributed training averages gradients. Batch norm's statistics stay each
    process's own.

    Args:
        raw: Task -> this process's raw outputs.
        batch: Task -> targets, among others.
        size: Rows to fill up to with missing targets, if an image could not be read.
    """
    world = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if world == 1:
        return raw, batch
    rows = len(next(iter(raw.values())))
    parts = [F.pad(value.float(), (0, 0, 0, size - rows)) for value in raw.values()]
    for task in raw:
        missing = blank_rows(batch, size - rows)[task]
        parts.append(torch.cat([batch[task], missing]).float().reshape(size, -1))
    local = torch.cat(parts, 1)
    everyone = [torch.empty_like(local) for _ in range(world)]
    distributed.all_gather(everyone, local.detach())
    if local.requires_grad:
        local.register_hook(lambda gradient: gradient * world)
    everyone[distributed.get_rank()] = local
    columns = torch.cat(everyone).split([part.shape[1] for part in parts], 1)
    targets = dict(zip(raw, columns[len(raw) :], strict=True))
    codes = {task: value[:, 0].long() for task, value in targets.items() if batch[task].ndim == 1}
    return dict(zip(raw, columns, strict=False)), {**batch, **targets, **codes}


def blank_rows(batch: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Black images without labels, for a process that could read none while the others wait."""
    shape = {key: (rows, *batch[key].shape[1:]) for key in ("image", "row", *TASKS) if key in batch}
    missing = {task: float("nan") if batch[task].is_floating_point() else -1 for task in TASKS if task in batch}
    return {key: batch[key].new_full(size, missing.get(key, 0)) for key, size in shape.items()}


def gather_rows(batches: list[dict[str, Tensor]], world: int) -> dict[str, np.ndarray]:
    """The rows of all processes, each once, in the order of the index.

    Args:
        batches: This process's, with `row` and any columns of the same length.
        world: Number of processes; each must call this.
    """
    local = {name: torch.cat([batch[name] for batch in batches]).cpu().numpy() for name in batches[0]}
    parts: list[Any] = [local] * world
    if world > 1:
        distributed.all_gather_object(parts, local)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in local}
    _, first = np.unique(joined["row"], return_index=True)
    return {name: values[first] for name, values in joined.items()}
