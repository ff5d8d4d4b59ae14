"""What a face does over time, and its true labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from triaffect.labels import ACTION_UNITS, EXPRESSIONS
from triaffect.render.actions import MOVEMENTS
from triaffect.render.model import Floats, f32
from triaffect.render.ranges import Ranges

# Expression -> movement -> chance that the expression includes it (Ekman and Friesen's prototypes).
PROTOTYPES: dict[str, dict[str, float]] = {
    "Anger": {"AU4": 1.0, "AU7": 1.0, "AU23": 0.5, "AU24": 0.5, "AU17": 0.25, "AU5": 0.15},
    "Disgust": {"AU10": 1.0, "AU4": 0.8, "AU9": 0.8, "AU7": 0.4, "AU15": 0.15, "AU17": 0.2, "AU25": 0.3},
    "Fear": {"AU1": 1.0, "AU2": 0.9, "AU4": 1.0, "AU7": 0.4, "AU5": 0.6, "AU20": 0.8, "AU25": 1.0, "AU26": 0.5},
    "Happiness": {"AU6": 1.0, "AU12": 1.0, "AU25": 0.7, "AU26": 0.15, "AU7": 0.15, "AU10": 0.08},
    "Sadness": {"AU1": 1.0, "AU4": 1.0, "AU15": 1.0, "AU17": 0.4, "AU6": 0.2, "AU7": 0.1, "AU25": 0.1},
    "Surprise": {"AU1": 1.0, "AU2": 1.0, "AU5": 0.8, "AU25": 1.0, "AU26": 1.0},
}

# Mean valence and arousal of each class in s-Aff-Wild2's validation set.
VA_MEANS: dict[str, tuple[float, float]] = {
    "Neutral": (0.10, 0.12),
    "Anger": (-0.47, 0.58),
    "Disgust": (-0.70, 0.80),
    "Fear": (-0.71, 0.76),
    "Happiness": (0.48, 0.49),
    "Sadness": (-0.60, 0.52),
    "Surprise": (0.08, 0.57),
    "Other": (0.12, 0.37),
}

VA_BASE = (0.25, 0.28)
"""Valence and arousal of combinations that are no prototype, before their action units add to it."""

# Weights of action units outside prototypes: rare ones get more, so that there are enough examples.
SINGLES: dict[str, float] = {
    **dict.fromkeys(("AU1", "AU2", "AU4", "AU6", "AU7", "AU10", "AU12", "AU25"), 1.0),
    **dict.fromkeys(("AU15", "AU26"), 1.5),
    **dict.fromkeys(("AU23", "AU24"), 2.5),
}

SUBTLE: tuple[tuple[str, ...], ...] = (
    *(("AU12",), ("AU12", "AU6"), ("AU12", "AU14")),
    *(("AU15",), ("AU15", "AU17"), ("AU1", "AU15"), ("AU1", "AU4"), ("AU1", "AU4", "AU15", "AU17")),
    *(("AU4",), ("AU1",), ("AU2",), ("AU1", "AU2"), ("AU10",), ("AU20",), ("AU20", "AU15", "AU4")),
)
"""Closed-lip smiles, sad mouths and brows, and drawn lips: movements that people read though they are no prototype."""

EXPRESSIVE = ACTION_UNITS[: ACTION_UNITS.index("AU25")]
"""Action units that show an expression; lips and jaw (AU25, AU26) also move in speech."""

STRAY = ("AU5", "AU9", "AU14", "AU17", "AU18", "AU20", "AU22", "cheek puff", "jaw left", "jaw right")
MOUTH_SHUT = ("AU23", "AU24")
MOUTH_OPEN = ("AU10", "AU25", "AU26", "AU22")


@dataclass
class Story:
    """What a face does in N frames.

    Attributes:
        actions: Movement -> (N,) intensity in [0, 1].
        intensity: (N, 12) intensity of the labelled action units.
        shown: (N,) intensity of the expression or combination shown.
        expression: (N,) code 0 to 7, -1 if it is neither absent nor visible, or ambiguous.
        occurrence: (N, 12) 1, 0, or -1 if the intensity is in between.
        valence: (N,) in [-1, 1].
        arousal: (N,) in [-1, 1].
        gaze: (N, 2) yaw and pitch of the eyes.
        head_pose: (N, 3) yaw, pitch and roll of the head.
    """

    actions: dict[str, Floats]
    intensity: Floats
    shown: Floats
    expression: NDArray[np.int8]
    occurrence: NDArray[np.int8]
    valence: Floats
    arousal: Floats
    gaze: Floats
    head_pose: Floats


def occurrence(intensity: Floats, visible: float) -> NDArray[np.int8]:
    """1 from the visible intensity, 0 below a fifth of it (absent), -1 in between."""
    return np.where(intensity >= visible, 1, np.where(intensity < visible / 5, 0, -1)).astype(np.int8)


def make_story(rng: np.random.Generator, ranges: Ranges, frames: int, seconds: float) -> Story:
    """Make up what one face does.

    Args:
        rng: Source of randomness.
        ranges: Limits of what is drawn.
        frames: Number of frames.
        seconds: Time between two frames.
    """
    times = np.arange(frames) * seconds
    end = max(float(times[-1]), seconds)
    actions = {name: np.zeros(frames, np.float32) for name in (*ACTION_UNITS, *STRAY, "AU45", "lip close")}
    shown = np.zeros(frames, np.float32)
    label = np.zeros(frames, np.int8)
    person_offset = rng.normal(0, ranges.va_person, 2)
    affect = np.tile(np.array(VA_MEANS["Neutral"]) + person_offset, (frames, 1))

    now = -rng.uniform(0, 1.5)
    while now < end:
        lengths = [rng.uniform(*ranges.onset), rng.uniform(*ranges.apex), rng.uniform(*ranges.offset)]
        code, movements = _episode(rng, ranges)
        course = _course(times, now, lengths)
        peaks = {}
        scale = rng.uniform(*ranges.peak)
        for name in movements:
            peaks[name] = float(np.clip(scale * rng.uniform(0.85, 1.15), ranges.peak[0], 1))
            actions[name] = np.maximum(actions[name], _course(times, now + rng.uniform(0, 0.08), lengths) * peaks[name])
        if rng.random() < ranges.stray:
            name = str(rng.choice([s for s in STRAY if not (s in MOUTH_OPEN and set(movements) & set(MOUTH_SHUT))]))
            delay = rng.uniform(-0.4, 0.8)
            actions[name] = np.maximum(actions[name], _course(times, now + delay, lengths) * rng.uniform(0.3, 0.9))
        shown = np.maximum(shown, course * scale)
        label[course > 0] = code
        if code in (0, -1, 7):
            base = VA_MEANS["Neutral"] if code == 0 else VA_BASE
            target = np.array(base) + sum(np.array(MOVEMENTS[n]["va"]) * p for n, p in peaks.items())
        else:
            # The means of the real data are over all visible intensities; at full intensity the values are further out.
            target, reach = np.array(VA_MEANS[EXPRESSIONS[code]]), 0.55 + 0.6 * scale
            target = np.array(VA_MEANS["Neutral"]) + (target - VA_MEANS["Neutral"]) * reach
        target = target + person_offset + rng.normal(0, ranges.va_episode, 2)
        affect += course[:, None] * (target - affect)
        now += sum(lengths) + rng.uniform(*ranges.rest)

    if rng.random() < ranges.talking:
        _talk(rng, times, actions)
    # A dropped jaw usually parts the lips.
    apart = np.float32(rng.random() < 0.93)
    actions["AU25"] = np.maximum(actions["AU25"], apart * actions["AU26"])
    actions["lip close"] = np.where(actions["AU25"] < 0.05, actions["AU26"], 0).astype(np.float32)
    for _ in range(rng.poisson(ranges.blinks * (end + 1))):
        start = rng.uniform(-0.2, end)
        actions["AU45"] = np.maximum(actions["AU45"], _course(times, start, [0.09, 0.06, 0.13]))

    visible = occurrence(shown, ranges.visible)
    intensity = np.stack([actions[name] for name in ACTION_UNITS], 1)
    # Neutral also needs every expressive action unit to be absent.
    quiet = (visible == 0) & (occurrence(intensity[:, : len(EXPRESSIVE)], ranges.visible) == 0).all(1)
    expression = np.where(visible == 1, label, np.where(quiet, 0, -1)).astype(np.int8)
    affect = gaussian_filter1d(affect, 0.25 / seconds, axis=0) + 0.02 * _wander(rng, times, 2, 1.5)
    return Story(
        actions=actions,
        intensity=intensity,
        shown=shown,
        expression=expression,
        occurrence=occurrence(intensity, ranges.visible),
        valence=f32(np.clip(affect[:, 0], -1, 1)),
        arousal=f32(np.clip(affect[:, 1], -1, 1)),
        gaze=_saccades(rng, times, ranges.gaze),
        head_pose=f32(
            rng.normal(0, [ranges.yaw, ranges.pitch, ranges.roll]).clip(-0.75, 0.75)
            + ranges.sway * _wander(rng, times, 3, 2.0)
        ),
    )


def _episode(rng: np.random.Generator, ranges: Ranges) -> tuple[int, list[str]]:
    """Class code (-1 if ambiguous) and movements of one episode."""
    kind = rng.random()
    if kind < ranges.expressions:
        # Happiness is twice as frequent as the others.
        name = str(rng.choice([*PROTOTYPES, "Happiness"]))
        movements = [m for m, chance in PROTOTYPES[name].items() if rng.random() < chance]
        if name == "Anger":
            movements = [m for m in movements if m not in MOUTH_SHUT] + [str(rng.choice(MOUTH_SHUT))]
        return EXPRESSIONS.index(name), movements
    if kind > 1 - ranges.subtle:
        return -1, list(SUBTLE[int(rng.integers(len(SUBTLE)))])
    weights = np.array(list(SINGLES.values())) / sum(SINGLES.values())
    count = 1 if kind < ranges.expressions + ranges.single else int(rng.integers(2, 5))
    movements = [str(m) for m in rng.choice(list(SINGLES), count, replace=False, p=weights)]
    # A face cannot do these at the same time.
    if set(movements) & set(MOUTH_SHUT):
        movements = [m for m in movements if m not in MOUTH_OPEN]
    for first, second in (("AU23", "AU24"), ("AU12", "AU15")):
        if first in movements and second in movements:
            movements.remove(first if rng.random() < 0.5 else second)
    return _code_of(set(movements)), movements


def _code_of(movements: set[str]) -> int:
    """Neutral if only lips and jaw move; -1 if it is close to a prototype; else Other."""
    expressive = movements.intersection(EXPRESSIVE)
    if not expressive:
        return 0
    for prototype in PROTOTYPES.values():
        core = {m for m, chance in prototype.items() if chance >= 0.5 and m in EXPRESSIVE}
        if len(core & expressive) / len(core) > 0.4:
            return -1
    return EXPRESSIONS.index("Other")


def _course(times: Floats, start: float, lengths: list[float]) -> Floats:
    """Intensity over time: onset and offset along half a cosine, 1 at the apex."""
    onset, apex, offset = lengths
    down = np.clip((start + onset + apex + offset - times) / offset, 0, 1)
    level = np.minimum(np.clip((times - start) / onset, 0, 1), down)
    return f32(0.5 - 0.5 * np.cos(np.pi * level))


def _talk(rng: np.random.Generator, times: Floats, actions: dict[str, Floats]) -> None:
    """Add syllables to part of the video, while the lips are not tightened or pressed."""
    start = rng.uniform(-1, 0.6 * times[-1] + 0.1)
    stop = start + rng.uniform(1, 4)
    beat = rng.uniform(3, 5)
    phase = rng.uniform(0, 2 * np.pi)
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * beat * times + phase)
    shut = np.maximum(actions["AU23"], actions["AU24"]) > 0.02
    speaking = ((times > start) & (times < stop) & ~shut).astype(np.float32)
    actions["AU25"] = np.maximum(actions["AU25"], f32(speaking * np.where(swing > 0.3, 0.4 + 0.5 * swing, 0)))
    actions["AU26"] = np.maximum(actions["AU26"], f32(speaking * np.where(swing > 0.7, 0.15 + 0.4 * swing, 0)))
    actions["AU18"] = np.maximum(actions["AU18"], f32(speaking * 0.4 * (swing < 0.15)))


def _wander(rng: np.random.Generator, times: Floats, columns: int, period: float) -> Floats:
    """(N, columns) slow sums of sines with a standard deviation near 1."""
    rate = 2 * np.pi / (period * rng.uniform(0.7, 3.5, (3, columns)))
    phase = rng.uniform(0, 2 * np.pi, (3, columns))
    return f32(np.sin(times[:, None, None] * rate + phase).sum(1) / 1.22)


def _saccades(rng: np.random.Generator, times: Floats, spread: float) -> Floats:
    """(N, 2) gaze directions: fixations and jumps."""
    jumps = np.cumsum(rng.uniform(0.4, 2.5, 64))
    places = rng.normal(0, [spread, spread / 2], (65, 2))
    places[rng.random(65) < 0.4] = 0
    return f32(places[np.minimum(np.searchsorted(jumps, times), 64)].clip(-0.4, 0.4))
