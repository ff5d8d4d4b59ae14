"""Tables as people save them, and data sets as their makers distribute them, written from their public descriptions."""

from __future__ import annotations

import gzip
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from triaffect.cli.main import main
from triaffect.data.index import Annotations, load_index, read_annotations
from triaffect.data.statistics import contradiction_lines
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS

Write = Callable[..., Path]
ROWS = ["a/00001.jpg", "0.25", "-0.5", "4"]


def read(path: Path, *args: object, **options: float) -> Annotations:
    return read_annotations(path, *args, **options)  # type: ignore[arg-type]


def label_rows(index: pl.DataFrame) -> list[tuple[object, ...]]:
    return index.select("image", "valence", "arousal", "expression").rows()


SAVED = {
    "semicolon.csv": "image;valence;arousal;expression\r\na/00001.jpg;0,25;-0,5;4\r\n".encode("utf-8-sig"),
    "quoted.csv": b'"image","valence","arousal","expression"\n"a/00001.jpg","0,25","-0,5","4"\n',
    "unicode.csv": "image\tvalence\tarousal\texpression\r\na/00001.jpg\t0.25\t-0.5\t4\r\n".encode("utf-16"),
    "swiss.csv": "image,valence,arousal,expression,note\na/00001.jpg,0.25,-0.5,4,Größe\n".encode("cp1252"),
    "sep.csv": b"sep=;\nimage;valence;arousal;expression\na/00001.jpg;0.25;-0.5;4\n",
    "tabs.tsv": b"image\tvalence\tarousal\texpression\na/00001.jpg\t0.25\t-0.5\t4\n",
    "spaces.csv": b" image , valence,arousal ,expression\n a/00001.jpg , 0.25, -0.5 , 4\n",
    "comma.csv": b"image,valence,arousal,expression,\na/00001.jpg,0.25,-0.5,4,\n,,,,\n\n",
    "rows.csv": b",image,valence,arousal,expression\n0,a/00001.jpg,0.25,-0.5,4\n",
    "mac.csv": b"image,valence,arousal,expression\ra/00001.jpg,.25,-.5,4.0\r",
    "names.csv": b"Filename,VALENCE,Arousal,Emotion\na\\00001.jpg,+0.25,-5e-1,Happy\n",
    "nomark.csv": "image;valence;arousal;expression\na/00001.jpg;0,25;-0,5;4\n".encode("utf-16-le"),
    "pandas.json": b'{"image":{"0":"a/00001.jpg"},"valence":{"0":0.25},"arousal":{"0":-0.5},"expression":{"0":4}}',
    "records.json": b'[{"image":"a/00001.jpg","valence":0.25,"arousal":-0.5,"expression":"happiness"}]',
    "utf32.csv": "image;valence;arousal;expression\na/00001.jpg;0,25;-0,5;4\n".encode("utf-32"),
    "utf32be.csv": "image,valence,arousal,expression\na/00001.jpg,0.25,-0.5,4\n".encode("utf-32-be"),
    "packed.csv.gz": gzip.compress(b"image,valence,arousal,expression\na/00001.jpg,0.25,-0.5,4\n"),
    "title.csv": b"Labels of round 2,,,\n# by hand\n,,,\nimage,valence,arousal,expression\na/00001.jpg,0.25,-0.5,4\n",
    "title2.csv": b"Labels of round 2\n\nimage,valence,arousal,expression\na/00001.jpg,0.25,-0.5,4\n",
    "capital.csv": b"SEP = ;\r\nimage;valence;arousal;expression\r\na/00001.jpg;25 %;-50%;Hap\r\n",
    "words.csv": b"image valence  arousal expression\na/00001.jpg 0.25 -0.5  4\n",
    "excel.txt": "image\tvalence\tarousal\texpression\r\na/00001.jpg\t0.25\t\u22120.5\t4\r\n".encode("utf-16"),
    "noending": b"image,valence,arousal,expression\na//00001.jpg,0.25,-0.5,4\n",
    "mark.csv": b"image,valence,arousal,expression\r\r\na/00001.jpg,0.25,-0.5,4\r\r\n\x1a",
    "text.parquet": b"image,valence,arousal,expression\na/00001.jpg,0.25,-0.5,4\n",
    "lines.jsonl": b'{"image":"./a/00001.jpg","valence":0.25,"arousal":-0.5,"expression":4}\n',
}


@pytest.mark.parametrize("name", SAVED)
def test_every_way_to_save_a_table_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SAVED[name])
    assert label_rows(read(tmp_path / name).index) == [("a/00001.jpg", 0.25, -0.5, 4)]


def workbook(path: Path, **sheets: list[list[object]]) -> None:
    """Write the least that is a workbook (ECMA-376)."""
    office = "http://schemas.openxmlformats.org"
    types = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts, overrides, names, relations = {}, "", "", ""
    for number, (name, rows) in enumerate(sheets.items(), 1):
        lines = []
        for row in rows:
            text = "".join(
                f'<c t="inlineStr"><is><t>{cell}</t></is></c>' if isinstance(cell, str) else f"<c><v>{cell}</v></c>"
                for cell in row
            )
            lines.append(f"<row>{text}</row>")
        parts[f"xl/s{number}.xml"] = (
            f'<worksheet xmlns="{office}/spreadsheetml/2006/main"><sheetData>{"".join(lines)}</sheetData></worksheet>'
        )
        overrides += f'<Override PartName="/xl/s{number}.xml" ContentType="{types}.worksheet+xml"/>'
        names += f'<sheet name="{name}" sheetId="{number}" r:id="r{number}"/>'
        kind = f"{office}/officeDocument/2006/relationships/worksheet"
        relations += f'<Relationship Id="r{number}" Type="{kind}" Target="s{number}.xml"/>'
    relationships = f'<Relationships xmlns="{office}/package/2006/relationships">'
    parts |= {
        "[Content_Types].xml": f'<Types xmlns="{office}/package/2006/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override '
        f'PartName="/xl/workbook.xml" ContentType="{types}.sheet.main+xml"/>{overrides}</Types>',
        "_rels/.rels": f'{relationships}<Relationship Id="r1" '
        f'Type="{office}/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{office}/spreadsheetml/2006/main" xmlns:r="{office}/officeDocument/2006/'
        f'relationships"><sheets>{names}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f"{relationships}{relations}</Relationships>",
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)


def test_excel_is_read(tmp_path: Path) -> None:
    pytest.importorskip("fastexcel", reason="needs the extra excel")
    header = ["Image", "valence", "arousal", "expression", "AU 12"]
    rows = [header, ["a/00001.jpg", 0.25, -0.5, "Happy", 1], ["a/00002.jpg", 0, "NA", "", 0]]
    workbook(tmp_path / "t.xlsx", labels=rows)
    workbook(tmp_path / "title.xls", labels=[["Labels of the second round"], [], *rows])
    workbook(tmp_path / "sheets.csv", about=[["see the next sheet"]], labels=rows, old=[["image", "valence"], ["b", 0]])
    for name in ("t.xlsx", "title.xls", "sheets.csv"):  # the content decides
        annotations = read(tmp_path / name)
        assert label_rows(annotations.index) == [("a/00001.jpg", 0.25, -0.5, 4), ("a/00002.jpg", 0.0, None, None)]
        assert annotations.index["AU12"].to_list() == [1, 0]
        lines = " ".join(annotations.notices.lines())
        assert ("above the header" in lines) == (name == "title.xls")
        assert ("'labels' of 'labels', 'old'" in lines) == (name == "sheets.csv")
    workbook(tmp_path / "twice.xlsx", labels=[["image", "valence", "valence"], ["a.jpg", 0.1, 0.2]])
    with pytest.raises(InputError, match="'valence' and 'valence' are both valence; remove one of them"):
        read(tmp_path / "twice.xlsx")
    workbook(tmp_path / "empty.xlsx", labels=[])
    with pytest.raises(InputError, match="no sheet holds a table"):
        read(tmp_path / "empty.xlsx")


def test_excel_without_its_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK\3\4")
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    with pytest.raises(InputError, match=re.escape("pip install 'triaffect[excel]'; or save it as CSV")):
        read(tmp_path / "t.xlsx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,valence\na.jpg,0,5\n", "t.csv:2: has 3 fields, the header 2; quote fields that contain ','"),
        ("image,Image\na.jpg,0\n", None),
        ("file,path,Valence,valence_\na.jpg,b,0,0\n", "'Valence' and 'valence_' are both valence"),
        ("image,emotion\na.jpg,3\n", "column 'emotion' holds codes whose order is not known; name the data set"),
        ("image,label\na.jpg,cat\n", "t.csv:2: label is 'cat'"),
        ("image,valence\nC:\\\\x\\\\a.jpg,0\n", "use a path relative to the image root, or name that folder"),
    ],
)
def test_what_cannot_be_known_is_refused(tmp_path: Path, text: str, message: str | None) -> None:
    (tmp_path / "t.csv").write_text(text)
    if message is None:
        assert read(tmp_path / "t.csv").index.height == 1
        return
    with pytest.raises(InputError, match=re.escape(message)):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "spelling", ["AU{:02d}", " AU{:02d}_c", "au{}", "Action Unit {}", "AU {}", "AU{:02d}_presence"]
)
def test_action_units_are_recognised_with_a_notice(tmp_path: Path, spelling: str) -> None:
    header = ",".join(spelling.format(int(unit[2:])) for unit in ACTION_UNITS)
    (tmp_path / "t.csv").write_text(f"image,{header}\nv/00001.jpg,1.00,0,1,0,1,0,1,0,1,0,1,NA\n")
    annotations = read(tmp_path / "t.csv")
    assert annotations.index.select(ACTION_UNITS).row(0) == (1, 0) * 5 + (1, None)
    assert any("read under another name" in line and "as AU1" in line for line in annotations.notice_lines())


def test_intensities_need_a_threshold(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,AU1,AU4\na.jpg,0,5\nb.jpg,1,2\nc.jpg,9,\n")
    with pytest.raises(InputError, match=r"t.csv:2: AU4 is '5'.*--au-threshold 2 makes intensities of 2 and above"):
        read(tmp_path / "t.csv")
    index = read(tmp_path / "t.csv", au_threshold=2).index
    assert index.select("AU1", "AU4").rows() == [(0, 1), (0, 1), (None, None)]
    (tmp_path / "r.csv").write_text("image,AU01_r,AU02_r,AU02_c\na.jpg,0.3,4.9,0\n")
    with pytest.raises(InputError, match=r"AU01_r is '0.3'"):
        read(tmp_path / "r.csv")
    assert read(tmp_path / "r.csv", au_threshold=0.2).index.select("AU1", "AU2").row(0) == (1, 0)


def test_a_column_near_a_known_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,valance,arousal,AU17\na.jpg,0.1,0.2,1\n")
    annotations = read(tmp_path / "t.csv")
    assert annotations.index["valence"].to_list() == [None]
    assert any("'valance', near valence" in line for line in annotations.notice_lines())


@pytest.mark.parametrize("word", ["NA", "n/a", "None", "null", "NaN", "", '""', " ", "-", "?", "#N/A"])
def test_words_for_missing(tmp_path: Path, word: str) -> None:
    columns = ",".join([word] * 4)
    (tmp_path / "t.csv").write_text(f"image,valence,arousal,expression,AU1\na.jpg,0.1,0.2,3,1\nb.jpg,{columns}\n")
    index = read(tmp_path / "t.csv").index
    assert index.select("valence", "arousal", "expression", "AU1").row(1) == (None,) * 4


def test_words_for_splits(tmp_path: Path) -> None:
    words = ["Training", "train", "VALID", "validation", "Test", "NA"]
    (tmp_path / "t.csv").write_text("image,Usage\n" + "".join(f"{i}.jpg,{word}\n" for i, word in enumerate(words)))
    assert read(tmp_path / "t.csv").index["split"].to_list() == ["train", "train", "val", "val", "test", None]
    for name, split in (("train_labels.csv", "train"), ("validation.csv", "val"), ("trainer.csv", None)):
        (tmp_path / name).write_text("image,valence\na.jpg,0\n")
        assert read(tmp_path / name).index["split"].to_list() == [split]


def test_names_and_places_of_images(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for name in ("v/00001.jpg", "v/00002.png", "w/deep/00003.JPG", "x.webp", "twice.png", "twice.jpg", "f/g/flat.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    names = [
        (f"{root.as_posix()}/v/00001.jpg", "v/00001.jpg"),
        ("v\\00002.jpg", "v/00002.png"),
        ("w/deep/00003.jpg", "w/deep/00003.JPG"),
        ("./x", "x.webp"),
        ("flat.jpeg", "f/g/flat.jpg"),
        ("twice.bmp", None),
        ("v/00009.jpg", None),
    ]
    table = pl.DataFrame({"image": [name for name, _ in names], "other": 0.5, "location": "lab"})
    table.write_csv(tmp_path / "t.csv")
    annotations = read(tmp_path / "t.csv", root)
    existing = [image if there else None for image, there in annotations.index.select("image", "exists").iter_rows()]
    assert existing == [name for _, name in names]
    assert annotations.index["location"].to_list() == ["lab"] * 7
    assert "images found under another ending or in another folder: 4 of 7" in annotations.notice_lines()


@pytest.mark.parametrize("ending", [".png", ".jpeg"])
def test_crops_of_another_kind(video_file: Write, tmp_path: Path, ending: str) -> None:
    root = video_file("a", "va", ["0,0", "0.5,0.5", "0,0"])
    (tmp_path / "images" / "a").mkdir(parents=True)
    for number in (1, 3):
        (tmp_path / "images" / "a" / f"{number:05d}{ending}").touch()
    index = read(root, tmp_path / "images").index
    assert index["image"].to_list() == [f"a/0000{i}{ending}" for i in (1, 2, 3)]
    assert index["exists"].to_list() == [True, False, True]


# Known data sets.

AFFECTNET = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
    "1/a.jpg,0,0,9,9,1;2,1,0.78,-0.05\n1/b.jpg,0,0,9,9,1;2,10,-2,-2\n7/c.jpg,0,0,9,9,1;2,6,-0.5,0.6\n"
    "7/d.jpg,0,0,9,9,1;2,7,-0.4,0.1\n"
)


def test_affectnet_is_read_in_its_own_order(tmp_path: Path) -> None:
    folder = tmp_path / "manual"
    folder.mkdir()
    (folder / "training.csv").write_text(AFFECTNET)
    (folder / "validation.csv").write_text(
        AFFECTNET.replace("1/a.jpg", "1/v.jpg").splitlines()[0] + "\n9/e.jpg,0,0,9,9,1,3,0.1,0.8\n"
    )
    annotations = read(folder)
    assert annotations.index.select("image", "split", "expression", "valence").rows() == [
        ("1/a.jpg", "train", 4, 0.78),
        ("1/b.jpg", "train", None, None),
        ("7/c.jpg", "train", 1, -0.5),
        ("7/d.jpg", "train", 7, -0.4),
        ("9/e.jpg", "val", 6, 0.1),
    ]
    lines = "\n".join(annotations.notice_lines())
    assert "order of affectnet: 0 Neutral, 1 Happiness, 2 Sadness" in lines
    assert "contempt is none of the eight expressions: read as Other" in lines


def test_affectnet_as_arrays(tmp_path: Path) -> None:
    rows = {("train_set", 0): ("1", 0.8, -0.1), ("train_set", 5): ("5", -0.7, 0.4), ("val_set", 2): ("0", 0.0, 0.0)}
    for (folder, number), values in rows.items():
        (tmp_path / folder / "annotations").mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "images").mkdir(exist_ok=True)
        (tmp_path / folder / "images" / f"{number}.jpg").touch()
        for name, value in zip(("exp", "val", "aro"), values, strict=True):
            np.save(tmp_path / folder / "annotations" / f"{number}_{name}.npy", str(value))
    annotations = read(tmp_path)
    assert (annotations.format, annotations.images) == ("affectnet", tmp_path)
    assert annotations.index.select("image", "split", "exists", "expression", "valence").rows() == [
        ("train_set/images/0.jpg", "train", True, 4, 0.8),
        ("train_set/images/5.jpg", "train", True, 2, -0.7),
        ("val_set/images/2.jpg", "val", True, 0, 0.0),
    ]
    assert read(tmp_path / "val_set").index["image"].to_list() == ["images/2.jpg"]


def test_rafdb(tmp_path: Path) -> None:
    images = tmp_path / "basic" / "Image" / "aligned"
    images.mkdir(parents=True)
    (tmp_path / "basic" / "EmoLabel").mkdir()
    names = [f"train_{i:05d}.jpg" for i in range(1, 8)] + ["test_0001.jpg"]
    for name in names:
        (images / name.replace(".", "_aligned.")).touch()
    path = tmp_path / "basic" / "EmoLabel" / "list_patition_label.txt"
    path.write_text("".join(f"{name} {code}\n" for name, code in zip(names, [*range(1, 8), 4], strict=True)))
    for root in (tmp_path / "basic", path):
        annotations = read(root)
        assert annotations.images == images
        codes = [EXPRESSIONS[i] for i in annotations.index["expression"]]
        assert codes == ["Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral", "Happiness"]
        assert annotations.index["exists"].all()
        assert annotations.index["split"].to_list() == ["train"] * 7 + ["test"]
    # As it is copied elsewhere: a folder for each class, and a table.
    (tmp_path / "copy" / "train" / "4").mkdir(parents=True)
    (tmp_path / "copy" / "train" / "4" / "train_00001_aligned.jpg").touch()
    (tmp_path / "copy" / "train_labels.csv").write_text("image,label\ntrain_00001_aligned.jpg,4\n")
    row = read(tmp_path / "copy" / "train_labels.csv", tmp_path / "copy").index.row(0, named=True)
    assert (row["image"], row["expression"], row["split"]) == ("train/4/train_00001_aligned.jpg", 4, "train")
    path.write_text("train_00001.jpg\n")
    with pytest.raises(InputError, match=r"txt:1: 'train_00001.jpg' is no image and class"):
        read(path)


def test_fer2013_writes_its_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48), dtype=np.uint8)
    rows = zip((3, 0, 6), pixels, ("Training", "PublicTest", "PrivateTest"), strict=True)
    text = "".join(f"{code},{' '.join(map(str, p.ravel()))},{usage}\n" for code, p, usage in rows)
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n{text}")
    out = tmp_path / "out" / "fer.parquet"
    assert main(["index", str(tmp_path / "fer2013.csv"), "--out", str(out)]) == 0
    index = load_index(out)
    assert index.select("image", "split", "exists", "expression").rows() == [
        ("fer0000000.png", "train", True, 4),
        ("fer0000001.png", "val", True, 1),
        ("fer0000002.png", "test", True, 0),
    ]
    written = [cv2.imread(str(tmp_path / "out" / "fer" / name), cv2.IMREAD_UNCHANGED) for name in index["image"]]
    np.testing.assert_array_equal(written, pixels)
    assert "3 pictures written" in capsys.readouterr().out


def test_ferplus_takes_the_most_voted_class(tmp_path: Path) -> None:
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    votes = ["1,9,0,0,0,0,0,0,0,0", "5,0,0,5,0,0,0,0,0,0", "0,0,0,0,0,0,0,8,1,1", "0,0,1,0,0,0,0,0,9,0"]
    votes = [f"fer000000{i}.png,{row}" for i, row in enumerate(votes)] + [",0,0,0,0,0,0,0,0,0,10"]
    (tmp_path / "fer2013new.csv").write_text("\n".join([header, *(f"Training,{row}" for row in votes)]) + "\n")
    index = read(tmp_path / "fer2013new.csv").index
    assert index.select("image", "split", "expression").rows() == [
        ("fer0000000.png", "train", 4), ("fer0000001.png", "train", None), ("fer0000002.png", "train", 7),
        ("fer0000003.png", "train", None)
    ]  # fmt: skip


def test_disfa_is_active_from_two(tmp_path: Path) -> None:
    for video in ("SN001", "SN002"):
        for unit, values in ((1, [0, 1, 2]), (12, [5, 0, 3]), (17, [0, 0, 0])):
            path = tmp_path / "ActionUnit_Labels" / video / f"{video}_au{unit}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{i},{value}\n" for i, value in enumerate(values, 1)))
    annotations = read(tmp_path / "ActionUnit_Labels")
    assert annotations.index.filter(video="SN002").select("image", "frame", "AU1", "AU2", "AU12").rows() == [
        ("SN002/00001.jpg", 1, 0, None, 1),
        ("SN002/00002.jpg", 2, 0, None, 0),
        ("SN002/00003.jpg", 3, 1, None, 1),
    ]
    assert any("active from intensity 2; --au-threshold changes it" in line for line in annotations.notice_lines())
    assert read(tmp_path, au_threshold=3).index["AU12"].to_list() == [1, 0, 1] * 2


def test_a_table_like_emotionets(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "URL,orig. URL, AU 1, AU 12, AU 43\nhttp://host/a/0001/x.jpg,http://o/y.jpg,1,999,0\nhttp://host/z.jpg,,0,1,999\n"
    )
    index = read(tmp_path / "t.csv").index
    assert index.select("image", "AU1", "AU12").rows() == [("x.jpg", 1, None), ("z.jpg", 0, 1)]


def test_a_folder_per_class(tmp_path: Path) -> None:
    for name in ("train/angry/im1.png", "train/happy/im2.png", "test/happy/im1.png", "test/surprise/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    annotations = read(tmp_path)
    assert (annotations.format, annotations.images) == ("folders", tmp_path)
    assert annotations.index.select("image", "split", "exists", "expression").rows() == [
        ("test/happy/im1.png", "test", True, 4), ("train/angry/im1.png", "train", True, 1),
        ("train/happy/im2.png", "train", True, 4)
    ]  # fmt: skip
    assert read(tmp_path / "train").index["expression"].to_list() == [1, 4]
    (tmp_path / "train" / "cats").mkdir()
    with pytest.raises(InputError, match="holds no annotations"):
        read(tmp_path)


def test_another_order_of_classes_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    affectnet = {1: 0.6, 2: -0.6, 6: -0.4}
    text = "".join(
        f"{i}.jpg,{code},{affectnet[code] + rng.normal(0, 0.2):.3f}\n" for i, code in enumerate([1, 2, 6] * 9)
    )
    (tmp_path / "t.csv").write_text(f"image,expression,valence\n{text}")
    assert main(["index", str(tmp_path / "t.csv"), "--out", str(tmp_path / "i.parquet")]) == 0
    assert main(["stats", str(tmp_path / "t.csv")]) == 0
    assert (
        len(re.findall("contradict valence: Anger has a mean valence of \\+0.6.*affectnet", capsys.readouterr().out))
        == 2
    )
    index = read(tmp_path / "t.csv", None, "affectnet").index
    assert contradiction_lines(index) == []
    assert [EXPRESSIONS[code] for code in index["expression"][:3]] == ["Happiness", "Sadness", "Anger"]


def test_what_is_assumed_is_said_wherever_a_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,AU01\na.jpg,1\n")
    with pytest.warns(UserWarning, match="'AU01' as AU1"):
        load_index(tmp_path / "t.csv")


def test_columnar_files_are_read_whatever_their_types_and_names(tmp_path: Path) -> None:
    table = pl.DataFrame({"image": ["a/00001.jpg"], "valence": [0.25], "arousal": [-0.5], "expression": ["Happy"]})
    categories = table.with_columns(pl.col("image", "expression").cast(pl.Categorical))
    categories.write_parquet(tmp_path / "t.csv")
    table.with_columns(expression=pl.col("expression").cast(pl.Enum(["Sad", "Happy"]))).write_ipc(
        tmp_path / "t.feather"
    )
    for name in ("t.csv", "t.feather"):
        assert label_rows(read(tmp_path / name).index) == [("a/00001.jpg", 0.25, -0.5, 4)]
    table.with_columns(valence=pl.lit([[0.1, 0.2]])).write_parquet(tmp_path / "lists.parquet")
    with pytest.raises(InputError, match="valence is 'a list or record in one cell'"):
        read(tmp_path / "lists.parquet")
    (tmp_path / "t.zip").write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match="is packed; unpack it first"):
        read(tmp_path / "t.zip")


@pytest.mark.parametrize(
    ("text", "rows", "notice"),
    [
        ("image,valence,arousal,expression\na.jpg,-1,-1,-1\nb.jpg,-1,0,-1\n",
         [("a.jpg", None, None, None), ("b.jpg", -1.0, 0.0, None)], "where the expression is -1, too"),
        ("image,valence,arousal,expression\na.jpg,-9,999,-1\n", [("a.jpg", None, None, None)], "-9 and the like"),
        ("image,valence,arousal,expression\na.jpg,\u2014,#NV,<NA>\n", [("a.jpg", None, None, None)], ""),
        ("image,expression\na.jpg,FEA\nb.jpg,Sorrow\nc.jpg,3.0\nd.jpg,\"3,0\"\n",
         [("a.jpg", None, None, 3), ("b.jpg", None, None, 5), ("c.jpg", None, None, 3), ("d.jpg", None, None, 3)], ""),
        ("image,Neutral,Angry,Disgust,Fear,Happy,Sad,Surprise\na.jpg,0,0,0,0,1,0,0\nb.jpg,1,1,0,0,0,0,0\n",
         [("a.jpg", None, None, 4), ("b.jpg", None, None, None)], "the largest of the columns of classes"),
        ("image,valence\na.jpg,0.5\na.jpg,0.5\nb.jpg,0.1\nb.jpg,0.2\n",
         [("a.jpg", 0.5, None, None), ("b.jpg", 0.1, None, None), ("b.jpg", 0.2, None, None)], "are read once"),
        ("image,valence,arousal\na.jpg,0.5,0.5\nb.jpg,0.1\n",
         [("a.jpg", 0.5, 0.5, None), ("b.jpg", 0.1, None, None)], "fewer fields than the header"),
    ],
)  # fmt: skip
def test_labels_as_people_write_them(tmp_path: Path, text: str, rows: list[tuple[object, ...]], notice: str) -> None:
    (tmp_path / "t.csv").write_text(text, "utf-8")
    annotations = read(tmp_path / "t.csv")
    assert label_rows(annotations.index) == rows
    assert notice in " ".join(annotations.notices.lines())


@pytest.mark.parametrize(
    ("cells", "units"),
    [
        (["Yes", "no", "TRUE", "x"], [1, 0, 1, 1]),
        (["85%", "3%", "", "50 %"], [1, 0, None, 1]),
        (["1", "0", "-1", "999"], [1, 0, None, None]),
    ],
)
def test_action_units_as_people_write_them(tmp_path: Path, cells: list[str], units: list[int | None]) -> None:
    (tmp_path / "t.csv").write_text("image,AU12\n" + "".join(f"{i}.jpg,{cell}\n" for i, cell in enumerate(cells)))
    assert read(tmp_path / "t.csv").index["AU12"].to_list() == units


def test_one_and_minus_one_alone_could_mean_two_things(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,AU12\na.jpg,1\nb.jpg,-1\n")
    with pytest.raises(InputError, match="AU12 is '-1'"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize("header", ["image,valence,valence", "image,valence,Valence", "image, AU1,AU01"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\na.jpg,0,1\n")
    with pytest.raises(InputError, match="remove one of them"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize(("data", "reason"), [(b"", "is empty"), (b"image,valence\n", "no rows below its header")])
def test_a_table_without_rows_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InputError, match=reason):
        read(tmp_path / "t.csv")


def write_files(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def test_affectnet_without_its_header(tmp_path: Path) -> None:
    (tmp_path / "validation.csv").write_text("1/a.jpg,1,2,3,4,1;2;3,1,0.7,0.2\n2/b.jpg,1,2,3,4,1;2;3,8,-2,-2\n")
    annotations = read(tmp_path / "validation.csv")
    assert label_rows(annotations.index) == [("1/a.jpg", 0.7, 0.2, 4), ("2/b.jpg", None, None, None)]
    assert any("no header" in line for line in annotations.notices.lines())


def test_the_list_of_rafdb_in_another_encoding(tmp_path: Path) -> None:
    write_files(tmp_path, {"list_patition_label.txt": "train_00001.jpg\t4\r\n".encode("utf-16")})
    assert read(tmp_path).index["expression"].to_list() == [4]


def test_folders_of_codes_need_the_name_of_the_data_set(tmp_path: Path) -> None:
    write_files(tmp_path, {"train/1/a.jpg": "", "train/5/b.jpg": "", "test/7/c.jpg": ""})
    with pytest.raises(InputError, match="folders named by codes; name the data set with --format"):
        read(tmp_path)
    assert sorted(read(tmp_path, None, "rafdb").index.select("image", "expression").rows()) == [
        ("test/7/c.jpg", 0), ("train/1/a.jpg", 6), ("train/5/b.jpg", 5)
    ]  # fmt: skip


@pytest.mark.parametrize("header", ["emotion,pixels", "emotion, Usage, pixels", "pixels;emotion;Usage"])
def test_fer2013_in_other_orders_of_columns(tmp_path: Path, header: str) -> None:
    cells = {"emotion": "3", "pixels": " ".join(["9"] * 16), "Usage": "Training"}
    row = [cells[name.strip()] for name in re.split("[,;]", header)]
    separator = ";" if ";" in header else ","
    (tmp_path / "fer.csv").write_text(f"{header}\n{separator.join(row)}\n")
    assert main(["index", str(tmp_path / "fer.csv"), "--out", str(tmp_path / "o.parquet")]) == 0
    index = load_index(tmp_path / "o.parquet")
    assert index.select("expression", "exists").rows() == [(4, True)]


@pytest.mark.parametrize("pixels", ["1 2 x 4", "1 2 3 999", "1 2 3"])
def test_pixels_of_fer2013_that_are_none(tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fer.csv").write_text(f"emotion,pixels\n3,{pixels}\n")
    assert main(["index", str(tmp_path / "fer.csv"), "--out", str(tmp_path / "o.parquet")]) == 2
    assert "fer.csv: row 1 holds" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1,0\r\n2,3\r\n\r\n", "1 0\n2 3\n", "frame,au\n1,0\n2,3\n", "1\t0\n2\t3.0\n"])
def test_disfa_as_others_save_it(tmp_path: Path, text: str) -> None:
    write_files(tmp_path, {"SN001/SN001_au12.txt": text})
    assert read(tmp_path).index["AU12"].to_list() == [0, 1]
    write_files(tmp_path, {"SN001/SN001_au12.txt": text + "three\n"})
    with pytest.raises(InputError, match=r"SN001_au12.txt:\d: 'three' is no frame and intensity"):
        read(tmp_path)


def test_emotionets_quoted_addresses(tmp_path: Path) -> None:
    (tmp_path / "emotionet.xls").write_text("URL\torig\tAU1\tAU12\n'http://x.org/a/b.jpg'\tc\t999\t1\n")
    index = read(tmp_path / "emotionet.xls").index
    assert index.select("image", "AU1", "AU12").rows() == [("b.jpg", None, 1)]
