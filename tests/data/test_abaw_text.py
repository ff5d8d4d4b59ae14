"""The readers of one file: legal irregularities, illegal values by line, and both parsers against each other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from raw_layout import HEADERS, MTL, ZEROS
from triaffect.data.abaw_text import (
    LineFormat,
    _parse_csv,
    _parse_digits,
    _parse_lines,
    _split_lines,
    detect_kind,
    missing_to_null,
    read_list,
    read_rows,
    read_video,
    read_videos,
)
from triaffect.io import InputError, Notices
from triaffect.labels import ACTION_UNITS, LABEL_COLUMNS, VA

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that hypothesis may write again and again."""
    return tmp_path_factory.mktemp("formats") / "video.txt"


def test_each_task_reads_its_own_line_and_missing_sign(text_file: Write) -> None:
    va = read_video(text_file("a.txt", HEADERS["va"], "0.5,-0.25", "-5,0.1", "-5.0,-5.00", "-1,1"), "va")
    assert va.rows() == [(0.5, -0.25), (-5, 0.1), (-5, -5), (-1, 1)]
    assert missing_to_null(va).rows() == [(0.5, -0.25), (None, 0.1), (None, None), (-1, 1)]
    expr = read_video(text_file("b.txt", HEADERS["expr"], "0", "7", "-1"), "expr")
    assert missing_to_null(expr).rows() == [(0,), (7,), (None,)]
    au = read_video(text_file("c.txt", HEADERS["au"], ZEROS, "1,-1" + ",0" * 10), "au")
    assert missing_to_null(au).rows() == [(0,) * 12, (1, None) + (0,) * 10]
    for task, table in (("va", va), ("expr", expr), ("au", au)):
        dtype = pl.Float64 if task == "va" else pl.Int8
        assert dict(table.schema) == dict.fromkeys(LABEL_COLUMNS[task], dtype)


def test_the_first_row_is_read_without_a_header(text_file: Write) -> None:
    # Published readers drop line 1 whatever it holds.
    assert read_video(text_file("a.txt", "0.1,0.2", "0.3,0.4"), "va").rows() == [(0.1, 0.2), (0.3, 0.4)]
    assert read_video(text_file("b.txt", "3", "4"), "expr").rows() == [(3,), (4,)]
    assert len(read_video(text_file("c.txt", ZEROS, ZEROS), "au")) == 2
    assert read_rows(text_file("d.txt", f"v/00001.jpg,0.1,0.2,3,{ZEROS}")).height == 1


def test_headers_of_the_first_two_editions(text_file: Write) -> None:
    notices = Notices()
    seven = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise"
    assert read_video(text_file("a.txt", seven, "6"), "expr").rows() == [(6,)]
    with pytest.raises(InputError, match=r"b\.txt:2: expression is '7'; write 0 to 6"):
        read_video(text_file("b.txt", seven, "7"), "expr")
    eight = text_file("c.txt", "AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25", "1,0,1,0,1,0,1,1", "0,-1,0,0,0,0,0,0")
    bare = text_file("d.txt", "1,0,1,0,1,0,1,1", "0,-1,0,0,0,0,0,0")
    expected = dict(zip(("AU1", "AU2", "AU4", "AU6", "AU12", "AU15", "AU25"), (1, 0, 1, 0, 1, 0, 1), strict=True))
    for path in (eight, bare):
        values = read_video(path, "au", notices)
        assert values.row(0, named=True) == expected
        assert values["AU2"][1] == -1
    assert notices == {"AU20 is not one of the twelve AUs: dropped": [str(eight), str(bare)]}


def test_columns_are_read_by_name(text_file: Write) -> None:
    assert read_video(text_file("a.txt", "Arousal, Valence", "0.1,0.2"), "va").select(VA).rows() == [(0.2, 0.1)]
    turned = text_file("b.txt", ",".join(reversed(ACTION_UNITS)), "1" + ",0" * 11)
    assert read_video(turned, "au").select(ACTION_UNITS).rows() == [(0,) * 11 + (1,)]


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        ("va", ["0.1,0.2", "1.5,0"], ":3: valence is '1.5'; write a number from -1 to 1, or -5 where missing"),
        ("va", ["0.1,nan"], ":2: arousal is 'nan'"),
        ("va", ["0.1"], ":2: has 1 values where 2 are expected"),
        ("va", ["0.1,0.2,0.3"], ":2: has 3 values"),
        ("va", ["0.1,"], ":2: has 1 values"),
        ("va", [",0.1"], ":2: valence is ''"),
        ("va", ["0.1;0.2"], ":2: has 1 values"),
        ("expr", ["1", "", "8"], ":4: expression is '8'; write 0 to 7, or -1 where missing"),
        ("expr", ["1.5"], ":2: expression is '1.5'"),
        ("expr", ["-5"], ":2: expression is '-5'"),
        ("expr", ["\u0663"], ":2: expression is"),  # a digit, elsewhere in Unicode
        ("au", ["2" + ",0" * 11], ":2: AU1 is '2'; write 0 to 1, or -1 where missing"),
        ("au", ["0" + ",0" * 10], ":2: has 11 values where 12"),
        ("au", ["0" + ",0" * 10 + ",x"], ":2: AU26 is 'x'"),
    ],
)
def test_an_illegal_line_is_named(text_file: Write, task: str, lines: list[str], message: str) -> None:
    path = text_file("video.txt", HEADERS[task], *lines)
    with pytest.raises(InputError, match=re.escape(f"{path}{message}")) as caught:
        read_video(path, task)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "first", "message"),
    [
        ("expr", HEADERS["va"], "it looks like va"),
        ("va", HEADERS["au"], "it looks like au"),
        ("au", "AU3,AU5", f"expected the header {HEADERS['au']}"),
        ("expr", "Happiness,Neutral", "expected the header Neutral"),
        ("va", "hello", "expected the header valence,arousal"),
        ("au", "0,1,0", "no row of 12 or 8 fields"),
    ],
)
def test_an_unknown_header_is_named(text_file: Write, task: str, first: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"video\.txt:1: .*{re.escape(message)}"):
        read_video(text_file("video.txt", first, "0"), task)


def test_bytes_that_are_not_utf8_are_named(text_file: Write) -> None:
    with pytest.raises(InputError, match=r"a\.txt:3: byte 0xe9 is not UTF-8"):
        read_video(text_file("a.txt", data=b"valence,arousal\n0,0\n0,\xe9\n"), "va")
    with pytest.raises(InputError, match=r"b\.txt:1: is UTF-16"):
        read_video(text_file("b.txt", data="valence,arousal\n0,0\n".encode("utf-16")), "va")
    with pytest.raises(InputError, match=r"c\.txt:2: byte 0xff"):
        read_video(text_file("c.txt", data=HEADERS["expr"].encode() + b"\n\xff\n"), "expr")
    with pytest.raises(InputError, match=r"d\.txt: cannot be read"):
        read_video("d.txt", "va")


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b" \r\n", b"valence,arousal", b"valence,arousal\n\n"])
def test_a_file_without_rows_is_no_error(text_file: Write, data: bytes) -> None:
    assert read_video(text_file("video.txt", data=data), "va").shape == (0, 2)


def test_blank_lines_are_not_frames_and_are_reported(text_file: Write) -> None:
    notices = Notices()
    path = text_file("video.txt", "", HEADERS["expr"], "1", "", "  ", "2")
    assert read_video(path, "expr", notices).rows() == [(1,), (2,)]
    assert notices == {"blank lines skipped": [str(path)]}


def test_s_aff_wild2_rows_are_not_an_eleven_level_index(text_file: Write) -> None:
    path = text_file(
        "training_set_annotations.txt",
        MTL,
        f"12/00001.jpg,-0.01266666666667,0.0,7,{ZEROS}",
        f"12/00041.jpg,-5.0,-5.0,-1,0,0,0,0,1{',-1' * 7}",
        f"12/00041.jpg,-5.0,-5.0,-1,0,0,0,0,1{',-1' * 7}",
    )
    rows = read_rows(path)
    assert rows.columns == ["image", "video", "frame", *VA, "expression", *ACTION_UNITS]
    assert rows.height == 3
    assert rows.row(0) == ("12/00001.jpg", "12", 1, -0.01266666666667, 0.0, 7, *[0] * 12)
    assert rows.row(1) == ("12/00041.jpg", "12", 41, None, None, None, 0, 0, 0, 0, 1, *[None] * 7)
    assert rows.row(1) == rows.row(2)


@pytest.mark.parametrize(
    "image",
    [
        "/etc/00001.jpg",
        "../12/00001.jpg",
        "12/../../x/00001.jpg",
        "C:/x/00001.jpg",
        "a\\b/00001.jpg",
        "x",
        "12/a.jpg",
        "",
    ],
)
def test_an_image_never_leaves_its_root(text_file: Write, image: str) -> None:
    path = text_file("rows.txt", MTL, f"12/00001.jpg,0,0,0,{ZEROS}", f"{image},0,0,0,{ZEROS}")
    with pytest.raises(InputError, match=rf"rows\.txt:3: {re.escape(repr(image))} is no image"):
        read_rows(path)
    if image:
        with pytest.raises(InputError, match=r"list\.txt:2: "):
            read_list(text_file("list.txt", "12/00001.jpg", image))


def test_rows_with_a_wrong_field_are_named(text_file: Write) -> None:
    with pytest.raises(InputError, match=r":3: has 14 values where 15"):
        read_rows(text_file("a.txt", MTL, f"v/00001.jpg,0,0,0,{ZEROS}", f"v/00002.jpg,0,0,{ZEROS}"))
    with pytest.raises(InputError, match=r":2: AU26 is '2'"):
        read_rows(text_file("b.txt", MTL, f"v/00001.jpg,0,0,0{',0' * 11},2"))
    with pytest.raises(InputError, match=r":1: .* expected the header image,valence"):
        read_rows(text_file("c.txt", "v/00001.jpg,0,0,0"))


@pytest.mark.parametrize(
    "text",
    [
        "image,valence,arousal,expression,aus\nv/00001.jpg\nw/00002.jpg\nv/00001.jpg\n",
        "v/00001.jpg,\nw/00002.jpg,\nv/00001.jpg,\n",  # ABAW7's MTL.txt
        "image_location,valence,arousal\r\nv/00001.jpg,,\r\n\r\nw/00002.jpg,,\r\nv/00001.jpg,,",
        "image_location,AU1\nv/00001.jpg,0\nw/00002.jpg,1\nv/00001.jpg,0",
    ],
)
def test_release_lists_keep_order_and_duplicates(text_file: Write, text: str) -> None:
    path = text_file("list.txt", data=text.encode())
    assert detect_kind(path) in ("list", "rows")  # rows, with the values of a sample submission
    assert read_list(path).rows() == [("v/00001.jpg", "v", 1), ("w/00002.jpg", "w", 2), ("v/00001.jpg", "v", 1)]


def test_a_release_list_with_some_labels_is_refused(text_file: Write) -> None:
    with pytest.raises(InputError, match=r":3: has 2 values after the image, the first row 0"):
        read_list(text_file("list.txt", MTL, "v/00001.jpg,", "v/00002.jpg,0.5,0.5"))


def test_release_lists_of_videos(text_file: Write) -> None:
    path = text_file("VA_test_set_release.txt", "1-30-1280x720", "video2_left,120")
    assert detect_kind(path) == "videos"
    assert read_videos(path) == {"1-30-1280x720": None, "video2_left": 120}
    with pytest.raises(InputError, match=r":2: '\.\./x' is no video"):
        read_videos(text_file("b.txt", "v", "../x"))


def test_detect_kind(text_file: Write) -> None:
    for task, header in HEADERS.items():
        assert detect_kind(text_file("a.txt", header, "0")) == task
    assert detect_kind(text_file("b.txt", MTL, f"v/00001.jpg,0,0,0,{ZEROS}")) == "rows"
    assert detect_kind(text_file("c.txt", "This data set is under an EULA.", "Do not share.")) is None
    assert detect_kind(text_file("d.txt", "")) is None


# The fast parser and the careful one.

VALUES = {
    "va": st.tuples(*[st.one_of(st.just(-5.0), st.floats(-1, 1).map(lambda x: round(x, 14)))] * 2),
    "expr": st.tuples(st.integers(-1, 7)),
    "au": st.tuples(*[st.integers(-1, 1)] * 12),
}
DIALECT = st.fixed_dictionaries(
    {
        "bom": st.booleans(),
        "header": st.booleans(),
        "end": st.sampled_from(["\n", "\r\n", "\r"]),
        "final": st.booleans(),
        "comma": st.booleans(),
        "space": st.booleans(),
        "floats": st.booleans(),
        "blank": st.booleans(),
    }
)


def spelled(task: str, rows: list[tuple[float, ...]], dialect: dict[str, bool | str]) -> bytes:
    tail = ("," if dialect["comma"] else "") + (" " if dialect["space"] else "")
    lines = [HEADERS[task] + tail] if dialect["header"] else []
    for row in rows:
        cells = [f"{x:.14f}" if task == "va" else f"{float(x)}" if dialect["floats"] else f"{x}" for x in row]
        lines.append(", ".join(cells) + tail if dialect["space"] else ",".join(cells) + tail)
        lines += [""] * bool(dialect["blank"])
    end = str(dialect["end"])
    text = end.join(lines) + (end if dialect["final"] else "")
    return (b"\xef\xbb\xbf" if dialect["bom"] else b"") + text.encode()


@pytest.mark.parametrize("task", ["va", "expr", "au"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), dialect=DIALECT)
def test_every_dialect_reads_as_the_values_that_were_written(
    one_file: Path, task: str, data: st.DataObject, dialect: dict
) -> None:
    rows = data.draw(st.lists(VALUES[task], min_size=1, max_size=8))
    one_file.write_bytes(spelled(task, rows, dialect))
    assert read_video(one_file, task).rows() == rows


def line_by_line(body: bytes, task: str) -> pl.DataFrame | None:
    try:
        return _parse_lines(_split_lines(body, "x"), LineFormat(LABEL_COLUMNS[task], False), "x")
    except InputError:
        return None


def by_column(body: bytes, task: str) -> pl.DataFrame | None:
    line_format = LineFormat(LABEL_COLUMNS[task], False)
    return _parse_csv(body, line_format, False) if task == "va" else _parse_digits(body, line_format)


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="01578-+., \n\re\xa0", max_size=30), st.sampled_from(["va", "expr"]))
def test_the_fast_parser_reads_nothing_that_the_careful_one_refuses(text: str, task: str) -> None:
    body = (text.rstrip() + "\n").encode()
    fast = by_column(body, task)
    if fast is not None:
        careful = line_by_line(body, task)
        assert careful is not None
        assert_frame_equal(fast, careful)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["0", "1", "-1"]), min_size=24, max_size=24), st.integers(0, 200), st.binary(max_size=2)
)
def test_one_wrong_byte_in_an_au_file_is_never_overlooked(fields: list[str], position: int, patch: bytes) -> None:
    body = (",".join(fields[:12]) + "\n" + ",".join(fields[12:]) + "\n").encode()
    body = body[:position] + patch + body[position + len(patch) :]
    fast = by_column(body, "au")
    if fast is not None:
        careful = line_by_line(body, "au")
        assert careful is not None
        assert_frame_equal(fast, careful)


ROW = st.tuples(st.integers(1, 120_000), VALUES["va"], VALUES["expr"], VALUES["au"])


@settings(max_examples=30, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=6), st.booleans())
def test_both_parsers_read_rows_alike(one_file: Path, rows: list, header: bool) -> None:
    lines = [f"v/{n:05d}.jpg,{v},{a},{e[0]},{','.join(map(str, au))}" for n, (v, a), e, au in rows]
    plain = "\n".join([MTL] * header + lines) + "\n"
    line_format = LineFormat((*VA, "expression", *ACTION_UNITS), header)
    fast = _parse_csv("".join(f"{line}\n" for line in lines).encode(), line_format, True)
    one_file.write_text(plain.replace(",", " , "))
    odd = read_rows(one_file)
    if not any("e" in line.rpartition("/")[2] for line in lines):  # 1e-05 is for the careful path
        assert fast is not None
        assert_frame_equal(missing_to_null(fast), odd.drop("video", "frame"))
    assert odd["frame"].to_list() == [n for n, *_ in rows]
    expected = [None if v == -5 else v for _, (v, _), *_ in rows]
    assert odd["valence"].to_list() == expected
    one_file.write_text(plain)
    assert_frame_equal(read_rows(one_file), odd)
    assert odd.select(pl.col("AU26").null_count()).item() == sum(au[-1] == -1 for *_, au in rows)
