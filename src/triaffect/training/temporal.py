"""What neighbouring frames add to a frame's features: one layer of attention over the seconds around it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triaffect.data.windows import windows

if TYPE_CHECKING:
    from triaffect.training.model import AffectModel

PIECE = 512
"""Frames that are computed together, their neighbours not counted."""


class TemporalAttention(nn.Module):
    """Adds information of neighbouring frames to features; at first nothing, so that it starts as the still model.

    Attention uses the distance of frames in seconds (a bias with a different slope for each of four heads, after Press
    et al. 2022), so gaps and uneven steps need no filling. With a single layer a
    frame depends on nothing farther than `seconds`, which makes pieces of a video equal to the whole.

    Args:
        width: Of the features.
        seconds: How far a frame sees, to either side.
        causal: See what was before only, for a camera.
        hidden: Width of the attention.
    """

    def __init__(self, width: int, seconds: float, causal: bool = False, hidden: int = 128) -> None:
        super().__init__()
        self.seconds, self.causal, self.heads = seconds, causal, 4
        self.inward = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.attention = nn.MultiheadAttention(hidden, self.heads, batch_first=True)
        self.outward = nn.Sequential(nn.GELU(), nn.Linear(hidden, width))
        nn.init.zeros_(self.outward[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.outward[1].bias)  # type: ignore[arg-type]
        # From a bias that forgets within a tenth of the reach to none.
        self.register_buffer("slopes", torch.tensor([10.0, 3.0, 1.0, 0.0]) / seconds, persistent=False)
        self.slopes: Tensor

    def forward(self, features: Tensor, time: Tensor, video: Tensor) -> Tensor:
        """Features with their neighbours' part added.

        Args:
            features: (B, T, width).
            time: (B, T) seconds.
            video: (B, T) numbers; frames of other videos are not seen.
        """
        past = time[:, :, None] - time[:, None, :]
        out_of_reach = (past.abs() > self.seconds * (1 + 1e-6)) | (video[:, :, None] != video[:, None, :])
        if self.causal:
            out_of_reach |= past < 0
        bias = -self.slopes.view(1, -1, 1, 1) * past.abs()[:, None]
        bias = bias.masked_fill(out_of_reach[:, None], -math.inf).flatten(0, 1)
        x = self.inward(features)
        return features + self.outward(self.attention(x, x, x, attn_mask=bias.to(x.dtype), need_weights=False)[0])

    def alone(self, features: Tensor) -> Tensor:
        """The same for frames (N, width) that see none but themselves: attention is then the value alone."""
        weight, bias = self.attention.in_proj_weight.chunk(3)[2], self.attention.in_proj_bias.chunk(3)[2]
        x = F.linear(self.inward(features), weight, bias)
        return features + self.outward(self.attention.out_proj(x))


@torch.inference_mode()
def in_videos(model: AffectModel, features: Tensor, time: Tensor, video: Tensor) -> dict[str, Tensor]:
    """The raw outputs of frames that see each other.

    Args:
        model: With a temporal model.
        features: (N, width), sorted by video and time.
        time: (N,) seconds.
        video: (N,) numbers.

    Returns:
        Raw outputs by task, in the same order, equal however the frames are cut into pieces.
    """
    if model.temporal is None:
        return model.predict_from_features(features)
    parts: list[dict[str, Tensor]] = []
    for near, inside in windows(video.cpu().numpy(), time.cpu().numpy(), model.temporal.seconds, PIECE):
        rows = torch.from_numpy(near).to(features.device)
        outputs = model.predict_from_features(features[rows], time[rows], video[rows])
        parts.append({task: value[torch.from_numpy(inside).to(value.device)] for task, value in outputs.items()})
    return {task: torch.cat([part[task] for part in parts]) for task in model.tasks}
