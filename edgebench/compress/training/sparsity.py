"""sparsify: the smallest weights become zero for good. Smaller to download; dense runtimes run as before."""

from __future__ import annotations

from collections.abc import Iterator

from edgebench.compress.training.base import Module, Network, Sparsify, Tensor, Work
from edgebench.compress.training.fitting import Fitted, fit, keep_zeros, taught, teacher_of
from edgebench.compress.training.looking import matching
from edgebench.errors import ModelError

GROUP, KEPT = 4, 2  # of the pattern that sparse tensor cores take


def run(network: Network, work: Work, options: Sparsify) -> tuple[Network, Fitted]:
    """The network with zeros, trained with them in place."""
    ignored = [each for pattern in options.ignore for each in matching(network.module, pattern, work)]
    layers = {
        name: each for name, each in _layers(network.module) if not any(each is other for other in ignored)
    }
    masks = _in_groups(layers) if options.pattern == "2:4" else _smallest(layers, options)
    if not masks:
        raise ModelError(
            f"{work.given.name}: sparsify finds no layer "
            + (f"whose inputs come in groups of {GROUP}" if options.pattern == "2:4" else "with weights"),
            hint="take the network as it is",
        )
    before = network.masks
    made = {name: mask * before[name] if name in before else mask for name, mask in masks.items()}
    network = network._replace(masks=before | made)
    keep_zeros(network)
    return fit(network, work, options, taught(work, options, teacher_of(work, options)))


def _layers(module: Module) -> Iterator[tuple[str, Module]]:
    import torch

    for name, each in module.named_modules():
        if isinstance(each, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d):
            yield name, each


def _smallest(layers: dict[str, Module], options: Sparsify) -> dict[str, Tensor]:
    """Ones but for the share of smallest magnitude, of each layer or of all together."""
    import torch

    sizes = {name: each.weight.detach().abs() for name, each in layers.items()}
    if options.scope == "layer":
        return {name: _all_but(each, round(options.share * each.numel())) for name, each in sizes.items()}
    joined = torch.cat([each.flatten() for each in sizes.values()]) if sizes else torch.zeros(0)
    mask = _all_but(joined, round(options.share * joined.numel()))
    parts = mask.split([each.numel() for each in sizes.values()])
    return {name: part.reshape(each.shape) for part, (name, each) in zip(parts, sizes.items(), strict=True)}


def _all_but(sizes: Tensor, count: int) -> Tensor:
    """Ones, and zeros for the `count` smallest; of equal ones the first in memory."""
    import torch

    mask = torch.ones(sizes.numel(), device=sizes.device)
    mask[sizes.flatten().argsort(stable=True)[:count]] = 0
    return mask.reshape(sizes.shape)


def _in_groups(layers: dict[str, Module]) -> dict[str, Tensor]:
    """Two ones and two zeros in each group of four along the input channels; other layers are left alone."""
    import torch

    masks = {}
    for name, each in layers.items():
        weight = each.weight.detach().abs()
        if weight.shape[1] % GROUP:
            continue
        groups = weight.movedim(1, -1).reshape(-1, GROUP)
        mask = torch.zeros_like(groups)
        mask.scatter_(1, groups.argsort(dim=1, descending=True, stable=True)[:, :KEPT], 1.0)
        moved = weight.movedim(1, -1).shape
        masks[name] = mask.reshape(moved).movedim(-1, 1).contiguous()
    return masks
