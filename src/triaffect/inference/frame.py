"""One frame of a photo, video or camera: upright, with square pixels; only what is looked at becomes RGB."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.images import TEMPLATE, align, similarity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
Overlay = tuple[int, int, Pixels]
"""Left and top in an image, and RGBA (h, w, 4) that is laid over it there; all four numbers are even."""

CUT_DIFFERENCE, CUT_CORRELATION = 24.0, 0.6
"""Mean difference in brightness (0 to 255) above which, and correlation below which, two frames are of two shots."""

_PLANAR = ("yuv420p", "yuvj420p")
# Shares of red and blue in the brightness, by FFmpeg's number of a colour space (BT.709, FCC, SMPTE 240M, BT.2020).
_SHARES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)
_UNSTATED, _FULL_RANGE = 2, 2


class Thumbnail:
    """Every n-th brightness value of a frame, about 64 x 36 of them.

    Args:
        time: Of the frame, in seconds.
        plane: (height, width) brightness, uint8.
    """

    def __init__(self, time: float, plane: Pixels) -> None:
        step = max(1, max(plane.shape) // 64)
        self.time = time
        self.values = plane[step // 2 :: step, step // 2 :: step].astype(np.float32)

    def is_another_shot(self, other: Thumbnail) -> bool:
        """Whether another frame belongs to another shot, since it is brighter or darker, or shows another scene."""
        a, b = self.values, other.values
        if a.shape != b.shape or float(np.abs(a - b).mean()) > CUT_DIFFERENCE:
            return True
        a, b = a - a.mean(), b - b.mean()
        spread = float(np.linalg.norm(a) * np.linalg.norm(b)) / a.size
        return spread > 16 and float((a * b).mean()) < CUT_CORRELATION * spread


class Frame:
    """A frame whose pixels are RGB: of a photo or a camera.

    Args:
        number: Its number, from 0.
        time: Seconds from the first frame.
        pixels: RGB uint8 (height, width, 3).
        duration: Seconds for which it is shown; 0 if unknown.

    Attributes:
        width: Of the upright frame, in pixels.
        height: Likewise.
    """

    def __init__(self, number: int, time: float, pixels: Pixels, duration: float = 0.0) -> None:
        self.number, self.time, self.duration = number, time, duration
        self.height, self.width = pixels.shape[:2]
        self._planes = [pixels]

    @property
    def pixels(self) -> Pixels:
        """The whole frame, RGB uint8 (height, width, 3)."""
        return self._planes[0]

    def region(self, box: Box, scale: float = 1.0) -> tuple[Pixels, NDArray[np.float32]]:
        """Cut a part of the frame and resize it.

        Args:
            box: Left, top, right and bottom in pixels; what lies outside of the frame is left out.
            scale: Size of the result relative to the frame.

        Returns:
            RGB (h, w, 3), and the left, top, width and height in the frame of the part that it shows, in pixels: the
            box, or a little more.
        """
        left, top, right, bottom = _inside(box, self.width, self.height)
        size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
        pixels = _resize(self.pixels[top:bottom, left:right], size)
        return pixels, np.array([left, top, right - left, bottom - top], np.float32)

    def whole(self, scale: float) -> Pixels:
        """The whole frame, resized: RGB (height * scale, width * scale, 3)."""
        return self.region((0, 0, self.width, self.height), scale)[0]

    def align(self, landmarks: NDArray[np.floating], size: int) -> Pixels:
        """Cut the crop (size, size, 3) of a face by its landmarks (5, 2), as `images.align` does."""
        return align(self.pixels, landmarks, size)

    def align_brightness(self, landmarks: NDArray[np.floating], size: int) -> Pixels:
        """The brightness (size, size) of the crop of a face, on the scale of the frame's own values."""
        return cv2.cvtColor(self.align(landmarks, size), cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]

    def with_overlays(self, overlays: Sequence[Overlay], scale: float = 1.0) -> Any:
        """The whole frame, resized, with something laid over it: RGB (h, w, 3), or an upright `av.VideoFrame`."""
        canvas = np.array(self.whole(scale))
        for x, y, rgba in overlays:
            for channel in range(3):
                _lay_over(canvas[..., channel], (x, y), rgba[..., channel], rgba[..., 3], 1)
        return canvas

    @cached_property
    def thumbnail(self) -> Thumbnail:
        """Some of its brightness values, or of green, to compare frames by."""
        first = self._planes[0]
        return Thumbnail(self.time, first if first.ndim == 2 else first[..., 1])


class DecodedFrame(Frame):
    """A frame of a video as it was decoded; parts of it are converted to RGB when they are asked for.

    Args:
        number: Its number, from 0.
        time: Seconds from the first frame.
        decoded: An `av.VideoFrame`.
        orientation: From `orientation`.
        aspect: Width of a stored pixel by its height.
        duration: Seconds for which it is shown; 0 if unknown.
    """

    def __init__(
        self,
        number: int,
        time: float,
        decoded: Any,
        orientation: tuple[bool, bool, bool] = (False, False, False),
        aspect: float = 1.0,
        duration: float = 0.0,
    ) -> None:
        self.number, self.time, self.duration = number, time, duration
        self._transposed, self._mirrored, self._flipped = orientation
        if decoded.format.name not in _PLANAR and not decoded.format.is_rgb and not decoded.format.has_palette:
            decoded = decoded.reformat(format="yuv420p")
        if decoded.format.name in _PLANAR and all(plane.line_size > 0 for plane in decoded.planes):
            full = decoded.color_range == _FULL_RANGE or decoded.format.name == "yuvj420p"
            space = int(decoded.colorspace)
            # Players take high definition as BT.709 where the file states nothing.
            self._to_rgb: NDArray[np.float32] | None = _conversion(
                1 if space == _UNSTATED and decoded.height >= 720 else space, full
            )
            self._colours = decoded.colorspace, _FULL_RANGE if full else decoded.color_range
            self._planes = [_values(plane) for plane in decoded.planes]
        else:
            self._to_rgb, self._planes = None, [decoded.to_ndarray(format="rgb24")]
        width, height = decoded.width, decoded.height
        # The lines of an interlaced frame are of two times; one field has every second line.
        if decoded.interlaced_frame and height >= 4:
            self._planes = [plane[::2] for plane in self._planes]
        aspect = aspect if 0.1 < aspect < 10 else 1.0
        shown = round(width * max(1.0, aspect)), round(height / min(1.0, aspect))
        stored_height, stored_width = self._planes[0].shape[:2]
        self._scale = shown[0] / stored_width, shown[1] / stored_height
        self.width, self.height = shown[::-1] if self._transposed else shown

    @property
    def pixels(self) -> Pixels:
        """The whole frame, RGB uint8 (height, width, 3), converted anew each time."""
        return self.whole(1.0)

    def region(self, box: Box, scale: float = 1.0, *, grey: bool = False) -> tuple[Pixels, NDArray[np.float32]]:
        """Cut a part of the frame and resize it; see `Frame.region`. `grey` returns its brightness (h, w) as stored."""
        left, top, right, bottom = _inside(box, self.width, self.height)
        # From the upright frame to the stored one: the steps of the display matrix, undone in reverse order.
        if self._mirrored:
            left, right = self.width - right, self.width - left
        if self._flipped:
            top, bottom = self.height - bottom, self.height - top
        if self._transposed:
            left, top, right, bottom = top, left, bottom, right
        (sx, sy), (stored_height, stored_width) = self._scale, self._planes[0].shape[:2]
        # Colours are stored for squares of two pixels, and whole pixels are to be halved.
        step = 2 << max(0, int(np.log2(1 / scale)))
        left, top = int(left / sx) // step * step, int(top / sy) // step * step
        right = min(stored_width, -(-int(np.ceil(right / sx)) // step) * step)
        bottom = min(stored_height, -(-int(np.ceil(bottom / sy)) // step) * step)
        size = max(1, round((right - left) * sx * scale)), max(1, round((bottom - top) * sy * scale))
        pixels: Any = _resize(self._planes[0][top:bottom, left:right], size)
        if self._to_rgb is not None and not grey:
            half = slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2)
            colours = [_resize(plane[half], size) for plane in self._planes[1:]]
            pixels = cv2.transform(cv2.merge([pixels, *colours]), self._to_rgb)
        x, y, w, h = left * sx, top * sy, (right - left) * sx, (bottom - top) * sy
        if self._transposed:
            pixels, (x, y, w, h) = pixels.swapaxes(0, 1), (y, x, h, w)
        if self._mirrored:
            pixels, x = pixels[:, ::-1], self.width - x - w
        if self._flipped:
            pixels, y = pixels[::-1], self.height - y - h
        return np.ascontiguousarray(pixels), np.array([x, y, w, h], np.float32)

    def align_brightness(self, landmarks: NDArray[np.floating], size: int) -> Pixels:
        """The brightness (size, size) of the crop of a face, as it is stored: a third of the time of `align`."""
        if self._to_rgb is None:
            return super().align_brightness(landmarks, size)
        return self.align(landmarks, size, grey=True)

    def align(self, landmarks: NDArray[np.floating], size: int, *, grey: bool = False) -> Pixels:
        """Cut the crop (size, size, 3) of a face; see `Frame.align`. `grey` returns its brightness (size, size)."""
        warp = crop_matrix(landmarks, size)
        (a, b, x), (c, d, y) = cv2.invertAffineTransform(warp).tolist()
        # Halved until less than two pixels of the frame make one of the crop: the warp looks at four pixels only.
        scale = 0.5 ** max(0, int(np.log2(max(1e-6, np.hypot(a, c)))))
        half = size / 2
        x, y = x + (a + b) * half, y + (c + d) * half
        right, down = (abs(a) + abs(b)) * half + 2 / scale, (abs(c) + abs(d)) * half + 2 / scale
        part, (x, y, w, h) = self.region((x - right, y - down, x + right, y + down), scale, grey=grey)
        # From the part to the frame, and on to the crop; whole numbers are the middles of pixels.
        step = np.array([w / part.shape[1], h / part.shape[0]], np.float32)
        warp[:, 2] += warp[:, :2] @ (0.5 * step - 0.5 + (x, y))
        warp[:, :2] *= step
        return cv2.warpAffine(part, warp, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]

    def with_overlays(self, overlays: Sequence[Overlay], scale: float = 1.0) -> Any:
        """The whole frame, resized, with something laid over it; see `Frame.with_overlays`.

        A frame whose pixels are square stays in the colours that it is stored in: that saves two conversions.
        """
        height, width = (round(side * scale) for side in self._planes[0].shape[:2])
        if self._to_rgb is None or self._scale != (1, 1) or height % 2 or width % 2:
            return super().with_overlays(overlays, scale)
        import av

        frame: Any = av.VideoFrame(*((height, width) if self._transposed else (width, height)), "yuv420p")
        frame.colorspace, frame.color_range = self._colours
        to_yuv = np.linalg.inv(self._to_rgb[:, :3])
        matrix = np.c_[to_yuv, -to_yuv @ self._to_rgb[:, 3]].astype(np.float32)
        painted: list[Any] = [
            (x, y, cv2.split(cv2.transform(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), matrix)), rgba[..., 3])
            for x, y, rgba in overlays
        ]
        for number, (stored, target) in enumerate(zip(self._planes, frame.planes, strict=True)):
            plane = _resize(stored, (width, height) if number == 0 else (width // 2, height // 2))
            upright = plane.T if self._transposed else plane
            upright = upright[:: -1 if self._flipped else 1, :: -1 if self._mirrored else 1]
            view = _values(target)
            view[:] = upright
            for x, y, yuv, alpha in painted:
                _lay_over(view, (x, y), yuv[number], alpha, 1 if number == 0 else 2)
        return frame


def select_frames(
    timed: Iterable[tuple[float, Item]], every: int = 1, fps: float | None = None
) -> Iterator[tuple[int, float, Item]]:
    """Yield every n-th of some frames, at most `fps` of them per second, with its number.

    Args:
        timed: The time of each frame in seconds, and what it is decoded from.
        every: As for `read_video`.
        fps: As for `read_video`.
    """
    due = 0.0
    for number, (seconds, item) in enumerate(timed):
        if number % every == 0 and (not fps or seconds >= due - 1e-6):
            due = (int(seconds * fps + 1e-6) + 1) / fps if fps else 0.0
            yield number, seconds, item


def crop_matrix(landmarks: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    """(2, 3) matrix from a frame to the crop (size, size) of a face by its landmarks (5, 2)."""
    return similarity(landmarks, (TEMPLATE + 0.5) * (size / 112) - 0.5)


def transform(matrix: Any, points: Any) -> Any:
    """Points (n, 2) where a (2, 3) matrix takes them."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def _values(plane: Any) -> Pixels:
    """The values (h, w) of a plane of an `av.VideoFrame`, in its own memory."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def _lay_over(plane: Pixels, place: tuple[int, int], values: Pixels, alpha: Pixels, step: int) -> None:
    """Blend values (h, w) by their opacity into a plane that has every `step`-th pixel; what is outside is cut."""
    x, y = (number // step for number in place)
    if step > 1:
        size = values.shape[1] // step, values.shape[0] // step
        values, alpha = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (values, alpha))  # type: ignore[assignment]
    top, left = max(0, -y), max(0, -x)
    part = plane[y + top : y + len(values), x + left : x + values.shape[1]]
    height, width = part.shape
    values, alpha = values[top : top + height, left : left + width], alpha[top : top + height, left : left + width]
    if part.size:
        share = alpha.astype(np.float32) / 255
        part[:] = cv2.blendLinear(part, np.ascontiguousarray(values), 1 - share, share)


def _inside(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """The box in whole pixels, at least one, inside of the frame."""
    left, top = (int(min(max(low, 0), side - 1)) for low, side in zip(box, (width, height), strict=False))
    right = int(min(max(np.ceil(box[2]), left + 1), width))
    return left, top, right, int(min(max(np.ceil(box[3]), top + 1), height))


def _resize(plane: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to (width, height), by area where it shrinks; halving first costs an eighth of one large step."""
    while plane.shape[1] >= 4 * size[0] and plane.shape[0] >= 4 * size[1] and not (plane.shape[0] | plane.shape[1]) & 1:
        half = plane.shape[1] // 2, plane.shape[0] // 2
        plane = cv2.resize(plane, half, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if plane.shape[1::-1] == size:
        return plane
    shrinks = plane.shape[1] > size[0] or plane.shape[0] > size[1]
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[return-value]


def orientation(matrix: Any) -> tuple[bool, bool, bool]:
    """Whether a display matrix transposes the stored frame, then mirrors it left to right, then flips it top to bottom.

    The matrix maps stored (x, y) to shown (a x + c y, b x + d y) (ISO/IEC 14496-12, 8.3.2); one that turns by another
    angle than a right one is taken as the nearest right one.
    """
    if matrix is None:
        return False, False, False
    (a, b), (c, d) = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


@lru_cache(8)
def _conversion(space: int, full: bool) -> NDArray[np.float32]:
    """(3, 4) matrix from stored brightness and colour differences to RGB (ITU-T H.273, 8.3)."""
    red, blue = _SHARES.get(space, _BT601)
    green = 1 - red - blue
    y, c, black = (1.0, 1.0, 0) if full else (255 / 219, 255 / 224, 16)
    by_v, by_u = 2 * (1 - red) * c, 2 * (1 - blue) * c
    matrix = np.array([[y, 0, by_v], [y, -by_u * blue / green, -by_v * red / green], [y, by_u, 0]])
    return np.c_[matrix, matrix @ [-black, -128, -128]].astype(np.float32)
