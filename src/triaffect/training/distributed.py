"""Several processes, one loss: each sees the raw outputs and targets of all, so that nothing depends on the dealing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from triaffect.labels import TASKS


def everyones(
    raw: Mapping[str, Tensor], batch: Mapping[str, Tensor], size: int
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Raw outputs and targets of all processes' batches, in the order of the processes.

    Losses divide by counts of labels and CCC by moments, which differ between the parts of a batch: a mean of the
    parts' losses is not the loss of the whole. The loss of what is returned is; its gradient goes to this process's
    rows, times the number of processes, as distributed training averages gradients: together they are one process's.
    Batch norm's statistics stay each process's own.

    Args:
        raw: Task -> this process's raw outputs.
        batch: Task -> targets, and more.
        size: Rows to fill up to with missing targets, where an image could not be read.
    """
    world = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if world == 1:
        return raw, batch
    rows = len(next(iter(raw.values())))
    parts = [F.pad(value.float(), (0, 0, 0, size - rows)) for value in raw.values()]
    for task in raw:
        filled = blank(batch, size - rows)[task]
        parts.append(torch.cat([batch[task], filled]).float().reshape(size, -1))
    own = torch.cat(parts, 1)
    found = [torch.empty_like(own) for _ in range(world)]
    distributed.all_gather(found, own.detach())
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * world)
    found[distributed.get_rank()] = own
    columns = torch.cat(found).split([part.shape[1] for part in parts], 1)
    targets = dict(zip(raw, columns[len(raw) :], strict=True))
    codes = {task: value[:, 0].long() for task, value in targets.items() if batch[task].ndim == 1}
    return dict(zip(raw, columns, strict=False)), {**batch, **targets, **codes}


def blank(batch: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Black pictures without labels: what a process goes on with that could read nothing, since the others wait."""
    shape = {key: (rows, *batch[key].shape[1:]) for key in ("image", "row", *TASKS) if key in batch}
    missing = {task: float("nan") if batch[task].is_floating_point() else -1 for task in TASKS if task in batch}
    return {key: batch[key].new_full(size, missing.get(key, 0)) for key, size in shape.items()}
