"""Calibrate a trained model on data it has not seen: a temperature, action units, and a scale of intensity.

    python examples/calibrate.py work/base/run work/base --out work/base/calibrated

The raw outputs of the expressions are divided by one temperature (Guo et al. 2017), fitted on FER+ validation faces;
with `--units` those of each action unit are scaled and shifted (Platt 1999), fitted on renders of unseen people: real
faces may want another shift. Both go into the last layer, so that every backend has them. A rising curve per action
unit, from log-odds to the exact intensity, goes into the provenance under `au_intensity`. Every printed figure is
cross-fitted: fitted on one half, of the images or of the people, and computed on the other. The model keeps what is
fitted on both.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl
import torch
from scipy.optimize import minimize, minimize_scalar

from triaffect.data.image_store import read_batches
from triaffect.inference.intensity import au_intensity, log_odds
from triaffect.labels import ACTION_UNITS
from triaffect.metrics.agreement import continuous_agreement
from triaffect.metrics.measures import moments
from triaffect.training.model import AffectModel, load_model

POINTS = 12


def raw_outputs(model: AffectModel, names: pl.Series, root: Path) -> dict[str, np.ndarray]:
    """Raw outputs of images, in order; all of them must be readable."""
    parts = []
    with torch.inference_mode():
        for batch in read_batches(root, names, model.size):
            assert not batch.unreadable, batch.unreadable[0]
            parts.append(model(torch.from_numpy(batch.pixels.copy()).permute(0, 3, 1, 2)))
    return {task: torch.cat([part[task] for part in parts]).double().numpy() for task in parts[0]}


def log_softmax(raw: np.ndarray) -> np.ndarray:
    shifted = raw - raw.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: distance of confidence and frequency, over equal bins, weighted by their counts."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    sums = (np.bincount(place, weights, bins) for weights in (confidence, correct))
    return float(np.abs(np.subtract(*sums)).sum() / len(confidence))


def temperature(raw: np.ndarray, codes: np.ndarray) -> float:
    """The temperature of least cross-entropy."""

    def loss(log_t: float) -> float:
        return -log_softmax(raw / np.exp(log_t))[np.arange(len(codes)), codes].mean()

    return float(np.exp(minimize_scalar(loss, (-1.0, 1.0)).x))


def platt(raw: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    """Scale (0.2 to 5) and shift of least binary cross-entropy."""

    def loss(x: np.ndarray) -> float:
        z = np.exp(x[0]) * raw + x[1]
        return float(np.mean(np.logaddexp(0, z) - present * z)) + 1e-3 * float(x @ x)

    scale, shift = minimize(loss, [0.0, 0.0], bounds=[(np.log(0.2), np.log(5)), (-6, 6)]).x
    return float(np.exp(scale)), float(shift)


def curve(odds: np.ndarray, intensity: np.ndarray) -> dict[str, list[float]]:
    """Mean intensity over log-odds, made to rise: bins of equal log-odds between the 1st and the 99th percentile."""
    edges = np.linspace(*np.percentile(odds, [1, 99]), POINTS + 1)
    place = np.digitize(odds, edges[1:-1])
    counts = np.bincount(place, minlength=POINTS)
    means = [np.bincount(place, values, POINTS)[counts > 4] / counts[counts > 4] for values in (odds, intensity)]
    levels = np.maximum.accumulate(means[1])
    return {"log_odds": np.round(means[0], 3).tolist(), "intensity": np.round(levels.clip(0, 1), 3).tolist()}


def halves(groups: pl.Series) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two pairs of masks (to fit on, to check on); a group is never on both sides."""
    rng = np.random.default_rng(0)
    first = np.isin(groups.rank("dense").to_numpy(), rng.permutation(groups.n_unique())[::2] + 1)
    return [(first, ~first), (~first, first)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="the folder that base.py wrote, with images/renders-val")
    parser.add_argument("--out", type=Path, help="folder of the calibrated model; only figures without it")
    parser.add_argument("--units", action="store_true", help="scale and shift the action units too, not only print it")
    options = parser.parse_args()
    model, images = load_model(options.model), options.data / "images"

    faces = pl.read_csv(options.data / "ferplus.csv").filter(pl.col("kind") == "aligned")
    raw, codes = raw_outputs(model, faces["image"], images)["expr"], faces["expression"].to_numpy()
    fitted = raw.copy()
    for fit, check in halves(faces["image"]):
        fitted[check] = raw[check] / temperature(raw[fit], codes[fit])
    heat = temperature(raw, codes)
    for name, values in (("as trained", raw), ("calibrated", fitted)):
        p = np.exp(log_softmax(values))
        error = calibration_error(p.max(1), p.argmax(1) == codes)
        print(
            f"FER+ expressions, {name}: ECE {error:.4f}, accuracy {(p.argmax(1) == codes).mean():.4f} ({len(p)} images)"
        )

    truth = pl.read_parquet(images / "renders-val" / "truth.parquet").filter("exists")
    root = images / "renders-val" / "cropped_aligned"
    outputs = raw_outputs(model, truth["image"], root)
    seen = truth["expression"].to_numpy() >= 0
    p = np.exp(log_softmax(outputs["expr"][seen] / heat))
    error = calibration_error(p.max(1), p.argmax(1) == truth["expression"].to_numpy()[seen])
    print(f"renders, expressions with that temperature {heat:.3f}: ECE {error:.4f} ({len(p)} frames)")

    labels = truth.select(ACTION_UNITS).to_numpy()
    exact = truth.select(f"{unit}_intensity" for unit in ACTION_UNITS).to_numpy()
    levels, curves, scales, shifts = np.zeros(exact.shape), {}, np.ones(12), np.zeros(12)
    print("renders, action units: AUC, ECE as trained and calibrated, intensity: r, ICC(3,1), mean absolute error")
    table, one = [], np.zeros(len(exact), int)
    for i, unit in enumerate(ACTION_UNITS):
        z, present, calibrated = outputs["au"][:, i], labels[:, i], np.zeros(len(labels))
        known = present >= 0
        for fit, check in halves(truth["video"]):
            scale, shift = platt(z[fit & known], present[fit & known])
            calibrated[check] = scale * z[check] + shift
            line = curve(z[fit], exact[fit, i])
            levels[check, i] = np.interp(z[check], line["log_odds"], line["intensity"])
        if options.units:
            scales[i], shifts[i] = platt(z[known], present[known])
        curves[unit] = curve(scales[i] * z + shifts[i], exact[:, i])
        positive, negative = z[present == 1], z[present == 0]
        auc = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
        errors = [calibration_error(1 / (1 + np.exp(-x[known])), present[known]) for x in (z, calibrated)]
        icc = continuous_agreement({"moments": moments(levels[:, i], exact[:, i], one, 1)})["ICC(3,1)"][0]
        r, distance = np.corrcoef(levels[:, i], exact[:, i])[0, 1], np.abs(levels[:, i] - exact[:, i]).mean()
        table.append([auc, *errors, r, float(icc), distance])
        print(f"{unit:>5}  " + "  ".join(f"{value:.3f}" for value in table[-1]))
    print(" mean  " + "  ".join(f"{value:.3f}" for value in np.mean(table, 0)))

    if options.out:
        with torch.no_grad():
            for task, scale, shift in (("expr", 1 / heat, 0.0), ("au", scales, shifts)):
                layer = model.heads[task][-1]
                scale, shift = torch.as_tensor(scale).float(), torch.as_tensor(shift).float()
                layer.weight *= scale.reshape(-1, 1)
                layer.bias.copy_(layer.bias * scale + shift)
        model.provenance |= {"temperature": round(heat, 4), "au_intensity": curves}
        model.save_pretrained(options.out)
        odds = log_odds(1 / (1 + np.exp(-(scales * outputs["au"][:1] + shifts))))
        assert np.isfinite(au_intensity(1 / (1 + np.exp(-odds)), curves)).all()
        print(f"{options.out}: {json.dumps({'temperature': round(heat, 3)})}")


if __name__ == "__main__":
    main()
