"""Somebody else's annotation trees: raw Aff-Wild2 and s-Aff-Wild2 layouts with invented values and known rows.

Written from the description of the formats alone; it shares no code with the reader but the names of the columns.
Each value is chosen first, then printed into a file and put down in the expected rows; nothing is read back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from triaffect.labels import ACTION_UNITS, EXPRESSIONS, INDEX_COLUMNS, VA

ABAW1_ACTION_UNITS = ("AU1", "AU2", "AU4", "AU6", "AU12", "AU15", "AU20", "AU25")
HEADERS = {"va": VA, "expr": EXPRESSIONS, "au": ACTION_UNITS}
MTL_HEADER = ("image", "valence", "arousal", "expression", "aus")

_SETS = ("VA_Set", "EXPR_Set", "AU_Set")
_CLASSIFICATION = ("VA_Estimation_Challenge", "EXPR_Classification_Challenge", "AU_Detection_Challenge")
_RECOGNITION = ("VA_Estimation_Challenge", "EXPR_Recognition_Challenge", "AU_Detection_Challenge")
_SPLITS = ("Train_Set", "Validation_Set")

# Layout -> parent folder, task folders, split folders.
UNI_TASK: dict[str, tuple[str, tuple[str, ...], tuple[str, str]]] = {
    "abaw1": ("", _SETS, _SPLITS),
    "abaw2": ("", _SETS, _SPLITS),
    "abaw2-copy": ("", _SETS, ("Training_Set", "Validation_Set")),
    "abaw3": ("Third ABAW Annotations", _CLASSIFICATION, _SPLITS),
    "abaw5": ("5th ABAW Annotations", _CLASSIFICATION, _SPLITS),
    "abaw6": ("6th ABAW Annotations", _RECOGNITION, _SPLITS),
    "abaw8": ("8th_ABAW_Annotations", _RECOGNITION, _SPLITS),
    "abaw9": ("9th ABAW Annotations", _RECOGNITION, _SPLITS),
    "abaw10": ("10th ABAW Annotations", _RECOGNITION, _SPLITS),
}
# Layout -> parent folder, file of each split.
_S_FILES = {"train": "training_set_annotations.txt", "val": "validation_set_annotations.txt"}
MULTI_TASK: dict[str, tuple[str, dict[str, str]]] = {
    "abaw3-mtl": ("Third ABAW Annotations/MTL_Challenge", {"train": "train_set.txt", "val": "validation_set.txt"}),
    "abaw4": ("", {**_S_FILES, "test": "MTL_Challenge_test_set_release.txt"}),
    "abaw7": ("", {**_S_FILES, "test": "MTL.txt"}),
    "abaw11": ("", {**_S_FILES, "test": "MTL_Challenge_test_set_release.txt"}),
}
LAYOUTS = (*UNI_TASK, *MULTI_TASK)

# What a file's text may look like; with several switched on, each file draws its own mixture.
TEXT = ("crlf", "bom", "blanks", "no_newline", "no_header", "trailing", "markers", "floats", "partial")
# What a tree may look like: for both kinds of layout, for per-video files only, for one file a split only.
SHAPE = ("halves", "missing_crops", "no_crops", "lengths", "all_missing", "empty", "long")
UNI_ONLY = ("spread", "uneven", "across", "other_header")
MULTI_ONLY = ("duplicates",)
EVERYTHING = dict.fromkeys((*TEXT, *SHAPE, *UNI_ONLY, *MULTI_ONLY), True)

NO_CROPS_AT_ALL = "no crops at all"
PLACES = ("batch1", "", "batch2", "cropped_aligned_new_50_vids")
CROP = bytes.fromhex("ffd8ffd9")  # the smallest thing with a JPEG's two ends; an index only looks whether it is there


@dataclass
class Tree:
    """One written tree and what must be read from it.

    Attributes:
        root: The folder that a person hands over; the edition's own folder may lie one level below.
        inner: The edition's own folder (`root` where it has no parent).
        images: The image root.
        rows: The expected index rows (`INDEX_COLUMNS`, None is missing), in the order of the files.
        files: (task or "mtl", split, video or "") -> annotation file.
    """

    root: Path
    inner: Path
    images: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    files: dict[tuple[str, str, str], Path] = field(default_factory=dict)


def write_tree(folder: Path, layout: str, seed: int = 0, *, crops: bool = True, **irregularities: bool) -> Tree:
    """Writes one tree.

    Args:
        folder: An empty or new folder to write into.
        layout: One of `LAYOUTS`.
        seed: The values and the places of the irregularities follow from it.
        crops: Whether to write crops at all (many small files); an empty image root where off.
        irregularities: Names of `EVERYTHING`, each on or off (off where left out).
    """
    unknown = set(irregularities) - set(EVERYTHING)
    assert not unknown, unknown
    odd = {name for name, on in irregularities.items() if on} | (set() if crops else {NO_CROPS_AT_ALL})
    rng = np.random.default_rng(seed)
    write = _write_uni_task if layout in UNI_TASK else _write_multi_task
    return write(Path(folder), layout, rng, odd)


# ---------------------------------------------------------------------------------------------------- values and text


def _va(rng: np.random.Generator, odd: set[str], missing: bool, marker: str) -> tuple[float | None, str]:
    if missing:
        return None, str(rng.choice(["-5", "-5.0", "-5.00"])) if "markers" in odd else marker
    kind = rng.random()
    if kind < 0.1:  # the ends of the range, printed as integers or as floats
        integer = int(rng.integers(-1, 2))
        return float(integer), f"{integer}.0" if kind < 0.05 else f"{integer}"
    if kind < 0.15:
        small = int(rng.integers(1, 99)) / 1e6
        return small, repr(small)  # 5e-05
    decimals = int(rng.integers(3, 15))
    value = round(float(rng.uniform(-1, 1)), decimals)
    return value, f"{value:.{decimals}f}"


def _integer(rng: np.random.Generator, odd: set[str], missing: bool, classes: int) -> tuple[int | None, str]:
    value = -1 if missing else int(rng.integers(classes))
    text = f"{value}.0" if "floats" in odd and rng.random() < 0.6 else f"{value}"
    return (None if missing else value), text


def _labels(
    task: str, names: tuple[str, ...], rng: np.random.Generator, odd: set[str], rate: float, marker: str = "-5"
) -> tuple[dict[str, Any], list[str]]:
    """One frame's labels of one task by column, and the fields that say so."""
    wholly = rng.random() < rate
    partly = "partial" in odd and not wholly and rng.random() < 0.4
    if task == "va":
        lost = rng.integers(2) if partly else -1
        pairs = [_va(rng, odd, wholly or lost == i, marker) for i in range(2)]
        columns = VA
    elif task == "expr":
        pairs = [_integer(rng, odd, wholly, len(names))]
        columns = ("expression",)
    else:
        pairs = [_integer(rng, odd, wholly or (partly and rng.random() < 0.3), 2) for _ in names]
        columns = names
    return dict(zip(columns, (v for v, _ in pairs), strict=True)), [text for _, text in pairs]


def _mixture(rng: np.random.Generator, odd: set[str]) -> set[str]:
    """The text irregularities of one file: the one that is on, or some of the several that are."""
    on = [name for name in TEXT if name in odd]
    return set(on) if len(on) < 2 else {name for name in on if rng.random() < 0.5}


def _write_text(path: Path, header: str, lines: list[str], rng: np.random.Generator, odd: set[str]) -> None:
    out = ([] if "no_header" in odd else [header]) + lines
    if "trailing" in odd:
        out = [line + str(rng.choice(["", ",", " ", ", "])) for line in out]
    if "blanks" in odd:
        with_blanks = [""]
        for line in out:
            with_blanks += [line] if rng.random() < 0.8 else [line, str(rng.choice(["", "  "]))]
        out = [*with_blanks, "", ""]
    end = "\r\n" if "crlf" in odd else "\n"
    text = end.join(out) + ("" if "no_newline" in odd else end)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((b"\xef\xbb\xbf" if "bom" in odd else b"") + text.encode())


def _row(split: str, video: str, frame: int, image: str, exists: bool) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(INDEX_COLUMNS)
    return row | {"image": image, "video": video, "frame": frame, "split": split, "exists": exists}


def _write_crops(folder: Path, frames: set[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames:
        (folder / f"{frame:05d}.jpg").write_bytes(CROP)


# ------------------------------------------------------------------------------------------------------ whole layouts


def _videos(odd: set[str], splits: tuple[str, ...]) -> list[tuple[str, str]]:
    """(split, video) in the order of the names, as a folder lists them."""
    videos = {
        "train": ["12", "2-30-640x360", "12-24-1920x1080", "video59"],
        "val": ["7-60-1920x1080", "video2", "122-60-1920x1080-1"],
        "test": ["101-30-1080x1920", "video80"],
    }
    if "halves" in odd:  # both halves in one split, a half in each, and the three special pairs
        videos["train"] += ["46-30-484x360_right", "6-30-1920x1080_left", "10-60-1280x720", "10-60-1280x720_right"]
        videos["train"] += ["video59_right"]
        videos["val"] += ["46-30-484x360_left", "6-30-1920x1080_right", "video2_left", "video5_left", "video5_right"]
    if "no_crops" in odd:
        videos["train"] += ["no-folder"]
        videos["val"] += ["no-crop-in-folder"]
    if "all_missing" in odd:
        videos["train"] += ["all-missing"]
    return [(split, video) for split in splits for video in sorted(videos[split])]


def _crops(video: str, last: int, rng: np.random.Generator, odd: set[str]) -> set[int]:
    """The frames with a crop, where the annotation goes to `last`."""
    if video.startswith("no-") or NO_CROPS_AT_ALL in odd:
        return set()
    if "lengths" in odd:
        last += int(rng.choice([-3, -1, 0, 2, 5]))
    frames = set(range(1, last + 1))
    if "missing_crops" in odd:
        frames = {frame for frame in frames if frame > 1 and rng.random() > 0.25}
    return frames


def _write_uni_task(folder: Path, layout: str, rng: np.random.Generator, odd: set[str]) -> Tree:
    parent, task_folders, split_folders = UNI_TASK[layout]
    tree = Tree(folder / "annotations", folder / "annotations" / parent, folder / "cropped_aligned")
    where = {task: tree.inner / name for task, name in zip(HEADERS, task_folders, strict=True)}
    folders = dict(zip(("train", "val"), split_folders, strict=True))
    headers = dict(HEADERS)
    if layout.startswith(("abaw1", "abaw2")) and layout != "abaw10":
        headers["expr"] = EXPRESSIONS[:7]
    if layout == "abaw1":
        headers["au"] = ABAW1_ACTION_UNITS
    others = dict(headers)  # another edition's header for the same task
    others["expr"] = EXPRESSIONS if len(headers["expr"]) == 7 else EXPRESSIONS[:7]
    others["au"] = ACTION_UNITS if len(headers["au"]) == 8 else ABAW1_ACTION_UNITS

    # (split, video) -> task -> number of lines.
    plan: dict[tuple[str, str], dict[str, int]] = {}
    for k, (split, video) in enumerate(_videos(odd, ("train", "val"))):
        length = int(rng.integers(20, 28))
        plan[split, video] = dict.fromkeys(headers, length)
        if "uneven" in odd:
            present = [("va", "expr", "au"), ("va",), ("expr", "au"), ("au", "va"), ("expr",)][k % 5]
            plan[split, video] = {task: length + int(rng.integers(-5, 9)) for task in present}
    if "across" in odd:  # one task trains on what another validates on
        plan["train", "16-30-1920x1080"] = {"va": 20, "au": 22}
        plan["val", "16-30-1920x1080"] = {"expr": 25}
    if "all_missing" in odd:  # all-missing in one task only
        plan["val", "expr-all-missing"] = {"va": 20, "expr": 20}
    if "empty" in odd:
        plan["train", "empty-expr"] = {"va": 20, "expr": 0, "au": 20}
        plan["val", "empty-all"] = {"va": 0, "au": 0}
    if "long" in odd:
        plan["val", "long"] = {"expr": 100_003}

    place: dict[str, str] = {}
    crops: dict[str, set[int]] = {}
    for video in dict.fromkeys(video for _, video in plan):
        last = max(n for (_, other), lengths in plan.items() if other == video for n in lengths.values())
        crops[video] = {1, 99_999, 100_000, 100_003} if video == "long" else _crops(video, last, rng, odd)
        place[video] = f"{PLACES[len(place) % 4]}/".lstrip("/") if "spread" in odd and video != "no-folder" else ""
        if video != "no-folder":
            _write_crops(tree.images / f"{place[video]}{video}", crops[video])
    if "lengths" in odd:  # crops of a video that no task annotates
        _write_crops(tree.images / "99-30-720x720", {1, 2, 3})

    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for (split, video), lengths in plan.items():
        for task, length in lengths.items():
            path = tree.files[task, split, video] = where[task] / folders[split] / f"{video}.txt"
            odd_text = _mixture(rng, odd)
            names = headers[task]
            if "other_header" in odd and rng.random() < 0.5:
                names = others[task]
                odd_text.discard("no_header")  # nothing but the header tells that other edition
            rate = 1.0 if video in ("all-missing", f"{task}-all-missing") else 0.3
            lines = []
            for frame in range(1, length + 1):
                if video == "long" and frame < 99_998:  # a short cut: missing without a draw
                    labels, fields = {"expression": None}, ["-1"]
                else:
                    labels, fields = _labels(task, names, rng, odd_text, 0.0 if video == "long" else rate)
                lines.append(",".join(fields))
                if (split, video, frame) not in rows:
                    image = f"{place[video]}{video}/{frame:05d}.jpg"
                    rows[split, video, frame] = _row(split, video, frame, image, frame in crops[video])
                rows[split, video, frame] |= {name: v for name, v in labels.items() if name in INDEX_COLUMNS}
            if length == 0 and task != "au":  # no byte at all; the AU file has its header and no more
                _touch(path)
            else:
                _write_text(path, ",".join(names), lines, rng, odd_text)
    order = {split: k for k, split in enumerate(folders)}
    tree.rows = [rows[key] for key in sorted(rows, key=lambda key: (order[key[0]], key[1], key[2]))]
    return tree


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def _write_multi_task(folder: Path, layout: str, rng: np.random.Generator, odd: set[str]) -> Tree:
    parent, files = MULTI_TASK[layout]
    tree = Tree(folder / "s-Aff-Wild2", folder / "s-Aff-Wild2" / parent, folder / "s-Aff-Wild2" / "cropped_aligned")
    lines: dict[str, list[str]] = {split: [] for split in files}
    styles = {split: _mixture(rng, odd) for split in files}
    if layout == "abaw7":  # its release list has a trailing comma already
        styles["test"].discard("trailing")
    for split, video in _videos(odd, tuple(files)):
        frames = np.cumsum(rng.integers(1, 25, size=int(rng.integers(8, 16)))).tolist()
        if "long" in odd and video == "12":
            frames += [99_999, 100_000, 100_003]
        crops = {frame for frame in frames if "missing_crops" not in odd or rng.random() > 0.25}
        if video.startswith("no-") or NO_CROPS_AT_ALL in odd:
            crops = set()
        if video != "no-folder":
            extra = {max(frames) + 1, max(frames) + 2} if "lengths" in odd else set()
            _write_crops(tree.images / video, crops | extra)
        for frame in frames:
            image = f"{video}/{frame:05d}.jpg"
            row = _row(split, video, frame, image, frame in crops)
            fields = [image]
            if split != "test":
                for task, names in HEADERS.items():
                    rate = 1.0 if video == "all-missing" else 0.3
                    labels, texts = _labels(task, names, rng, styles[split], rate, marker="-5.0")
                    row |= labels
                    fields += texts
            elif layout == "abaw7":
                fields.append("")
            for _ in range(2 if "duplicates" in odd and rng.random() < 0.2 else 1):
                tree.rows.append(dict(row))
                lines[split].append(",".join(fields))
    for split, name in files.items():
        path = tree.files["mtl", split, ""] = tree.inner / name
        header = ",".join(MTL_HEADER) + ("," if split == "test" and layout == "abaw7" else "")
        _write_text(path, header, lines[split], rng, styles[split])
    if "empty" in odd and "test" in files:
        tree.rows = [row for row in tree.rows if row["split"] != "test"]
        _touch(tree.files["mtl", "test", ""])
    return tree
