"""qat: training with weights and layer inputs rounded as int8 would, so that rounding costs less afterwards.

What comes out is float32 with its weights on the 8-bit grid: the rounding is taken out again, and each
runtime's preset quantizes the file. Sums, pooling and products of attentions are not rounded in training.
"""

from __future__ import annotations

from typing import Any

from edgebench.compress.training.base import Module, Network, Qat, Tensor, Work
from edgebench.compress.training.fitting import Fitted, fit, keep_zeros, taught, teacher_of
from edgebench.compress.training.structure import changed
from edgebench.errors import ModelError

OBSERVER = "edgebench_observer"
MOMENTUM = 0.01  # of a new batch's range in the moving average
TOLERANCE = 1e-3  # of what folding BatchNorm may change, of the largest output
SMALLEST = 1e-8  # a range of zeros has a step, too


def run(network: Network, work: Work, options: Qat) -> tuple[Network, Fitted]:
    """The trained network, its BatchNorm folded and its weights on the grid; nothing of the rounding left."""
    change = {"change": "fold"}
    before = _answers(network.module.to("cpu").eval(), work)
    folded = network._replace(
        module=changed(network.module, change, work.given, work.settings.seed),
        changes=(*network.changes, change),
    )
    _check_equal(before, _answers(folded.module, work), work)
    keep_zeros(folded)
    hooks = _dress(folded.module, options.bits)
    trained, fitted = fit(folded, work, options, taught(work, options, teacher_of(work, options)))
    _strip(trained.module, hooks)
    return trained, fitted


def _answers(module: Module, work: Work) -> list[Tensor]:
    import torch

    with torch.no_grad():
        made = module(*work.given.example)
    return list(made) if isinstance(made, tuple | list) else [made]


def _check_equal(before: list[Tensor], after: list[Tensor], work: Work) -> None:
    for one, other in zip(before, after, strict=True):
        apart = float((one - other).abs().max())
        if not apart <= TOLERANCE * max(1.0, float(one.abs().max())):
            raise ModelError(
                f"{work.given.name}: folding BatchNorm for qat changed the outputs by {apart:g}",
                hint="a forward() that does otherwise in eval mode cannot be traced: no branches",
            )


# --- rounding ---------------------------------------------------------------------------------------


def _dress(module: Module, bits: int) -> list[Any]:
    """Round the weights and the inputs of every weighted layer; the hooks that do the latter."""
    import torch
    from torch.nn.utils import parametrize

    largest = 2 ** (bits - 1) - 1
    hooks = []
    layers = [each for each in module.modules() if isinstance(each, torch.nn.Conv2d | torch.nn.Linear)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _rounded_weight(largest))
        layer.add_module(OBSERVER, _rounded_input())
        hooks.append(layer.register_forward_pre_hook(_round_input))
    return hooks


def _round_input(layer: Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (getattr(layer, OBSERVER)(inputs[0]), *inputs[1:])


def _rounded_weight(largest: int) -> Module:
    """A parametrization: symmetric, one step for each output channel, without its most negative value."""
    import torch

    class RoundedWeight(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """The weight on its grid; gradients pass as if it were not rounded."""

        def forward(self, weight: Tensor) -> Tensor:
            """Weight [outputs, ...] -> the same, rounded."""
            steps = weight.detach().flatten(1).abs().amax(dim=1).clamp(min=SMALLEST) / largest
            zero = torch.zeros_like(steps, dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(weight, steps, zero, 0, -largest, largest)

    return RoundedWeight()


def _rounded_input() -> Module:
    """An observer: symmetric, one step for the tensor, from a moving average of its largest magnitude."""
    import torch

    class RoundedInput(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """A layer's input on its grid; the range moves in training only."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("largest", torch.zeros(()))

        def forward(self, value: Tensor) -> Tensor:
            """Value of any shape -> the same, rounded."""
            if self.training:
                now = value.detach().abs().max()
                seen = self.largest > 0
                self.largest.copy_(torch.where(seen, self.largest + MOMENTUM * (now - self.largest), now))
            step = (self.largest / 127).clamp(min=SMALLEST)
            zero = torch.zeros((), dtype=torch.int32, device=value.device)
            return torch.fake_quantize_per_tensor_affine(value, step, zero, -128, 127)

    return RoundedInput()


def _strip(module: Module, hooks: list[Any]) -> None:
    """Leave the rounded weights as plain ones, and nothing else of the rounding."""
    import torch
    from torch.nn.utils import parametrize

    for hook in hooks:
        hook.remove()
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) and parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            delattr(layer, OBSERVER)
            bias = layer.bias  # behind the weight again: files list parameters in this order
            del layer.bias
            layer.register_parameter("bias", bias)
