"""The contact sheets in this folder: every action unit alone on four people, every expression on eight, the sample.

python docs/sheets/make_sheets.py MODEL
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import simplejpeg
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import triaffect
from triaffect.labels import ACTION_UNITS, AU_NAMES, EXPRESSIONS
from triaffect.render.film import Studio
from triaffect.render.model import f32, load_model
from triaffect.render.person import make_person
from triaffect.render.props import make_background
from triaffect.render.ranges import Ranges
from triaffect.render.scene import Light, Scene
from triaffect.render.story import PROTOTYPES
from triaffect.report.style import INK

HERE = Path(__file__).parent
PAPER, GAP, HEAD = 255, 6, 30


def page(rows: list[list[np.ndarray]], titles: list[str], notes: list[str] | None = None) -> np.ndarray:
    """A grid of pictures with a title over each column, set with Matplotlib's type."""
    side = rows[0][0].shape[0]
    width, height = len(titles) * (side + GAP) - GAP, len(rows) * (side + GAP) - GAP
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            sheet[r * (side + GAP) :, c * (side + GAP) :][:side, :side] = picture
    figure = Figure((width / 100, HEAD / 100), dpi=100)
    for c, title in enumerate(titles):
        x = (c * (side + GAP) + side / 2) / width
        figure.text(x, 0.68 if notes else 0.5, title, ha="center", va="center", fontsize=8.5, color=INK, weight="bold")
        if notes:
            figure.text(x, 0.22, notes[c], ha="center", va="center", fontsize=6.5, color=INK)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.concatenate([np.asarray(canvas.buffer_rgba())[:HEAD, :width, :3], sheet])


def save(name: str, sheet: np.ndarray, quality: int = 88) -> None:
    """Write a sheet next to this file."""
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(sheet), quality=quality, colorsubsampling="444")
    (HERE / name).write_bytes(data)
    print(name, sheet.shape, len(data))


class Portraits:
    """A few people in front of one camera, in the same light."""

    def __init__(self, studio: Studio, seeds: list[int], tones: list[float]) -> None:
        self.studio = studio
        self.people = []
        for seed, tone in zip(seeds, tones, strict=True):
            ranges = Ranges(
                tone=(tone, tone), glasses=0, covering=0, beard=0, stubble=0.15, age=(0, 0.2), furrow=(0.9, 1)
            )
            person = make_person(studio.model, studio.atlas, np.random.default_rng(seed), ranges)
            room = make_background(np.random.default_rng(seed), "gradient") * 0.3 + 0.25
            self.people.append((person, f32(room)))

    def draw(self, who: int, movements: dict[str, float], size: int) -> np.ndarray:
        """One person doing some movements, (size, size, 3)."""
        person, room = self.people[who]
        sides = {name: (level, level * 0.97) for name, level in movements.items()}
        weights, furrows = self.studio.actions.pose(sides, depth=person.furrow)
        lights = [
            Light(f32([0.42, 0.5, 0.76]), f32([0.95, 0.9, 0.86])),
            Light(f32([-0.85, 0.1, 0.5]), f32([0.2, 0.22, 0.26])),
        ]
        head_pose = (0.12 if who % 2 else -0.12, 0.0, 0.0)
        scene = Scene(weights, furrows, head_pose=head_pose, lights=lights, background=room, zoom=0.98)
        return self.studio.renderer.draw(person, scene, np.random.default_rng(who), size, 3)


def main(model: str) -> None:
    """Draw the three sheets."""
    studio = Studio(load_model(model))
    four = Portraits(studio, [2, 5, 9, 4], [0.12, 0.4, 0.65, 0.9])
    columns = ["neutral", *ACTION_UNITS]
    notes = ["", *(AU_NAMES[au] for au in ACTION_UNITS)]
    rows = [[four.draw(who, {a: 1.0} if a in ACTION_UNITS else {}, 144) for a in columns] for who in range(4)]
    half = 7
    upper = page([row[:half] for row in rows], columns[:half], notes[:half])
    lower = page([row[:1] + row[half:] for row in rows], [columns[0], *columns[half:]], [notes[0], *notes[half:]])
    save("action_units.jpg", np.concatenate([upper, np.full((14, upper.shape[1], 3), PAPER, np.uint8), lower]))

    eight = Portraits(studio, [2, 5, 9, 4, 13, 16, 21, 26], list(np.linspace(0.05, 0.95, 8)))
    rows = []
    for who in range(8):
        row = []
        for name in EXPRESSIONS[:-1]:
            rng = np.random.default_rng([who, EXPRESSIONS.index(name)])
            movements = {m: 0.95 for m, chance in PROTOTYPES.get(name, {}).items() if rng.random() < chance}
            if name == "Anger":
                movements.pop("AU23" if who % 2 else "AU24", None)
                movements["AU24" if who % 2 else "AU23"] = 0.95
            row.append(eight.draw(who, movements, 128))
        odd = [
            {"AU2": 1.0, "AU24": 0.9},
            {"AU1": 0.9, "AU12": 0.9},
            {"AU15": 0.9, "AU2": 1.0},
            {"AU12": 0.8, "AU4": 1.0},
        ]
        rows.append([*row, eight.draw(who, odd[who % 4], 128)])
    save("expressions.jpg", page(rows, list(EXPRESSIONS)), 86)
    sample_sheet()


def sample_sheet() -> None:
    """A picture of the bundled sample: twelve people by four frames that show something."""
    with TemporaryDirectory() as folder:
        root = triaffect.sample(Path(folder) / "sample")
        truth = pl.read_parquet(root / "truth.parquet").filter(~pl.col("occluded"))
        rows: list[list[np.ndarray]] = [[], [], [], []]
        for video in truth["video"].unique().sort().to_list()[::4]:
            mine = truth.filter(pl.col("video") == video).sort("expression_intensity", descending=True)
            picks = mine.unique("expression", keep="first", maintain_order=True)["image"].to_list()
            for row, image in zip(rows, (picks + mine["image"].to_list())[:4], strict=True):
                row.append(simplejpeg.decode_jpeg((root / "cropped_aligned" / image).read_bytes()))
        sheet = np.concatenate([np.concatenate(row, 1) for row in rows])
    save("sample.jpg", sheet)


if __name__ == "__main__":
    main(sys.argv[1])
