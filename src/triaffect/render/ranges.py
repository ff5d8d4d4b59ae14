"""The ranges of rendered people, stories and pictures."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """What rendered faces look like, what they do, and how they are filmed.

    A pair is the lowest and the highest value of a uniform distribution, "chance" is a probability, "spread" a standard
    deviation. Lengths are in the model's units (about a centimetre), angles in radians.

    Attributes:
        modes: Number of identity modes.
        identity: Spread of the identity weights (1 is the model's own).
        asymmetry: Spread between the weights of the left and right half, as a part of `identity`.
        tone: Skin tone, from 0 (lightest) to 1 (darkest).
        redness: Blood in cheeks, nose and lips.
        age: Depth of furrows at rest, as a part of their depth at full contraction.
        furrow: Depth of furrows at full contraction.
        freckles: Chance of freckles.
        stubble: Chance of stubble.
        beard: Chance of a beard.
        lipstick: Chance of painted lips (faces without beard or stubble).
        bald: Chance of no hair on the head.
        covering: Chance of a cap or scarf in place of hair.
        long_hair: Chance of hair at the sides of the face.
        glasses: Chance of glasses.
        brow: Thickness of the brows; 1 is usual.
        strength: How far an action unit moves a person's face; 1 is the weight in movements.yaml.
        lopsided: Largest fraction by which one side moves less than the other.

        rest: Seconds of a neutral face between two episodes.
        onset: Seconds from rest to the apex.
        apex: Seconds at the apex.
        offset: Seconds from the apex back to rest.
        peak: Intensity of an action unit at its apex.
        visible: Intensity from which an action unit or an expression is labelled; under a fifth of it, it is labelled
            absent; between the two the label is missing.
        expressions: Chance that an episode is one of the six prototypes (happiness twice as often as the others).
        single: Chance that an episode is a single action unit; the rest are random combinations.
        subtle: Chance that an episode is one of `story.SUBTLE`, such as a closed-lip smile; it has no expression label.
        talking: Chance that a video has speech (lips and jaw move in addition to the expression).
        stray: Chance that an episode has a movement without a label (pucker, jaw sideways and so on).
        blinks: Blinks per second.
        va_person: Spread of a person's own offset in valence and arousal.
        va_episode: Spread of an episode's offset in valence and arousal at full intensity.

        yaw: Spread of a video's mean yaw.
        pitch: Spread of a video's mean pitch.
        roll: Spread of a video's mean roll.
        sway: Spread of the head's movement around its mean pose within a video.
        gaze: Spread of the eyes' yaw relative to the head; pitch has half of it.
        distance: Camera to head.
        zoom: Size of the face relative to the aligned template of 112 px crops (eyes 35 px apart).
        shift: Spread of the crop's offset, as a part of its side.
        tilt: Spread of the crop's rotation.
        fill: Light from all around, as a part of the key light.
        hard: Half-angle of the key light; small is a hard shadow.
        exposure: Brightness after metering on the face.
        occluder: Chance that a hand or a bar is in front of the face in part of a video.
        blur: Blur in pixels of the crop (spread of the Gaussian).
        motion: Chance of motion blur in a video.
        low: Chance that the face was smaller in the video than the crop is.
        low_size: Its size then, as a part of the crop.
        noise: Sensor noise in grey levels (standard deviation).
        white: Largest error of the white balance, as a part.
        grey: Chance of a video without colour.
        quality: JPEG quality.
    """

    modes: int = 60
    identity: float = 0.85
    asymmetry: float = 0.16
    tone: Pair = (0.0, 1.0)
    redness: Pair = (0.2, 1.0)
    age: Pair = (0.0, 0.45)
    furrow: Pair = (0.5, 1.15)
    freckles: float = 0.2
    stubble: float = 0.2
    beard: float = 0.08
    lipstick: float = 0.15
    bald: float = 0.1
    covering: float = 0.12
    long_hair: float = 0.4
    glasses: float = 0.15
    brow: Pair = (0.5, 1.25)
    strength: Pair = (0.85, 1.1)
    lopsided: float = 0.3

    rest: Pair = (0.2, 1.3)
    onset: Pair = (0.2, 0.6)
    apex: Pair = (0.7, 2.4)
    offset: Pair = (0.25, 0.8)
    peak: Pair = (0.5, 1.0)
    visible: float = 0.35
    expressions: float = 0.6
    single: float = 0.15
    subtle: float = 0.0
    talking: float = 0.3
    stray: float = 0.2
    blinks: float = 0.25
    va_person: float = 0.05
    va_episode: float = 0.08

    yaw: float = 0.24
    pitch: float = 0.11
    roll: float = 0.1
    sway: float = 0.06
    gaze: float = 0.16
    distance: Pair = (45.0, 140.0)
    zoom: Pair = (0.88, 1.2)
    shift: float = 0.018
    tilt: float = 0.05
    fill: Pair = (0.2, 0.75)
    hard: Pair = (0.05, 0.4)
    exposure: Pair = (0.75, 1.25)
    occluder: float = 0.15
    blur: Pair = (0.0, 0.8)
    motion: float = 0.06
    low: float = 0.3
    low_size: Pair = (0.45, 0.95)
    noise: Pair = (0.0, 5.0)
    white: float = 0.1
    grey: float = 0.04
    quality: Pair = (60, 95)
