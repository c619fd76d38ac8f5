"""Vision transformers: one of patches alone (after Touvron et al. 2020, DeiT, arXiv 2012.12877), and one of
convolutions with attention between them (after Mehta and Rastegari 2021, MobileViT, arXiv 2110.02178).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Every token looks at every other, `num_heads` times side by side."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] -> the same shape."""
        each = self.qkv.out_features // (3 * self.num_heads)
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, each)).transpose(1, 2) for part in parts)
        weights = torch.softmax(q @ k.transpose(-2, -1) * each**-0.5, dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers, wide between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] -> the same shape."""
        return self.fc2(self.act(self.fc1(x)))


class Layer(nn.Module):
    """Attention and an MLP, each beside a shortcut."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] -> the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Deit(nn.Module):
    """[N, 1, size, size] -> [N, classes], by the mean of all tokens."""

    def __init__(
        self, size: int, patch: int, width: int = 64, depth: int = 4, num_heads: int = 4, classes: int = 10
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, patch)
        self.places = nn.Parameter(torch.zeros(1, (size // patch) ** 2, width))
        nn.init.trunc_normal_(self.places, std=0.02)
        self.layers = nn.Sequential(*(Layer(width, num_heads, 2 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> scores."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.layers(tokens)).mean(dim=1))


class MobileVit(nn.Module):
    """[N, 1, size, size] -> [N, classes]: convolutions, attention over the picture, convolutions."""

    def __init__(
        self, size: int, width: int = 32, depth: int = 2, num_heads: int = 4, classes: int = 10
    ) -> None:
        super().__init__()
        self.side = size // 4
        self.stem = nn.Sequential(
            nn.Conv2d(1, width // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()
        )
        self.down = nn.Sequential(
            nn.Conv2d(width // 2, width // 2, 3, 2, 1, groups=width // 2, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.Conv2d(width // 2, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.layers = nn.Sequential(*(Layer(width, num_heads, 2 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> scores."""
        near = self.down(self.stem(x))
        tokens = self.norm(self.layers(near.flatten(2).transpose(1, 2)))
        far = tokens.transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.head(self.pool(self.fuse(torch.cat([near, far], dim=1))).flatten(1))
