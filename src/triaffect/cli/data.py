"""Verbs for annotations and images: index, count, look at, pack, render."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from triaffect.io import InputError


def sample(folder: str) -> None:
    """Copy the bundled sample: 1,584 rendered faces in the raw layout of Aff-Wild2.

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
    """Render videos of invented faces with exact labels, in the layout of Aff-Wild2; a stopped run is resumed.

    Args:
        model: ICT-FaceKit, its folder of OBJ files or the packed file; by default the variable TRIAFFECT_ICT.
        out: Folder of the data set.
        videos: Number of videos, each of another person.
        frames: Frames per video.
        seed: The same seed gives the same data set.
        size: Side of a crop in pixels.
        seconds: Time between two frames.
        val: Share of the videos in the validation split.
        irregular: Faults of the real data set to imitate: annotations, crops, tasks, lengths, pair, or all.
        ranges: YAML file of the ranges to change (docs/rendering.md lists them).
        layout: affwild2 (one file per video and task), s-affwild2 (one file per split), or both.
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
    au_threshold: float | None = None,
) -> None:
    """Read annotations in any layout into one table with one row per frame.

    Args:
        root: The folder of the annotations, or one file: s-Aff-Wild2, a release list, a CSV, Excel or Parquet table.
        images: The folder with the crops' folders; by default they are searched for next to the annotations. The
            pictures inside FER2013's table are written there, by default into a folder next to OUT.
        out: The index to write, Parquet.
        format: What to read: auto, per-video, mtl (s-Aff-Wild2, ABAW3), list, table, affectnet, rafdb, fer2013, disfa;
            of a table, the names of data sets say in which order its expression codes are.
        au_threshold: Action units given as intensities (0 to 5) are active from this value on; DISFA's from 2.
    """
    from triaffect.data.index import read_annotations, save_index
    from triaffect.data.known import holds_pictures, write_pictures
    from triaffect.data.statistics import contradiction_lines, leak_lines, statistics, summary

    if format in ("auto", "fer2013") and holds_pictures(root):
        images = images or str(Path(out).with_suffix(""))
        print(f"note: {write_pictures(root, Path(images)):,} pictures written into {images}")
    annotations = read_annotations(root, images, format, au_threshold)
    save_index(annotations.index, out, root=root, images=annotations.images, format=annotations.format)
    print(summary(statistics(annotations.index)))
    for line in annotations.notice_lines() + leak_lines(annotations.index) + contradiction_lines(annotations.index):
        print(f"note: {line}")
    rows, where = f"{annotations.index.height:,} rows", annotations.images or "unknown"
    print(f"{out}: {rows}, format {annotations.format}, images {where}")


def stats(index: str, split: str | None = None, json: bool = False, plots: str | None = None) -> None:
    """Count an index: splits, missing labels, class and AU balance, weights, V-A, leaks between its splits.

    Args:
        index: An index file, a table, or annotations.
        split: Only this split.
        json: Print everything as JSON, with the V-A density.
        plots: Also draw it: the folder for the pictures (expressions, action units, V-A density, missing labels).
    """
    from json import dumps

    from triaffect.data.index import load_index, split_leaks
    from triaffect.data.statistics import contradiction_lines, leak_lines, statistics, tables

    rows = load_index(index, split)
    result = statistics(rows)
    print(dumps({"splits": result, "leaks": split_leaks(rows)}, indent=1) if json else tables(result))
    if plots is not None:
        from triaffect.report.figures import save_figure, statistics_figures

        for name, figure in statistics_figures(result).items():
            save_figure(figure, Path(plots) / f"{name}.png")
    for line in [] if json else leak_lines(rows) + contradiction_lines(rows):
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
    """Draw random crops with video, frame and annotations, to check data and labels by eye.

    Args:
        index: An index file, a table, or annotations.
        images: The folder of the images; by default the one the index was made with.
        out: The picture to write.
        n: How many crops.
        task: Only frames labelled for this task, and only its labels.
        split: Only this split.
        seed: Another seed draws other crops.
    """
    from triaffect.data.index import load_index, provenance
    from triaffect.report.figures import contact_sheet, save_figure

    root = images or provenance(index).get("images")
    if not root or not Path(root).is_dir():
        raise InputError(f"{root or index}: no folder of images; name it with --images")
    save_figure(contact_sheet(load_index(index), root, n, task, split, seed), out)
    print(out)


def leaks(a: str, b: str, split_a: str | None = None, split_b: str | None = None) -> int:
    """Find source videos that two indexes share, also as the other person (_left, _right) of the same video.

    Args:
        a: An index file, a table, or annotations.
        b: Another.
        split_a: Only this split of the first.
        split_b: Only this split of the second.
    """
    from triaffect.data.index import find_leaks, load_index

    leaks = find_leaks(load_index(a, split_a), load_index(b, split_b))
    for source, videos_a, videos_b in leaks.iter_rows():
        print(f"{source}: {', '.join(videos_a)} | {', '.join(videos_b)}")
    print(f"{leaks.height:,} source videos are in both")
    return 1 if leaks.height else 0


def pack(index: str, out: str = "crops.safetensors", split: str | None = None, images: str | None = None) -> None:
    """Pack the images of an index into one file, which --images and data.images accept in place of a folder.

    Args:
        index: The index, or a generic table with its columns.
        out: The file to write, .safetensors: the unchanged image files, one after the other, and where each begins.
        split: Only the frames of train, val or test.
        images: The folder of the images; by default the one the index was made with.
    """
    from triaffect.data.image_store import pack
    from triaffect.data.index import image_root, load_index

    if not out.endswith(".safetensors"):
        raise InputError(f"{out}: the packed file must end in .safetensors")
    result = pack(load_index(index, split), image_root(index, images), out)
    for name in result["skipped"][:3]:
        print(f"note: {name} cannot be read, and is left out")
    print(f"{out}: {result['images']:,} images, {result['bytes'] / 1e6:,.1f} MB; {len(result['skipped']):,} left out")
