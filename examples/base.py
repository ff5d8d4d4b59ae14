"""The data of the bundled model `triaffect-base` (configs/base.yaml): FER+, renders, and a teacher for the real faces.

    triaffect render --model ict.npz --out work/base/images/renders-a --videos 500 --frames 40 --seed 11 --seconds 0.3
    python examples/base.py teach ferplus_trainval.npz work/base/teacher.npz --task face_landmarker.task
    python examples/base.py write ferplus_trainval.npz work/base
    triaffect train --config base --out work/base/run
    triaffect predict triaffect-base work/base/ferplus.csv --images work/base/images --out work/base/ours.parquet
    triaffect predict fer work/base/ferplus.csv --images work/base/images --out work/base/fer.parquet
    python examples/base.py check ferplus_trainval.npz work/base work/base/ours.parquet work/base/fer.parquet

FER+ has the votes of ten people for an expression. `teach` finds landmarks with YuNet and blendshapes with MediaPipe
(pip install mediapipe, in a separate environment). `write` stores each face aligned and also unaligned (so that the
model works on other crops), and makes soft action units from the blendshapes and soft valence-arousal from the votes.
Every folder `renders-*` in work/base/images is added with its exact labels.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import simplejpeg

from triaffect.data.predictions import save_predictions
from triaffect.io import atomic_path
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, INDEX_COLUMNS, PREDICTION_COLUMNS

SIZE, SCALE, PAD = 64, 4, 64
OURS = {name.lower(): code for code, name in enumerate(EXPRESSIONS)} | {"contempt": EXPRESSIONS.index("Other")}

# Valence and arousal of a unanimous expression: between Aff-Wild2's means and the circumplex.
CIRCUMPLEX = np.array(
    [(0.0, 0.0), (-0.5, 0.55), (-0.6, 0.45), (-0.5, 0.65), (0.7, 0.4), (-0.6, 0.1), (0.1, 0.65), (-0.3, 0.25)]
)


def action_units(shapes: dict[str, np.ndarray], gap: np.ndarray) -> np.ndarray:
    """Convert blendshape scores to probabilities of the twelve action units, (N, 12).

    The thresholds were set by eye on the distribution of each score over FER+'s classes. MediaPipe's cheekSquint is
    always zero, so AU6 is a smile with narrowed eyes. `gap` is the distance of the inner lips as a
    part of the distance between the outer corners of the eyes.
    """
    both = {name[:-4]: (shapes[name] + shapes[name[:-4] + "Right"]) / 2 for name in shapes if name.endswith("Left")}
    smile, squint = both["mouthSmile"], both["eyeSquint"]
    rules = {
        "AU1": (shapes["browInnerUp"], 0.45, 0.12),
        "AU2": (both["browOuterUp"], 0.5, 0.1),
        "AU4": (both["browDown"], 0.25, 0.07),
        "AU6": (np.sqrt(squint * smile), 0.42, 0.07),
        "AU7": (squint, 0.55, 0.06),
        "AU10": (both["mouthUpperUp"] - 0.5 * smile, 0.2, 0.06),
        "AU12": (smile, 0.35, 0.09),
        "AU15": (both["mouthFrown"], 0.1, 0.03),
        "AU23": ((shapes["mouthRollLower"] + shapes["mouthRollUpper"]) / 2 - 0.3 * shapes["jawOpen"], 0.14, 0.04),
        "AU24": (both["mouthPress"] - 0.3 * shapes["jawOpen"], 0.15, 0.03),
        "AU25": (gap, 0.08, 0.015),
        "AU26": (shapes["jawOpen"], 0.2, 0.05),
    }
    return np.stack([1 / (1 + np.exp(-(x - middle) / width)) for x, middle, width in map(rules.get, ACTION_UNITS)], 1)


def valence_arousal(votes: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Convert votes (N, 8) to valence and arousal (N, 2); action units raise arousal and grade a smile."""
    affect = votes @ CIRCUMPLEX
    filled = np.where(np.isnan(units), 0.4, units)
    moving = filled[:, [ACTION_UNITS.index(name) for name in ("AU1", "AU2", "AU4", "AU10", "AU12", "AU25", "AU26")]]
    affect[:, 1] += 0.4 * (moving.mean(1) - 0.3)
    affect[:, 0] += 0.2 * votes[:, 4] * (filled[:, ACTION_UNITS.index("AU12")] - 0.5)
    return affect.clip(-1, 1)


def enlarged(image: np.ndarray) -> np.ndarray:
    side = image.shape[0] * SCALE
    big = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(cv2.copyMakeBorder(big, PAD, PAD, PAD, PAD, cv2.BORDER_REPLICATE), cv2.COLOR_GRAY2RGB)


def teach(npz: Path, out: Path, task: str) -> None:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    from triaffect.inference.detect import open_detector

    images, find = np.load(npz, allow_pickle=False)["images"], open_detector()
    options = vision.FaceLandmarkerOptions(BaseOptions(task), output_face_blendshapes=True)
    options.min_face_detection_confidence = options.min_face_presence_confidence = 0.1
    five = np.full((len(images), 5, 2), np.nan, np.float32)
    shapes, gap, names = np.full((len(images), 52), np.nan, np.float32), np.full(len(images), np.nan, np.float32), []
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for i, image in enumerate(images):
            picture = enlarged(image)
            if faces := [face for face in find(picture) if face.landmarks is not None]:
                five[i] = (faces[0].landmarks - PAD + 0.5) / SCALE - 0.5
            result = landmarker.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, picture))
            if result.face_blendshapes:
                names = [shape.category_name for shape in result.face_blendshapes[0]]
                shapes[i] = [shape.score for shape in result.face_blendshapes[0]]
                lips, eyes = (
                    np.array([(p.x, p.y) for p in (result.face_landmarks[0][a], result.face_landmarks[0][b])])
                    for a, b in ((13, 14), (33, 263))
                )
                gap[i] = np.linalg.norm(lips[0] - lips[1]) / np.linalg.norm(eyes[0] - eyes[1])
    np.savez(out, five=five, S=shapes, gap=gap, names=names)


def write(npz: Path, out: Path) -> None:
    from triaffect.data.index import load_index
    from triaffect.images import align

    data, teacher = np.load(npz, allow_pickle=False), np.load(out / "teacher.npz", allow_pickle=False)
    images, five = data["images"], teacher["five"]
    units = action_units(dict(zip(map(str, teacher["names"]), teacher["S"].T, strict=True)), teacher["gap"])
    counts = data["votes"].astype(float)
    counts[counts == 1] = 0  # a single vote is an outlier (Barsoum et al. 2016)
    votes = np.zeros((len(images), 8))
    for column, name in enumerate(map(str, data["labels"])):
        if name in OURS:
            votes[:, OURS[name]] += counts[:, column]
    decided = votes.sum(1) > 0.5 * counts.sum(1)  # the others are unknown, or no faces
    votes /= votes.sum(1, keepdims=True).clip(min=1)
    raw = data["votes"].astype(int)
    strict = decided & (raw.max(1) * 2 > raw.sum(1)) & (raw.argmax(1) < 8)

    rows = []
    for i in np.flatnonzero(decided):
        train = data["split"][i] == 0
        if not (train or strict[i]):
            continue
        picture = cv2.cvtColor(images[i], cv2.COLOR_GRAY2RGB)
        detected = np.isfinite(five[i]).all()
        crops = {"aligned": align(picture, five[i], SIZE)} if detected else {}
        crops["raw"] = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        code = None if train else OURS[str(data["labels"][raw[i].argmax()])]
        for kind, crop in crops.items():
            path = out / "images" / f"ferplus/{kind}/{i:05d}.jpg"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(crop[..., :1]), 95, "GRAY", "444"))
            # Train on both; evaluate on aligned crops, as `analyze` makes them.
            if train or kind == "aligned" or not detected:
                rows.append((f"ferplus/{kind}/{i:05d}.jpg", f"ferplus/{i:05d}", "train" if train else "val", code, i))
    schema = {"image": pl.String, "video": pl.String, "split": pl.String, "expression": pl.Int8, "i": pl.Int64}
    faces = pl.DataFrame(rows, schema, orient="row")
    tables = [faces.drop("i").with_columns(frame=pl.lit(1, pl.Int32))]
    for folder in sorted((out / "images").glob("renders-*")):
        table = load_index(folder / "index.parquet").filter("exists").select(INDEX_COLUMNS)
        place = f"{folder.name}/cropped_aligned/"
        tables.append(
            table.with_columns(image=place + pl.col("image"), video=f"{folder.name}/" + pl.col("video")).drop("exists")
        )
    with atomic_path(out / "index.parquet") as tmp_path:
        pl.concat(tables, how="diagonal").write_parquet(tmp_path)

    validation = pl.DataFrame(
        [
            (f"ferplus/{kind}/{i:05d}.jpg", kind, OURS[str(data["labels"][raw[i].argmax()])])
            for i in np.flatnonzero(strict & (data["split"] == 1))
            for kind in ("aligned", "raw")
            if kind == "raw" or np.isfinite(five[i]).all()
        ],
        ("image", "kind", "expression"),
        orient="row",
    )
    with atomic_path(out / "ferplus.csv") as tmp_path:
        validation.with_columns(split=pl.lit("val")).write_csv(tmp_path)

    train = faces.filter(pl.col("split") == "train")
    rows = train["i"].to_numpy()
    affect = valence_arousal(votes, units)
    columns = dict(zip(PREDICTION_COLUMNS["expr"], votes[rows].T, strict=True))
    columns |= dict(zip(PREDICTION_COLUMNS["va"], affect[rows].T, strict=True))
    save_predictions(pl.DataFrame({"image": train["image"], **columns}), out / "votes.parquet")
    has_units = np.isfinite(units[rows]).all(1)
    columns = dict(zip(PREDICTION_COLUMNS["au"], units[rows][has_units].T, strict=True))
    save_predictions(pl.DataFrame({"image": train["image"].filter(has_units), **columns}), out / "teacher.parquet")
    print(pl.concat(tables, how="diagonal").group_by("split", pl.col("image").str.extract(r"^([^/]*/?[^/]*)/")).len())


def check(npz: Path, out: Path, predictions: list[Path]) -> None:
    """Accuracy and macro F1 on FER+'s validation images (the strict majority's class): `analyze`, then each file."""
    from triaffect.data.index import load_index
    from triaffect.data.predictions import load_predictions
    from triaffect.inference.analyzer import Analyzer
    from triaffect.metrics.measures import expr_score

    truth, analyzer, faces = load_index(out / "ferplus.csv"), Analyzer(), []
    for image in truth.filter(pl.col("kind") == "raw")["image"]:
        detected = analyzer.image(out / "images" / image).sort(pl.col("w") * pl.col("h"), descending=True)
        faces.append(detected.head(1).select(pl.lit(image).alias("image"), *PREDICTION_COLUMNS["expr"]))
    save_predictions(pl.concat(faces), out / "analyze.parquet")
    for path in (out / "analyze.parquet", *predictions):
        rows = truth.join(load_predictions(path), on="image", how="inner")
        for kind in sorted(rows["kind"].unique()):
            group = rows.filter(pl.col("kind") == kind)
            probabilities, codes = group.select(PREDICTION_COLUMNS["expr"]).to_numpy(), group["expression"].to_numpy()
            right = float((probabilities.argmax(1) == codes).mean())
            print(
                f"{path.name:<28} {kind:<8} {len(group):,} images  accuracy {right:.4f}  "
                f"macro F1 {expr_score(probabilities, codes)['expr']:.4f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("teach", "write", "check"):
        subparser = verbs.add_parser(verb)
        subparser.add_argument("npz", type=Path)
        subparser.add_argument("out", type=Path)
        if verb == "teach":
            subparser.add_argument("--task", required=True, help="MediaPipe's face_landmarker.task")
        if verb == "check":
            subparser.add_argument("predictions", type=Path, nargs="*")
    options = vars(parser.parse_args())
    {"teach": teach, "write": write, "check": check}[options.pop("verb")](**options)


if __name__ == "__main__":
    main()
