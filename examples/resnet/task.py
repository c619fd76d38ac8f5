"""What the training steps need of convolutional classifiers: the networks and MNIST's pictures."""

from __future__ import annotations

from typing import Any

from torch import nn

from examples.networks.residual import ResNet
from examples.networks.shuffle import ShuffleNet
from examples.samples import mnist, moved_by_a_pixel


def teacher() -> dict[str, Any]:
    """The ResNet teacher, with the three sets."""
    split = mnist()
    return {
        "module": ResNet(width=24, blocks=(2, 2, 2)),
        **split.loaders(64),
        "example": split.train[0][:2],
        "augment": moved_by_a_pixel,
        "inputs": ["image"],
        "outputs": ["logits"],
    }


def student() -> nn.Module:
    """The ShuffleNet-like student."""
    return ShuffleNet(width=16, units=(1, 2))
