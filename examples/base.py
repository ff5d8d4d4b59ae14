"""The data of the bundled model `triaffect-base` (configs/base.yaml): FER+, renders, and a teacher for the real faces.

    npm pack @vladmandic/face-api@1.7.15
    python examples/face_weights.py vladmandic-face-api-1.7.15.tgz work/base/face_descriptor.safetensors
    triaffect render --model ict.npz --out work/base/images/renders-51 --videos 450 --frames 12 --seed 51 --seconds 0.4
        --val 0 --ranges examples/base_render_train.yaml
    triaffect render --model ict.npz --out work/base/images/renders-val --videos 50 --frames 12 --seed 912 --val 0.25
        --seconds 0.3 --ranges examples/base_render_val.yaml
    python examples/base.py teach ferplus_trainval.npz work/base/teacher.npz --task face_landmarker.task
    python examples/base.py write ferplus_trainval.npz work/base
    triaffect train --config base --out work/base/run
    python examples/calibrate.py work/base/run work/base --out work/base/first
    python examples/base.py distil work/base work/base/first work/base/other
    triaffect train --config base --out work/base/distilled --model.weights null --model.pretrained work/base/run
        --data.soft '[work/base/votes-distilled.parquet, work/base/teacher-distilled.parquet]'
        --training.epochs 5 --training.lr 3e-4 --training.warmup 0.05 --data.degrade 0.2 --data.erase 0.1
    python examples/calibrate.py work/base/distilled work/base --out work/base/calibrated
    python examples/bundle.py work/base/calibrated src/triaffect/inference/base --licence MIT
    triaffect predict triaffect-base work/base/ferplus.csv --images work/base/images --out work/base/ours.parquet
    python examples/base.py check ferplus_trainval.npz work/base work/base/ours.parquet

`distil` mixes the labels with the mean of several models' predictions of the training images. The second model,
work/base/other, was the triaffect-base before (`git show 24432ea:src/triaffect/inference/base/model.safetensors`).
The bundled model of 2026-11-27 saw 10,624 more renders, of 756 people, in the folders renders-31, -41, -42, -a and -s;
docs/log.md has their options.

FER+ has the votes of ten people for an expression. `teach` finds landmarks with YuNet, and blendshapes and distances
between landmarks with MediaPipe (pip install mediapipe, in a separate environment). `write` stores each face aligned
and also unaligned (so that the model works on other crops), and makes soft action units from the teacher and soft
valence-arousal from the votes. Every folder `renders-*` in work/base/images is added, its frames of the split train;
those of renders-val are all for validation. Renders have exact labels; where those are missing because a movement is
weak or is no prototype, soft ones follow from the exact intensities.
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

SIZE, SCALE, PAD = 96, 4, 64
OURS = {name.lower(): code for code, name in enumerate(EXPRESSIONS)} | {"contempt": EXPRESSIONS.index("Other")}

# Valence and arousal of a unanimous expression: between Aff-Wild2's means and the circumplex. Sad faces look tired.
CIRCUMPLEX = np.array(
    [(0.0, 0.0), (-0.5, 0.5), (-0.6, 0.35), (-0.5, 0.65), (0.7, 0.4), (-0.6, -0.15), (0.1, 0.65), (-0.3, 0.15)]
)
NEGATIVE = [EXPRESSIONS.index(name) for name in ("Anger", "Disgust", "Fear", "Sadness")]

# Landmarks of MediaPipe's mesh of 478 points.
EYE_CORNERS, LIP_CORNERS, INNER_LIPS, INNER_BROWS = (33, 263), (61, 291), (13, 14), (55, 285)
LIDS = ((159, 145, 33, 133), (386, 374, 362, 263))  # upper and lower lid, outer and inner corner of each eye

# What people read in a face without a prototype: the class's strength is a weighted sum of exact intensities, of which
# half of the people see `SEEN`, and nearly all twice that. Weak and closed-lip smiles count as smiles.
STRENGTH = {
    "Anger": {"AU4": 0.8, "AU7": 0.3, "AU23": 0.3, "AU24": 0.3, "AU1": -0.5, "AU12": -0.5},
    "Disgust": {"AU9": 0.8, "AU10": 0.8, "AU12": -0.5},
    "Fear": {"AU20": 0.6, "AU1": 0.3, "AU4": 0.2, "AU5": 0.4, "AU12": -0.8},
    "Happiness": {"AU12": 1.0, "AU6": 0.2, "AU4": -0.4, "AU15": -0.8},
    "Sadness": {"AU15": 0.9, "AU1": 0.4, "AU4": 0.2, "AU17": 0.2, "AU2": -0.4, "AU12": -0.8},
    "Surprise": {"AU2": 0.6, "AU1": 0.4, "AU5": 0.4, "AU26": 0.3, "AU4": -0.6},
}
SEEN = {"Happiness": 0.22, "Sadness": 0.35}  # 0.45 for the others


def perceived(intensity: float | np.ndarray, half: float) -> float | np.ndarray:
    """Share of people who see a movement of an intensity of 0 to 1: 0 at 0, 1/2 at `half`, near 1 at 1."""
    power = np.maximum(intensity, 0.0) ** 2.5
    return power / (power + half**2.5)


def read_expressions(truth: pl.DataFrame) -> np.ndarray:
    """Soft expressions (N, 8) of renders from their exact intensities, for frames without an expression label."""
    odds = np.zeros((len(truth), len(EXPRESSIONS)))
    odds[:, 0] = 1
    for name, weights in STRENGTH.items():
        strength = sum(weight * truth[f"{unit}_intensity"].to_numpy() for unit, weight in weights.items())
        half = SEEN.get(name, 0.45)
        odds[:, EXPRESSIONS.index(name)] = (np.maximum(strength, 0) / half) ** 2.5
    return odds / odds.sum(1, keepdims=True)


def measure_face(points: np.ndarray) -> dict[str, float]:
    """Distances in a face from its landmarks (478, 2), as shares of the distance between the outer corners of the eyes.

    Returns:
        `gap` between the inner lips; `corners`, how far the corners of the lips lie below their middle; `brows`, how
        far the inner ends of the brows lie above the corners of the eyes; `eyes`, their opening as a share of their
        width.
    """
    left, right = points[EYE_CORNERS[0]], points[EYE_CORNERS[1]]
    width = float(np.linalg.norm(right - left))
    down = np.array([left[1] - right[1], right[0] - left[0]]) / width
    heights = (points - (left + right) / 2) @ down / width  # larger is lower, also in a tilted face
    opening = [
        np.linalg.norm(points[upper] - points[lower]) / np.linalg.norm(points[outer] - points[inner])
        for upper, lower, outer, inner in LIDS
    ]
    return {
        "gap": float(np.linalg.norm(points[INNER_LIPS[0]] - points[INNER_LIPS[1]])) / width,
        "corners": float(heights[list(LIP_CORNERS)].mean() - heights[list(INNER_LIPS)].mean()),
        "brows": float(-heights[list(INNER_BROWS)].mean()),
        "eyes": float(np.mean(opening)),
    }


def action_units(shapes: dict[str, np.ndarray]) -> np.ndarray:
    """Convert MediaPipe's blendshapes and what `measure_face` returns to probabilities of the action units, (N, 12).

    The thresholds were set by eye on the distribution of each score over FER+'s classes. MediaPipe's cheekSquint is
    always zero, so AU6 is a smile with narrowed eyes. Its mouthFrown and browDown are rarely above zero, so drooping
    corners of the lips and low brows count as well.
    """
    both = {name[:-4]: (shapes[name] + shapes[name[:-4] + "Right"]) / 2 for name in shapes if name.endswith("Left")}
    smile, squint = both["mouthSmile"], both["eyeSquint"]
    rules = {
        "AU1": (shapes["browInnerUp"], 0.45, 0.12),
        "AU2": (both["browOuterUp"], 0.5, 0.1),
        "AU4": (both["browDown"] + 1.5 * np.maximum(0.1 - shapes["brows"], 0), 0.22, 0.07),
        "AU6": (np.sqrt(squint * smile), 0.42, 0.07),
        "AU7": (squint, 0.55, 0.06),
        "AU10": (both["mouthUpperUp"] - 0.5 * smile, 0.2, 0.06),
        "AU12": (smile, 0.35, 0.09),
        "AU15": (both["mouthFrown"] + 2 * np.maximum(shapes["corners"] - 0.01, 0), 0.1, 0.03),
        "AU23": ((shapes["mouthRollLower"] + shapes["mouthRollUpper"]) / 2 - 0.3 * shapes["jawOpen"], 0.14, 0.04),
        "AU24": (both["mouthPress"] - 0.3 * shapes["jawOpen"], 0.15, 0.03),
        "AU25": (shapes["gap"], 0.08, 0.015),
        "AU26": (shapes["jawOpen"], 0.2, 0.05),
    }
    return np.stack([1 / (1 + np.exp(-(x - middle) / width)) for x, middle, width in map(rules.get, ACTION_UNITS)], 1)


def agree_with_votes(units: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Correct soft action units (N, 12) that contradict the votes (N, 8).

    A face that nearly all call happy smiles (AU12), also with closed lips. Lips that are drawn out in a face that
    nobody calls happy, and most call sad, afraid, angry or disgusted, do not smile. Of the faces that all call sad,
    part have AU15, which MediaPipe hardly sees.
    """
    units, happy, sad = units.copy(), votes[:, EXPRESSIONS.index("Happiness")], votes[:, EXPRESSIONS.index("Sadness")]
    smile, corners = ACTION_UNITS.index("AU12"), ACTION_UNITS.index("AU15")
    units[:, smile] *= np.where(happy < 0.1, 1 - 0.8 * votes[:, NEGATIVE].sum(1), 1.0)
    units[:, smile] = np.maximum(units[:, smile], 0.85 * happy)
    units[:, corners] = np.maximum(units[:, corners], 0.4 * sad)
    return units


def valence_arousal(votes: np.ndarray, units: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """Convert votes (N, 8) to valence and arousal (N, 2).

    Action units (N, 12) and wide eyes (`eyes` of `measure_face`, (N,)) raise arousal, closed ones lower it, and AU12
    grades a smile; NaN where unknown.
    """
    affect = votes @ CIRCUMPLEX
    filled = np.where(np.isnan(units), 0.4, units)
    moving = filled[:, [ACTION_UNITS.index(name) for name in ("AU1", "AU2", "AU4", "AU10", "AU12", "AU25", "AU26")]]
    affect[:, 1] += 0.4 * (moving.mean(1) - 0.3) + 0.15 * np.nan_to_num((eyes - 0.35) / 0.12).clip(-1.5, 1)
    affect[:, 0] += 0.2 * votes[:, 4] * (filled[:, ACTION_UNITS.index("AU12")] - 0.5)
    return affect.clip(-1, 1)


def enlarged(image: np.ndarray) -> np.ndarray:
    side = image.shape[0] * SCALE
    big = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(cv2.copyMakeBorder(big, PAD, PAD, PAD, PAD, cv2.BORDER_REPLICATE), cv2.COLOR_GRAY2RGB)


def teach(npz: Path, out: Path, task: str, every: int) -> None:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    from triaffect.inference.detect import open_detector

    images, find = np.load(npz, allow_pickle=False)["images"], open_detector()
    options = vision.FaceLandmarkerOptions(BaseOptions(task), output_face_blendshapes=True)
    options.min_face_detection_confidence = options.min_face_presence_confidence = 0.1
    five, scores = np.full((len(images), 5, 2), np.nan, np.float32), {}
    for i, image in enumerate(images):
        if faces := [face for face in find(enlarged(image)) if face.landmarks is not None]:
            five[i] = (faces[0].landmarks - PAD + 0.5) / SCALE - 0.5
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for i in range(0, len(images), every):
            result = landmarker.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, enlarged(images[i])))
            if result.face_blendshapes:
                face_scores = {shape.category_name: shape.score for shape in result.face_blendshapes[0]}
                face_scores |= measure_face(np.array([(point.x, point.y) for point in result.face_landmarks[0]]))
                for name, score in face_scores.items():
                    scores.setdefault(name, np.full(len(images), np.nan, np.float32))[i] = score
    np.savez(out, five=five, **scores)


def write(npz: Path, out: Path) -> None:
    from triaffect.images import align

    data, teacher = np.load(npz, allow_pickle=False), np.load(out / "teacher.npz", allow_pickle=False)
    images, five = data["images"], teacher["five"]
    scores = {name: teacher[name] for name in teacher.files}
    counts = data["votes"].astype(float)
    counts[counts == 1] = 0  # a single vote is an outlier (Barsoum et al. 2016)
    votes = np.zeros((len(images), 8))
    for column, name in enumerate(map(str, data["labels"])):
        if name in OURS:
            votes[:, OURS[name]] += counts[:, column]
    decided = votes.sum(1) > 0.5 * counts.sum(1)  # the others are unknown, or no faces
    votes /= votes.sum(1, keepdims=True).clip(min=1)
    units = agree_with_votes(action_units(scores), votes)
    raw = data["votes"].astype(int)
    # The FER+ authors' majority: single votes dropped, the winner has over half of the rest.
    majority = (counts.max(1) * 2 > counts.sum(1)) & (counts.argmax(1) < 8) & (data["split"] == 1)
    strict = decided & (raw.max(1) * 2 > raw.sum(1)) & (raw.argmax(1) < 8)

    rows = []
    for i in np.flatnonzero(decided):
        train = data["split"][i] == 0
        if not (train or majority[i]):
            continue
        picture = cv2.cvtColor(images[i], cv2.COLOR_GRAY2RGB)
        detected = np.isfinite(five[i]).all()
        crops = {"aligned": align(picture, five[i], SIZE)} if detected else {}
        crops["raw"] = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        code = None if train else OURS[str(data["labels"][counts[i].argmax()])]
        # With data.stride 2 an epoch sees one crop of each face, and the next one the other.
        for frame, (kind, crop) in enumerate(crops.items(), 1):
            path = out / "images" / f"ferplus/{kind}/{i:05d}.jpg"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(crop[..., :1]), 95, "GRAY", "444"))
            # Train on both; choose the epoch on aligned crops of a strict majority, as `analyze` makes them.
            if train or (strict[i] and (kind == "aligned" or not detected)):
                rows.append(
                    (f"ferplus/{kind}/{i:05d}.jpg", f"ferplus/{i:05d}", "train" if train else "val", code, frame, i)
                )
    labels = {"split": pl.String, "expression": pl.Int8, "frame": pl.Int32}
    schema = {"image": pl.String, "video": pl.String, **labels, "i": pl.Int64}
    faces = pl.DataFrame(rows, schema, orient="row")
    tables = [faces.drop("i")]
    votes_tables, unit_tables, renders = [], [], []
    for folder in sorted((out / "images").glob("renders-*")):
        place = f"{folder.name}/cropped_aligned/"
        is_used = (pl.col("split") == "train") | (folder.name == "renders-val")
        table = pl.read_parquet(folder / "truth.parquet").filter("exists", is_used)
        table = table.with_columns(image=place + pl.col("image"), video=f"{folder.name}/" + pl.col("video"))
        table = table.with_columns(pl.col("expression", *ACTION_UNITS).replace(-1, None))
        if folder.name == "renders-val":  # other ranges, and exact labels only
            tables.append(table.select(INDEX_COLUMNS).drop("exists").with_columns(split=pl.lit("val")))
            continue
        # Every intensity teaches: a weak movement is one that part of the people see.
        soft_units = {name: perceived(table[f"{name}_intensity"].to_numpy(), 0.2) for name in ACTION_UNITS}
        unit_tables.append(pl.DataFrame({"image": table["image"], **soft_units}))
        weak = table.filter(pl.col("expression").is_null())
        expressions = dict(zip(PREDICTION_COLUMNS["expr"], read_expressions(weak).T, strict=True))
        affect = {name: weak[name].cast(pl.Float64) for name in PREDICTION_COLUMNS["va"]}
        votes_tables.append(pl.DataFrame({"image": weak["image"], **expressions, **affect}))
        without_units = [pl.lit(None, pl.Int8).alias(name) for name in ACTION_UNITS]
        # The renderer's sad people weep, as those of videos do; those of photographs look tired.
        is_sad = pl.col("expression").eq(EXPRESSIONS.index("Sadness")).fill_null(False)
        arousal = pl.when(~is_sad).then("arousal").alias("arousal")
        rows_of_renders = table.select(INDEX_COLUMNS).drop("exists")
        renders.append(rows_of_renders.with_columns(arousal, *without_units, split=pl.lit("train")))
    with atomic_path(out / "index.parquet") as tmp_path:
        pl.concat([*tables, *renders], how="diagonal").write_parquet(tmp_path)

    validation = pl.DataFrame(
        [
            (f"ferplus/{kind}/{i:05d}.jpg", kind, OURS[str(data["labels"][counts[i].argmax()])], bool(strict[i]))
            for i in np.flatnonzero(majority)
            for kind in ("aligned", "raw")
            if kind == "raw" or np.isfinite(five[i]).all()
        ],
        ("image", "kind", "expression", "strict"),
        orient="row",
    )
    with atomic_path(out / "ferplus.csv") as tmp_path:
        validation.with_columns(split=pl.lit("val")).write_csv(tmp_path)

    train = faces.filter(pl.col("split") == "train")
    rows = train["i"].to_numpy()
    affect = valence_arousal(votes, units, scores["eyes"])
    columns = dict(zip(PREDICTION_COLUMNS["expr"], votes[rows].T, strict=True))
    columns |= dict(zip(PREDICTION_COLUMNS["va"], affect[rows].T, strict=True))
    of_faces = pl.DataFrame({"image": train["image"], **columns})
    save_predictions(pl.concat([of_faces, *votes_tables], how="vertical_relaxed"), out / "votes.parquet")
    has_units = np.isfinite(units[rows]).all(1)
    columns = dict(zip(PREDICTION_COLUMNS["au"], units[rows][has_units].T, strict=True))
    of_faces = pl.DataFrame({"image": train["image"].filter(has_units), **columns})
    save_predictions(pl.concat([of_faces, *unit_tables], how="vertical_relaxed"), out / "teacher.parquet")
    folder = pl.col("image").str.extract(r"^([^/]*/?[^/]*)/")
    print(pl.concat([*tables, *renders], how="diagonal").group_by("split", folder).len())


def distil(out: Path, models: list[Path]) -> None:
    """Write votes-distilled.parquet and teacher-distilled.parquet: labels mixed with what several models predict.

    The mean of two models is better than either (docs/log.md). AU12 and AU15 keep their labels, which were corrected by
    the votes, and renders most of theirs, which are exact.
    """
    from triaffect.data.predictions import load_predictions
    from triaffect.inference.predict import predict

    images = pl.read_parquet(out / "index.parquet").filter(pl.col("split") == "train").select("image").unique()
    tables = [predict(model, images, out / "images").sort("image") for model in models]
    is_render = pl.col("image").str.starts_with("renders")
    for file, task, of_faces, of_renders in (("votes", "expr", 0.6, 0.3), ("teacher", "au", 0.5, 0.25)):
        names = [name for name in PREDICTION_COLUMNS[task] if name not in ("AU12", "AU15")]
        means = {f"mean/{name}": sum(table[name] for table in tables) / len(tables) for name in names}
        labels = load_predictions(out / f"{file}.parquet")
        joined = labels.join(tables[0].select("image", **means), on="image", how="left", maintain_order="left")
        share = pl.when(is_render).then(of_renders).otherwise(of_faces)
        mixed = [((1 - share) * pl.col(name) + share * pl.col(f"mean/{name}")).alias(name) for name in names]
        save_predictions(joined.with_columns(mixed).select(labels.columns), out / f"{file}-distilled.parquet")


def check(npz: Path, out: Path, predictions: list[Path]) -> None:
    """Accuracy and macro F1 on FER+'s validation images: `analyze`, then each file; strict: over half of the votes."""
    from triaffect.data.predictions import load_predictions
    from triaffect.inference.analyzer import Analyzer
    from triaffect.metrics.measures import expr_score

    truth = pl.read_csv(out / "ferplus.csv")
    analyzer, faces = Analyzer(), []
    for image in truth.filter(pl.col("kind") == "raw")["image"]:
        detected = analyzer.image(out / "images" / image).sort(pl.col("w") * pl.col("h"), descending=True)
        faces.append(detected.head(1).select(pl.lit(image).alias("image"), *PREDICTION_COLUMNS["expr"]))
    save_predictions(pl.concat(faces), out / "analyze.parquet")
    for path in (out / "analyze.parquet", *predictions):
        rows = truth.join(load_predictions(path), on="image", how="inner")
        for kind in sorted(rows["kind"].unique()):
            for name, group in (("majority", rows), ("strict", rows.filter("strict"))):
                group = group.filter(pl.col("kind") == kind)
                codes = group["expression"].to_numpy()
                probabilities = group.select(PREDICTION_COLUMNS["expr"]).to_numpy()
                right = float((probabilities.argmax(1) == codes).mean())
                print(
                    f"{path.name:<28} {kind:<8} {name:<8} {len(group):,} images  accuracy {right:.4f}  "
                    f"macro F1 {expr_score(probabilities, codes)['expr']:.4f}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("teach", "write", "distil", "check"):
        subparser = verbs.add_parser(verb)
        if verb != "distil":
            subparser.add_argument("npz", type=Path)
        subparser.add_argument("out", type=Path)
        if verb == "teach":
            subparser.add_argument("--task", required=True, help="MediaPipe's face_landmarker.task")
            subparser.add_argument("--every", type=int, default=1, help="look for blendshapes in every n-th face")
        if verb == "distil":
            subparser.add_argument("models", type=Path, nargs="+")
        if verb == "check":
            subparser.add_argument("predictions", type=Path, nargs="*")
    options = vars(parser.parse_args())
    {"teach": teach, "write": write, "distil": distil, "check": check}[options.pop("verb")](**options)


if __name__ == "__main__":
    main()
