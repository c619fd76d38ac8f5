"""A network of channel shuffles and depthwise convolutions (after Ma et al. 2018, arXiv 1807.11164).

Channels that are shuffled cannot be pruned, since they are cut in two at the next unit. What lies inside of a
unit can: `HIDDEN_ONLY` names the layers that keep their outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

HIDDEN_ONLY = ("stem.0", "*.out.0", "*.left.0", "*.left.2", "last.0")


def point(channels_in: int, channels_out: int) -> nn.Sequential:
    """A 1x1 convolution with norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


def depth(channels: int, stride: int) -> nn.Sequential:
    """A depthwise 3x3 convolution with norm."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)
    )


class Shuffle(nn.Module):
    """Channels of the two halves in turn."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same, channel i of the first half beside channel i of the second."""
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Unit(nn.Module):
    """Half of the channels pass, the other half goes through three convolutions; then all are shuffled."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        half = channels // 2
        self.half = half
        self.enter = point(half, hidden)
        self.depth = depth(hidden, 1)
        self.out = point(hidden, half)
        self.shuffle = Shuffle()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        left, right = x[:, : self.half], x[:, self.half :]
        return self.shuffle(torch.cat([left, self.out(self.depth(self.enter(right)))], dim=1))


class Down(nn.Module):
    """Both halves are made of all channels, at half the size."""

    def __init__(self, channels_in: int, channels_out: int, hidden: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.left = nn.Sequential(*depth(channels_in, 2), *point(channels_in, half))
        self.enter = point(channels_in, hidden)
        self.depth = depth(hidden, 2)
        self.out = point(hidden, half)
        self.shuffle = Shuffle()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H / 2, W / 2]."""
        return self.shuffle(torch.cat([self.left(x), self.out(self.depth(self.enter(x)))], dim=1))


class ShuffleNet(nn.Module):
    """[N, 1, H, W] -> [N, classes]."""

    def __init__(self, width: int = 16, units: Sequence[int] = (1, 2), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        layers: list[nn.Module] = []
        channels = width
        for count in units:
            layers.append(Down(channels, 2 * channels, 2 * channels))
            channels *= 2
            layers += [Unit(channels, channels) for _ in range(count)]
        self.stages = nn.Sequential(*layers)
        self.last = point(channels, 2 * channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> scores."""
        return self.head(self.pool(self.last(self.stages(self.stem(x)))).flatten(1))
