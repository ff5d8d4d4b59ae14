"""Frames in, annotated frames out; a video of any length takes the memory of a few frames."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, TypeVar

import av
import av.error
import cv2
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from triaffect.images import MAX_PIXELS
from triaffect.inference.photos import regular
from triaffect.io import InputError

T = TypeVar("T")
_TICKS = 90_000  # a second; the clock of MPEG, fine enough for every frame rate


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its number from 0, its time in seconds from the first one, its RGB uint8 pixels (height, width, 3)."""

    number: int
    time: float
    pixels: NDArray[np.uint8]


def frames(path: Path, every: int = 1, fps: float | None = None) -> Generator[Frame]:
    """Decodes a video frame by frame, upright as its display matrix says, with the times that it carries.

    Args:
        path: Any video that FFmpeg reads; other files that it names are not opened.
        every: Only each so-manieth frame.
        fps: At most so many frames a second of the video.

    Yields:
        Frames; what a damaged video still holds, too.

    Raises:
        InputError: It is no video, or it is damaged: raised after the last frame that decodes, saying where it broke.
    """
    regular(path)
    with contextlib.ExitStack() as stack:
        try:
            container = _open(path, stack)
        except OSError as error:  # FFmpeg's errors are OSErrors too
            system = error.strerror if error.filename and not isinstance(error, av.error.FFmpegError) else None
            raise InputError(f"{path}: {system or 'not a photo or video that can be read'}") from None
        except (av.error.FFmpegError, ValueError, UnicodeError):
            raise InputError(f"{path}: not a photo or video that can be read") from None
        # The cover picture of a song is no video.
        moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if container.streams and not moving:
            raise InputError(f"{path}: holds no moving pictures; give a video")
        if not moving or not moving[0].codec_context:
            raise InputError(f"{path}: not a photo or video that can be read")
        stream = moving[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise InputError(f"{path}: {width}x{height}, more than {MAX_PIXELS:,} pixels")
        # Also for a size that changes on the way.
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        number, now, start, due, trouble = -1, 0.0, 0.0, 0.0, ""
        rate = float(stream.average_rate or 25)
        for got in _decoded(container, stream):
            if isinstance(got, str):
                trouble = trouble or (got if number >= 0 else "")
                continue
            number += 1
            stamp = number / rate if got.time is None else got.time
            start = stamp if number == 0 else start
            now = stamp - start
            if number % every or (fps and now < due - 1e-6):
                continue
            due = (int(now * fps + 1e-6) + 1) / fps if fps else 0.0
            pixels = got.to_ndarray(format="rgb24")
            if got.rotation:
                pixels = np.ascontiguousarray(np.rot90(pixels, got.rotation // 90))
            yield Frame(number, now, pixels)
        if number < 0:
            raise InputError(f"{path}: no frame can be decoded")
        # Sound may be longer than the pictures, so a length of the whole file counts only where they are alone.
        whole = container.duration if len(container.streams) == 1 else None
        length = float(stream.duration * stream.time_base) if stream.duration else (whole or 0) / av.time_base
        if not trouble and now < 0.95 * length - 1:
            trouble = f"ends at {now:.1f} s of {length:.1f} s"
        if trouble:
            raise InputError(f"{path}: damaged, {trouble}; the {number + 1:,} frames that decode are in the result")


def _open(path: Path, stack: contextlib.ExitStack) -> Any:
    """The opened container; a playlist that names other files or addresses finds them refused."""
    opened: list[IO[bytes]] = []

    def only_this(url: str, flags: int, options: dict[str, str]) -> IO[bytes]:
        if opened:
            raise OSError("names other files")
        opened.append(stack.enter_context(path.open("rb")))
        return opened[0]

    # Without the file's name: the content alone decides the format.
    options: dict[str, Any] = {"io_open": only_this, "metadata_errors": "replace"}
    try:
        container = av.open("video", **options)
    except TypeError:  # PyAV 19 dropped the option: it always replaces what is not UTF-8
        del options["metadata_errors"]
        container = av.open("video", **options)
    return stack.enter_context(container)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames, and a string where something did not decode."""
    at = 0.0
    try:
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    at = frame.time or at
                    yield frame
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:  # the next packet may be whole
                yield f"unreadable at {at:.1f} s ({error.strerror})"
    except av.error.FFmpegError as error:
        yield f"unreadable after {at:.1f} s ({error.strerror})"


def camera(index: int, every: int = 1, fps: float | None = None) -> Generator[Frame]:
    """Frames of a camera until it ends or the caller stops; time counts from the first frame.

    Raises:
        InputError: There is no such camera, or it gives no picture.
    """
    device = cv2.VideoCapture(index)
    try:
        number, start, due = -1, 0.0, 0.0
        while device.isOpened():
            fine, picture = device.read()
            if not fine:
                break
            number += 1
            start = start or time.monotonic()
            now = time.monotonic() - start
            if number % every == 0 and now >= due:
                due = now + 1 / fps if fps else 0.0
                yield Frame(number, now, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))  # type: ignore[arg-type]
        if number < 0:
            raise InputError(f"camera {index}: gives no picture; is it plugged in, and may this user open it?")
    finally:
        device.release()


def ahead(source: Generator[T], depth: int = 4) -> Generator[T]:
    """The same items, made by a thread that runs up to `depth` items ahead; errors arrive where they happened."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, source, end) for _ in range(depth))
        try:
            while (item := coming.popleft().result()) is not end:
                coming.append(pool.submit(next, source, end))
                yield item  # type: ignore[misc]
        finally:
            for one in coming:
                one.cancel()
            pool.submit(source.close)  # where it ran, and after what still runs


class Writer:
    """Writes RGB frames (height, width, 3) with their times as H.264 in an MP4 file, all in the size of the first.

    Odd sizes lose their last row or column, which the format cannot hold. Sound is not copied.
    """

    def __init__(self, path: Path) -> None:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: Any = self._container.add_stream(codec, rate=30)
        self._last = -1

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._last >= 0:
            self._container.mux(self._stream.encode())
        self._container.close()

    def write(self, pixels: NDArray[np.uint8], seconds: float) -> None:
        """Adds a frame at its time; times that do not rise are moved a tick on."""
        height, width = (side // 2 * 2 for side in pixels.shape[:2])
        if self._last < 0:
            self._stream.width, self._stream.height, self._stream.pix_fmt = max(2, width), max(2, height), "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, _TICKS)
            self._stream.options = {"preset": "veryfast", "crf": "21"}
        whole = np.ascontiguousarray(pixels[:height, :width])
        if whole.shape[:2] != (self._stream.height, self._stream.width):
            whole = cv2.resize(whole, (self._stream.width, self._stream.height))  # type: ignore[assignment]
        frame = av.VideoFrame.from_ndarray(whole, format="rgb24")
        self._last = max(self._last + 1, round(seconds * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))
