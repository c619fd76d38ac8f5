"""What the training steps need of vision transformers: the networks and MNIST's pictures."""

from __future__ import annotations

from typing import Any

from torch import nn

from examples.networks.transformers import Deit, MobileVit
from examples.samples import mnist, moved_by_a_pixel


def teacher() -> dict[str, Any]:
    """The DeiT-like teacher, with the three sets."""
    split = mnist()
    return {
        "module": Deit(size=28, patch=4, width=64, depth=4, num_heads=4),
        **split.loaders(64),
        "example": split.train[0][:2],
        "augment": moved_by_a_pixel,
        "inputs": ["image"],
        "outputs": ["logits"],
    }


def student() -> nn.Module:
    """The MobileViT-like student."""
    return MobileVit(size=28, width=32, depth=2, num_heads=4)
