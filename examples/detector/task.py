"""What the training steps need of a detector: networks, shapes, a loss, a metric, and how to distil."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from examples.networks.detector import STRIDE, Detector
from examples.samples import SIDE, shapes

GRID = SIDE // STRIDE
IOU = 0.5  # of a box that counts as found
MOST_BOXES = 20  # a picture, the surest first


def teacher() -> dict[str, Any]:
    """The teacher, with the three sets of drawn shapes."""
    split = shapes()
    return {
        "module": Detector(width=24, depth=2),
        **split.loaders(32),
        "example": split.train[0][:2],
        "loss": loss,
        "metric": average_precision,
        "soft_loss": soft_loss,
        "inputs": ["image"],
        "outputs": ["cells"],
    }


def student() -> nn.Module:
    """The student."""
    return Detector(width=12, depth=1)


# --- losses -----------------------------------------------------------------------------------------


def loss(outputs: Tensor, boxes: Tensor) -> Tensor:
    """Objectness of all cells; boxes and classes of those in which the middle of a shape lies."""
    wanted, here = _targets(boxes)
    objectness = functional.binary_cross_entropy_with_logits(outputs[..., 0], here.float())
    found, aim = outputs[here], wanted[here]
    place = functional.mse_loss(found[:, 1:5].sigmoid(), aim[:, 1:5])
    kind = functional.cross_entropy(found[:, 5:], aim[:, 0].long())
    return 4 * objectness + 10 * place + kind


def soft_loss(outputs: Tensor, taught: Tensor, _boxes: Tensor) -> Tensor:
    """The teacher's objectness everywhere, and its boxes and classes where it sees something."""
    seen = taught[..., 0].sigmoid()
    objectness = functional.binary_cross_entropy_with_logits(outputs[..., 0], seen)
    place = (outputs[..., 1:5].sigmoid() - taught[..., 1:5].sigmoid()).square().mean(dim=-1)
    kind = functional.kl_div(
        outputs[..., 5:].log_softmax(-1), taught[..., 5:].log_softmax(-1), reduction="none", log_target=True
    ).sum(dim=-1)
    return 4 * objectness + ((10 * place + kind) * seen).sum() / seen.sum()


def _targets(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [N, 3, 5] -> what each cell should say [N, cells, 5], and which cells are asked [N, cells]."""
    wanted = boxes.new_zeros(len(boxes), GRID * GRID, 5)
    here = torch.zeros(len(boxes), GRID * GRID, dtype=torch.bool, device=boxes.device)
    picture, which = (boxes[..., 0] >= 0).nonzero(as_tuple=True)
    each = boxes[picture, which]
    middle = each[:, 1:3] * GRID
    column, row = middle.floor().clamp(0, GRID - 1).long().unbind(dim=1)
    cell = row * GRID + column
    wanted[picture, cell] = torch.cat([each[:, :1], middle - middle.floor(), each[:, 3:]], dim=1)
    here[picture, cell] = True
    return wanted, here


# --- the metric -------------------------------------------------------------------------------------


def average_precision(outputs: Tensor, boxes: Tensor) -> NDArray[np.float64]:
    """The average precision of each picture at an overlap of a half, all classes together, [N]."""
    pairs = zip(np.asarray(outputs, np.float64), np.asarray(boxes, np.float64), strict=True)
    return np.array([_of_picture(cells, true) for cells, true in pairs])


def boxes(outputs: dict[str, NDArray[Any]]) -> list[NDArray[np.float64]]:
    """Class, score, middle and size of the boxes in each picture, as `map:` wants them, [boxes, 6]."""
    return [_rows(cells) for cells in outputs["cells"].astype(np.float64)]


def _rows(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    found = [[kind, score, *box] for kind, score, box in _boxes(cells)]
    return np.array(found).reshape(-1, 6)


def _of_picture(cells: NDArray[np.float64], boxes: NDArray[np.float64]) -> float:
    """The area under precision over recall, with the surest boxes first and doubles left out."""
    true = boxes[boxes[:, 0] >= 0]
    open_ones = set(range(len(true)))
    right, precision_sum = 0, 0.0
    for count, (kind, _, box) in enumerate(_boxes(cells), start=1):
        match = max(open_ones, key=lambda i: overlap(box, true[i, 1:]), default=None)
        if match is not None and true[match, 0] == kind and overlap(box, true[match, 1:]) >= IOU:
            open_ones.remove(match)
            right += 1
            precision_sum += right / count
    return precision_sum / len(true)


def _boxes(cells: NDArray[np.float64]) -> list[tuple[int, float, NDArray[np.float64]]]:
    """Class, score and (middle, size) of what the cells see, the surest first, without doubles."""
    rows, columns = np.divmod(np.arange(GRID * GRID), GRID)
    values = 1 / (1 + np.exp(-cells[:, :5]))
    middles = np.stack([columns + values[:, 1], rows + values[:, 2]], axis=1) / GRID
    found: list[tuple[int, float, NDArray[np.float64]]] = []
    for place in np.argsort(-values[:, 0], kind="stable")[:MOST_BOXES]:
        box = np.concatenate([middles[place], values[place, 3:5]])
        kind = int(cells[place, 5:].argmax())
        if all(kind != other or overlap(box, there) < IOU for other, _, there in found):
            found.append((kind, float(values[place, 0]), box))
    return found


def overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes of middle and size."""
    low = np.maximum(one[:2] - one[2:] / 2, other[:2] - other[2:] / 2)
    high = np.minimum(one[:2] + one[2:] / 2, other[:2] + other[2:] / 2)
    both = float(np.prod((high - low).clip(min=0)))
    return both / float(one[2:].prod() + other[2:].prod() - both)
