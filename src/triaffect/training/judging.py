"""The official measures of a whole validation split after an epoch, whoever predicted which part of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triaffect.metrics.measures import au_score, expr_score, va_score
from triaffect.training.losses import TaskLosses
from triaffect.training.model import probabilities

SCORES = {"va": va_score, "expr": expr_score, "au": au_score}


def gather(batches: list[dict[str, Tensor]], world: int) -> dict[str, np.ndarray]:
    """Every process's rows, each once, in the order of the index.

    Args:
        batches: This process's, with `row` and any columns of the same length.
        world: How many processes there are; each must call this.
    """
    own = {name: torch.cat([batch[name] for batch in batches]).cpu().numpy() for name in batches[0]}
    parts: list[Any] = [own]
    if world > 1:
        parts = [None] * world
        torch.distributed.all_gather_object(parts, own)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in own}
    _, first = np.unique(joined["row"], return_index=True)
    return {name: values[first] for name, values in joined.items()}


def judge(judged: dict[str, np.ndarray], losses: TaskLosses, device: torch.device) -> dict[str, float]:
    """Scores and losses of a split.

    Args:
        judged: `raw_va` and the like (raw outputs), and `va` and the like (targets with their holes).
        losses: Of the run.
        device: Where the losses live.

    Returns:
        `val/va`, `val/expr`, `val/au` (NaN for a task without any label), `val/total` over the others, and the losses.
    """
    tasks = losses.tasks
    raw = {task: torch.from_numpy(judged[f"raw_{task}"]).to(device) for task in tasks}
    targets = {task: torch.from_numpy(judged[task]).to(device) for task in tasks}
    predictions = {task: value.cpu().numpy() for task, value in probabilities(raw).items()}
    scores = {task: float(SCORES[task](predictions[task], judged[task])[task]) for task in tasks}
    each = losses(raw, targets)
    return {
        "val/loss": losses.total(each).item(),
        **{f"val/loss_{task}": value.item() for task, value in each.items()},
        "val/total": sum(value for value in scores.values() if not math.isnan(value)),
        **{f"val/{task}": value for task, value in scores.items()},
    }
