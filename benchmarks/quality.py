"""Check the quality flags: measures of `inference.quality` on rendered faces of known size, yaw, roll and blur.

    OMP_NUM_THREADS=1 python benchmarks/quality.py DATA [--people 12] [--out docs/quality.png]

DATA holds ict_pack.npz. Each face is found by YuNet in a 640 x 360 picture, as
`analyze` finds it in a video. Prints the figures that docs/log.md keeps.
"""

import argparse
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from detectors import Plate, head, paste, rooms

from triaffect.images import align
from triaffect.inference import quality as q
from triaffect.inference.detect import YuNet
from triaffect.render.film import Studio
from triaffect.render.model import load_model
from triaffect.render.person import make_person
from triaffect.render.ranges import Ranges
from triaffect.report.style import SERIES, SOFT, legend, page, save_figure, tidy

SIZES = (8, 12, 16, 20, 25, 32, 40)
YAWS = (0, 10, 20, 30, 40, 50, 60, 75, 90)
ROLLS = (-60, -40, -20, 0, 20, 40, 60)
BLURS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

# Per panel: measure, label of the true value, label of the measured one, threshold of the flag, ideal curve.
PANELS = (
    ("size", "true pixels between the eyes", "measured", q.SMALL, np.asarray),
    ("yaw", "true yaw, degrees", "measured", q.TURNED, np.asarray),
    ("roll", "true roll, degrees", "measured", None, np.asarray),
    ("landmarks", "true yaw, degrees", "their error, % of the face's height", None, np.zeros_like),
    ("blur", "true blur, pixels of a 112 px crop", "measured", q.BLURRED, np.asarray),
)


class Book:
    """Measurements: (truth, measure, group) per panel, and (score, landmark error) of every face."""

    def __init__(self) -> None:
        self.find = YuNet(320)
        self.rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name, *_ in PANELS}
        self.errors: list[tuple[float, float]] = []

    def look(self, panel: str, measure: str, truth: float, plate: Plate, group: float = 0.0) -> None:
        """Measure the plate's face, if it is detected."""
        true = plate.box[:2] + plate.box[2:] / 2
        for face in self.find(plate.pixels):
            if np.hypot(*(np.array(face.box[:2]) + np.array(face.box[2:]) / 2 - true)) < plate.box[2] / 2:
                measures = q.quality(face, align(plate.pixels, face.five, 112))
                self.rows[panel].append((truth, measures[measure], group))
                error = np.linalg.norm(face.five - plate.five, axis=1).mean() / plate.box[3]
                self.errors.append((face.score, 100 * float(error)))
                if panel == "yaw":
                    self.rows["landmarks"].append((truth, 100 * float(error), group))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("quality.png"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    studio = Studio(load_model(arguments.data / "ict_pack.npz"))
    places = (cv2.resize(room, (640, 360), interpolation=cv2.INTER_AREA) for room in rooms(rng))
    book = Book()
    for _ in range(arguments.people):
        person = make_person(studio.model, studio.atlas, rng, Ranges(long_hair=0))
        facing = head(studio, person, 0, 0, rng)
        # Brow to chin for one pixel between the eyes.
        unit = float(np.ptp(facing.marks[:, 1]) / np.linalg.norm(facing.five[1] - facing.five[0]))
        for size in SIZES:
            book.look("size", "size", size, paste(facing, next(places), rng, unit * size))
        for yaw in YAWS:
            turned = head(studio, person, yaw, 0, rng)
            book.look("yaw", "yaw", yaw, paste(turned, next(places), rng, 100))
        for roll in ROLLS:
            book.look("roll", "roll", roll, paste(facing, next(places), rng, 100, -roll))
        # Blur is given in pixels of a crop of 112, whose eyes are 35 pixels apart, whatever the size of the face.
        for size, blur in product((15, 25, 40), BLURS):
            book.look("blur", "blur", blur, paste(facing, next(places), rng, unit * size, blur=blur / 35 / unit), size)
    draw(book, arguments.out)


def draw(book: Book, out: Path) -> None:
    figure = page(
        10.5,
        6.6,
        "What the quality flags measure, on rendered faces whose truth is known",
        f"{len(book.errors)} faces found by YuNet in 640 x 360 pictures. Line: median; band: 10 to 90 %; dots: truth.",
    )
    axes = figure.subplots(2, 3).flat
    print("| measure | truth | median | 10 % | 90 % | flagged |\n|---|---|---|---|---|---|")
    for ax, (panel, x, y, bound, ideal) in zip(axes, PANELS, strict=False):
        tidy(ax, x, y, panel, grid="both")
        truth, measured, groups = np.array(book.rows[panel]).T
        line = np.linspace(truth.min(), truth.max(), 101)
        ax.plot(line, ideal(line), color=SOFT, linewidth=1.2, linestyle=":")
        for group, colour in zip(np.unique(groups), (SERIES[0], SERIES[2], SERIES[3]), strict=False):
            at = np.unique(truth[groups == group])
            parts = [measured[(groups == group) & (truth == t)] for t in at]
            shares = np.array([np.percentile(values, [50, 10, 90]) for values in parts])
            ax.fill_between(at, shares[:, 1], shares[:, 2], color=colour, alpha=0.15, linewidth=0)
            label = f"{group:.0f} px between the eyes" if group else None
            ax.plot(at, shares[:, 0], color=colour, marker="o", markersize=3.5, linewidth=1.4, label=label)
            for t, values, row in zip(at, parts, shares, strict=True):
                beyond = np.nan if bound is None else np.mean(values < bound if panel == "size" else values > bound)
                cells = " | ".join(f"{v:.1f}" for v in row)
                print(f"| {panel}{f', {group:.0f} px' if group else ''} | {t:g} | {cells} | {beyond:.2f} |")
        if bound is not None:
            ax.axhline(bound, color=SERIES[1], linewidth=1.2)
            ax.annotate(
                f"flagged {'below' if panel == 'size' else 'above'} {bound:g}",
                (1, bound),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=8,
                color=SERIES[1],
                ha="right",
            )
        if groups.any():
            legend(ax, loc="lower right")
    ax = tidy(axes[5], "the detector's score", "error of the landmarks, %", "score", grid="both")
    score, error = np.array(book.errors).T
    ax.scatter(score, error, s=7, color=SERIES[0], alpha=0.5, linewidths=0)
    ax.set_ylim(0, 40)
    ax.axvline(q.UNSURE, color=SERIES[1], linewidth=1.2)
    for name, errors in (("flagged", error[score < q.UNSURE]), ("not flagged", error[score >= q.UNSURE])):
        print(f"score {name}: {len(errors)} faces, median landmark error {np.median(errors):.1f} %")
    save_figure(figure, out)


if __name__ == "__main__":
    main()
