"""Small ML Programs made with coremltools' own builder, saved, and evaluated by the interpreter."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench.convert.coreml.interpreter import interpret

BOUNDARY = ("float32", "int32")  # what Core ML takes and gives; other types are cast inside the program


@functools.cache
def tools() -> Any:
    """coremltools, or a skip that CI forbids."""
    try:
        import coremltools
    except ImportError as error:
        pytest.skip(f"missing tool: coremltools ({error})")
    import logging

    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    return coremltools


def builder() -> Any:
    tools()
    from coremltools.converters.mil import Builder

    return Builder


def save(
    build: Callable[..., Any],
    inputs: Mapping[str, np.ndarray],
    folder: Path,
    *,
    target: str = "iOS17",
    half: bool = False,
    flexible: str = "",
    image: Mapping[str, Any] | None = None,
) -> Path:
    """The package of the program `build(**inputs)`; its outputs are called out0, out1 ...

    The first size of the input `flexible` is left open, 1 to 16. `half` lowers the program to float16.
    `image` makes the only input an image with that scale and bias.
    """
    coremltools, mb = tools(), builder()
    from coremltools.converters.mil.mil import Function, Program, types

    opset = getattr(coremltools.target, target)
    kinds = {"float32": types.fp32, "int32": types.int32}
    shapes = {name: value.shape or (1,) for name, value in inputs.items()}
    options: dict[str, Any] = {} if half else {"pass_pipeline": coremltools.PassPipeline.EMPTY}
    if flexible:
        size = coremltools.RangeDim(1, 16)
        ranges = {**shapes, flexible: (size, *shapes[flexible][1:])}
        shapes[flexible] = (size.symbol, *shapes[flexible][1:])
        options["inputs"] = [coremltools.TensorType(name=name, shape=shape) for name, shape in ranges.items()]
    if image is not None:
        ((name, shape),) = shapes.items()
        options = {"inputs": [coremltools.ImageType(name=name, shape=shape, **image)]}
    places = {
        name: mb.placeholder(shape=shapes[name], dtype=kinds[_fed_as(value).name])
        for name, value in inputs.items()
    }
    with Function(places, opset_version=opset) as function:
        given = {name: _as_wanted(mb, function.inputs[name], value) for name, value in inputs.items()}
        made = build(**given)
        made = made if isinstance(made, Sequence) else [made]
        function.set_outputs([_as_output(mb, value, number) for number, value in enumerate(made)])
    program = Program()
    program.add_function("main", function)
    precision = coremltools.precision
    model = coremltools.convert(
        program,
        convert_to="mlprogram",
        skip_model_load=True,
        compute_precision=precision.FLOAT16 if half else precision.FLOAT32,
        minimum_deployment_target=opset,
        **options,
    )
    package = folder / "program.mlpackage"
    model.save(str(package))
    return package


def _fed_as(value: np.ndarray) -> np.dtype:
    return value.dtype if value.dtype.name in BOUNDARY else np.dtype("int32")


def _as_wanted(mb: Any, variable: Any, value: np.ndarray) -> Any:
    names = {"bool": "bool", "float16": "fp16"}
    if value.dtype.name not in BOUNDARY:
        variable = mb.cast(x=variable, dtype=names.get(value.dtype.name, value.dtype.name))
    return variable if value.ndim else mb.squeeze(x=variable)


def _as_output(mb: Any, variable: Any, number: int) -> Any:
    from coremltools.converters.mil.mil import types

    if variable.dtype not in (types.fp32, types.int32):
        variable = mb.cast(x=variable, dtype="fp32" if variable.dtype == types.fp16 else "int32")
    return mb.identity(x=variable, name=f"out{number}")


def fed(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs as they cross Core ML's boundary."""
    return {name: value.astype(_fed_as(value)).reshape(value.shape or (1,)) for name, value in inputs.items()}


def run(
    build: Callable[..., Any],
    inputs: Mapping[str, np.ndarray],
    *,
    target: str = "iOS17",
    kinds: Sequence[str] = (),
    flexible: str = "",
) -> list[np.ndarray]:
    """What the interpreter computes for the saved program; `kinds` must be among its operations."""
    with tempfile.TemporaryDirectory() as folder:
        package = save(build, inputs, Path(folder), target=target, flexible=flexible)
        found = operations(package)
        assert set(kinds) <= found, f"{kinds} is not in the saved program: {sorted(found)}"
        outputs = interpret(package, fed(inputs))
    return [outputs[f"out{number}"] for number in range(len(outputs))]


def specification(package: Path) -> Any:
    from coremltools.proto import Model_pb2

    return Model_pb2.Model.FromString(model_file(package).read_bytes())


def model_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def weight_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def block(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def operations(package: Path) -> set[str]:
    """The kinds of all operations that the package holds."""
    found: set[str] = set()

    def collect(part: Any) -> None:
        for operation in part.operations:
            found.add(operation.type)
            for inner in operation.blocks:
                collect(inner)

    collect(block(specification(package)))
    return found


def onnx(
    op: str,
    inputs: Sequence[np.ndarray | None],
    *,
    outputs: int = 1,
    opset: int = 21,
    **attributes: Any,
) -> list[np.ndarray]:
    """The outputs of one ONNX operator, computed by ONNX Runtime without optimisations: the oracle."""
    import onnxruntime
    from onnx import helper

    names = [f"x{number}" if value is not None else "" for number, value in enumerate(inputs)]
    made = [f"y{number}" for number in range(outputs)]
    given = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
    graph = helper.make_graph(
        [helper.make_node(op, names, made, **attributes)],
        "oracle",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in given.items()
        ],
        [helper.make_value_info(name, helper.TypeProto()) for name in made],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, given))
