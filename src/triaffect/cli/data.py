"""Verbs for annotations and images: read, count, look at, pack, make."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from triaffect.io import InputError


def sample(folder: str) -> None:
    """Copies out the bundled sample: 1,584 rendered faces in the raw layout of Aff-Wild2.

    Args:
        folder: New or empty folder to put it in.
    """
    from triaffect.data.sample import sample

    print(f"{sample(folder)}: now `triaffect index {folder} --out index.parquet`")


def render(
    model: str | None = None,
    out: str = "renders",
    videos: int = 40,
    frames: int = 60,
    seed: int = 0,
    size: int = 112,
    seconds: float = 0.15,
    val: float = 0.25,
    irregular: list[str] | None = None,
    ranges: str | None = None,
    layout: str = "both",
    processes: int = 1,
    pack: str | None = None,
) -> None:
    """Renders videos of made-up faces with exact labels, in the layout of Aff-Wild2; a stopped run is resumed.

    Args:
        model: ICT-FaceKit: its folder of OBJ files or the packed file; the variable TRIAFFECT_ICT where left out.
        out: Folder of the data set.
        videos: Number of videos, each of another person.
        frames: Frames a video.
        seed: Decides everything.
        size: Side of a crop in pixels.
        seconds: Time between two frames.
        val: Part of the videos in the validation split.
        irregular: Faults of the real set to have: annotations, crops, tasks, lengths, pair, or all.
        ranges: YAML file of the ranges to change (docs/rendering.md lists them).
        layout: affwild2 (a file for each video and task), s-affwild2 (a file for each split), or both.
        processes: How many videos are rendered at once.
        pack: Only pack the folder of OBJ files into this file.
    """
    from triaffect.render.dataset import FAULTS, Plan, read_ranges, render

    if pack:
        from triaffect.render.model import pack_model

        print(pack_model(model, pack))
        return
    faults = tuple(FAULTS) if irregular == ["all"] else tuple(irregular or ())
    plan = Plan(videos, frames, seed, size, seconds, val, faults, read_ranges(ranges))
    print(render(model, out, plan, processes=processes, layout=layout))


def index(
    root: str,
    images: str | None = None,
    out: str = "index.parquet",
    format: str = "auto",  # noqa: A002
) -> None:
    """Reads annotations in any layout into one table with a row a frame.

    Args:
        root: The folder of the annotations, or one file: s-Aff-Wild2, a release list, a CSV or Parquet table.
        images: The folder that holds the crops' folders; where left out, they are looked for beside the annotations.
        out: The index to write, Parquet.
        format: What to read: auto, per-video, mtl (s-Aff-Wild2, ABAW3), list or table.
    """
    from triaffect.data.index import read_annotations, save_index
    from triaffect.data.statistics import leak_lines, statistics, summary

    reading = read_annotations(root, images, format)
    save_index(reading.index, out, root=root, images=reading.images, format=reading.format)
    print(summary(statistics(reading.index)))
    for line in reading.notice_lines() + leak_lines(reading.index):
        print(f"note: {line}")
    print(f"{out}: {reading.index.height:,} rows, format {reading.format}, images {reading.images or 'unknown'}")


def stats(index: str, split: str | None = None, json: bool = False, plots: str | None = None) -> None:
    """Counts an index: splits, missing labels, class and AU balance, weights, V-A, leaks between its splits.

    Args:
        index: An index file, a table, or annotations.
        split: Only this split.
        json: Print everything as JSON, with the V-A density.
        plots: Also draw it: the folder for the pictures (expressions, action units, V-A density, missing labels).
    """
    from json import dumps

    from triaffect.data.index import load_index, split_leaks
    from triaffect.data.statistics import leak_lines, statistics, tables

    rows = load_index(index, split)
    result = statistics(rows)
    print(dumps({"splits": result, "leaks": split_leaks(rows)}, indent=1) if json else tables(result))
    if plots is not None:
        from triaffect.report.plots import save_figure, statistics_figures

        for name, figure in statistics_figures(result).items():
            save_figure(figure, Path(plots) / f"{name}.png")
    for line in [] if json else leak_lines(rows):
        print(f"warning: {line}")


def show(
    index: str,
    images: str | None = None,
    out: str = "sheet.png",
    n: int = 20,
    task: Literal["va", "expr", "au"] | None = None,
    split: str | None = None,
    seed: int = 0,
) -> None:
    """Draws random crops with video, frame and annotations beside them, to check data and labels by eye.

    Args:
        index: An index file, a table, or annotations.
        images: The folder of the images; the one the index was made with where left out.
        out: The picture to write.
        n: How many crops.
        task: Only frames labelled for this task, and only its labels.
        split: Only this split.
        seed: Another seed draws other crops.
    """
    from triaffect.data.index import load_index, provenance
    from triaffect.report.plots import contact_sheet, save_figure

    root = images or provenance(index).get("images")
    if not root or not Path(root).is_dir():
        raise InputError(f"{root or index}: no folder of images; name it with --images")
    save_figure(contact_sheet(load_index(index), root, n, task, split, seed), out)
    print(out)


def leaks(a: str, b: str, split_a: str | None = None, split_b: str | None = None) -> int:
    """Finds source videos that stand in two indexes, also as the other person (_left, _right) of the same video.

    Args:
        a: An index file, a table, or annotations.
        b: Another.
        split_a: Only this split of the first.
        split_b: Only this split of the second.
    """
    from triaffect.data.index import find_leaks, load_index

    leaks = find_leaks(load_index(a, split_a), load_index(b, split_b))
    for source, here, there in leaks.iter_rows():
        print(f"{source}: {', '.join(here)} | {', '.join(there)}")
    print(f"{leaks.height:,} source videos stand on both sides")
    return 1 if leaks.height else 0


def pack(index: str, out: str = "crops.safetensors", split: str | None = None, images: str | None = None) -> None:
    """Puts the images of an index into one file, which --images and data.images take in place of their folder.

    Args:
        index: The index, or a generic table with its columns.
        out: The file to write, .safetensors: the images as they are, one after the other, and where each begins.
        split: Only the frames of train, val or test.
        images: The folder of the images, where the index does not know it.
    """
    from triaffect.data.image_store import pack
    from triaffect.data.index import image_root, load_index

    if not out.endswith(".safetensors"):
        raise InputError(f"{out}: is to end in .safetensors, the format that it is")
    found = pack(load_index(index, split), image_root(index, images), out)
    for name in found["skipped"][:3]:
        print(f"note: {name} cannot be read, and is left out")
    print(f"{out}: {found['images']:,} images, {found['bytes'] / 1e6:,.1f} MB; {len(found['skipped']):,} left out")
