"""What tasks can teach each other: an expression implies action units and a place on the circumplex.

After Kollias et al. 2021 ("Distribution matching for heterogeneous multi-task learning") and 2024; docs/multitask.md
has the equations and what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, VA
from triaffect.training.losses import labelled_expressions, masked_mean

# Du, Tao and Martinez 2014, table 1, those of the twelve AUs: 1 prototypical, else the share of people who show it.
LITERATURE_AUS: dict[str, dict[str, float]] = {
    "Neutral": {},
    "Anger": {"AU4": 1, "AU7": 1, "AU24": 1, "AU10": 0.26, "AU23": 0.29},
    "Disgust": {"AU10": 1, "AU4": 0.31, "AU24": 0.26},
    "Fear": {"AU1": 1, "AU4": 1, "AU25": 1, "AU2": 0.57, "AU26": 0.33},
    "Happiness": {"AU12": 1, "AU25": 1, "AU6": 0.51},
    "Sadness": {"AU4": 1, "AU15": 1, "AU1": 0.6, "AU6": 0.5},
    "Surprise": {"AU1": 1, "AU2": 1, "AU25": 1, "AU26": 1},
}
# Russell and Mehrabian 1977, pleasure and arousal of the words; neutral is the origin.
LITERATURE_VA = {
    "Neutral": (0.0, 0.0),
    "Anger": (-0.51, 0.59),
    "Disgust": (-0.60, 0.35),
    "Fear": (-0.64, 0.60),
    "Happiness": (0.81, 0.51),
    "Sadness": (-0.63, 0.27),
    "Surprise": (0.40, 0.67),
}
DOUBT = 0.05
"""No rule of the literature is without exceptions: its probabilities stay this far from 0 and 1."""

FRAMES = 4.0
"""How many frames of the usual rate are added to each count, so that a rare class does not say never."""

SPREAD = 0.35
"""Standard deviation of valence and arousal about their class's mean."""


def literature(index: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What each expression implies by the literature; `Other` implies what is usual in the index.

    Returns:
        AU probabilities (8, 12), and valence and arousal (8, 2).
    """
    aus = np.array([[LITERATURE_AUS.get(name, {}).get(au, 0) for au in ACTION_UNITS] for name in EXPRESSIONS])
    va = np.array([LITERATURE_VA.get(name, (0, 0)) for name in EXPRESSIONS])
    other = EXPRESSIONS.index("Other")
    aus[other] = [_mean(index, name, aus[:other, i].mean()) for i, name in enumerate(ACTION_UNITS)]
    va[other] = [_mean(index, name, 0.0) for name in VA]
    return aus.clip(DOUBT, 1 - DOUBT), va


def counted(index: pl.DataFrame, tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What each expression implies in a training index, from the frames that are labelled for both.

    Returns:
        AU probabilities (8, 12), and mean valence and arousal (8, 2).

    Raises:
        InputError: No frame is labelled for both.
    """
    tables = {task: np.zeros((len(EXPRESSIONS), len(LABEL_COLUMNS[task]))) for task in ("au", "va")}
    for task, table in tables.items():
        for place, name in enumerate(LABEL_COLUMNS[task] if task in tasks else ()):
            both = index.select("expression", pl.col(name).cast(pl.Float64)).drop_nulls()
            if both.is_empty():
                raise InputError(
                    f"coupling.table: no training frame is labelled for both expression and {name}; "
                    "set coupling.table to literature"
                )
            codes, values = both["expression"].to_numpy(), both[name].to_numpy()
            n = np.bincount(codes, minlength=len(EXPRESSIONS))
            usual = _mean(index, name, 0.0)
            table[:, place] = (np.bincount(codes, values, len(EXPRESSIONS)) + FRAMES * usual) / (n + FRAMES)
    return tables["au"].clip(1e-3, 1 - 1e-3), tables["va"]


def _mean(index: pl.DataFrame, name: str, otherwise: float) -> float:
    mean = index[name].drop_nulls().mean()
    return otherwise if mean is None else float(mean)  # type: ignore[arg-type]


class Coupling(nn.Module):
    """Adds to the task losses what the tasks can tell each other.

    Args:
        tasks: The tasks of the model, expression among them.
        index: The training index.
        co_annotation: Weight of `implied_label_losses`; 0 for none.
        matching: Weight of `matching_losses`; 0 for none.
        table: `index` or `literature`, see `config.CouplingConfig`.
    """

    def __init__(
        self, tasks: Sequence[str], index: pl.DataFrame, co_annotation: float, matching: float, table: str
    ) -> None:
        super().__init__()
        self.tasks, self.co_annotation, self.matching = tasks, co_annotation, matching
        aus, va = literature(index) if table == "literature" else counted(index, tasks)
        prior = np.bincount(index["expression"].drop_nulls().to_numpy(), minlength=len(EXPRESSIONS)) + 1.0
        self.aus = nn.Buffer(torch.tensor(aus, dtype=torch.float32), persistent=False)
        self.va = nn.Buffer(torch.tensor(va, dtype=torch.float32), persistent=False)
        self.prior = nn.Buffer(torch.tensor(prior / prior.sum(), dtype=torch.float32), persistent=False)

    def posterior(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Probabilities of the expression of each image: from its label, else by Bayes' rule over the table.

        Args:
            batch: Targets with their holes.

        Returns:
            (N, 8) probabilities, and (N,) whether the image has any label.
        """
        au, va = batch["au"], batch["va"]
        on, off = torch.nan_to_num(au), torch.nan_to_num(1 - au)  # a missing one is neither
        far = torch.nan_to_num(va[:, None] - self.va) ** 2
        evidence = self.prior.log() + on @ self.aus.log().T + off @ torch.log1p(-self.aus).T
        evidence = evidence - far.sum(2) / (2 * SPREAD**2)
        own_label, has_label = labelled_expressions(batch["expr"])
        if own_label.ndim == 1:
            own_label = F.one_hot(own_label, len(EXPRESSIONS)).float()
        any_label = has_label | ~torch.isnan(au).all(1) | ~torch.isnan(va).all(1)
        return torch.where(has_label[:, None], own_label, evidence.softmax(1)), any_label

    def implied_label_losses(self, raw: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each task on labels that follow from the image's other labels."""
        posterior, labelled = self.posterior(batch)
        _, has_expression = labelled_expressions(batch["expr"])
        values = F.cross_entropy(raw["expr"], posterior, reduction="none")
        implied_losses = {"expr": masked_mean(values, labelled & ~has_expression)}
        if "au" in self.tasks:
            values = F.binary_cross_entropy_with_logits(raw["au"], posterior @ self.aus, reduction="none")
            implied_losses["au"] = masked_mean(values, torch.isnan(batch["au"]) & labelled[:, None])
        if "va" in self.tasks:
            values = (raw["va"] - posterior @ self.va) ** 2
            implied_losses["va"] = masked_mean(values, torch.isnan(batch["va"]) & labelled[:, None])
        return implied_losses

    def matching_losses(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The distance of each task's prediction from what the predicted expression implies; needs no label.

        For action units the Kullback-Leibler divergence of the two Bernoulli probabilities, for valence and arousal the
        squared difference. Both sides learn.
        """
        expression, implied_losses = raw["expr"].softmax(1), {}
        if "au" in self.tasks:
            implied, has_label = expression @ self.aus, torch.sigmoid(raw["au"])
            yes = has_label * (F.logsigmoid(raw["au"]) - implied.log())
            no = (1 - has_label) * (F.logsigmoid(-raw["au"]) - torch.log1p(-implied))
            implied_losses["au"] = (yes + no).mean()
        if "va" in self.tasks:
            implied_losses["va"] = ((raw["va"] - expression @ self.va) ** 2).mean()
        return implied_losses

    def forward(
        self, losses: Mapping[str, Tensor], raw: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The task losses with their shares of co-annotation and matching added."""
        raw, out = {task: value.float() for task, value in raw.items()}, dict(losses)
        with torch.autocast(raw["expr"].device.type, enabled=False):  # logarithms near 0 and 1 need their digits
            if self.co_annotation:
                for task, value in self.implied_label_losses(raw, batch).items():
                    out[task] = out[task] + self.co_annotation * value
            if self.matching:
                for task, value in self.matching_losses(raw).items():
                    out[task] = out[task] + self.matching * value
        return out
