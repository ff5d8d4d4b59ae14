"""What each task minimises. Every loss takes a batch as it is and is zero, with a graph, where nothing is labelled.

Raw outputs are (N, 2) for va, (N, classes) for expr, (N, 12) for au; missing targets are NaN, -1 and NaN. Expressions
are codes (N,) or, from a teacher or a crowd, distributions (N, 8) with rows of NaN. Sums over labelled entries are
divided by their number; no value leaves the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from triaffect.data.statistics import class_weights, count_unit
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, PREDICTION_COLUMNS
from triaffect.training.config import LossConfig
from triaffect.training.dataset import SOFT


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` holds; zero with a graph where it holds nowhere."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def mse(raw: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of valence and arousal (Asim 2024, sec. 1.9)."""
    return masked_mean((raw - target.nan_to_num()) ** 2, ~torch.isnan(target))


def ccc_loss(raw: Tensor, target: Tensor) -> Tensor:
    """1 - CCC, mean of valence and arousal (Chang et al. 2022, L3), with population moments over each value's own rows.

    A value with fewer than two labelled rows takes no part: its CCC is not defined.
    """
    mask = ~torch.isnan(target)
    count = mask.sum(0).clamp(min=1)
    x, y = torch.where(mask, raw, 0), target.nan_to_num()
    mean_x, mean_y = x.sum(0) / count, y.sum(0) / count
    dx, dy = torch.where(mask, x - mean_x, 0), torch.where(mask, y - mean_y, 0)
    spread = ((dx**2).sum(0) + (dy**2).sum(0)) / count + (mean_x - mean_y) ** 2
    ccc = 2 * (dx * dy).sum(0) / count / spread.clamp(min=1e-12)
    return masked_mean(1 - ccc, mask.sum(0) >= 2)


def cross_entropy(raw: Tensor, target: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Mean of w_y * CE over labelled rows (Chang et al. 2022, L1).

    The mean divides by the number of rows, as in the paper; `F.cross_entropy(weight=w)` would divide by the sum of w.
    """
    filled, mask = labelled_expressions(target)
    values = F.cross_entropy(raw, filled, reduction="none", label_smoothing=smoothing)
    if weights is not None:
        values = values * (weights[filled] if filled.ndim == 1 else filled @ weights)
    return masked_mean(values, mask)


def labelled_expressions(target: Tensor) -> tuple[Tensor, Tensor]:
    """Expression targets without holes, codes (N,) or distributions (N, 8), and (N,) which rows are labelled."""
    if target.ndim == 1:
        return target.clamp(min=0), target >= 0
    return target.nan_to_num(), ~torch.isnan(target).any(1)


def expression_focal(raw: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Cross-entropy times (1 - p_y)^gamma (Lin et al. 2017)."""
    filled, mask = labelled_expressions(target)
    values = F.cross_entropy(raw, filled, reduction="none")
    return masked_mean((1 - torch.exp(-values)) ** gamma * values, mask)


def adjusted_cross_entropy(raw: Tensor, target: Tensor, log_prior: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of raw + log prior, so that raw itself serves all classes alike (Menon et al. 2021, eq. 10)."""
    return cross_entropy(raw + log_prior, target, None, smoothing)


def binary_cross_entropy(raw: Tensor, target: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over labelled action units; `pos_weight` (12,) multiplies the positives."""
    values = F.binary_cross_entropy_with_logits(raw, target.nan_to_num(), pos_weight=pos_weight, reduction="none")
    return masked_mean(values, ~torch.isnan(target))


def au_focal(raw: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Binary focal loss without alpha; gamma 1 weighs positives by 1 - p, negatives by p (Chang et al. 2022, L2)."""
    values = sigmoid_focal_loss(raw, target.nan_to_num(), alpha=-1, gamma=gamma, reduction="none")
    return masked_mean(values, ~torch.isnan(target))


def asymmetric(raw: Tensor, target: Tensor, gamma: float = 4.0, margin: float = 0.05) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021, eqs. 4 to 6): negatives weighed by p_m^γ with p_m = max(p - margin, 0).

    γ 4, margin .05 and no focusing of the positives are the paper's.
    """
    y, p = target.nan_to_num(), torch.sigmoid(raw)
    shifted = (p - margin).clamp(min=0)
    values = -y * F.logsigmoid(raw) - (1 - y) * shifted**gamma * torch.log1p(-shifted)
    return masked_mean(values, ~torch.isnan(target))


def au_mse(raw: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the probability (the multi-task model of Asim 2024, sec. 1.11.1)."""
    return mse(torch.sigmoid(raw), target)


def expression_weights(index: pl.DataFrame) -> Tensor:
    """w_c = N / N_c of each expression in a training index (Chang et al. 2022, sec. 2); 0 for an absent class.

    A soft label counts where a row has no label: a class that only soft labels have must not get weight 0.
    """
    codes = index["expression"] if "expression" in index.columns else pl.Series([None] * len(index), dtype=pl.Int8)
    counts = np.bincount(codes.drop_nulls().to_numpy(), minlength=len(EXPRESSIONS)).astype(float)
    soft = [SOFT + name for name in PREDICTION_COLUMNS["expr"]]
    if set(soft) <= set(index.columns):
        counts += index.filter(codes.is_null()).select(pl.col(soft).sum()).to_numpy()[0]
    return torch.tensor([weight or 0.0 for weight in class_weights(counts.tolist())])


def au_pos_weight(index: pl.DataFrame) -> Tensor:
    """Negatives per positive of each action unit in a training index; 1 where either is absent."""
    columns = [index[name] if name in index.columns else pl.Series(dtype=pl.Int8) for name in ACTION_UNITS]
    return torch.tensor([count_unit(column)["pos_weight"] or 1.0 for column in columns])


class TaskLosses(nn.Module):
    """The loss of each task by its name in the configuration.

    Args:
        tasks: The tasks of the model.
        index: The training index, from which class weights are counted once.
        classes: Number of expressions.
        options: Names of the losses and their options, those of `config.LossConfig`.
    """

    def __init__(self, tasks: Sequence[str], index: pl.DataFrame, classes: int = 8, **options: Any) -> None:
        super().__init__()
        config = LossConfig(**options)
        weights: Mapping[Any, float] = config.weights
        self.tasks, self.weights = tasks, {task: weights.get(task, 1.0) for task in tasks}
        self.class_weight = nn.Buffer(expression_weights(index)[:classes], persistent=False)
        self.pos_weight = nn.Buffer(au_pos_weight(index), persistent=False)
        # An absent class has weight 0 here and no say there.
        rates = torch.where(self.class_weight > 0, 1 / self.class_weight, 1.0)
        self.log_prior = nn.Buffer(rates.log(), persistent=False)
        smoothing, gamma = config.label_smoothing, config.gamma
        functions: dict[str, dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
            "va": {"mse": mse, "ccc": ccc_loss, "ccc+mse": lambda raw, y: ccc_loss(raw, y) + mse(raw, y)},
            "expr": {
                "ce": lambda raw, y: cross_entropy(raw, y, None, smoothing),
                "weighted_ce": lambda raw, y: cross_entropy(raw, y, self.class_weight, smoothing),
                "focal": lambda raw, y: expression_focal(raw, y, gamma),
                "adjusted_ce": lambda raw, y: adjusted_cross_entropy(raw, y, self.log_prior, smoothing),
            },
            "au": {
                "bce": binary_cross_entropy,
                "weighted_bce": lambda raw, y: binary_cross_entropy(raw, y, self.pos_weight),
                "focal": lambda raw, y: au_focal(raw, y, gamma),
                "mse": au_mse,
                "asymmetric": asymmetric,
            },
        }
        self.functions = {task: functions[task][getattr(config, task)] for task in tasks}

    def forward(self, raw: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each task, before its fixed weight, in float32."""
        targets = {task: batch[task] for task in self.tasks}
        if "expr" in targets and targets["expr"].ndim == 2:  # a crowd's or a teacher's, of eight classes
            shares = targets["expr"][:, : raw["expr"].shape[1]]
            targets["expr"] = shares / shares.sum(1, keepdim=True)
        return {task: self.functions[task](raw[task].float(), target) for task, target in targets.items()}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum (Chang et al. 2022: L = L1 + L2 + L3)."""
        return torch.stack([self.weights[task] * value for task, value in losses.items()]).sum()
