"""ONNX's own conformance cases (`onnx.backend.test`) as files: a model, its inputs, the outputs it must give.

A case has two forms. Live: every input is fed at run time. Frozen: inputs that are parameters by their nature
(axes, shapes, pads, scales, weights, norm parameters) are initializers, as exporters write them.
Out of scope: strings, sequences, optionals, bfloat16, 8-bit floats, 4-bit and 2-bit integers, training, the
`ml` and `preview` domains, random outputs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

KINDS = ("simple", "pytorch-operator", "pytorch-converted", "real")
DOMAINS = ("", "ai.onnx")
RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
NO_TENSORS = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence", "String", "ImageDecoder")
DTYPES = (
    "float32",
    "float16",
    "float64",
    "bool",
    *(f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64)),
)
REVISION = 5  # raised whenever the files would come out otherwise

REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

# Operator -> the places of those inputs that are parameters, not data.
PARAMETERS: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BatchNormalization": (1, 2, 3, 4),
    "BlackmanWindow": (0,),
    "CastLike": (1,),
    "CenterCropPad": (1,),
    "Clip": (1, 2),
    "Col2Im": (1, 2),
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "Conv": (1, 2),
    "ConvInteger": (1, 2, 3),
    "ConvTranspose": (1, 2),
    "CumProd": (1,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "DeformConv": (1, 3),
    "DequantizeLinear": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "GRU": (1, 2, 3, 4),
    "GroupNormalization": (1, 2),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 4, 7),
    "LayerNormalization": (1, 2),
    "MatMulInteger": (2, 3),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1, 2),
    "PRelu": (1,),
    "Pad": (1, 2, 3),
    "QLinearConv": (1, 2, 3, 4, 5, 6, 7, 8),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QuantizeLinear": (1, 2),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3, 4),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **{f"Reduce{kind}": (1,) for kind in REDUCTIONS},
}


class Case(NamedTuple):
    """One case as it lies on disk: a folder with model.onnx, inputs.npz and outputs.npz."""

    name: str
    operator: str
    form: str
    folder: Path


class _Loaded(NamedTuple):
    name: str
    model: ModelProto
    inputs: list[Any]
    outputs: list[Any]


def cases(form: str, cache: Path) -> list[Case]:
    """All in-scope cases in one form ("live" or "frozen"), sorted by name; their files are made once."""
    root = cache / f"conformance-onnx-{onnx.__version__}-{REVISION}"
    index = root / "index.json"
    if not index.exists():
        _write_all(root)
    listed = json.loads(index.read_text("utf-8"))
    return [Case(name, operator, form, root / form / name) for name, operator in sorted(listed.items())]


def cache_folder() -> Path:
    """Where test runs keep what is costly to make."""
    return Path(os.environ.get("EDGEBENCH_TEST_CACHE") or Path.home() / ".cache" / "edgebench-tests")


def read(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs and the expected outputs of a case, by name."""
    return _read_npz(case.folder / "inputs.npz"), _read_npz(case.folder / "outputs.npz")


def sample(all_cases: Sequence[Case], count: int, seed: int = 20261123) -> list[Case]:
    """That many of the cases, the same ones each time."""
    keyed = sorted(all_cases, key=lambda case: hashlib.sha256(f"{seed}{case.name}".encode()).hexdigest())
    return sorted(keyed[:count]) if count else list(all_cases)


# --- writing ------------------------------------------------------------------------------------


def _write_all(root: Path) -> None:
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    index: dict[str, str] = {}
    loaded = {each.name: each for each in _load_all()}
    for each in loaded.values():
        base = loaded.get(each.name.partition("_expanded")[0], each)
        if not _in_scope(each) or not _in_scope(base):
            continue
        index[each.name] = base.model.graph.node[0].op_type if each.name.startswith("test_") else each.name
        for form in ("live", "frozen"):
            _write(part / form / each.name, each, _parameters(base.model) if form == "frozen" else set())
    (part / "index.json").write_text(json.dumps(index, indent=1), "utf-8")
    shutil.rmtree(root, ignore_errors=True)
    part.rename(root)


def _write(folder: Path, case: _Loaded, frozen: set[str]) -> None:
    folder.mkdir(parents=True)
    model = ModelProto()
    model.CopyFrom(case.model)
    fed = dict(zip(_input_names(model), case.inputs, strict=False))
    for value in [value for value in model.graph.input if value.name in frozen and value.name in fed]:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(fed.pop(value.name)), value.name))
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, 4)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    outputs = dict(zip([value.name for value in model.graph.output], case.outputs, strict=False))
    _save_npz(folder / "inputs.npz", fed)
    _save_npz(folder / "outputs.npz", outputs)


def _parameters(model: ModelProto) -> set[str]:
    """Inputs of the graph that are read as parameters only."""
    as_data: set[str] = set()
    as_parameter: set[str] = set()
    for node in model.graph.node:
        places = PARAMETERS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            (as_parameter if place in places else as_data).add(name)
        as_data |= _captured(node)
    return as_parameter - as_data


def _captured(node: NodeProto) -> set[str]:
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return {name for graph in inner for deep in graph.node for name in deep.input}


def _input_names(model: ModelProto) -> list[str]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in stored]


def _save_npz(path: Path, arrays: dict[str, Any]) -> None:
    keys = {str(place): np.asarray(array) for place, array in enumerate(arrays.values())}
    np.savez(path, **keys)
    path.with_suffix(".json").write_text(json.dumps(list(arrays)), "utf-8")


def _read_npz(path: Path) -> dict[str, Any]:
    names = json.loads(path.with_suffix(".json").read_text("utf-8"))
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[str(place)] for place, name in enumerate(names)}


# --- loading ------------------------------------------------------------------------------------


def _load_all() -> Iterator[_Loaded]:
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases divide by zero on purpose
        for case in loader.load_node_model_tests():
            inputs, outputs = case.data_sets[0]
            yield _Loaded(case.name, case.model, list(map(_array, inputs)), list(map(_array, outputs)))
    for kind in KINDS:
        for case in loader.load_model_tests(kind=kind):
            yield _from_disk(case)


def _from_disk(case: Any) -> _Loaded:
    if case.url:
        return _light(case)
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    data = folder / "test_data_set_0"
    sides = []
    for side in ("input", "output"):
        files = sorted(data.glob(f"{side}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))
        sides.append([_array_of_file(path) for path in files])
    return _Loaded(case.name, model, *sides)


def _light(case: Any) -> _Loaded:
    from onnx.backend.test.runner import Runner

    path = Path(onnx.__file__).parents[1] / case.url
    model = onnx.load(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [
        Runner.generate_dummy_data(value, seed=0, name=case.model_name, random=False)
        for value in model.graph.input
        if value.name not in stored
    ]
    return _Loaded(case.name, model, inputs, [_array_of_file(path.with_name(f"{path.stem}_output_0.pb"))])


def _array_of_file(path: Path) -> Any:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(tensor)
    except Exception:  # noqa: BLE001 - a sequence or an optional: out of scope
        return None


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value) if value.data_type != onnx.TensorProto.STRING else None
    return value if isinstance(value, np.ndarray | np.generic) else None


# --- scope --------------------------------------------------------------------------------------


def _in_scope(case: _Loaded) -> bool:
    if case.name.startswith("test_training"):
        return False
    graph = case.model.graph
    arrays = [*case.inputs, *case.outputs]
    if any(array is None or np.asarray(array).dtype.name not in DTYPES for array in arrays):
        return False
    if len(case.outputs) != len(graph.output):
        return False
    values = [*graph.input, *graph.output]
    if any(value.type.WhichOneof("value") != "tensor_type" for value in values):
        return False
    nodes = list(_nodes(graph))
    if any(node.domain not in DOMAINS for node in nodes):
        return False
    return not any(_has_no_fixed_answer(node) or node.op_type.startswith(NO_TENSORS) for node in nodes)


def _nodes(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _has_no_fixed_answer(node: NodeProto) -> bool:
    """Whether a node draws random numbers or trains."""
    training = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
    return training or node.op_type in RANDOM
