"""What neighbouring frames add to a frame's features: attention, convolutions, recurrence or a transformer over time.

All of them know a frame by its distance in seconds, so gaps and uneven steps need no filling, and none sees farther
than its span, which makes pieces of a video equal to the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from triaffect.data.windows import windows

if TYPE_CHECKING:
    from triaffect.training.model import AffectModel

PIECE = 512
"""Frames that are computed together, their neighbours not counted."""
HIDDEN = 128
"""Width of a temporal model."""
HEADS = 4
TOLERANCE = 2e-4
"""Seconds by which a frame may be out of reach and still count, against rounding; `windows` allows for more."""
MAX_STEPS = 8
"""Steps of a recurrent model to either side."""
MAX_LEVELS = 6
"""Levels of a convolutional model."""


class AttentionOverTime(nn.Module):
    """Attention to the frames within reach, biased by their distance in seconds.

    The bias has a different slope for each head (after Press et al. 2022): from one that forgets within a tenth of the
    reach to none.

    Args:
        seconds: The reach to either side.
        causal: See earlier frames only.
    """

    def __init__(self, seconds: float, causal: bool) -> None:
        super().__init__()
        self.seconds, self.causal = seconds, causal
        self.attention = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)
        self.slopes = nn.Buffer(torch.tensor([10.0, 3.0, 1.0, 0.0]) / seconds, persistent=False)

    def forward(self, x: Tensor, time: Tensor, video: Tensor) -> Tensor:
        """From (B, T, HIDDEN), times (B, T) in seconds and video numbers (B, T) to (B, T, HIDDEN)."""
        past = time[:, :, None] - time[:, None, :]
        out_of_reach = (past.abs() > self.seconds + TOLERANCE) | (video[:, :, None] != video[:, None, :])
        if self.causal:
            out_of_reach |= past < 0
        bias = -self.slopes.view(1, -1, 1, 1) * past.abs()[:, None]
        bias = bias.masked_fill(out_of_reach[:, None], -math.inf).flatten(0, 1)
        return self.attention(x, x, x, attn_mask=bias.to(x.dtype), need_weights=False)[0]


class TransformerOverTime(nn.Module):
    """Two layers of a transformer (norm first), each with half of the reach."""

    def __init__(self, seconds: float, causal: bool, fps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AttentionOverTime(seconds / 2, causal) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2))
        self.forwards = nn.ModuleList(_feed_forward(HIDDEN) for _ in range(2))

    def forward(self, x: Tensor, time: Tensor, video: Tensor) -> Tensor:
        """As `AttentionOverTime.forward`."""
        for attention, norm, feed_forward in zip(self.layers, self.norms, self.forwards, strict=True):
            x = x + attention(norm(x), time, video)
            x = x + feed_forward(x)
        return x


class ConvolutionsOverTime(nn.Module):
    """Dilated convolutions (a TCN, Bai et al. 2018) whose taps are times, not frame numbers.

    A tap is the mean of the frames around a time, weighted by a triangle as wide as the distance of the taps, which
    doubles from level to level. The finest distance is near that of the frames.
    """

    def __init__(self, seconds: float, causal: bool, fps: float) -> None:
        super().__init__()
        self.causal = causal
        levels = min(MAX_LEVELS, max(1, round(math.log2(seconds * fps / (3 if causal else 2) + 1))))
        finest = seconds / ((3 if causal else 2) * (2**levels - 1))
        self.steps = [finest * 2**level for level in range(levels)]
        self.convolutions = nn.ModuleList(_feed_forward(3 * HIDDEN) for _ in self.steps)

    def forward(self, x: Tensor, time: Tensor, video: Tensor) -> Tensor:
        """As `AttentionOverTime.forward`."""
        for step, convolution in zip(self.steps, self.convolutions, strict=True):
            places = (-2, -1, 0) if self.causal else (-1, 0, 1)
            taps, _ = read_taps(x, time, video, [step * place for place in places], step, self.causal)
            x = x + convolution(taps.permute(1, 2, 0, 3).flatten(2))
        return x


class RecurrenceOverTime(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) that ends at each frame, from the past and, unless causal, the future.

    It goes over evenly spaced times within the span; a time without a frame is marked as such.
    """

    def __init__(self, seconds: float, causal: bool, fps: float) -> None:
        super().__init__()
        self.causal = causal
        steps = min(MAX_STEPS, max(2, round(seconds * fps)))
        self.step = seconds / steps
        self.places = [-self.step * place for place in reversed(range(steps))]
        self.cells = nn.ModuleList(nn.GRUCell(HIDDEN + 1, HIDDEN) for _ in range(1 if causal else 2))
        self.join = nn.Linear(len(self.cells) * HIDDEN, HIDDEN)

    def forward(self, x: Tensor, time: Tensor, video: Tensor) -> Tensor:
        """As `AttentionOverTime.forward`."""
        states = []
        for cell, sign in zip(self.cells, (1.0, -1.0), strict=False):
            places = [sign * place for place in self.places]
            taps, presence = read_taps(x, time, video, places, self.step, self.causal)
            inputs = torch.cat([taps, presence], -1).flatten(1, 2)
            state = torch.zeros_like(inputs[0, :, :HIDDEN])
            for tap in inputs:
                state = cell(tap, state)
            states.append(state)
        return x + self.join(torch.cat(states, -1)).view_as(x)


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * HIDDEN), nn.GELU(), nn.Linear(2 * HIDDEN, HIDDEN))


def read_taps(
    x: Tensor, time: Tensor, video: Tensor, places: Sequence[float], width: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """Read features at times around each frame, as means of the frames near those times.

    Args:
        x: (B, T, C) features.
        time: (B, T) seconds.
        video: (B, T) numbers; frames of other videos are not read.
        places: K seconds after the frame (before it, if negative).
        width: Seconds from the middle of a triangle of weights to its end.
        causal: Read no later frames.

    Returns:
        (K, B, T, C) features, less than a mean where few frames are near, and (K, B, T, 1) from 0, none, to 1.
    """
    after = time[:, None, :] - time[:, :, None]
    readable = video[:, :, None] == video[:, None, :]
    if causal:
        readable = readable & (after <= 0)
    near = torch.tensor(places, dtype=time.dtype, device=time.device).view(-1, 1, 1, 1)
    weight = (1 - (after[None] - near).abs() / width).clamp_min(0) * readable
    total = weight.sum(-1, keepdim=True)
    # A frame at the very end of a triangle fades out: rounding must not decide whether it counts.
    weight = (weight / total.clamp_min(0.5)).to(x.dtype)
    return weight @ x, (2 * total).clamp_max(1).to(x.dtype)


KINDS = {"transformer": TransformerOverTime, "tcn": ConvolutionsOverTime, "gru": RecurrenceOverTime}


class Span(nn.Module):
    """What the frames of one span add to features; at first nothing, so that it starts as the still model."""

    def __init__(self, width: int, kind: str, seconds: float, causal: bool, fps: float, dropout: float) -> None:
        super().__init__()
        self.inward = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, HIDDEN), nn.Dropout(dropout))
        self.over_time = KINDS[kind](seconds, causal, fps) if kind in KINDS else AttentionOverTime(seconds, causal)
        self.outward = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, width))
        nn.init.zeros_(self.outward[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.outward[1].bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, time: Tensor, video: Tensor) -> Tensor:
        """(B, T, width) to add to the features."""
        return self.outward(self.over_time(self.inward(features), time, video))


class TemporalModel(nn.Module):
    """Adds information of neighbouring frames to the features of each task.

    Args:
        width: Of the features.
        kind: `attention`, or one of `KINDS`.
        spans: Task -> seconds to either side, several for several scales, none for a still task.
        causal: See what was before only, for a camera.
        fps: Frames per second of the videos, which decides how fine `tcn` and `gru` look.
        dropout: Dropout of the features.
    """

    def __init__(
        self, width: int, kind: str, spans: Mapping[str, Sequence[float]], causal: bool, fps: float, dropout: float
    ) -> None:
        super().__init__()
        self.seconds, self.causal = max(seconds for scales in spans.values() for seconds in scales), causal
        self.tasks = nn.ModuleDict(
            {
                task: nn.ModuleList(Span(width, kind, seconds, causal, fps, dropout) for seconds in scales)
                for task, scales in spans.items()
            }
        )

    def forward(self, features: Tensor, time: Tensor, video: Tensor) -> dict[str, Tensor]:
        """Each task's features with their neighbours' part added.

        Args:
            features: (B, T, width).
            time: (B, T) seconds.
            video: (B, T) numbers; frames of other videos are not seen.
        """
        joined = {}
        for task, scales in self.tasks.items():
            joined[task] = features
            for span in scales:  # type: ignore[attr-defined]
                joined[task] = joined[task] + span(features, time, video)
        return joined


@torch.inference_mode()
def in_videos(model: AffectModel, features: Tensor, time: Tensor | None, video: Tensor | None) -> dict[str, Tensor]:
    """The raw outputs of frames that see each other, if the model is temporal.

    Args:
        model: The model.
        features: (N, width), sorted by video and time.
        time: (N,) seconds; without times and videos, each frame is seen alone.
        video: (N,) numbers.

    Returns:
        Raw outputs by task, in the same order, equal however the frames are cut into pieces.
    """
    if model.temporal is None or time is None or video is None:
        return model.predict_from_features(features)
    parts: list[dict[str, Tensor]] = []
    for near, inside in windows(video.cpu().numpy(), time.cpu().numpy(), model.temporal.seconds, PIECE):
        rows = torch.from_numpy(near).to(features.device)
        outputs = model.predict_from_features(features[rows], time[rows], video[rows])
        parts.append({task: value[torch.from_numpy(inside).to(value.device)] for task, value in outputs.items()})
    return {task: torch.cat([part[task] for part in parts]) for task in model.tasks}
