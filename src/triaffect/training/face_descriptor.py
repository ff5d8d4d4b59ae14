"""dlib's face descriptor as a backbone of timm's, by the name `face_descriptor`.

A residual network without batch norm, trained to tell people apart (Davis King 2017, dlib's
`dnn_face_recognition_ex.cpp`; weights CC0). `examples/face_weights.py` makes the file for `model.pretrained` from a
package of npm's. The last of its 14 blocks is left out: it would leave a single pixel at 112 px, and nothing at 96 px.

"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from triaffect.io import InputError

WIDTHS = (32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256)
"""Channels of each block; a block with more than the one before halves the size."""

default_cfgs = generate_default_cfgs(
    {
        "face_descriptor": {
            "input_size": (3, 150, 150),
            "mean": (122.782 / 255, 117.001 / 255, 104.298 / 255),
            "std": (256 / 255,) * 3,
            "first_conv": "stem",
            "classifier": "",
            "license": "cc0-1.0",
        }
    }
)


class Residual(nn.Module):
    """Two convolutions and a shortcut, which a narrower input passes by average pooling and zero channels.

    Args:
        width: Channels of the input.
        out: Channels of the output; if more than `width`, its sides are half as long.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.halves = out > width
        stride, padding = (2, 0) if self.halves else (1, 1)
        self.first = nn.Conv2d(width, out, 3, stride, padding)
        self.second = nn.Conv2d(out, out, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """From (N, width, H, W) to (N, out, H, W), or half of H and W."""
        y = self.second(F.relu(self.first(x)))
        if self.halves:
            x = F.avg_pool2d(x, 2, 2)
            # Without padding the convolution is up to one pixel smaller than the pooled shortcut.
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return F.relu(x + y)


class FaceDescriptor(nn.Module):
    """The network up to its pooled features (N, 256); 4.4 M parameters; images of 64 px and more."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = WIDTHS[-1]
        self.pretrained_cfg = default_cfgs["face_descriptor"].default.to_dict()
        self.stem = nn.Conv2d(3, WIDTHS[0], 7, 2)
        widths = (WIDTHS[0], *WIDTHS)
        self.blocks = nn.Sequential(*(Residual(a, b) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 256) of normalised images (N, 3, H, W)."""
        return self.blocks(F.max_pool2d(F.relu(self.stem(x)), 3, 2)).mean((2, 3))


@register_model
def face_descriptor(pretrained: bool = False, **options: Any) -> FaceDescriptor:
    """Make the backbone; timm calls this, with options for networks that end in classes.

    Raises:
        InputError: Pretrained weights are asked for by `true`: no hub has them.
    """
    if pretrained:
        raise InputError(
            "face_descriptor: no hub has its weights; make them with examples/face_weights.py and set "
            "model.pretrained to the file"
        )
    if "img_size" in options:
        raise TypeError("face_descriptor takes images of any size")
    return FaceDescriptor()
