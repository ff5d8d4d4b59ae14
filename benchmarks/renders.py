"""What a network learns from rendered faces: AUC of each action unit on unseen people, and real smiles over time.

    python benchmarks/renders.py RUN INDEX [--clips FOLDER --detector YUNET.onnx --out clips.png]

RUN is a run of `triaffect train --config renders`. In the clips (any .mp4 files of faces) YuNet detects the face, which
is cropped as the renders are; the figure shows AU6, AU12 and AU25 over time.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata

from triaffect.data.index import image_root, load_index
from triaffect.images import TEMPLATE, similarity
from triaffect.inference.predict import predict
from triaffect.labels import ACTION_UNITS
from triaffect.report.style import save_figure
from triaffect.training.model import AffectModel, load_model, probabilities

# AUC that is required of each action unit.
BARS = dict.fromkeys(ACTION_UNITS, 0.90) | {"AU7": 0.80, "AU23": 0.80, "AU24": 0.80}
SMILE = ("AU6", "AU12", "AU25")


def auc(score: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a positive ranks above a negative (ties half): the Mann-Whitney statistic."""
    positives = int(truth.sum())
    ranks = rankdata(score)[truth == 1].sum() - positives * (positives + 1) / 2
    return ranks / (positives * (len(truth) - positives))


def unseen(run: Path, index: Path) -> None:
    rows = load_index(index, "val")
    joined = rows.join(predict(run, rows, image_root(index, None), workers=1), on="image", suffix="_predicted")
    print(f"{rows['video'].n_unique()} unseen people, {len(rows)} frames")
    for unit in ACTION_UNITS:
        labelled = joined.filter(pl.col(unit).is_not_null())
        value = auc(labelled[f"{unit}_predicted"].to_numpy(), labelled[unit].to_numpy())
        verdict = "ok" if value > BARS[unit] else "SHORT"
        print(f"{unit:>5}  AUC {value:.3f}  (bar {BARS[unit]:.2f}, {verdict}; prevalence {labelled[unit].mean():.2f})")


def crops(clip: Path, detector: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers and aligned crops (n, 3, size, size) of the largest face of each frame."""
    video = cv2.VideoCapture(str(clip))
    finder, frames, pictures = None, [], []
    while True:
        success, frame = video.read()
        if not success:
            break
        if finder is None:
            finder = cv2.FaceDetectorYN.create(str(detector), "", (frame.shape[1], frame.shape[0]), 0.6)
        faces = finder.detect(frame)[1]
        if faces is not None:
            face = max(faces, key=lambda f: f[2] * f[3])
            five = face[4:14].reshape(5, 2).astype(np.float32)
            matrix = similarity(five, TEMPLATE * (size / 112))
            crop = cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
            pictures.append(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB))
            frames.append(int(video.get(cv2.CAP_PROP_POS_FRAMES)))
    return np.array(frames), np.stack(pictures).transpose(0, 3, 1, 2)


@torch.inference_mode()
def smiles(model: AffectModel, clips: list[Path], detector: Path, out: Path) -> None:
    figure = Figure(figsize=(9, 2.6 * len(clips)), layout="constrained")
    for axes, clip in zip(np.atleast_1d(figure.subplots(len(clips))), clips, strict=True):
        frames, pictures = crops(clip, detector, model.size)
        probability = np.concatenate(
            [
                probabilities(model(torch.from_numpy(part)))["au"].numpy()
                for part in np.array_split(pictures, 20)
                if len(part)
            ]
        )
        print(f"{clip.name}: {len(frames)} frames with a face")
        for unit in SMILE:
            line = probability[:, ACTION_UNITS.index(unit)]
            tenths = " ".join(f"{part.mean():.2f}" for part in np.array_split(line, 10))
            print(f"{unit:>5}  by tenths of the clip: {tenths}")
            axes.plot(frames, line, label=unit, linewidth=1.2)
        axes.set(title=clip.name, xlabel="frame", ylabel="probability", ylim=(0, 1))
        axes.legend(loc="upper left", frameon=False)
        step = max(1, len(pictures) // 10)
        cv2.imwrite(
            str(out.with_name(f"{clip.stem}.jpg")), np.hstack(pictures[::step].transpose(0, 2, 3, 1))[..., ::-1]
        )
    save_figure(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("--clips", type=Path, help="folder of .mp4 files")
    parser.add_argument("--detector", type=Path, help="YuNet's ONNX file")
    parser.add_argument("--out", type=Path, default=Path("clips.png"))
    arguments = parser.parse_args()
    unseen(arguments.run, arguments.index)
    if arguments.clips:
        smiles(load_model(arguments.run), sorted(arguments.clips.glob("*.mp4")), arguments.detector, arguments.out)


if __name__ == "__main__":
    main()
