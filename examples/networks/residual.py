"""ResNet: stages of two 3x3 convolutions with a shortcut (He et al. 2015, arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions, and their input added."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else projection(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H / stride, W / stride]."""
        inside = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(inside + self.shortcut(x))


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """A shortcut where the shape changes."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
    )


class ResNet(nn.Module):
    """[N, 1, H, W] -> [N, classes]; `blocks` of each stage, the stages of doubling width."""

    def __init__(self, width: int = 16, blocks: Sequence[int] = (2, 2, 2), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        layers: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for place in range(count):
                wanted = width * 2**stage
                layers.append(Block(channels, wanted, 2 if stage and not place else 1))
                channels = wanted
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> scores."""
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
