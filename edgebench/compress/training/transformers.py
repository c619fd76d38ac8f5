"""head-prune and mlp-prune: heads of attentions and hidden neurons of MLPs go; the embedding stays as wide.

Attentions are modules with `num_heads` and the linear layers `qkv` and `proj`, MLPs those with `fc1` and
`fc2`: as timm has them, and most networks that are derived from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgebench.compress.training.base import HeadPrune, MlpPrune, Module, Network, Tensor, Work
from edgebench.compress.training.channels import gradients
from edgebench.compress.training.looking import macs_of, matching
from edgebench.compress.training.structure import Attention, changed
from edgebench.errors import ModelError

Kept = dict[str, list[int]]


def heads(network: Network, work: Work, options: HeadPrune) -> Network:
    """The network with fewer heads; ModelError when it has no attention that can lose one."""
    attentions = _attentions(network.module, work, options.ignore)
    score = _scores(network.module, work, options.importance)
    kept = {each.name: _best(_of_heads(each, score), options.ratio, 1) for each in attentions}
    return _without(network, work, {"change": "heads", "kept": kept})


def neurons(network: Network, work: Work, options: MlpPrune) -> Network:
    """The network with narrower MLPs; ModelError when it has none."""
    mlps = _mlps(network.module, work, options.ignore)
    score = _scores(network.module, work, options.importance)
    kept = {
        name: _best(_of_neurons(mlp, score), options.ratio, options.round_to) for name, mlp in mlps.items()
    }
    return _without(network, work, {"change": "neurons", "kept": kept})


def _without(network: Network, work: Work, change: dict[str, Any]) -> Network:
    before = macs_of(work.given, network.module)
    module = changed(network.module, change, work.given, work.settings.seed)
    module.zero_grad(set_to_none=True)
    if macs_of(work.given, module) >= before:
        raise ModelError(
            f"{work.given.name}: {work.step} removed nothing: {before} MACs before and after",
            hint="a larger ratio; one head stays in every attention, and round_to neurons in every MLP",
        )
    return Network(module, (*network.changes, change))


# --- what there is ----------------------------------------------------------------------------------


def _attentions(module: Module, work: Work, ignored: tuple[str, ...]) -> list[Attention]:
    left_alone = [each for pattern in ignored for each in matching(module, pattern, work)]
    found, others = [], []
    for name, each in module.named_modules():
        if not hasattr(each, "num_heads") or any(each is other for other in left_alone):
            continue
        if _is_linear(each, "qkv") and _is_linear(each, "proj"):
            found.append(_checked(Attention(name, each), work))
        else:
            others.append(f"{name} ({type(each).__name__})")
    if not found:
        there = f"; it has {', '.join(others[:5])}" if others else ""
        raise ModelError(
            f"{work.given.name}: head-prune finds no attention with `num_heads`, `qkv` and `proj`{there}",
            hint="write the attention with one linear layer qkv and one proj, as timm does",
        )
    return found


def _checked(attention: Attention, work: Work) -> Attention:
    qkv, proj = attention.module.qkv, attention.module.proj
    if qkv.out_features % (3 * attention.heads) or proj.in_features != attention.heads * attention.width:
        raise ModelError(
            f"{work.given.name}: {attention.name} cannot lose heads: its qkv has {qkv.out_features} outputs "
            f"and its proj {proj.in_features} inputs for {attention.heads} heads",
            hint=f"ignore: [{attention.name}]",
        )
    return attention


def _mlps(module: Module, work: Work, ignored: tuple[str, ...]) -> dict[str, Module]:
    left_alone = [each for pattern in ignored for each in matching(module, pattern, work)]
    found = {
        name: each
        for name, each in module.named_modules()
        if _is_linear(each, "fc1")
        and _is_linear(each, "fc2")
        and not any(each is other for other in left_alone)
    }
    for name, each in found.items():
        if each.fc1.out_features != each.fc2.in_features:
            raise ModelError(
                f"{work.given.name}: {name} cannot lose neurons: its fc1 has {each.fc1.out_features} outputs "
                f"and its fc2 {each.fc2.in_features} inputs",
                hint=f"ignore: [{name}]",
            )
    if not found:
        raise ModelError(
            f"{work.given.name}: mlp-prune finds no MLP with the linear layers `fc1` and `fc2`",
            hint="name them so, as timm does",
        )
    return found


def _is_linear(module: Module, name: str) -> bool:
    import torch

    return isinstance(getattr(module, name, None), torch.nn.Linear)


# --- what it is worth -------------------------------------------------------------------------------


def _scores(module: Module, work: Work, importance: str) -> Callable[[Tensor], Tensor]:
    """Weight -> how much each of its numbers matters. Taylor: what the loss would change, to first order."""
    import torch

    if importance == "taylor":
        module.to("cpu").eval()
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        gradients(module, work)
    random = torch.Generator().manual_seed(work.settings.seed)
    by: Mapping[str, Callable[[Tensor], Tensor]] = {
        "l1": lambda weight: weight.detach().abs(),
        "l2": lambda weight: weight.detach() ** 2,
        "taylor": lambda weight: (weight.detach() * weight.grad).abs(),
        "random": lambda weight: torch.rand(weight.shape, generator=random),
    }
    return by[importance]


def _of_heads(attention: Attention, score: Callable[[Tensor], Tensor]) -> Tensor:
    count, width = attention.heads, attention.width
    rows = score(attention.module.qkv.weight).sum(dim=1).reshape(3, count, width).sum(dim=(0, 2))
    columns = score(attention.module.proj.weight).sum(dim=0).reshape(count, width).sum(dim=1)
    return rows + columns


def _of_neurons(mlp: Module, score: Callable[[Tensor], Tensor]) -> Tensor:
    return score(mlp.fc1.weight).sum(dim=1) + score(mlp.fc2.weight).sum(dim=0)


def _best(worth: Tensor, ratio: float, multiple: int) -> list[int]:
    """The places that stay, in their order: all but the share `ratio` of least worth, in multiples."""
    count = len(worth)
    left = max(multiple, round(count * (1 - ratio) / multiple) * multiple)
    order = worth.argsort(descending=True, stable=True)[: min(left, count)]
    return sorted(int(place) for place in order)
