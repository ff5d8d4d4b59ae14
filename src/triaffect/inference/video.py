"""Read and write videos frame by frame; a video of any length takes the memory of a few frames."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import av
import av.error
import av.logging
import cv2
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from triaffect.images import MAX_PIXELS, is_animation, read_animation, require_regular_file
from triaffect.inference.frame import DecodedFrame, Frame, orientation
from triaffect.io import InputError
from triaffect.jobs import prefetch

Item = TypeVar("Item")

MP4_SOUND = ("aac", "mp3", "mp3float", "ac3", "eac3", "opus", "libopus", "flac", "alac")
"""Decoders of the sound that an MP4 file may hold."""

# A decoder that is closed waits for its threads, which would wait for Python to log a message.
av.logging.restore_default_callback()
av.logging.set_libav_level(av.logging.PANIC)

_NO_MEDIA = "not a photo or video that can be read; save it as JPEG or MP4"
_TICKS = 90_000  # per second; the clock of MPEG, fine enough for every frame rate


def read_video(path: Path, every: int = 1, fps: float | None = None) -> Generator[Frame]:
    """Decode a video frame by frame, upright as its display matrix says, with the times that it states.

    Args:
        path: Any video that FFmpeg reads; other files that it names are not opened.
        every: Yield every n-th frame.
        fps: Yield at most this number of frames per second of the video.

    Yields:
        Frames; of a damaged video all that can be decoded.

    Raises:
        InputError: It is not a video, or it is damaged: raised after the last frame that decodes, with the place.
    """
    require_regular_file(path)
    if is_animation(path):
        count = 0
        try:
            timed = ((seconds, partial(np.asarray, pixels)) for seconds, pixels in read_animation(path))
            for count, still in enumerate(select_frames(timed, every, fps), 1):  # noqa: B007
                yield still
        except ValueError as error:
            rest = f"; the {count:,} frames that decode are in the result" if count else ""
            raise InputError(f"{path}: {error}{rest}") from None
        return
    with contextlib.ExitStack() as stack:
        try:
            container = _open(path, stack)
        except OSError as error:  # FFmpeg's errors are OSErrors too
            system = error.strerror if error.filename and not isinstance(error, av.error.FFmpegError) else None
            raise InputError(f"{path}: {system or _NO_MEDIA}") from None
        except (av.error.FFmpegError, ValueError, UnicodeError):
            raise InputError(f"{path}: {_NO_MEDIA}") from None
        # The cover picture of a song is not a video.
        moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if container.streams and not moving:
            raise InputError(f"{path}: holds no moving images; give a video")
        if not moving or not moving[0].codec_context:
            raise InputError(f"{path}: {_NO_MEDIA}")
        stream = moving[0]
        stream.thread_type = "AUTO"
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise InputError(f"{path}: {width}x{height}, more than {MAX_PIXELS:,} pixels; shrink it")
        # Also for a size that changes on the way.
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        number, seconds, lasts, start, due, damage = -1, 0.0, 0.0, 0.0, 0.0, ""
        upright = orientation(None)
        rate = float(stream.average_rate or 25)
        for frame in _decode(container, stream):
            if isinstance(frame, str):
                damage = damage or (frame if number >= 0 else "")
                continue
            number += 1
            timestamp = number / rate if frame.time is None else frame.time
            start = timestamp if number == 0 else start
            seconds = timestamp - start
            lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
            if number % every or (fps and seconds < due - 1e-6):
                continue
            due = (int(seconds * fps + 1e-6) + 1) / fps if fps else 0.0
            aspect = float(stream.codec_context.sample_aspect_ratio or stream.sample_aspect_ratio or 1)
            if number == 0:  # asking each frame would keep all of them until the next garbage collection
                upright = orientation(frame.side_data.get("DISPLAYMATRIX"))
            yield DecodedFrame(number, seconds, frame, upright, aspect, lasts)
        if number < 0:
            raise InputError(f"{path}: no frame can be decoded; save it as MP4 (H.264)")
        # Sound may be longer than the images, so the duration of the file counts only if they are alone.
        duration = container.duration if len(container.streams) == 1 else None
        length = float(stream.duration * stream.time_base) if stream.duration else (duration or 0) / av.time_base
        if not damage and seconds + lasts < 0.95 * length - 1:
            damage = f"ends at {seconds + lasts:.1f} s of {length:.1f} s"
        if damage:
            raise InputError(f"{path}: damaged, {damage}; the {number + 1:,} frames that decode are in the result")


def video_seconds(path: Path) -> float:
    """Return how long a video says that it is, in seconds; 0 if it does not say."""
    with contextlib.ExitStack() as stack:
        try:
            return float(_open(path, stack).duration or 0) / av.time_base
        except (OSError, ValueError, UnicodeError):
            return 0.0


def select_frames(
    timed: Iterable[tuple[float, Callable[[], NDArray[np.uint8]]]], every: int = 1, fps: float | None = None
) -> Generator[Frame]:
    """Yield every n-th of some frames, at most `fps` of them per second; only these are decoded.

    Args:
        timed: The time of each frame in seconds, and the function that decodes it.
        every: As for `read_video`.
        fps: As for `read_video`.
    """
    due = 0.0
    for number, (seconds, decode) in enumerate(timed):
        if number % every == 0 and (not fps or seconds >= due - 1e-6):
            due = (int(seconds * fps + 1e-6) + 1) / fps if fps else 0.0
            yield Frame(number, seconds, decode())


def is_video(path: Path) -> bool:
    """Whether a file, whatever its name, holds moving images that FFmpeg can open."""
    try:
        with contextlib.ExitStack() as stack:
            streams = _open(path, stack).streams.video
            return any(s.codec_context and s.width and not s.disposition & Disposition.attached_pic for s in streams)
    except (OSError, ValueError, av.error.FFmpegError):
        return False


def _open(path: Path, stack: contextlib.ExitStack) -> Any:
    """Open the container; other files or addresses that it names (a playlist) are refused."""
    opened: list[IO[bytes]] = []
    with path.open("rb") as file:
        if file.read(4) == b"%PDF":  # FFmpeg would find a picture in it
            raise ValueError("not a video")

    def open_once(url: str, flags: int, options: dict[str, str]) -> IO[bytes]:
        if opened:
            raise OSError("names other files")
        opened.append(stack.enter_context(path.open("rb")))
        return opened[0]

    # Without the file's name: the content alone decides the format.
    options: dict[str, Any] = {"io_open": open_once, "metadata_errors": "replace"}
    try:
        container = av.open("video", **options)
    except TypeError:  # PyAV 19 dropped the option: it always replaces what is not UTF-8
        del options["metadata_errors"]
        container = av.open("video", **options)
    return stack.enter_context(container)


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """Frames, and a string where something did not decode."""
    seconds = 0.0
    try:
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    seconds = frame.time or seconds
                    yield frame
                if packet.is_corrupt:  # several threads decode without an error what the file lacks
                    yield f"unreadable at {seconds:.1f} s (cut off)"
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:  # the next packet may be whole
                yield f"unreadable at {seconds:.1f} s ({error.strerror})"
    except av.error.FFmpegError as error:
        yield f"unreadable after {seconds:.1f} s ({error.strerror})"


def read_camera(number: int, every: int = 1, fps: float | None = None) -> Generator[Frame]:
    """Read a camera until the caller stops; time counts from the first frame.

    Raises:
        InputError: There is no such camera, it returns no image, or it ends by itself.
    """
    device = cv2.VideoCapture(number)
    try:
        count, start, now, due = -1, 0.0, 0.0, 0.0
        while device.isOpened():
            success, image = device.read()
            if not success:
                break
            count += 1
            start = start or time.monotonic()
            now = time.monotonic() - start
            if count % every == 0 and now >= due:
                due = now + 1 / fps if fps else 0.0
                yield Frame(count, now, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))  # type: ignore[arg-type]
        if count < 0:
            raise InputError(f"camera {number}: returns no image; is it plugged in, and may this user open it?")
        raise InputError(
            f"camera {number}: stopped after {now:.1f} s; was it unplugged, or taken by another program? "
            f"The {count + 1:,} frames before are in the result"
        )
    finally:
        device.release()


def read_ahead(source: Generator[Item], depth: int = 2) -> Generator[Item]:
    """Yield the same items, made by a thread that is at most `depth` of them ahead; errors keep their place."""
    end = object()
    items = prefetch(lambda _: next(source, end), itertools.repeat(None), workers=1, depth=depth)
    try:
        for item in items:
            if item is end:
                return
            yield item  # type: ignore[misc]
    finally:
        items.close()  # waits for the thread, which may still be in `source`
        source.close()


class VideoWriter:
    """Write RGB frames (height, width, 3) with their times as H.264 in an MP4 file, all in the size of the first.

    Odd sizes lose their last row or column, which the format cannot store. A frame of another size is made to fit, with
    black borders.

    Args:
        path: The file.
        sound: A video whose sound is copied, as long as the images last; as AAC if MP4 cannot hold it as it is.
    """

    def __init__(self, path: Path, sound: Path | None = None) -> None:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: Any = self._container.add_stream(codec, rate=30)
        self._last, self._duration = -1, 0.0
        self._sound = sound and _Sound(sound, self._container)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._last >= 0:
            self._mux(None)
            if self._sound:
                self._sound.copy(self._last / _TICKS + self._duration)
        if self._sound:
            self._sound.close()
        self._container.close()

    def write(self, image: NDArray[np.uint8] | av.VideoFrame, seconds: float, duration: float = 0.0) -> None:
        """Add a frame at its time; a time that does not increase is moved on by a tick.

        Args:
            image: RGB (height, width, 3), or what `Frame.with_overlays` returns.
            seconds: Its time.
            duration: How long it is shown if no frame follows; 0 if unknown.
        """
        if isinstance(image, np.ndarray):
            frame, shape = None, image.shape[:2]
        else:
            frame, shape = image, (image.height, image.width)
        height, width = (max(2, side // 2 * 2) for side in shape)
        if self._last < 0:
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            # Players take high definition as BT.709 where the file states nothing.
            self._colours: tuple[Any, Any] = "ITU709" if height >= 720 else "ITU601", "MPEG"
            if frame:
                context = self._stream.codec_context
                context.colorspace, context.color_range = self._colours = frame.colorspace, frame.color_range
            self._stream.codec_context.time_base = Fraction(1, _TICKS)
            self._stream.options = {
                "preset": "superfast",
                "crf": "21",
                "bf": "0",
            }  # in order: the last one says how long it lasts
        if frame is None or (width, height) != (self._stream.width, self._stream.height):
            pixels: Any = frame.to_ndarray(format="rgb24") if frame else image
            fitted = _fit(pixels, self._stream.width, self._stream.height)
            space, levels = self._colours
            frame = av.VideoFrame.from_ndarray(fitted, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=space, dst_color_range=levels)
        self._last, self._duration = max(self._last + 1, round(seconds * _TICKS)), duration
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._mux(frame)
        if self._sound:
            self._sound.copy(seconds)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            if packet.pts == self._last and self._duration:
                packet.duration = round(self._duration * _TICKS)
            self._container.mux(packet)


def _fit(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The image cut by at most a row and a column, or shrunk or enlarged into black borders, to a size."""
    if pixels.shape[0] - height in (0, 1) and pixels.shape[1] - width in (0, 1):
        return np.ascontiguousarray(pixels[:height, :width])
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    inner = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:height, :width]
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas


class _Sound:
    """The sound of a video, on its way into another one, whose time 0 is the first image of the first one."""

    def __init__(self, path: Path, target: Any) -> None:
        self._stack, self._packets, self._waiting = contextlib.ExitStack(), iter(()), None
        with contextlib.suppress(OSError, av.error.FFmpegError, ValueError):
            source = _open(path, self._stack)
            if not source.streams.audio or not source.streams.video:
                return
            sound, images = source.streams.audio[0], source.streams.video[0]
            self._start = float((images.start_time or 0) * images.time_base)
            self._as_it_is = sound.codec_context.name in MP4_SOUND
            if self._as_it_is:
                self._stream = target.add_stream_from_template(sound)
            else:
                self._stream = target.add_stream("aac", rate=sound.rate, layout=sound.layout.name)
            self._target, self._packets = target, source.demux(sound)

    def copy(self, seconds: float) -> None:
        """Copy what sounds before a time."""
        with contextlib.suppress(av.error.FFmpegError):  # damaged: the images go on in silence
            while packet := self._waiting or next(self._packets, None):
                self._waiting = packet
                if packet.pts is None:  # the end
                    self._packets, self._waiting = iter(()), None
                    return
                if packet.pts * packet.time_base - self._start > seconds:
                    return
                self._waiting = None
                if packet.pts * packet.time_base >= self._start:
                    self._write(packet)
            return
        self._packets, self._waiting = iter(()), None

    def _write(self, packet: Any) -> None:
        shift = round(self._start / packet.time_base)
        if self._as_it_is:
            packet.stream, packet.pts = self._stream, packet.pts - shift
            packet.dts = packet.pts
            self._target.mux(packet)
            return
        for frame in packet.decode():
            frame.pts = None if frame.pts is None else frame.pts - round(self._start / frame.time_base)
            self._target.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write the rest and close the source."""
        with contextlib.suppress(av.error.FFmpegError, AttributeError):
            if not self._as_it_is:
                self._target.mux(self._stream.encode(None))
        self._stack.close()
