"""Verbs for annotations and images: index, count, look at, pack, render."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from triaffect import text
from triaffect.io import InputError
from triaffect.labels import TASKS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    jobs: int = 1,
    ray: str | None = None,
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
        jobs: How many videos are rendered at once.
        ray: Work on a Ray cluster: auto (the one that this machine is part of), its address, or local.
        pack: Only pack the folder of OBJ files into this file.
    """
    from triaffect.render.dataset import FAULTS, Plan, read_ranges, render

    if pack:
        from triaffect.render.model import pack_model

        print(pack_model(model, pack))
        return
    faults = tuple(FAULTS) if irregular == ["all"] else tuple(irregular or ())
    plan = Plan(videos, frames, seed, size, seconds, val, faults, read_ranges(ranges))
    print(render(model, out, plan, jobs=jobs, ray=ray, layout=layout))


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
        format: What to read: auto, per-video, mtl (s-Aff-Wild2, ABAW3), list, table, affectnet, rafdb, fer2013, disfa,
            folders (named as classes). Of a table, the name of a data set is the order of its expression codes.
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
    rows, where = text.plural(annotations.index.height, "row"), annotations.images or "unknown"
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
    seed: int | None = None,
    augmented: str | None = None,
) -> None:
    """Draw random crops with their annotations, and print path, row, video, frame and every label of each.

    Args:
        index: An index file, a table, or annotations.
        images: The folder of the images, or a packed file; by default the one the index was made with.
        out: The picture to write.
        n: Number of crops.
        task: Only frames labelled for this task.
        split: Only this split.
        seed: Draw the crops of this seed again; each call draws anew by default.
        augmented: Show what the network gets in training with this config: a YAML file, the name of a bundled one, or
            `default`.
    """
    import secrets

    from triaffect.data.index import image_root, load_index
    from triaffect.report.figures import contact_sheet, label_words, sample_frames, save_figure

    rows, root = load_index(index), image_root(index, images)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    augment = _training_view(augmented, seed) if augmented else None
    save_figure(contact_sheet(rows, root, n, task, split, seed, augment), out)
    for row in sample_frames(rows, n, task, split, seed).iter_rows(named=True):
        words = [f"row {row['row']}", f"video {row['video']}", f"frame {row['frame']}", f"split {row['split']}"]
        words += [word for name in TASKS for word in label_words(name, row)]
        print(text.printable(f"{root / row['image']}: {', '.join(words)}"))
    print(f"{out}: drawn with --seed {seed}")


def _training_view(name: str, seed: int) -> Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]:
    """Return a function that makes of a crop what a config's training would, drawn by the number of the crop."""
    import numpy as np

    from triaffect.images import resize
    from triaffect.io import bundled_file
    from triaffect.training.augmentation import Augmentation
    from triaffect.training.config import TrainConfig

    config = TrainConfig() if name == "default" else TrainConfig.load(bundled_file("configs", name))
    augmentation, size = Augmentation(**config.data.augmentation), config.model.size
    return lambda pixels, number: augmentation(resize(pixels, size), np.random.default_rng((seed, number)))


def subset(
    index: str,
    out: str = "subset.parquet",
    split: str | None = None,
    fraction: float = 1.0,
    by: Literal["frame", "video"] = "frame",
    stride: int = 1,
    seed: int = 0,
) -> None:
    """Write a part of an index, which keeps its image root; scores on it say of how many rows it is a part.

    Args:
        index: An index file, a table, or annotations.
        out: The index to write, Parquet.
        split: Only this split.
        fraction: Share of the rows, or of the videos, drawn at random.
        by: Draw frames or whole videos.
        stride: Keep every n-th frame of each video, before the draw.
        seed: Another seed draws others.
    """
    from triaffect.data.index import save_subset

    part = save_subset(index, out, split, fraction=fraction, by=by, seed=seed, stride=stride)
    print(f"{out}: {part.height:,} rows of {part['video'].n_unique():,} videos")


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
