"""What several steps look at: a network's MACs, its parameters, and its layers by their names."""

from __future__ import annotations

import fnmatch
from typing import Any

from edgebench.compress.training.base import Given, Module, Work
from edgebench.errors import UserError, did_you_mean


def macs_of(given: Given, module: Module) -> int:
    """Multiplications of convolutions and linear layers for one sample of the example."""
    import torch

    counted = [0]

    def count(layer: Module, _inputs: Any, output: Any) -> None:
        counted[0] += int(output.numel()) * int(layer.weight[0].numel())

    kinds = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d | torch.nn.Linear
    hooks = [each.register_forward_hook(count) for each in module.modules() if isinstance(each, kinds)]
    place = next(iter(module.parameters())).device
    try:
        with torch.no_grad():
            module.eval()(*(each.to(place) for each in given.example))
    finally:
        for hook in hooks:
            hook.remove()
    return counted[0] // int(given.example[0].shape[0])


def parameters_of(module: Module) -> int:
    """How many numbers a network has learnt."""
    return sum(int(each.numel()) for each in module.parameters())


def named(module: Module, name: str, work: Work) -> Module:
    """The layer of that name; UserError with the nearest one where there is none."""
    return matching(module, name, work)[0]


def matching(module: Module, pattern: str, work: Work) -> list[Module]:
    """The layers whose names match, such as "blocks.*.conv1"; UserError with the nearest where none does."""
    layers = {name: each for name, each in module.named_modules() if name}
    found = [layers[name] for name in fnmatch.filter(layers, pattern)]
    if not found:
        raise UserError(
            f'{work.given.name}: {work.step}: the network has no layer "{pattern}"',
            hint=did_you_mean(pattern, layers),
        )
    return found
