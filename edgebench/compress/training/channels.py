"""channel-prune: whole channels go, so that every layer and everything after it becomes smaller.

Which channels belong together across additions and concatenations is torch-pruning's work (Fang et al. 2023,
"DepGraph", arXiv 2301.12900); what may not lose outputs, and whether anything was won, is looked at here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from edgebench.compress.training.base import ChannelPrune, Module, Network, Work
from edgebench.compress.training.data import Batch, batches, forward, outputs_of
from edgebench.compress.training.fitting import hard_loss, moved
from edgebench.compress.training.looking import macs_of, matching
from edgebench.compress.training.structure import changed, dependencies
from edgebench.errors import ModelError

TAYLOR_BATCHES = 8
MOST_TRIED = 500  # layers that are tried one by one where pruning all of them failed
# What torch-pruning and the network itself were seen to raise over channels that do not fit.
_ODD = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def run(network: Network, work: Work, options: ChannelPrune) -> Network:
    """The smaller network; ModelError when it cannot be pruned, with the layer and the reason."""
    module = network.module.to("cpu").eval()
    before = macs_of(work.given, module)
    shapes = [tuple(each.shape) for each in forward(work.given, module)]
    history = _history(module, work, options)
    change = {"change": "channels", "history": history}
    pruned = changed(module, change, work.given, work.settings.seed)
    made = [tuple(each.shape) for each in forward(work.given, pruned)]
    if made != shapes:
        raise ModelError(
            f"{work.given.name}: channel-prune changed the outputs from {shapes} to {made}",
            hint="name the layers that make them: ignore: [...]",
        )
    if macs_of(work.given, pruned) >= before:
        raise ModelError(
            f"{work.given.name}: channel-prune removed nothing: {before} MACs before and after",
            hint=f"layers with fewer than {2 * options.round_to} channels lose none with "
            f"round_to: {options.round_to}; try round_to: 1, or a larger ratio",
        )
    return Network(pruned, (*network.changes, change))


# --- pruning ----------------------------------------------------------------------------------------


def _history(module: Module, work: Work, options: ChannelPrune) -> list[Any]:
    """Which channels of which layers go, as plain JSON, found by pruning a copy."""
    import torch

    trial = copy.deepcopy(module)
    for parameter in trial.parameters():
        parameter.requires_grad_(True)  # frozen ones would be left out without a word
    ignored = [each for pattern in options.ignore for each in matching(trial, pattern, work)]
    if options.importance == "taylor":
        gradients(trial, work)
    torch.manual_seed(work.settings.seed)  # random importance draws
    try:
        kept = [*ignored, *_makers_of_outputs(trial, work), *_attention_layers(trial)]
        pruner = _pruner(trial, work, options, kept)
        pruner.step()
        trial(*work.given.example)
    except Exception as error:
        raise _cannot(module, work, error) from error
    return [[name, bool(out), [int(i) for i in places]] for name, out, places in pruner.pruning_history()]


def _pruner(module: Module, work: Work, options: ChannelPrune, kept: list[Module]) -> Any:
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters that belong to no layer: they lose what depends
        return torch_pruning.pruner.BasePruner(
            module,
            work.given.example,
            importance=_importance(options),
            global_pruning=options.scope == "global",
            pruning_ratio=options.ratio,
            ignored_layers=kept,
            round_to=options.round_to if options.round_to > 1 else None,
        )


def _importance(options: ChannelPrune) -> Any:
    import torch_pruning

    known = torch_pruning.importance
    makers: dict[str, Callable[[], Any]] = {
        "l1": lambda: known.GroupMagnitudeImportance(p=1),
        "l2": lambda: known.GroupMagnitudeImportance(p=2),
        "taylor": known.GroupTaylorImportance,
        "lamp": lambda: known.LAMPImportance(p=2),
        "fpgm": known.FPGMImportance,
        "random": known.RandomImportance,
    }
    return makers[options.importance]()


def gradients(module: Module, work: Work) -> None:
    """Leave the gradients of some training batches in the module."""
    hard = hard_loss(work.given)
    module.zero_grad(set_to_none=True)
    for place, batch in enumerate(batches(work.given, "train")):
        if place == TAYLOR_BATCHES:
            break
        here: Batch = moved(batch, "cpu")
        hard(here, outputs_of(module(*here.inputs), work.given.name)).backward()


# --- what keeps its outputs -------------------------------------------------------------------------


def _attention_layers(module: Module) -> Iterator[Module]:
    """The layers inside of attentions: their channels are heads', which head-prune removes."""
    for each in module.modules():
        if hasattr(each, "num_heads"):
            yield each
            yield from (child for child in each.modules() if hasattr(child, "weight"))


def _makers_of_outputs(module: Module, work: Work) -> list[Module]:
    """The layers whose channels are the network's outputs: the last ones on the way to each of them."""
    import torch_pruning

    graph = dependencies(module, work.given)
    weighted = (
        torch_pruning.ops.TORCH_CONV,
        torch_pruning.ops.TORCH_LINEAR,
    )
    ends = [node for node in graph.module2node.values() if not node.outputs]
    seen, found = set(map(id, ends)), []
    while ends:
        node = ends.pop()
        if isinstance(node.module, weighted):
            found.append(node.module)
            continue
        for before in node.inputs:
            if id(before) not in seen:
                seen.add(id(before))
                ends.append(before)
    return found


# --- why it cannot be pruned ------------------------------------------------------------------------


def _cannot(module: Module, work: Work, error: Exception) -> ModelError:
    """The layers that cannot lose a channel alone, tried one by one on the network as it was."""
    blamed = list(_blamed(module, work))
    told = "; ".join(f"{name}: {why}" for name, why in blamed[:3])
    more = f" and {len(blamed) - 3} more" if len(blamed) > 3 else ""
    first = str(error).splitlines()[0][:200] if str(error) else ""
    what = (
        f"{work.given.name}: channel-prune cannot prune this network: {type(error).__name__} {first}".rstrip()
    )
    names = ", ".join(name for name, _ in blamed[:20])
    return ModelError(
        f"{what}; layers that cannot lose a channel: {told}{more}" if blamed else what,
        hint=f"ignore: [{names}]; or write the network without splitting channels of one layer"
        if blamed
        else "ignore: [...] with the layers around chunks, splits and shuffles of channels",
        detail=str(error)[-4000:],
    )


def _blamed(module: Module, work: Work) -> Iterator[tuple[str, str]]:
    import torch

    names = [
        name for name, each in module.named_modules() if isinstance(each, torch.nn.Conv2d | torch.nn.Linear)
    ]
    for name in names[:MOST_TRIED]:
        why = _why_not(module, work, name)
        if why:
            yield name, why


def _why_not(module: Module, work: Work, name: str) -> str:
    """What goes wrong when this layer alone loses its first channel; "" where nothing does."""
    import torch
    import torch_pruning

    trial = copy.deepcopy(module)
    layer = trial.get_submodule(name)
    prune = (
        torch_pruning.prune_conv_out_channels
        if isinstance(layer, torch.nn.Conv2d)
        else torch_pruning.prune_linear_out_channels
    )
    try:
        group = dependencies(trial, work.given).get_pruning_group(layer, prune, [0])
        group.prune()
        with torch.no_grad():
            trial(*work.given.example)
    except _ODD as error:
        return f"{type(error).__name__} {str(error).splitlines()[0][:150] if str(error) else ''}".rstrip()
    return ""
