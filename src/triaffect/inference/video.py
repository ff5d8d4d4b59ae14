"""Read videos frame by frame; a video of any length takes the memory of a few frames."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import av
import av.error
import av.logging
import cv2
from av.stream import Disposition

from triaffect.formats import MAX_PIXELS, is_cut_off
from triaffect.images import is_animation, read_animation, require_regular_file
from triaffect.inference.frame import DecodedFrame, Frame, orientation, select_frames
from triaffect.io import InputError

_NO_MEDIA = "not a photo or video that can be read; save it as JPEG or MP4"


def read_video(
    path: Path, every: int = 1, fps: float | None = None, notices: list[str] | None = None
) -> Generator[Frame]:
    """Decode a video frame by frame, upright as its display matrix says, with the times that it states.

    Args:
        path: Any video that FFmpeg reads; other files that it names are not opened.
        every: Yield every n-th frame.
        fps: Yield at most this number of frames per second of the video.
        notices: Receives what a user should know, with the file's name.

    Yields:
        Frames; of a damaged video all that can be decoded.

    Raises:
        InputError: It is not a video, or it is damaged: raised after the last frame that decodes, with the place.
    """
    notices = [] if notices is None else notices
    require_regular_file(path)
    if not path.stat().st_size:
        raise InputError(f"{path}: is empty; copy it again")
    if is_animation(path):
        count = 0
        try:
            for number, seconds, pixels in select_frames(read_animation(path), every, fps):
                yield Frame(number, seconds, pixels)
                count += 1
        except ValueError as error:
            raise InputError(f"{path}: {error}" + (f"; {_in_the_result(count)}" if count else "")) from None
        return
    with contextlib.ExitStack() as stack:
        try:
            container = open_container(path, stack)
        except (OSError, ValueError) as error:  # FFmpeg's errors may be either
            system = None if isinstance(error, av.error.FFmpegError) else getattr(error, "strerror", None)
            raise InputError(f"{path}: {system or _why_unreadable(path)}") from None
        # The cover picture of a song is not a video.
        moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if container.streams and not moving:
            raise InputError(f"{path}: holds no moving images; give a video")
        if not moving or not moving[0].codec_context:
            raise InputError(f"{path}: {_why_unreadable(path)}")
        stream = max(moving, key=lambda one: one.width * one.height)
        if len(moving) > 1:
            notices.append(f"{path}: the largest of its {len(moving)} videos is read, {stream.width}x{stream.height}")
        stream.thread_type = "AUTO"
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise InputError(f"{path}: {width}x{height}, more than {MAX_PIXELS:,} pixels; shrink it")
        # Also for a size that changes on the way.
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        number, seconds, lasts, start, due, damage, sound_end = -1, 0.0, 0.0, 0.0, 0.0, "", 0.0
        upright = orientation(None)
        rate = float(stream.average_rate or 25)
        for frame in _decode(container, stream):
            if isinstance(frame, float):
                sound_end = frame
                continue
            if isinstance(frame, str):
                damage = damage or (frame if number >= 0 else "")
                continue
            number += 1
            timestamp = number / rate if frame.time is None else frame.time
            if number == 0:
                start = timestamp
            elif timestamp - start <= seconds:  # videos put one after the other
                start = timestamp - seconds - (lasts or 1 / rate)
                notices.append(f"{path}: its clock goes back at {seconds:.1f} s; time is counted on from there")
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
            raise InputError(f"{path}: no frame can be decoded; copy it again, or save it as MP4 (H.264)")
        cut_off, last = is_cut_off(path), seconds + lasts
        slack = 0 if cut_off else 1
        of_frames = float(stream.duration * stream.time_base) if stream.duration else 0.0
        of_file = (container.duration or 0) / av.time_base
        missing = (container.start_time or 0) / av.time_base + of_file - max(start + last, sound_end)
        if not damage and (last < 0.95 * of_frames - slack or missing > 0.05 * of_file + slack):
            damage = f"ends at {last:.1f} s of {max(of_frames, last + missing):.1f} s"
        elif not damage and cut_off and number + 1 < stream.frames:
            damage = f"ends after {number + 1:,} of {stream.frames:,} frames"
        if damage:
            raise InputError(f"{path}: damaged, {damage}; {_in_the_result(number + 1)}")


def _why_unreadable(path: Path) -> str:
    return "its end is missing; copy it again" if is_cut_off(path) else _NO_MEDIA


def _in_the_result(count: int) -> str:
    if count == 1:
        return "the frame that decodes is in the result"
    return f"the {count:,} frames that decode are in the result"


def video_seconds(path: Path) -> float:
    """Return how long a video says that it is, in seconds; 0 if it does not say."""
    with contextlib.ExitStack() as stack:
        try:
            return float(open_container(path, stack).duration or 0) / av.time_base
        except (OSError, ValueError, UnicodeError):
            return 0.0


def is_video(path: Path) -> bool:
    """Whether a file, whatever its name, holds moving images that FFmpeg can open."""
    try:
        with contextlib.ExitStack() as stack:
            streams = open_container(path, stack).streams.video
            return any(s.codec_context and s.width and not s.disposition & Disposition.attached_pic for s in streams)
    except (OSError, ValueError, av.error.FFmpegError):
        return False


def silence_ffmpeg() -> None:
    """Let FFmpeg log by itself, and nothing.

    A decoder that is closed waits for its threads, which would wait for Python to log a message. Other packages
    (torchvision to 0.23) turn Python's logging on when they are imported, so this is called before each file is opened.
    """
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.PANIC)


def open_container(path: Path, stack: contextlib.ExitStack) -> Any:
    """Open the container; other files or addresses that it names (a playlist) are refused."""
    silence_ffmpeg()
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
    """Frames, a string where something did not decode, and a number: the second until which there is sound."""
    seconds = 0.0
    try:
        for packet in container.demux(stream, *container.streams.audio):
            if packet.stream.type == "audio":
                if packet.pts is not None:
                    yield float((packet.pts + (packet.duration or 0)) * packet.time_base)
                continue
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
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its warnings say less than ours
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
