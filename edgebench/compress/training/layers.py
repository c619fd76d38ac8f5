"""layer-drop: whole blocks go, those that the validation set misses least."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from edgebench.compress.training.base import LayerDrop, Module, Network, Work
from edgebench.compress.training.fitting import evaluate
from edgebench.compress.training.looking import named
from edgebench.compress.training.structure import changed
from edgebench.errors import ModelError


def run(network: Network, work: Work, options: LayerDrop) -> Network:
    """The network without `count` blocks, each chosen after the one before was gone.

    ModelError when there are too few blocks whose output has their input's shape.
    """
    module, dropped = network.module, list[str]()
    for name in options.among:
        named(module, name, work)
    while len(dropped) < options.count:
        candidates = [name for name in _blocks(module, work) if not options.among or name in options.among]
        if not candidates:
            raise _too_few(work, options, dropped)
        least = min(candidates, key=lambda name: _loss_without(module, work, name))
        module = changed(module, _change([least]), work.given, work.settings.seed)
        dropped.append(least)
    masks = {name: mask for name, mask in network.masks.items() if not _inside(name, dropped)}
    return Network(module, (*network.changes, _change(dropped)), masks)


def _change(blocks: list[str]) -> dict[str, Any]:
    return {"change": "drop", "blocks": blocks}


def _inside(name: str, blocks: list[str]) -> bool:
    return any(name == block or name.startswith(f"{block}.") for block in blocks)


def _loss_without(module: Module, work: Work, name: str) -> float:
    trial = changed(copy.deepcopy(module), _change([name]), work.given, work.settings.seed)
    return evaluate(work.given, trial, "validation", work.device).loss


def _blocks(module: Module, work: Work) -> list[str]:
    """The names of blocks that could go: in a list or a sequence, two weighted layers or more, same shape."""
    import torch

    shapes: dict[str, bool] = {}
    hooks = []
    for name in _listed(module):

        def look(_block: Module, inputs: Any, output: Any, name: str = name) -> None:
            same = len(inputs) >= 1 and isinstance(output, torch.Tensor) and output.shape == inputs[0].shape
            shapes[name] = same and shapes.get(name, True)

        hooks.append(module.get_submodule(name).register_forward_hook(look))
    place = next(iter(module.parameters())).device
    try:
        with torch.no_grad():
            module.eval()(*(each.to(place) for each in work.given.example))
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name, same in shapes.items() if same]


def _listed(module: Module) -> Iterator[str]:
    import torch

    for name, each in module.named_modules():
        parent = module.get_submodule(name.rpartition(".")[0])
        weighted = sum(hasattr(layer, "weight") and layer.weight is not None for layer in each.modules())
        in_list = isinstance(parent, torch.nn.Sequential | torch.nn.ModuleList)
        is_list = isinstance(each, torch.nn.Sequential | torch.nn.ModuleList)
        if name and in_list and not is_list and weighted >= 2:
            yield name


def _too_few(work: Work, options: LayerDrop, dropped: list[str]) -> ModelError:
    gone = f" after {', '.join(dropped)}" if dropped else ""
    among = f" of {', '.join(options.among)}" if options.among else ""
    return ModelError(
        f"{work.given.name}: layer-drop is to remove {options.count} blocks and finds none{among}{gone}: "
        "a block can go where it is in a Sequential or ModuleList and its output has its input's shape",
        hint=f"count: {len(dropped)}"
        if dropped
        else "name blocks that keep their input's shape: among: [...]",
    )
