"""Adapt the heads of a trained model to more labels, on the cached features of its frozen backbone.

    triaffect features work/base/first work/base/index.parquet --images work/base/images --out work/base/features
    python examples/adapt.py work/base/first work/base --out work/base/adapted
    python examples/adapt.py work/base/first work/base --ablate

Minutes instead of hours: each head is a convex problem. Expressions: cross-entropy with the votes on FER+ faces, and
with exact or soft labels on renders. Action units: binary cross-entropy with what `base.py write` derived. Valence and
arousal: squared error. A penalty on the distance from the model's own weights keeps what it has learned from more
people. `--ablate` fits with parts left out, and scores on faces and rendered people that neither fit nor model has
seen; intervals are of 300 bootstraps over images and over people.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from triaffect.labels import ACTION_UNITS, EXPRESSIONS, PREDICTION_COLUMNS
from triaffect.training.features import load_features
from triaffect.training.model import AffectModel, load_model, probabilities

HAPPINESS, SADNESS, NEUTRAL = (EXPRESSIONS.index(name) for name in ("Happiness", "Sadness", "Neutral"))


class Rows:
    """Features and targets of one split.

    Args:
        data: The folder that base.py wrote.
        split: `train` or `val`.
        faces: Use every n-th face of FER+.

    Attributes:
        x: (N, width) features.
        render: (N,) whether a row is a render.
        weak: (N,) whether it is a render with soft labels.
        targets: va (N, 2), expr (N, 8), au (N, 12); NaN where missing.
    """

    def __init__(self, data: Path, split: str, faces: int = 1) -> None:
        names, values = load_features(data / "features")
        table = pl.read_parquet(data / "index.parquet").filter(pl.col("split") == split).unique("image")
        places = pl.DataFrame({"image": names}).with_row_index("place")
        for file in ("votes", "teacher"):
            soft = pl.read_parquet(data / f"{file}.parquet")
            table = table.join(soft.rename(lambda c: c if c == "image" else "soft/" + c), on="image", how="left")
        table = table.join(places, on="image").sort("place")
        table = table.filter(pl.col("image").str.starts_with("renders") | (pl.int_range(pl.len()) % faces == 0))
        self.table, self.x = table, torch.from_numpy(values[table["place"].to_numpy()].astype(np.float32))
        self.render = torch.from_numpy(table["image"].str.starts_with("renders").to_numpy())
        hard = torch.tensor(table["expression"].fill_null(-1).to_list())
        self.weak = self.render & (hard < 0)
        soft_expressions = self._columns([f"soft/{name}" for name in PREDICTION_COLUMNS["expr"]])
        one_hot = F.one_hot(hard.clamp(min=0), len(EXPRESSIONS)).float()
        self.targets = {
            "va": self._filled(PREDICTION_COLUMNS["va"]),
            "expr": torch.where((hard >= 0)[:, None], one_hot, soft_expressions),
            "au": self._filled(ACTION_UNITS),
        }

    def _columns(self, names: list[str]) -> Tensor:
        return torch.from_numpy(self.table.select(pl.col(names).cast(pl.Float32).fill_null(np.nan)).to_numpy().copy())

    def _filled(self, names: tuple[str, ...]) -> Tensor:
        own, soft = self._columns(list(names)), self._columns([f"soft/{name}" for name in names])
        return torch.where(torch.isnan(own), soft, own)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "va": lambda raw, y: (raw - y).square(),
    "expr": lambda raw, y: -(y * raw.log_softmax(1)).sum(1, keepdim=True),
    "au": lambda raw, y: F.binary_cross_entropy_with_logits(raw, y, reduction="none"),
}


def fit(rows: Rows, task: str, start: tuple[Tensor, Tensor], weight: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (outputs, width) and bias of a head, by L-BFGS.

    Args:
        rows: What to fit on.
        task: Which targets.
        start: The model's own weights and bias; `penalty` pulls towards them.
        weight: (N,) weight of each row.
        penalty: Factor of the squared distance of the raw outputs' weights, in units of each feature's spread.
    """
    mask = ~torch.isnan(rows.targets[task])
    used = mask.any(1) & (weight > 0)
    x, y, w = rows.x[used], rows.targets[task][used].nan_to_num(), mask[used] * weight[used, None]
    w = w[:, :1] if task == "expr" else w
    matrix, bias = (part.clone().requires_grad_() for part in start)
    optimizer = torch.optim.LBFGS([matrix, bias], max_iter=100, line_search_fn="strong_wolfe")
    spread = x.std(0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (w * LOSSES[task](x @ matrix.T + bias, y)).sum() / w.sum()
        loss = loss + penalty * ((matrix - start[0]) * spread).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return matrix.detach(), bias.detach()


def weights(rows: Rows, renders: float, weak: bool = True) -> Tensor:
    """Weights of rows so that renders have a share; soft labels of weak movements only if asked for."""
    share = torch.where(rows.render, renders / rows.render.sum(), (1 - renders) / (~rows.render).sum())
    return share * len(rows.x) if weak else torch.where(rows.weak, 0.0, share) * len(rows.x)


def heads_of(model: AffectModel) -> dict[str, tuple[Tensor, Tensor]]:
    return {task: (head[-1].weight.detach(), head[-1].bias.detach()) for task, head in model.heads.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--renders", type=float, default=0.3, help="share of the renders in the weights")
    parser.add_argument("--penalty", type=float, default=1e-3)
    parser.add_argument("--targets", choices=["own", "labels"], default="own", help="of the faces of FER+")
    parser.add_argument("--faces", type=int, default=4, help="use every n-th face of FER+")
    parser.add_argument("--ablate", action="store_true")
    options = parser.parse_args()
    model = load_model(options.model)
    train, val, own = Rows(options.data, "train", options.faces), Rows(options.data, "val"), heads_of(model)
    if options.targets == "own":  # what the model knows of real faces stays as it is
        for task, (matrix, bias) in own.items():
            raw = {task: train.x[~train.render] @ matrix.T + bias}
            train.targets[task][~train.render] = probabilities(raw)[task]
    if options.ablate:
        return ablate(options.data, train, val, own, options)
    for task, (matrix, bias) in own.items():
        fitted = fit(train, task, (matrix, bias), weights(train, options.renders), options.penalty)
        with torch.no_grad():
            model.heads[task][-1].weight.copy_(fitted[0])
            model.heads[task][-1].bias.copy_(fitted[1])
    model.provenance["adapted"] = {"heads": "examples/adapt.py", "renders": options.renders, "penalty": options.penalty}
    model.save_pretrained(options.out)
    return print(options.out)


def ablate(
    data: Path, train: Rows, val: Rows, own: dict[str, tuple[Tensor, Tensor]], options: argparse.Namespace
) -> None:
    rng, truth = np.random.default_rng(0), val.table
    intensity = pl.read_parquet(data / "images/renders-val/truth.parquet")
    intensity = intensity.with_columns(image="renders-val/cropped_aligned/" + pl.col("image")).drop("video")
    exact = truth.join(intensity, on="image", how="left", suffix="_true", maintain_order="left")
    level = {unit: exact[f"{unit}_intensity"].fill_null(0).to_numpy() for unit in (*ACTION_UNITS, "AU17")}
    faces, render = (~val.render).numpy(), val.render.numpy()
    group = truth["video"].rank("dense").to_numpy().astype(int) - 1
    codes = np.array(truth["expression"].fill_null(-1).to_list())
    others = {
        unit: np.max([level[u] for u in ACTION_UNITS if u not in unit], 0) for unit in (("AU12", "AU6"), ("AU15",))
    }
    smile = render & (level["AU12"] >= 0.15) & (level["AU12"] < 0.6) & (others["AU12", "AU6"] < 0.1)
    rest = render & (np.max(list(level.values()), 0) < 0.07)
    present = val.targets["au"].numpy()

    def interval(values: Callable[[np.ndarray], float], rows: np.ndarray) -> str:
        units = np.unique(group[rows])
        members = {u: np.flatnonzero(rows & (group == u)) for u in units}
        draws = [values(np.concatenate([members[u] for u in rng.choice(units, len(units))])) for _ in range(300)]
        low, high = np.nanpercentile(draws, [2.5, 97.5])
        return f"{values(np.flatnonzero(rows)):.3f} [{low:.3f}, {high:.3f}]"

    def print_row(name: str, heads: dict[str, tuple[Tensor, Tensor]]) -> None:
        raw = {task: (val.x @ matrix.T + bias).numpy() for task, (matrix, bias) in heads.items()}
        best = raw["expr"].argmax(1)

        def auc(rows: np.ndarray) -> float:
            values = []
            for i in range(12):
                y, z = present[rows, i], raw["au"][rows, i]
                positive, negative = z[y == 1], z[y == 0]
                if len(positive) and len(negative):
                    values.append((positive[:, None] > negative).mean())
            return float(np.mean(values))

        figures = [
            interval(lambda r: float((best[r] == codes[r]).mean()), faces & (codes >= 0)),
            interval(lambda r: float((best[r] == codes[r]).mean()), render & (codes >= 0)),
            interval(lambda r: float((best[r] == NEUTRAL).mean()), smile),
            interval(lambda r: float((best[r] == HAPPINESS).mean()), rest),
            interval(auc, render),
        ]
        print(f"| {name} | " + " | ".join(figures) + " |", flush=True)

    print(f"{faces.sum()} faces, {render.sum()} renders, {smile.sum()} weak closed-lip smiles, {rest.sum()} at rest")
    print("| heads | FER+ accuracy | renders accuracy | weak smiles called Neutral | rest called Happiness | AU AUC |")
    print("|---|---|---|---|---|---|")
    print_row("as trained", own)
    zero = {t: (w * 0, b * 0) for t, (w, b) in own.items()}
    for name, share, weak, penalty, keep in (
        ("with renders, exact and soft labels", options.renders, True, options.penalty, own),
        ("exact labels only", options.renders, False, options.penalty, own),
        ("FER+ alone", 0.0, True, options.penalty, own),
        ("renders a tenth", 0.1, True, options.penalty, own),
        ("renders half", 0.5, True, options.penalty, own),
        ("ten times the penalty", options.renders, True, 10 * options.penalty, own),
        ("a tenth of the penalty", options.renders, True, options.penalty / 10, own),
        ("from zero", options.renders, True, options.penalty, zero),
    ):
        weight = weights(train, share, weak)
        print_row(name, {task: fit(train, task, keep[task], weight, penalty) for task in own})


if __name__ == "__main__":
    main()
