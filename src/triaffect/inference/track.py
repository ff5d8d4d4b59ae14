"""One number for one face through a video."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.inference.detect import Face, overlap
from triaffect.inference.frame import Frame, Thumbnail

Floats = NDArray[np.float64]

MAX_GAP = 30
"""Frames that a face may be out of sight and keep its number by its place; afterwards by its look alone."""

DIFFERENT_PEOPLE = 0.25
"""Difference in colour between two people: one face stays below .1 for seconds, four people differ by .28 and more."""

SAME_LOOK = 0.5
"""Correlation of two looks above which they are of one person. Chosen on only four people of two clips, in colour and
grey: 98 % of looks of one person were above, 95 % of two people below. A head that turned by 25 degrees falls below."""

MAX_PEOPLE, MAX_LOOKS = 64, 8
"""Faces out of sight that are remembered, and looks of each."""

_CHECK_SECONDS = 0.25  # between two looks at a face whose place alone says who it is
_NO_MATCH = 100.0


@dataclass
class _Track:
    number: int
    box: Floats  # centre and size (4,)
    colours: Floats
    velocity: Floats = field(default_factory=lambda: np.zeros(2))  # of the centre, pixels per frame (2,)
    looks: list[Floats] = field(default_factory=list)
    unseen: int = 0
    gone: bool = False  # for long, or in an earlier shot
    checked: float = -1.0


class Tracker:
    """Number faces, and keep the number of each.

    Within a shot boxes are matched to tracks, the most similar pair first, by position (1 - IoU with the box expected
    at constant velocity) and colour (Hellinger distance of the colours in the box). After a cut, and of a face that was
    away for long, only the look counts: colour, and the pattern of light and dark in the aligned face. The faces seen
    last are remembered, so memory is constant.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._next = 1
        self._last: Thumbnail | None = None

    def update(self, faces: list[Face], frame: Frame) -> list[int]:
        """Number the faces of the next frame.

        Args:
            faces: All faces of the frame.
            frame: The frame.

        Returns:
            One number per face, from 1; a new face gets the next one.
        """
        last, self._last = self._last, frame.thumbnail
        cut = last is not None and last.is_another_shot(frame.thumbnail)
        for track in self._tracks:
            track.unseen += 1
            track.gone |= cut or track.unseen > MAX_GAP
        boxes = [np.array([x + w / 2, y + h / 2, w, h]) for x, y, w, h in (face.box for face in faces)]
        matches = self._by_place(faces, boxes, frame.time)
        colours: list[Floats] = []
        if len(matches) < len(faces) or any(not track.gone and track.unseen > 1 for track in self._tracks):
            colours, looks = [_colours(face, frame) for face in faces], [_look(face, frame) for face in faces]
            matches = self._by_place_and_colour(boxes, colours)
            matches |= self._by_look([row for row in range(len(faces)) if row not in matches], colours, looks)
        for row, box in enumerate(boxes):
            track = matches.get(row) or _Track(self._next, box, colours[row])
            if row not in matches:
                self._tracks.append(track)
                matches[row], self._next = track, self._next + 1
            elif not track.gone:
                track.velocity += 0.3 * ((box[:2] - track.box[:2]) / track.unseen - track.velocity)
            if colours:
                track.checked = frame.time
                track.colours = np.sqrt(0.9 * track.colours**2 + 0.1 * colours[row] ** 2)
                if max((float(look @ looks[row]) for look in track.looks), default=0.0) < 0.8:
                    track.looks = [*track.looks, looks[row]][-MAX_LOOKS:]
            track.box, track.unseen, track.gone = box, 0, False
        gone = sorted((track for track in self._tracks if track.gone), key=lambda track: track.unseen)[:MAX_PEOPLE]
        self._tracks = [track for track in self._tracks if not track.gone] + gone
        return [matches[row].number for row in range(len(faces))]

    def _by_place(self, faces: list[Face], boxes: list[Floats], time: float) -> dict[int, _Track]:
        """Matches that need no look: of a face near one track and no other face or track, looked at a moment ago."""
        tracks = [track for track in self._tracks if not track.gone]
        matches = {}
        for row, box in enumerate(boxes):
            near = [t for t in tracks if (np.abs(t.box[:2] - box[:2]) < t.box[2:] + box[2:]).all()]
            alone = all(row == i or overlap(faces[row].box, other.box) == 0 for i, other in enumerate(faces))
            if len(near) == 1 and alone and 0 <= time - near[0].checked < _CHECK_SECONDS:
                before = (*(near[0].box[:2] - near[0].box[2:] / 2), *near[0].box[2:])
                if overlap(before, faces[row].box) > 0.5:
                    matches[row] = near[0]
        return matches

    def _by_place_and_colour(self, boxes: list[Floats], colours: list[Floats]) -> dict[int, _Track]:
        tracks = [track for track in self._tracks if not track.gone]
        pairs = [
            (_cost(track, box, colours[row]), row, i) for row, box in enumerate(boxes) for i, track in enumerate(tracks)
        ]
        return _best_pairs([pair for pair in pairs if pair[0] < _NO_MATCH], tracks)

    def _by_look(self, rows: list[int], colours: list[Floats], looks: list[Floats]) -> dict[int, _Track]:
        tracks = [track for track in self._tracks if track.gone and track.looks]
        pairs = [
            (-max(float(look @ looks[row]) for look in track.looks), row, i)
            for row in rows
            for i, track in enumerate(tracks)
            if _difference(track.colours, colours[row]) < DIFFERENT_PEOPLE
        ]
        return _best_pairs([pair for pair in pairs if -pair[0] > SAME_LOOK], tracks)


def _best_pairs(pairs: list[tuple[float, int, int]], tracks: list[_Track]) -> dict[int, _Track]:
    """Match each row to one track, the pairs (cost, row, track) of least cost first."""
    matches: dict[int, _Track] = {}
    used: set[int] = set()
    for _, row, column in sorted(pairs):
        if row not in matches and column not in used:
            matches[row] = tracks[column]
            used.add(column)
    return matches


def _look(face: Face, frame: Frame) -> Floats:
    """(256,) pattern of light and dark in the aligned face without its shading, a unit vector; 0 if it is flat."""
    grey = cv2.cvtColor(frame.align(face.five, 112), cv2.COLOR_RGB2GRAY)[8:104, 8:104].astype(np.float32)
    small = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA)
    pattern = (small - cv2.GaussianBlur(small, (0, 0), 4)).ravel().astype(np.float64)
    length = float(np.linalg.norm(pattern))
    return pattern / length if length > 8 else np.zeros(256)


def _difference(a: Floats, b: Floats) -> float:
    """Hellinger distance of two colour distributions, 0 to 1."""
    return float(np.sqrt(max(0.0, 1 - float(a @ b))))


def _colours(face: Face, frame: Frame) -> Floats:
    """(256,) square roots of the shares of hues (red and green of r + g + b = 1) in the box, weighted by brightness."""
    x, y, w, h = face.box
    part, _ = frame.region((x, y, x + w, y + h), min(1.0, 32 / max(w, h)))
    small = cv2.resize(part, (32, 32), interpolation=cv2.INTER_AREA) + np.float32(8)
    brightness = small.sum(-1)
    # The range of hues of faces; stronger ones count as the strongest.
    red, green = (
        ((small[..., c] / brightness - low) * 64).clip(0, 15).astype(int) for c, low in ((0, 0.28), (1, 0.22))
    )
    counts = np.bincount((red * 16 + green).ravel(), brightness.ravel(), 256)
    shares = cv2.GaussianBlur(counts.reshape(16, 16), (0, 0), 1).ravel()
    return np.asarray(np.sqrt(shares / shares.sum()))


def _cost(track: _Track, box: Floats, colours: Floats) -> float:
    """Position plus colour, 0 to 1 each; position is 1 without overlap, within a distance that grows when unseen."""
    difference = _difference(track.colours, colours)
    expected = track.box + np.r_[track.velocity * min(track.unseen, MAX_GAP // 2), 0, 0]
    reach = (expected[2:] + box[2:]) / 2
    apart = np.abs(expected[:2] - box[:2])
    overlap = float(np.minimum(reach - apart, np.minimum(expected[2:], box[2:])).clip(0).prod())
    iou = overlap / float(expected[2:].prod() + box[2:].prod() - overlap)
    # Somebody who passes in front of a face changes its colours, but not its position.
    if difference > DIFFERENT_PEOPLE + 0.4 * iou**2 or np.hypot(*(apart / reach)) > 1.5 + (track.unseen - 1) / MAX_GAP:
        return _NO_MATCH
    return 1 - iou + difference
