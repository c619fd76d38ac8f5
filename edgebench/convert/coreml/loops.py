"""Scan and Loop of a known number of steps, written out step by step in ONNX itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgebench.convert.coreml.base import MAX_STEPS
from edgebench.model.base import inferred

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

MAX_NODES = 20_000
_DOMAINS = ("", "ai.onnx")


class _Plan(NamedTuple):
    """How one loop runs: its body, steps, and what its inputs and outputs are for the body."""

    node: NodeProto
    body: GraphProto
    steps: int
    first: int  # body inputs before the states: the step's number and the condition, in a Loop
    states: list[str]
    scans: list[tuple[str, int, bool]]  # what is read step by step: name, axis, backwards
    made: list[tuple[int, bool]]  # what is collected step by step: axis, backwards


def unrolled(model: ModelProto) -> ModelProto:
    """The model without those loops whose number of steps is known; the same model where it has none."""
    if not any(node.op_type in ("Scan", "Loop") for node in model.graph.node):
        return model

    made = inferred(model, "the network")
    known = _constants(made)
    shapes = _shapes(made)
    placed: list[NodeProto] = []
    for node in made.graph.node:
        plan = _plan(node, known, shapes)
        if plan is None:
            placed.append(node)
        else:
            placed += _Unroller(made, plan).nodes()
    texts = [node.SerializeToString() for node in placed]
    del made.graph.node[:], made.graph.value_info[:]
    for text in texts:
        made.graph.node.add().ParseFromString(text)
    return inferred(made, "the network")


def _constants(model: ModelProto) -> dict[str, Any]:
    from onnx import numpy_helper

    small = [tensor for tensor in model.graph.initializer if _small(tensor)]
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in small}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value" and _small(node.attribute[0].t):
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _small(tensor: Any) -> bool:
    return int(np.prod(tensor.dims, dtype=np.int64)) <= 1


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    found = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _plan(node: NodeProto, known: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> _Plan | None:
    if node.domain not in _DOMAINS or node.op_type not in ("Scan", "Loop"):
        return None
    plan = _scan_plan(node, shapes) if node.op_type == "Scan" else _loop_plan(node, known)
    if plan is None or not 0 < plan.steps <= MAX_STEPS or plan.steps * len(plan.body.node) > MAX_NODES:
        return None
    plain = not any(attribute.HasField("g") for each in plan.body.node for attribute in each.attribute)
    return plan if plain else None


def _scan_plan(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> _Plan | None:
    from onnx import helper

    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    body, count = given["body"], given["num_scan_inputs"]
    if len(node.input) != len(body.input):
        return None  # the form of opset 8, with lengths of its own
    states, read = list(node.input[: len(node.input) - count]), list(node.input[len(node.input) - count :])
    collected = len(node.output) - len(states)
    axes = given.get("scan_input_axes", [0] * count)
    ways = given.get("scan_input_directions", [0] * count)
    if any(name not in shapes for name in read) or not read:
        return None
    axes = [axis % len(shapes[name]) for axis, name in zip(axes, read, strict=True)]
    lengths = {shapes[name][axis] for axis, name in zip(axes, read, strict=True)}
    if len(lengths) != 1:
        return None
    out_axes = given.get("scan_output_axes", [0] * collected)
    out_ways = given.get("scan_output_directions", [0] * collected)
    return _Plan(
        node=node,
        body=body,
        steps=lengths.pop(),
        first=0,
        states=states,
        scans=[(name, axis, bool(way)) for name, axis, way in zip(read, axes, ways, strict=True)],
        made=[(axis, bool(way)) for axis, way in zip(out_axes, out_ways, strict=True)],
    )


def _loop_plan(node: NodeProto, known: Mapping[str, Any]) -> _Plan | None:
    body = node.attribute[0].g
    steps = known.get(node.input[0]) if node.input[0] else None
    given = len(node.input) > 1 and node.input[1]
    begins = not given or bool(known.get(node.input[1], np.array(False)).reshape(-1)[0])
    if steps is None or not begins or not _goes_on(body):
        return None
    states = list(node.input[2:])
    return _Plan(
        node=node,
        body=body,
        steps=int(steps.reshape(-1)[0]),
        first=2,
        states=states,
        scans=[],
        made=[(0, False)] * (len(node.output) - len(states)),
    )


def _goes_on(body: GraphProto) -> bool:
    """Whether the body's condition is always true."""
    from onnx import numpy_helper

    makers = {node.output[0]: node for node in body.node}
    name = body.output[0].name
    while name in makers and makers[name].op_type in ("Identity", "Cast"):
        name = makers[name].input[0]
    if name == body.input[1].name:
        return True
    for tensor in body.initializer:
        if tensor.name == name:
            return bool(numpy_helper.to_array(tensor).reshape(-1)[0])
    maker = makers.get(name)
    if maker is None or maker.op_type != "Constant" or maker.attribute[0].name != "value":
        return False
    return bool(numpy_helper.to_array(maker.attribute[0].t).reshape(-1)[0])


class _Unroller:
    """The nodes that stand for one loop. Names begin with the loop's, then the step's number."""

    def __init__(self, model: ModelProto, plan: _Plan) -> None:
        self._model = model
        self._plan = plan
        self._title = plan.node.name or plan.node.output[0] or "loop"
        self._shared: dict[str, str] = {}

    def nodes(self) -> list[NodeProto]:
        """Every step's body, then the last states and what was collected, under the loop's own names."""
        self._store_constants()
        made: list[NodeProto] = []
        states = list(self._plan.states)
        collected: list[list[str]] = [[] for _ in self._plan.made]
        for step in range(self._plan.steps):
            found = self._step(step, states, made)
            states = found[: len(states)]
            for names, name in zip(collected, found[len(states) :], strict=True):
                names.append(name)
        return made + self._ends(states, collected)

    def _store_constants(self) -> None:
        for tensor in self._plan.body.initializer:
            copy = self._model.graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = self._shared[tensor.name] = f"{self._title}/{tensor.name}"

    def _number(self, name: str, value: Any) -> str:
        """A constant of the model, stored once."""
        from onnx import numpy_helper

        full = f"{self._title}/{name}"
        if full not in self._shared:
            self._shared[full] = full
            self._model.graph.initializer.append(numpy_helper.from_array(np.array(value), full))
        return full

    def _step(self, step: int, states: list[str], made: list[NodeProto]) -> list[str]:
        """The names of the body's results in one step, its nodes put behind `made`."""
        from onnx import helper

        plan, where = self._plan, f"{self._title}/{step}"
        given = []
        if plan.first:
            given = [self._number(f"step{step}", np.int64(step)), self._number("true", np.bool_(True))]
        given += states
        for place, (name, axis, backwards) in enumerate(plan.scans):
            at = plan.steps - 1 - step if backwards else step
            index = self._number(f"at{at}", np.int64(at))
            entry = f"{where}/in{place}"
            made.append(helper.make_node("Gather", [name, index], [entry], name=entry, axis=axis))
            given.append(entry)
        renamed = self._shared | {value.name: to for value, to in zip(plan.body.input, given, strict=True)}
        for node in plan.body.node:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = f"{where}/{node.name or node.output[0]}"
            for place, name in enumerate(node.input):
                copy.input[place] = renamed.get(name, name)
            for place, name in enumerate(node.output):
                copy.output[place] = f"{where}/{name}" if name else ""
            renamed |= {name: f"{where}/{name}" for name in node.output if name}
            made.append(copy)
        results = list(plan.body.output)[1 if plan.first else 0 :]
        return [renamed.get(value.name, value.name) for value in results]

    def _ends(self, states: list[str], collected: list[list[str]]) -> list[NodeProto]:
        from onnx import helper

        outputs = list(self._plan.node.output)
        made = [
            helper.make_node("Identity", [name], [output], name=f"{self._title}/{output}")
            for name, output in zip(states, outputs, strict=False)
            if output
        ]
        for (axis, backwards), names, output in zip(
            self._plan.made, collected, outputs[len(states) :], strict=True
        ):
            if not output:
                continue
            wide = [f"{output}/{at}" for at in range(len(names))]
            axes = self._number(f"axis{axis}", np.array([axis], np.int64))
            made += [
                helper.make_node("Unsqueeze", [name, axes], [to], name=to)
                for name, to in zip(names, wide, strict=True)
            ]
            ordered = wide[::-1] if backwards else wide
            made.append(helper.make_node("Concat", ordered, [output], name=output, axis=axis))
        return made
