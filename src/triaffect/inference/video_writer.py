"""Write videos frame by frame, with the sound of another one."""

from __future__ import annotations

import contextlib
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.inference.video import open_container, silence_ffmpeg

MP4_SOUND = ("aac", "mp3", "mp3float", "ac3", "eac3", "opus", "libopus", "flac", "alac")
"""Decoders of the sound that an MP4 file may hold."""

_TICKS = 90_000  # per second; the clock of MPEG, fine enough for every frame rate


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
        silence_ffmpeg()
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
            # One quantiser for all frames takes two thirds of the time of a quality that is planned ahead. Packets in
            # order: the last one says how long it lasts.
            self._stream.options = {"preset": "ultrafast", "qp": "22", "bf": "0"}
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
        self._stack, self._next = contextlib.ExitStack(), None
        with contextlib.suppress(OSError, av.error.FFmpegError, ValueError):
            source = open_container(path, self._stack)
            if not source.streams.audio or not source.streams.video:
                return
            sound, images = source.streams.audio[0], source.streams.video[0]
            self._start = float((images.start_time or 0) * images.time_base)
            self._as_it_is = sound.codec_context.name in MP4_SOUND
            if self._as_it_is:
                self._stream = target.add_stream_from_template(sound)
            else:
                rate = sound.rate if sound.rate in (av.Codec("aac", "w").audio_rates or ()) else 48_000
                layout = "mono" if sound.channels == 1 else "stereo"
                self._stream = target.add_stream("aac", rate=rate, layout=layout)
                self._resampler = av.AudioResampler("fltp", layout, rate)
            self._target = target
            self._packets = itertools.takewhile(lambda packet: packet.pts is not None, source.demux(sound))
            self._next = next(self._packets, None)

    def copy(self, seconds: float) -> None:
        """Copy what sounds before a time."""
        try:
            while self._next and self._next.pts * self._next.time_base - self._start <= seconds:
                if self._next.pts * self._next.time_base >= self._start:
                    self._write(self._next)
                self._next = next(self._packets, None)
        except av.error.FFmpegError:  # damaged: the images go on in silence
            self._next = None

    def _write(self, packet: Any) -> None:
        shift = round(self._start / packet.time_base)
        if self._as_it_is:
            packet.stream, packet.pts = self._stream, packet.pts - shift
            packet.dts = packet.pts
            self._target.mux(packet)
            return
        for frame in packet.decode():
            frame.pts = None if frame.pts is None else frame.pts - round(self._start / frame.time_base)
            for part in self._resampler.resample(frame):
                self._target.mux(self._stream.encode(part))

    def close(self) -> None:
        """Write the rest and close the source."""
        with contextlib.suppress(av.error.FFmpegError, AttributeError):
            if not self._as_it_is:
                for part in self._resampler.resample(None):
                    self._target.mux(self._stream.encode(part))
                self._target.mux(self._stream.encode(None))
        self._stack.close()
