"""The ONNX nodes behind the layers of a profile, found with what the controller has of the artifact.

onnxruntime   by tensors: the device tells those of its optimised graph, and they keep their names
openvino      by the IR's layers, which the device tells for each layer, and their ONNX tensors
tensorrt      by names: the device tells the nodes itself
ncnn, coreml  by values: the artifact keeps no names, but computes the same tensors
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from edgebench import model
from edgebench.errors import InfrastructureError
from edgebench.pipeline.base import MODEL_FILE, Prepared, Workbench
from edgebench.pipeline.matching import same_tensors
from edgebench.profiles import Network, Node, joined
from edgebench.records import Profile, replace

if TYPE_CHECKING:
    from onnx import ModelProto

BY_VALUES = ("ncnn", "coreml")
Parts = Mapping[str, tuple[str, ...]]


def with_nodes(taken: Profile, prepared: Prepared, bench: Workbench) -> Profile:
    """The profile, each layer with the nodes of the ONNX file that the artifact was made from."""
    artifact = prepared.artifact
    source = prepared.source or prepared.variant
    network = network_of(model.load(bench.artifacts.path(source.digest) / MODEL_FILE))
    parts: Parts = {}
    same: Mapping[str, str] = {}
    if artifact.runtime == "openvino":
        parts = ir_nodes(bench.artifacts.path(artifact.digest) / artifact.entry["model"], network)
    if artifact.runtime in BY_VALUES:
        same = same_tensors(taken, prepared, source, bench)
    return replace(joined(taken, network, artifact.runtime, same, parts), onnx_digest=source.digest)


def network_of(proto: ModelProto) -> Network:
    """The nodes of the outermost graph; what inner graphs read belongs to the node that holds them."""
    from edgebench.model.base import reads

    nodes = [
        Node(
            node.name or next(iter(node.output), node.op_type),
            node.op_type,
            (*node.input, *sorted(reads(node) - set(node.input))),
            tuple(node.output),
        )
        for node in proto.graph.node
    ]
    return Network(nodes, [tensor.name for tensor in proto.graph.initializer])


# --- OpenVINO -----------------------------------------------------------------------------------


def ir_nodes(path: Path, network: Network) -> dict[str, tuple[str, ...]]:
    """The IR's layers -> the ONNX nodes that they are parts of.

    A layer that has neither the name nor a tensor of a node is a piece of the nodes that it leads to:
    OpenVINO gives the name to the last piece of what it wrote out.
    """
    try:
        root = ET.parse(path).getroot()  # noqa: S314 - our own artifact, its digest checked
    except (OSError, ET.ParseError) as error:
        raise InfrastructureError(f"{path} is no IR: {error}", hint="convert the model again") from error
    names = {layer.get("id", ""): layer.get("name", "") for layer in root.iterfind("layers/layer")}
    found = {layer.get("id", ""): _nodes_of_layer(layer, network) for layer in root.iterfind("layers/layer")}
    readers: dict[str, list[str]] = {}
    for edge in root.iterfind("edges/edge"):
        readers.setdefault(edge.get("from-layer", ""), []).append(edge.get("to-layer", ""))
    for number in reversed(list(found)):  # the IR's layers are sorted: what reads them comes after them
        if not found[number]:
            after = [name for reader in readers.get(number, ()) for name in found.get(reader, ())]
            found[number] = tuple(dict.fromkeys(after))
    return {names[number]: nodes for number, nodes in found.items()}


def _nodes_of_layer(layer: ET.Element, network: Network) -> tuple[str, ...]:
    if layer.get("name", "") in network.by_name:
        return (layer.get("name", ""),)
    tensors = [name for port in layer.iterfind("output/port") for name in port.get("names", "").split(",")]
    makers = [network.maker[name].name for name in tensors if name in network.maker]
    return tuple(dict.fromkeys(makers))
