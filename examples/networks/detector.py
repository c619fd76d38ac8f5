"""A one-stage detector in the manner of YOLO: a backbone, and a box and its class for each cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STRIDE = 8


def conv(channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution with norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class Split(nn.Module):
    """Two ways that begin with a convolution each, one of them with more between; both are joined again.

    YOLO cuts the channels of one convolution in two, which cannot be pruned; two convolutions of half the
    width compute the same and can.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        half = channels // 2
        self.first = conv(channels, half, 1)
        self.second = conv(channels, half, 1)
        self.inside = nn.ModuleList(nn.Sequential(conv(half, half), conv(half, half)) for _ in range(depth))
        self.last = conv((2 + depth) * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        parts = [self.first(x), self.second(x)]
        for block in self.inside:
            parts.append(parts[-1] + block(parts[-1]))
        return self.last(torch.cat(parts, dim=1))


class Detector(nn.Module):
    """[N, 3, H, W] -> [N, cells, 5 + classes]: objectness, middle x and y, width, height, class scores.

    Middles are offsets in the cell, sizes shares of the picture, all before their sigmoid.
    """

    def __init__(self, width: int = 16, depth: int = 1, classes: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            conv(3, width, 3, 2),
            conv(width, 2 * width, 3, 2),
            Split(2 * width, depth),
            conv(2 * width, 4 * width, 3, 2),
            Split(4 * width, depth),
        )
        self.neck = conv(4 * width, 4 * width)
        self.detect = nn.Conv2d(4 * width, 5 + classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> what each cell sees, row after row."""
        return self.detect(self.neck(self.backbone(x))).flatten(2).transpose(1, 2)
