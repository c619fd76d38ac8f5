"""Factories as users write them, right and wrong ones; small, so that a step takes seconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from examples.networks.detector import Detector
from examples.networks.residual import ResNet
from examples.networks.shuffle import ShuffleNet
from examples.networks.transformers import Deit, MobileVit
from examples.samples import digits, shapes


def _batches(
    pair: tuple[Tensor, Tensor], first: int, count: int, size: int = 50
) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = (each[first : first + count] for each in pair)
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def _with(module: nn.Module, **others: Any) -> dict[str, Any]:
    split = digits()
    return {
        "module": module,
        "train": _batches(split.train, 0, 400),
        "validation": _batches(split.validation, 0, 200),
        "test": _batches(split.test, 0, 300),
        "example": split.train[0][:2],
        "inputs": ["image"],
        "outputs": ["logits"],
    } | others


def residual() -> dict[str, Any]:
    """A ResNet of three stages."""
    return _with(ResNet(width=16, blocks=(1, 2, 1)))


def frozen() -> dict[str, Any]:
    """The same with frozen weights, as a published network may come."""
    made = residual()
    for parameter in made["module"].parameters():
        parameter.requires_grad_(False)
    return made


def shuffle() -> dict[str, Any]:
    """A network of channel shuffles."""
    return _with(ShuffleNet(width=16, units=(1, 1)))


def transformer() -> dict[str, Any]:
    """A vision transformer."""
    return _with(Deit(size=8, patch=2, width=32, depth=3, num_heads=4))


def small_residual() -> nn.Module:
    """A student."""
    return ResNet(width=8, blocks=(1, 1, 1))


def small_hybrid() -> nn.Module:
    """A student of convolutions and attention."""
    return MobileVit(size=8, width=16, depth=1, num_heads=2)


def detector() -> dict[str, Any]:
    """A detector of drawn shapes with its own loss and metric."""
    from examples.detector import task

    split = shapes(64, 32, 32)
    return {
        "module": Detector(width=16, depth=1),
        "train": _batches(split.train, 0, 64, 16),
        "validation": _batches(split.validation, 0, 32, 16),
        "test": _batches(split.test, 0, 32, 16),
        "example": split.train[0][:2],
        "loss": task.loss,
        "metric": task.average_precision,
        "soft_loss": task.soft_loss,
        "inputs": ["image"],
        "outputs": ["cells"],
    }


def small_detector() -> nn.Module:
    """Its student."""
    return Detector(width=8, depth=1)


def detector_without_soft_loss() -> dict[str, Any]:
    """It can be taught by features only."""
    made = detector()
    del made["soft_loss"]
    return made


# --- bad ones ---------------------------------------------------------------------------------------


def raises() -> dict[str, Any]:
    """Fails in the user's own line."""
    raise RuntimeError("no weights here")


def returns_a_tuple() -> tuple[nn.Module, list[Any]]:
    """As other tools want it."""
    return ResNet(), []


def returns_no_network() -> dict[str, Any]:
    """A class in the place of a network."""
    return _with(ResNet) | {"module": ResNet}


def unknown_key() -> dict[str, Any]:
    """A slip of the pen."""
    return residual() | {"validate": []}


def without_test() -> dict[str, Any]:
    """Two sets."""
    made = residual()
    del made["test"]
    return made


def empty_validation() -> dict[str, Any]:
    """A set without samples."""
    return residual() | {"validation": []}


def used_up() -> dict[str, Any]:
    """A generator in the place of a loader."""
    made = residual()
    return made | {"train": iter(made["train"])}


def wrong_shapes() -> dict[str, Any]:
    """Pictures of another size in the second batch of the test set."""
    made = residual()
    inputs, labels = made["test"][1]
    return made | {"test": [made["test"][0], (inputs[..., :6], labels)]}


def labels_out_of_range() -> dict[str, Any]:
    """Classes counted from 1."""
    made = residual()
    return made | {"train": [(inputs, labels + 1) for inputs, labels in made["train"]]}


def labels_as_floats() -> dict[str, Any]:
    """Labels of the wrong type."""
    made = residual()
    return made | {"train": [(inputs, labels.float()) for inputs, labels in made["train"]]}


def not_a_number() -> dict[str, Any]:
    """A pixel that is NaN."""
    made = residual()
    inputs, labels = made["validation"][0]
    inputs = inputs.clone()
    inputs[3, 0, 1, 1] = torch.nan
    return made | {"validation": [(inputs, labels)]}


def shared_sample() -> dict[str, Any]:
    """One picture of the training set in the test set."""
    made = residual()
    inputs, labels = made["test"][0]
    inputs = inputs.clone()
    inputs[7] = made["train"][2][0][5]
    return made | {"test": [(inputs, labels)]}


def takes_another_example() -> dict[str, Any]:
    """The network does not take its own example."""
    made = residual()
    return made | {"example": torch.zeros(2, 3, 8, 8)}


def one_sample() -> dict[str, Any]:
    """An example that does not show which axis is the batch."""
    made = residual()
    return made | {"example": made["example"][:1]}


def loss_becomes_nan() -> dict[str, Any]:
    """A loss that is no number from the third epoch on."""
    calls = [0]

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        calls[0] += torch.is_grad_enabled()
        value = nn.functional.cross_entropy(outputs, labels)
        return value * torch.nan if calls[0] > 16 else value

    return residual() | {"loss": loss}


class Halved(nn.Module):
    """Cuts the channels of one convolution in two, as YOLO does, and uses them unequally."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 32, 3, padding=1)
        self.left = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> scores."""
        inside = self.body(self.stem(x).relu()).relu()
        left, right = inside.view(len(x), 2, 16, 8, 8).unbind(1)
        return self.head(torch.cat([self.left(left), right], dim=1).mean(dim=(2, 3)))


def halved() -> dict[str, Any]:
    """A network whose channels cannot go where they are cut."""
    return _with(Halved())


class Branching(nn.Module):
    """Python that decides by a tensor's value: nothing to trace."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = ResNet(width=8, blocks=(1,))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures -> scores."""
        return self.inside(x) if float(x.mean()) > -1 else self.inside(-x)


def branching() -> dict[str, Any]:
    """A network that FX cannot trace."""
    return _with(Branching())


def sixteen_classes() -> nn.Module:
    """A student with other outputs."""
    return ResNet(classes=16)
