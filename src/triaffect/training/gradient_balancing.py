"""How task losses become one step: fixed, learned or moving weights, or the tasks' gradients combined by torchjd."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from triaffect.labels import loss_key

TEMPERATURE = 2.0
"""Temperature of the dynamic weight average (Liu et al. 2019)."""

CONFLICT_INTERVAL = 20
"""Steps between two measurements of the conflict, if no gradient method needs it at each."""

GRADIENT_METHODS = ("pcgrad", "upgrad", "mgda", "imtlg", "alignedmtl")
"""Methods that combine the tasks' gradients."""


def make_weighting(method: str) -> Callable[[Tensor], Tensor]:
    """Make a function from the products of the tasks' gradients (T, T) to their weights (T,)."""
    import torchjd.aggregation as torchjd
    from scipy.optimize import nnls
    from torchjd.linalg import DualConeProjector

    class NonNegativeProjector(DualConeProjector):
        """min over v >= u of v'Gv by non-negative least squares: torchjd's own needs one more solver package."""

        def __call__(self, U: Tensor, G: Tensor) -> Tensor:
            size = G.diagonal().mean().clamp(min=1e-30)
            root = torch.linalg.cholesky(G / size + 1e-6 * torch.eye(len(G), device=G.device)).T.double().cpu().numpy()
            rows = [u + nnls(root, -root @ u)[0] for u in U.double().cpu().numpy()]
            return torch.as_tensor(np.stack(rows), dtype=U.dtype, device=U.device)

    makers: dict[str, Callable[[], Any]] = {
        "pcgrad": torchjd.PCGradWeighting,
        "upgrad": lambda: torchjd.UPGradWeighting(projector=NonNegativeProjector()),
        "mgda": torchjd.MGDAWeighting,
        "imtlg": torchjd.IMTLGWeighting,
        "alignedmtl": torchjd.AlignedMTLWeighting,
    }
    return makers[method]()


def dwa_weights(history: Sequence[Mapping[str, float]], tasks: Sequence[str]) -> list[float]:
    """Dynamic weight average (Liu et al. 2019, eq. 7): more weight to the loss that falls more slowly.

    Args:
        history: One row per epoch with `train/loss_va` and the like.
        tasks: Tasks of the weights.

    Returns:
        One weight per task; their sum is the number of tasks. 1 before two epochs have passed.
    """
    names = [loss_key("train", task) for task in tasks]
    if len(history) < 2 or not all(name in row for row in history[-2:] for name in names):
        return [1.0] * len(tasks)
    pace = [math.exp(history[-1][name] / max(history[-2][name], 1e-12) / TEMPERATURE) for name in names]
    return [len(tasks) * value / sum(pace) for value in pace]


class Balancing(nn.Module):
    """The balancing that a configuration names.

    Args:
        tasks: The tasks of the model.
        weights: The fixed weight of each, which every method starts from.
        method: How the losses are combined; the options are those of `config.BalancingConfig`.
        at: Where gradients are compared, on `features` or `weights`.
    """

    def __init__(
        self, tasks: Sequence[str], weights: Mapping[str, float], method: str = "fixed", at: str = "features"
    ) -> None:
        super().__init__()
        self.tasks, self.weights, self.method, self.at = tuple(tasks), dict(weights), method, at
        self.weighting = make_weighting(method) if method in GRADIENT_METHODS else None
        if method == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(self.tasks)))
        self.cosines: list[Tensor] = []

    def total(self, losses: Mapping[str, Tensor], history: Sequence[Mapping[str, float]] = ()) -> Tensor:
        """The weighted sum of the task losses.

        With `uncertainty` a loss L becomes L / 2σ² + log σ for valence-arousal and L / σ² + log σ for the others
        (Kendall et al. 2018, eqs. 7 and 10), s = log σ² being learned; a task without a label in the batch has no part.
        """
        weighted = torch.stack([self.weights[task] * losses[task] for task in self.tasks])
        if self.method == "uncertainty":
            half = torch.tensor([0.5 if task == "va" else 1.0 for task in self.tasks], device=weighted.device)
            labelled = weighted.detach() != 0
            weighted = half * torch.exp(-self.log_variance) * weighted + 0.5 * self.log_variance * labelled
        elif self.method == "dwa":
            weighted = weighted * torch.tensor(dwa_weights(history, self.tasks), device=weighted.device)
        return weighted.sum()

    def gradients(
        self, losses: Mapping[str, Tensor], at: Tensor, features: Tensor, shared: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The tasks' gradients on the features (T, N, width), and their products (T, T) where they are compared.

        Args:
            losses: Of each task, from `at`.
            at: The features that the heads were given.
            features: The features that the backbone gave; the same numbers.
            shared: The backbone's weights.
        """
        by_task = [torch.autograd.grad(self.weights[t] * losses[t], at, retain_graph=True)[0] for t in self.tasks]
        rows = by_task
        if self.at == "weights":
            backbone_gradients = [
                torch.autograd.grad(features, shared, gradient, retain_graph=True, allow_unused=True)
                for gradient in by_task
            ]
            rows = [torch.cat([g.flatten() for g in row if g is not None]) for row in backbone_gradients]
        flat = torch.stack([row.flatten().float() for row in rows])
        with torch.autocast(flat.device.type, enabled=False):
            products = flat @ flat.T
        size = products.diagonal().clamp(min=1e-30).sqrt()
        has_gradient = (products.diagonal() > 0).float()
        self.cosines.append((products / size / size[:, None] / (has_gradient * has_gradient[:, None])).detach())
        return torch.stack(by_task), products

    def surrogate(self, losses: Mapping[str, Tensor], at: Tensor, features: Tensor, shared: Sequence[Tensor]) -> Tensor:
        """A term that gives the backbone the combined gradient, for `total` of losses whose graph ends at its features.

        Args:
            losses: Of each task, from `at`.
            at: `features`, detached.
            features: Of the backbone, with its graph.
            shared: The backbone's weights.
        """
        by_task, products = self.gradients(losses, at, features, shared)
        weights, live = products.new_zeros(len(products)), products.diagonal() > 0
        if live.any():
            with torch.autocast(products.device.type, enabled=False):
                weights[live] = self.weighting(products[live][:, live]).nan_to_num()  # type: ignore[misc]
        combined = (weights[:, None, None] * by_task).sum(0)
        return (features.float() * combined.float()).sum()

    def pop_cosines(self) -> dict[str, float]:
        """The mean cosine of each pair of tasks since the last call, as columns of the metrics."""
        if not self.cosines:
            return {}
        mean = torch.stack(self.cosines).nanmean(0).tolist()
        self.cosines = []
        pairs = combinations(range(len(self.tasks)), 2)
        return {f"train/cosine_{self.tasks[i]}_{self.tasks[j]}": mean[i][j] for i, j in pairs}
