"""How a network departs from the factory's, as plain data that can be done again on a fresh one.

A pruned network's weights do not fit the network that the factory builds, and pickled networks run code when
they are read. So a checkpoint holds the weights, and the list of changes that makes a fresh network fit them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from edgebench.compress.training.base import Change, Given, Module, Tensor
from edgebench.compress.training.data import network as other_network
from edgebench.errors import InfrastructureError, ModelError


class Attention(NamedTuple):
    """An attention whose heads can be told apart: one linear layer makes q, k and v, one joins the heads."""

    name: str
    module: Module

    @property
    def heads(self) -> int:
        """How many heads it has."""
        return int(self.module.num_heads)

    @property
    def width(self) -> int:
        """How many numbers each head has in each of q, k and v."""
        return int(self.module.qkv.out_features) // (3 * self.heads)


def rebuilt(given: Given, changes: Sequence[Change], seed: int) -> Module:
    """The factory's network with the changes done to it in order; its weights are still the factory's."""
    module = copy.deepcopy(given.module)
    for change in changes:
        module = changed(module, change, given, seed)
    return module


def changed(module: Module, change: Change, given: Given, seed: int) -> Module:
    """The network after one change; the one given may be changed itself."""
    do = _CHANGES.get(str(change.get("change")))
    if do is None:
        raise InfrastructureError(
            f"a checkpoint holds the unknown change {change.get('change')!r}",
            hint="another version of edgebench wrote it: remove the folder of checkpoints",
        )
    return do(_Todo(module, change, given, seed))


# --- the changes ------------------------------------------------------------------------------------


class _Todo(NamedTuple):
    """A change and the network that it is to be done to."""

    module: Module
    change: Change
    given: Given
    seed: int


def _student(todo: _Todo) -> Module:
    return other_network(todo.change["student"], todo.given, todo.seed)


def _drop(todo: _Todo) -> Module:
    import torch

    for name in todo.change["blocks"]:
        replace_module(todo.module, name, torch.nn.Identity())
    return todo.module


def _heads(todo: _Todo) -> Module:
    for name, kept in todo.change["kept"].items():
        keep_heads(Attention(name, todo.module.get_submodule(name)), kept)
    return todo.module


def _neurons(todo: _Todo) -> Module:
    for name, kept in todo.change["kept"].items():
        keep_neurons(todo.module.get_submodule(name), kept)
    return todo.module


def _channels(todo: _Todo) -> Module:
    """Without the channels that torch-pruning removed, by its own history."""
    graph = dependencies(todo.module, todo.given)
    graph.load_pruning_history([tuple(each) for each in todo.change["history"]])
    return todo.module


def _fold(todo: _Todo) -> Module:
    return folded(todo.module, todo.given)


_CHANGES: Mapping[str, Callable[[_Todo], Module]] = {
    "student": _student,
    "drop": _drop,
    "heads": _heads,
    "neurons": _neurons,
    "channels": _channels,
    "fold": _fold,
}


# --- doing them -------------------------------------------------------------------------------------


def replace_module(module: Module, name: str, new: Module) -> None:
    """Put another module in the place of that name."""
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, new)


def dependencies(module: Module, given: Given) -> Any:
    """torch-pruning's graph of which layers must lose channels together."""
    import torch_pruning

    for parameter in module.parameters():
        parameter.requires_grad_(True)  # frozen ones are left out of the graph without a word
    return torch_pruning.DependencyGraph().build_dependency(module, example_inputs=given.example)


def keep_heads(attention: Attention, kept: Sequence[int]) -> None:
    """Leave only these heads in an attention, in place."""
    import torch

    module, width, heads = attention.module, attention.width, attention.heads
    inside = torch.tensor([head * width + i for head in kept for i in range(width)])
    rows = torch.cat([part * heads * width + inside for part in range(3)])
    module.qkv = linear(module.qkv, rows=rows)
    module.proj = linear(module.proj, columns=inside)
    module.num_heads = len(kept)
    for name in ("attn_dim", "all_head_size"):  # what timm and others keep beside it
        if hasattr(module, name):
            setattr(module, name, len(kept) * width)


def keep_neurons(mlp: Module, kept: Sequence[int]) -> None:
    """Leave only these hidden neurons between `fc1` and `fc2`, in place."""
    import torch

    chosen = torch.tensor(list(kept))
    mlp.fc1 = linear(mlp.fc1, rows=chosen)
    mlp.fc2 = linear(mlp.fc2, columns=chosen)


def linear(layer: Module, *, rows: Tensor = None, columns: Tensor = None) -> Module:
    """A linear layer with some of another's outputs (rows) or inputs (columns)."""
    import torch

    weight, bias = layer.weight.detach(), layer.bias
    if rows is not None:
        rows = rows.to(weight.device)
        weight = weight[rows]
        bias = None if bias is None else bias.detach()[rows]
    if columns is not None:
        weight = weight[:, columns.to(weight.device)]
    made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made = made.to(weight.device)
    made.weight = torch.nn.Parameter(weight.clone())
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.detach().clone())
    return made


def folded(module: Module, given: Given) -> Module:
    """The network with every BatchNorm folded into the convolution before it that nothing else reads.

    ModelError where PyTorch's FX cannot trace it: Python that branches on the values of tensors.
    """
    import torch
    from torch.fx import symbolic_trace
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    module.eval()
    try:
        traced = symbolic_trace(module)
    except Exception as error:
        raise ModelError(
            f"{given.name}: the network cannot be traced, so its BatchNorm cannot be folded for qat: "
            f"{str(error).splitlines()[0][:300]}",
            hint="write forward() without branches on tensors and without len() or int() of them",
            detail=str(error)[-4000:],
        ) from error
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(layers.get(str(node.target)), torch.nn.BatchNorm2d) or before is None:
            continue
        convolution = layers.get(str(before.target)) if before.op == "call_module" else None
        if not isinstance(convolution, torch.nn.Conv2d) or len(before.users) != 1:
            continue
        replace_module(traced, str(before.target), fuse_conv_bn_eval(convolution, layers[node.target]))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
