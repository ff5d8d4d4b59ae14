"""One step's loss: the batch, its mixed copy, what the tasks teach each other, and their balance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from triaffect.io import InputError
from triaffect.training.config import TrainConfig
from triaffect.training.dataset import FrameDataset
from triaffect.training.distributed import everyones
from triaffect.training.gradient_balancing import EVERY, Balancing
from triaffect.training.label_coupling import Coupling
from triaffect.training.losses import TaskLosses
from triaffect.training.model import AffectModel


class Step(nn.Module):
    """From a batch to what is minimised.

    Args:
        config: The whole run's.
        losses: Of the tasks.
        index: The training index.
    """

    def __init__(self, config: TrainConfig, losses: TaskLosses, index: pl.DataFrame) -> None:
        super().__init__()
        self.config, self.losses = config, losses
        self.balancing = Balancing(config.balancing, losses.tasks, losses.weights)
        coupled = config.coupling.co_annotation or config.coupling.matching
        self.coupling = Coupling(config.coupling, losses.tasks, index) if coupled else None

    def forward(
        self,
        model: AffectModel,
        batch: Mapping[str, Tensor],
        seed: tuple[int, ...],
        history: Sequence[Mapping[str, float]] = (),
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            model: What is trained.
            batch: Images and targets.
            seed: Of the mixing; its last number is that of the batch in its epoch.
            history: The metrics of the epochs so far.

        Returns:
            What to minimise, and the values to log: the weighted sum and each task's loss.
        """
        images, pairs = batch["image"], None
        if self.config.data.mixup:
            rng = np.random.default_rng(seed)
            share = float(rng.beta(self.config.data.mixup, self.config.data.mixup))
            pairs = share, torch.from_numpy(rng.permutation(len(images))).to(images.device)
            mixed = share * images.float() + (1 - share) * images[pairs[1]]
            images = torch.cat([images, mixed.round().to(images.dtype)])
        features = model.features(images)
        by_gradient = self.balancing.weighting is not None and features.requires_grad
        at = features.detach().requires_grad_() if by_gradient else features
        losses = self._losses(model.predict_from_features(at), batch, pairs)
        shared = [p for p in model.backbone.parameters() if p.requires_grad]
        if by_gradient:
            total = self.losses.total(losses)
            minimised = self.balancing.surrogate(losses, at, features, shared)
        else:
            if self.config.balancing.conflict and seed[-1] % EVERY == 0 and features.requires_grad:
                self.balancing.gradients(losses, features, features, shared)
            total = minimised = self.balancing.total(losses, history)
        return minimised, torch.stack([total, *losses.values()]).detach()

    def _losses(
        self, raw: Mapping[str, Tensor], batch: Mapping[str, Tensor], pairs: tuple[float, Tensor] | None
    ) -> dict[str, Tensor]:
        if pairs is None:
            return self._coupled(raw, batch)
        # MixAugment: real and mixed images count alike; a mixed one owes each of its two labels its share.
        (share, order), half = pairs, len(batch["row"])
        real = self._coupled({task: value[:half] for task, value in raw.items()}, batch)
        virtual = {task: value[half:] for task, value in raw.items()}
        other = {**batch, **{task: batch[task][order] for task in ("va", "expr", "au")}}
        first, second = self._coupled(virtual, batch), self._coupled(virtual, other)
        return {task: real[task] + share * first[task] + (1 - share) * second[task] for task in real}

    def _coupled(self, raw: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raw, batch = everyones(raw, batch, self.config.training.batch)
        losses = self.losses(dict(raw), dict(batch))
        return losses if self.coupling is None else self.coupling(losses, raw, batch)


def stop_on_nan(
    recent: Sequence[tuple[Tensor, Tensor]], tasks: Sequence[str], dataset: FrameDataset, epoch: int
) -> None:
    """Looks at the losses of some steps.

    Args:
        recent: The values that `Step` gave, with the rows of their batches.
        tasks: Whose losses follow the sum in the values.
        dataset: Where the rows are from.
        epoch: From 1 on.

    Raises:
        InputError: One is not finite; the line names the task and the images.
    """
    for values, rows in recent:
        if torch.isfinite(values).all():
            continue
        task = next((t for t, v in zip(tasks, values[1:], strict=True) if not torch.isfinite(v)), "all")
        names = ", ".join(dataset.name(int(row)) for row in rows[:4])
        raise InputError(
            f"the {task} loss became {values[1:].tolist()} in epoch {epoch}, on a batch with "
            f"{names}{' ...' if len(rows) > 4 else ''}; lower training.lr, set training.clip, or look at them"
        )
