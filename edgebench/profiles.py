"""A profile's layers x the ONNX network they were made from -> which nodes each layer computes. Pure.

A layer is found by tensors that it has in common with the network: it computes the nodes that lead to its
output, back to the outputs of other layers. What is made of constants alone is computed when the model is
loaded. A layer that shares no tensor with the network (a part of an operator that the runtime wrote out) is
one of those that compute what follows; one that only moves values for the runtime's sake computes no node.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from edgebench.records import LayerTime, Profile, replace

# layers that change how values lie in memory and compute nothing of the network, by runtime
MOVES: Mapping[str, frozenset[str]] = {
    "onnxruntime": frozenset({"ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"}),
    "openvino": frozenset({"Reorder"}),
    "ncnn": frozenset({"Split"}),
}
# layers that a runtime puts in by itself, unless they give a tensor of the network or are named after a node
INSERTED: Mapping[str, frozenset[str]] = {
    "onnxruntime": frozenset({"Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"})
}
# how ONNX Runtime names what it made of a node, and the operators that this says were fused behind it
MADE_OF = re.compile(r"(/\w*Fusion\w*/?|_new_reshape|_nchwc|)(_token_\d+)?$")
FUSED_BEHIND: Mapping[str, tuple[str, ...]] = {"/MatMulAddFusion": ("Add",)}
QUANTIZED = ("QLinear", "Nhwc")  # kernels of what stands between DequantizeLinear and QuantizeLinear
FREE_CAST = "InsertedPrecisionFreeCast_"  # ONNX Runtime's prefix of tensors that it computes in float32
SHARED_NODES = 16  # a layer among others that compute more nodes than this: which of them is not known


class Node(NamedTuple):
    """One ONNX node; `name` is its own, or where it has none its first output's."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Network:
    """The nodes of an ONNX graph in their order; `constants` are its initializers."""

    def __init__(self, nodes: Sequence[Node], constants: Iterable[str] = ()) -> None:
        self.nodes = tuple(nodes)
        self._constants = set(constants)

    @cached_property
    def maker(self) -> dict[str, Node]:
        """Tensor -> the node that computes it."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Name -> node."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """Tensor -> the nodes that read it."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def folded(self) -> frozenset[str]:
        """The names of nodes that need constants alone."""
        known, found = set(self._constants) | {""}, []
        for node in self.nodes:
            if all(name in known for name in node.inputs) and not node.kind.startswith("Random"):
                known.update(node.outputs)
                found.append(node.name)
        return frozenset(found)

    def behind(self, tensor: str, others: frozenset[str]) -> list[str]:
        """The names of the nodes that lead to `tensor`, back to tensors of `others`, in order."""
        found: set[str] = set()
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            node = self.maker.get(name)
            if node is None or node.name in found or node.name in self.folded:
                continue
            found.add(node.name)
            waiting += [each for each in node.inputs if each not in others]
        return self.in_order(found)

    def in_order(self, names: Iterable[str]) -> list[str]:
        """These nodes' names as the network has them, each once."""
        wanted = set(names)
        return [node.name for node in self.nodes if node.name in wanted]


def joined(
    profile: Profile,
    network: Network,
    runtime: str,
    same: Mapping[str, str],
    parts: Mapping[str, tuple[str, ...]],
) -> Profile:
    """The profile with the nodes of each layer, and those that no layer computes.

    `same`: the runtime's tensors -> the network's, where they have other names. `parts`: layers of the
    artifact -> nodes.
    """
    network_tensors = network.maker.keys()
    anchors = [_anchors(layer, network, runtime, same, parts) for layer in profile.layers]
    anchors = _without_inserted(profile.layers, anchors, network, runtime)
    every = frozenset(name for names in anchors for name in names if name in network_tensors)
    known = [
        _own_nodes(layer, names, every, network, parts)
        for layer, names in zip(profile.layers, anchors, strict=True)
    ]
    complete = _shared(profile.layers, known, network, runtime)
    idle = _idle(runtime)
    layers = tuple(
        replace(layer, nodes=tuple(nodes), moves=not nodes and layer.kind in idle)
        for layer, nodes in zip(profile.layers, complete, strict=True)
        if nodes or layer.mean_ns  # what takes no time and computes nothing of the network was optimised away
    )
    claimed = {name for layer in layers for name in layer.nodes}
    left = [node.name for node in network.nodes if node.name not in claimed]
    return replace(
        profile,
        layers=layers,
        folded=tuple(name for name in left if name in network.folded),
        unclaimed=tuple(name for name in left if name not in network.folded),
    )


def _idle(runtime: str) -> frozenset[str]:
    """The kinds of layers that compute nothing where no node is known for them."""
    return MOVES.get(runtime, frozenset()) | INSERTED.get(runtime, frozenset())


def _anchors(
    layer: LayerTime,
    network: Network,
    runtime: str,
    same: Mapping[str, str],
    parts: Mapping[str, tuple[str, ...]],
) -> list[str]:
    """The network's tensors that a layer computes."""
    if layer.kind in MOVES.get(runtime, ()):
        return []
    if layer.parts:
        return _ends({name for part in layer.parts for name in parts.get(part, ())}, network)
    names = [same.get(name, name).removeprefix(FREE_CAST) for name in layer.outputs]
    found = [name for name in names if name in network.maker]
    then = layer.then
    if not found and runtime == "onnxruntime":
        found, then = _named_after(layer, network)
    return [_behind_fused(found[0], then, network), *found[1:]] if found else []


def _ends(nodes: set[str], network: Network) -> list[str]:
    """The tensors of these nodes that others read, or nobody, which makes them outputs."""
    made = [name for node in network.in_order(nodes) for name in network.by_name[node].outputs if name]
    return [
        name
        for name in made
        if not network.readers.get(name) or any(each.name not in nodes for each in network.readers[name])
    ]


def _named_after(layer: LayerTime, network: Network) -> tuple[list[str], tuple[str, ...]]:
    """The tensor of the node that a kernel of new tensors is named after, and what was fused behind it."""
    made_of = MADE_OF.search(layer.name)
    if made_of is None:
        return [], ()
    node = network.by_name.get(layer.name[: made_of.start()])
    if node is None:
        return [], ()
    fused = FUSED_BEHIND.get(made_of[1].rstrip("/"), ())
    if layer.kind.startswith(QUANTIZED):
        fused = ("Relu", "QuantizeLinear")
    return [name for name in node.outputs[:1] if name], fused


def _without_inserted(
    layers: Sequence[LayerTime], anchors: Sequence[list[str]], network: Network, runtime: str
) -> list[list[str]]:
    """The anchors without those of layers that only hand on, in another layout, what another one computes."""
    inserted = INSERTED.get(runtime, frozenset())
    makers = Counter(name for names in anchors for name in names)
    return [
        [
            name
            for name in names
            if not (layer.kind in inserted and makers[name] > 1 and network.maker[name].kind != layer.kind)
        ]
        for layer, names in zip(layers, anchors, strict=True)
    ]


def _behind_fused(tensor: str, then: Sequence[str], network: Network) -> str:
    """The tensor behind the operators that were fused with the one that computes `tensor`."""
    for kind in then:
        if network.maker[tensor].kind == kind:
            continue
        following = [node for node in network.readers.get(tensor, ()) if node.kind == kind]
        if len(following) == 1:
            tensor = following[0].outputs[0]
    return tensor


def _own_nodes(
    layer: LayerTime,
    anchors: Sequence[str],
    every: frozenset[str],
    network: Network,
    parts: Mapping[str, tuple[str, ...]],
) -> list[str]:
    told = [name for name in layer.nodes if name in network.by_name]
    from_parts = [name for part in layer.parts for name in parts.get(part, ())]
    traced = [name for anchor in anchors for name in network.behind(anchor, every - {anchor})]
    return network.in_order((*told, *from_parts, *traced))


def _shared(
    layers: Sequence[LayerTime], known: Sequence[list[str]], network: Network, runtime: str
) -> list[list[str]]:
    """Layers without nodes get those of the layers that they lead to: together they compute them."""
    readers: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        for name in layer.inputs:
            readers.setdefault(name, []).append(number)
    idle = _idle(runtime)
    reached = [list(names) for names in known]
    for number in reversed(range(len(layers))):
        if not known[number]:
            outputs = layers[number].outputs
            after = {reader for name in outputs for reader in readers.get(name, ()) if reader > number}
            reached[number] = network.in_order(name for reader in after for name in reached[reader])
    return [
        known[number] if layer.kind in idle or len(reached[number]) > SHARED_NODES else reached[number]
        for number, layer in enumerate(layers)
    ]
