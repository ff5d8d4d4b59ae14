"""Losses and fusion of heads on the cached features of benchmarks/questions.py, over several seeds: minutes of CPU.

    python benchmarks/heads.py work identity affect --losses
    python benchmarks/heads.py work identity affect --fusion

Each head is trained as `triaffect train` would, with a hidden layer of 128. A multi-task model is one hidden layer that
three linear heads share (hard parameter sharing, Chang et al. 2022, sec. 2), a single-task model has its own. Scores
are the means over the seeds, ± their standard deviation; differences are tested by the paired bootstrap over people.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from questions import BACKBONES, Rows, cached_features, data_sets, difference, load
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from triaffect.labels import OUTPUTS, PREDICTION_COLUMNS, TASKS
from triaffect.metrics.fusion import fuse, mean, tune_fusion
from triaffect.metrics.scores import score
from triaffect.study.results import split_halves
from triaffect.training.dataset import targets_of
from triaffect.training.losses import TaskLosses
from triaffect.training.model import probabilities

LOSSES = {
    "va": ("mse", "ccc", "ccc+mse"),
    "expr": ("ce", "weighted_ce", "focal", "adjusted_ce"),
    "au": ("bce", "weighted_bce", "focal", "mse", "asymmetric"),
}
MULTI = {"va": "ccc+mse", "expr": "weighted_ce", "au": "weighted_bce"}
WEIGHTS = {"expr": 0.2}
"""Losses and task weights of studies/fusion.yaml."""

EPOCHS, BATCH = 20, 64


class Data:
    """Features and labels of one data set."""

    def __init__(self, rows: Rows, values: np.ndarray, classes: int) -> None:
        is_train = (rows["split"] == "train").to_numpy()
        self.train, self.val, self.classes = rows.filter(is_train), rows.filter(~is_train), classes
        scale = StandardScaler().fit(values[is_train])
        parts = (values[is_train], values[~is_train])
        self.inputs, self.validation = (torch.from_numpy(scale.transform(part)).float() for part in parts)
        self.targets = {task: torch.from_numpy(target) for task, target in targets_of(self.train).items()}

    def fit(self, losses: Mapping[str, str], seed: int, hidden: int = 128) -> Rows:
        """Train heads of some tasks on one hidden layer, none with `hidden` 0, and predict the validation rows."""
        torch.manual_seed(seed)
        tasks, width = tuple(losses), self.inputs.shape[1]
        shared = [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU()] if hidden else []
        outputs = {task: self.classes if task == "expr" else OUTPUTS[task] for task in tasks}
        layer = nn.Sequential(*shared)
        heads = nn.ModuleDict({task: nn.Linear(hidden or width, count) for task, count in outputs.items()})
        network = nn.ModuleList([layer, heads])

        def raw(inputs: Tensor) -> dict[str, Tensor]:
            features = layer(inputs)
            return {task: head(features) for task, head in heads.items()}

        criterion = TaskLosses(tasks, self.train, self.classes, **losses, weights=WEIGHTS)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
        count = len(self.inputs) // BATCH
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * count)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(self.inputs))[: count * BATCH].split(BATCH):
                optimizer.zero_grad()
                batch = {task: self.targets[task][rows] for task in tasks}
                criterion.total(criterion(raw(self.inputs[rows]), batch)).backward()
                optimizer.step()
                schedule.step()
        network.eval()
        with torch.inference_mode():
            values = probabilities(raw(self.validation))
        columns = {
            c: v for task in tasks for c, v in zip(PREDICTION_COLUMNS[task], values[task].numpy().T, strict=True)
        }
        return pl.DataFrame({"image": self.val["image"], **columns})

    def line(self, tables: Sequence[Rows]) -> str:
        """Scores of models of several seeds."""
        scores = [score(table, self.val, resamples=0, classes=self.classes) for table in tables]
        names = [*scores[0].tasks, *(["total"] if len(scores[0].tasks) > 1 else [])]
        values = {name: [of_seed.value(name) for of_seed in scores] for name in names}
        text = ", ".join(f"{name} {np.mean(row):.3f} ± {np.std(row, ddof=1):.3f}" for name, row in values.items())
        if names == ["expr"]:
            right = [np.trace(of_seed.confusion) / np.sum(of_seed.confusion) for of_seed in scores]
            text += f", accuracy {np.mean(right):.3f}"
        return text


def compare_losses(name: str, data: Data, tasks: Sequence[str], seeds: int) -> None:
    """Every loss of each task, and the first of them with a linear head."""
    for task in tasks:
        first = LOSSES[task][0]
        tables: dict[str, list[Rows]] = {}
        for kind, loss, hidden in [*((loss, loss, 128) for loss in LOSSES[task]), ("linear", first, 0)]:
            tables[kind] = [data.fit({task: loss}, seed, hidden) for seed in range(seeds)]
            text = f"{name}, {task}, {kind}: {data.line(tables[kind])}"
            if kind != first:
                text += f"; against {first}: {difference(tables[kind], tables[first], data.val, data.classes)}"
            print(text, flush=True)


def compare_fusions(name: str, data: Data, seeds: int) -> None:
    """λ fusion of single-task and multi-task models, and its rivals."""
    systems: dict[str, list[Rows]] = {}
    for seed in range(seeds):
        singles = [data.fit({task: MULTI[task]}, 100 * seed + i) for i, task in enumerate(TASKS)]
        multi, second, larger = (
            data.fit(MULTI, 100 * seed + i, hidden) for i, hidden in ((3, 128), (4, 128), (5, 256))
        )
        single = fuse(singles[:2], singles[2])
        halves = split_halves(data.val)
        tuned = []
        for part, other in (halves, halves[::-1]):  # the λ of the other half of the people
            lambdas, _ = tune_fusion(single, multi, other, classes=data.classes)
            tuned.append(fuse(single, multi, lambdas).filter(pl.col("image").is_in(part["image"].implode())))
        made = {
            "single-task": single,
            "multi-task": multi,
            "twice the width": larger,
            "two multi-task models": mean([multi, second]),
            "plain mean": mean([single, multi]),
            "λ fusion": fuse(single, multi),
            "λ tuned on the other half": pl.concat(tuned),
        }
        for system, table in made.items():
            systems.setdefault(system, []).append(table)
    for system, tables in systems.items():
        print(f"{name}, {system}: {data.line(tables)}", flush=True)
    for system in [system for system in systems if system != "λ fusion"]:
        gain = difference(systems["λ fusion"], systems[system], data.val, data.classes)
        print(f"{name}, λ fusion against {system}: {gain}", flush=True)
    gain = difference(systems["multi-task"], systems["single-task"], data.val, data.classes)
    print(f"{name}, multi-task against single-task: {gain}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="+", choices=list(BACKBONES), metavar="backbone", help=", ".join(BACKBONES))
    parser.add_argument("--losses", action="store_true")
    parser.add_argument("--fusion", action="store_true", help="on the renders, which are labelled for all tasks")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        model = load(name, options.work / "weights")
        for label, (rows, root, tasks, classes) in data_sets(options.work).items():
            folder = options.work / "features" / f"{name}-{label.strip('+')}"
            data = Data(rows, cached_features(model, rows, root, folder), classes)
            if options.losses:
                compare_losses(f"{label}, {name}", data, tasks, options.seeds)
            if options.fusion and len(tasks) > 1:
                compare_fusions(f"{label}, {name}", data, options.seeds)


if __name__ == "__main__":
    main()
