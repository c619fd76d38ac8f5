"""The interpreter against whole packages: sound ones, damaged ones, and those that contradict themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.convert.base import read_arrays
from edgebench.convert.coreml.interpreter import interpret, program
from edgebench.convert.coreml.interpreter.base import ELEMENTS, unpack_bits
from edgebench.convert.coreml.interpreter.blobs import BlobFile
from edgebench.errors import EdgebenchError, ModelError, UserError
from tests.convert.coreml import mil

_F = np.float32
X = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 8)).astype(_F)
WEIGHT = np.random.default_rng(1).uniform(-1, 1, (4, 3, 3, 3)).astype(_F)


def _network(x: Any) -> Any:
    mb = mil.builder()
    y = mb.relu(x=mb.conv(x=x, weight=WEIGHT, pad_type="same", name="first"), name="second")
    return mb.reduce_mean(x=y, axes=[2, 3], name="third")


def _expected() -> np.ndarray:
    (y,) = mil.onnx("Conv", [X, WEIGHT], auto_pad="SAME_UPPER")
    return np.maximum(y, 0).mean((2, 3))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sound package: a convolution with its weights in the blob file."""
    return mil.save(_network, {"x": X}, tmp_path_factory.mktemp("saved"))


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy.mlpackage"))


def _edit(package: Path, change: Callable[[Any], None]) -> None:
    """Change the program of a saved package."""
    model = mil.specification(package)
    change(mil.block(model))
    mil.model_file(package).write_bytes(model.SerializeToString())


def _operation(block: Any, name: str) -> Any:
    return next(op for op in block.operations if name in [output.name for output in op.outputs])


def _const(block: Any, user: str, parameter: str) -> Any:
    """The constant that an operation takes as one of its parameters."""
    return _operation(block, _operation(block, user).inputs[parameter].arguments[0].name).attributes["val"]


# --- sound packages -------------------------------------------------------------------------------


def test_a_network(saved: Path) -> None:
    found = interpret(saved, {"x": X})
    assert list(found) == ["out0"]
    np.testing.assert_allclose(found["out0"], _expected(), rtol=1e-5)


def test_a_lowered_network_in_every_precision(tmp_path: Path) -> None:
    package = mil.save(_network, {"x": X}, tmp_path, half=True)
    whole, half, double = (
        interpret(package, {"x": X}, precision=p)["out0"] for p in ("fp32", "fp16", "fp64")
    )
    assert (whole.dtype, half.dtype, double.dtype) == (np.float32, np.float32, np.float64)
    np.testing.assert_allclose(whole, _expected(), rtol=2e-3)
    np.testing.assert_allclose(whole, double, rtol=1e-6)
    np.testing.assert_array_equal(half, half.astype(np.float16))
    assert 1e-5 < np.abs(half - whole).max() < 2e-3


def test_half_precision_overflows(tmp_path: Path) -> None:
    package = mil.save(lambda x: mil.builder().mul(x=x, y=_F(60000)), {"x": X}, tmp_path, half=True)
    assert np.isinf(interpret(package, {"x": X * 0 + 2}, precision="fp16")["out0"]).all()
    assert np.isfinite(interpret(package, {"x": X * 0 + 2})["out0"]).all()


def test_an_open_size(tmp_path: Path) -> None:
    x = np.ones((3, 4), _F)
    package = mil.save(lambda x: mil.builder().reduce_sum(x=x, axes=[0]), {"x": x}, tmp_path, flexible="x")
    for rows in (1, 3, 7):
        np.testing.assert_array_equal(interpret(package, {"x": np.ones((rows, 4), _F)})["out0"], [rows] * 4)


def test_an_image_is_fed_as_its_tensor(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8)).astype(_F)
    looks = {"scale": 1 / 255, "bias": [-0.5, 0.25, 0.0]}
    package = mil.save(lambda x: mil.builder().relu(x=x), {"x": image}, tmp_path, image=looks)
    want = np.maximum(image / 255 + np.array(looks["bias"]).reshape(3, 1, 1), 0)
    np.testing.assert_allclose(interpret(package, {"x": image})["out0"], want, atol=1e-6)


def test_values_are_freed_after_their_last_use(tmp_path: Path) -> None:
    mb, x = mil.builder(), np.zeros((64, 4096), _F)  # 1 MiB

    def chain(x: Any) -> Any:
        for _ in range(30):
            x = mb.add(x=x, y=_F(1))
        return x

    package = mil.save(chain, {"x": x}, tmp_path)
    interpret(package, {"x": x})
    tracemalloc.start()
    found = interpret(package, {"x": x})["out0"]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found[0, 0] == 30
    assert peak_bytes < 8 << 20


def test_outputs_are_no_views_of_the_package(tmp_path: Path) -> None:
    package = mil.save(
        lambda x: mil.builder().concat(values=(x, WEIGHT), axis=0),
        {"x": np.zeros((1, 3, 3, 3), _F)},
        tmp_path,
    )
    found = interpret(package, {"x": np.zeros((1, 3, 3, 3), _F)})["out0"]
    shutil.rmtree(package)
    found += 1
    np.testing.assert_array_equal(found[1:], WEIGHT + 1)


# --- feeds ----------------------------------------------------------------------------------------


def test_feeds_that_do_not_fit(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no input "y"'):
        interpret(saved, {"y": X})
    with pytest.raises(UserError, match=r'"x".*is not fed'):
        interpret(saved, {})
    with pytest.raises(UserError, match=r"float32\[1, 3, 8, 7\] is fed"):
        interpret(saved, {"x": X[..., 1:]})
    with pytest.raises(UserError, match="<U1 is fed"):
        interpret(saved, {"x": np.full(X.shape, "a")})
    integers = mil.save(lambda i: mil.builder().add(x=i, y=1), {"i": np.array([1], np.int32)}, tmp_path)
    with pytest.raises(UserError, match="out of its range"):
        interpret(integers, {"i": np.array([2**40])})
    with pytest.raises(UserError, match="float64 is fed"):
        interpret(integers, {"i": np.array([1.0])})
    assert interpret(integers, {"i": np.array([5])})["out0"] == [6]
    np.testing.assert_allclose(interpret(saved, {"x": X.astype(float)})["out0"], _expected(), rtol=1e-5)


# --- packages that contradict themselves ----------------------------------------------------------


def test_a_declared_shape_that_its_operation_does_not_give(package: Path) -> None:
    def change(block: Any) -> None:
        _operation(block, "second").outputs[0].type.tensorType.dimensions[3].constant.size = 9

    _edit(package, change)
    with pytest.raises(ModelError, match=r'"second" \(relu\) gives float\[1, 4, 8, 8\].*fp32\[1, 4, 8, 9\]'):
        interpret(package, {"x": X})


def test_a_declared_type_that_its_operation_does_not_give(package: Path) -> None:
    _edit(
        package, lambda block: setattr(_operation(block, "second").outputs[0].type.tensorType, "dataType", 23)
    )
    with pytest.raises(ModelError, match=r'"second" \(relu\) gives float.*int32'):
        interpret(package, {"x": X})


def test_a_stale_reshape(tmp_path: Path) -> None:
    """A 0 that meant another input: coremltools saves it without a word."""
    mb, x = mil.builder(), np.zeros((1, 40, 360), _F)
    package = mil.save(lambda x: mb.reshape(x=x, shape=[1, 40, 360], name="kept"), {"x": x}, tmp_path)

    def change(block: Any) -> None:
        _const(block, "kept", "shape").immediateValue.tensor.ints.values[:] = [0, 360, 40]

    _edit(package, change)
    with pytest.raises(ModelError, match=r"\[1, 360, 40\].*\[1, 40, 360\]"):
        interpret(package, {"x": x})


def test_an_unknown_operator_is_named(package: Path) -> None:
    _edit(package, lambda block: setattr(_operation(block, "second"), "type", "random_uniform"))
    with pytest.raises(ModelError, match=r'"second".*"random_uniform" is not known'):
        interpret(package, {"x": X})


def test_absurd_shapes_are_refused_before_allocation(package: Path, tmp_path: Path) -> None:
    def declare(block: Any) -> None:
        _operation(block, "second").outputs[0].type.tensorType.dimensions[3].constant.size = 2**40

    _edit(package, declare)
    with pytest.raises(ModelError, match=r'"second" \(relu\) declares.*too large'):
        interpret(package, {"x": X})

    mb, x = mil.builder(), np.zeros((2, 3), _F)
    makers: dict[str, Callable[[Any], Any]] = {
        "tile": lambda x: mb.tile(x=x, reps=[1, 2], name="made"),
        "pad": lambda x: mb.pad(x=x, pad=[0, 1], name="made"),
    }
    for number, (kind, make) in enumerate(makers.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = mil.save(make, {"x": x}, folder)

        def enlarge(block: Any, kind: str = kind) -> None:
            parameter = {"tile": "reps", "pad": "pad"}[kind]
            _const(block, "made", parameter).immediateValue.tensor.ints.values[:] = [2**30, 2**30]

        _edit(made, enlarge)
        with pytest.raises(ModelError, match=f'"made" \\({kind}\\).*too large'):
            interpret(made, {"x": x})


def test_too_many_axes(package: Path) -> None:
    def change(block: Any) -> None:
        dimensions = _operation(block, "second").outputs[0].type.tensorType
        dimensions.rank = 6
        for _ in range(2):
            dimensions.dimensions.add().constant.size = 1

    _edit(package, change)
    with pytest.raises(ModelError, match=r'"second" \(relu\) declares.*Core ML has 5 axes'):
        interpret(package, {"x": X})


def test_a_description_of_another_program(package: Path) -> None:
    model = mil.specification(package)
    model.description.output[0].name = "other"
    mil.model_file(package).write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="do not both have: other, out0"):
        interpret(package, {"x": X})


def test_a_value_that_nothing_computes(package: Path) -> None:
    _edit(
        package, lambda block: setattr(_operation(block, "second").inputs["x"].arguments[0], "name", "lost")
    )
    with pytest.raises(ModelError, match='uses "lost"'):
        interpret(package, {"x": X})


def test_a_missing_parameter_is_named(tmp_path: Path) -> None:
    package = mil.save(
        lambda x: mil.builder().leaky_relu(x=x, alpha=_F(0.1), name="leaky"), {"x": X}, tmp_path
    )
    _edit(package, lambda block: _operation(block, "leaky").inputs.pop("alpha"))
    with pytest.raises(ModelError, match=r'"leaky" .leaky_relu.: its parameter "alpha" is missing'):
        interpret(package, {"x": X})


def test_a_parameter_of_the_wrong_kind(package: Path) -> None:
    def swap(block: Any) -> None:
        conv = _operation(block, "first")
        conv.inputs["strides"].arguments[0].name = conv.inputs["pad_type"].arguments[0].name

    _edit(package, swap)
    with pytest.raises(ModelError, match=r'"first" .conv.: its parameter "strides" is a string'):
        interpret(package, {"x": X})


def test_a_loop_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mb = mil.builder()
    package = mil.save(
        lambda n: mb.while_loop(
            _cond=lambda n: mb.greater(x=n, y=0), _body=lambda n: mb.add(x=n, y=1), loop_vars=(n,)
        ),
        {"n": np.array([1], np.int32)[0:1].reshape(())},
        tmp_path,
    )
    monkeypatch.setattr(program, "_MAX_ITERATIONS", 50)
    with pytest.raises(ModelError, match="does not end within 50"):
        interpret(package, {"n": np.array([1], np.int32)})


# --- what the documentation leaves open -----------------------------------------------------------

_I = np.array([-1], np.int32)
_ROW = np.zeros((1, 1, 1, 3), _F)
REFUSED: dict[str, tuple[Callable[[Any], Any], np.ndarray, str]] = {
    "negative gather": (lambda x: mil.builder().gather(x=WEIGHT, indices=x), _I, "index of -1 into 4"),
    "gather beyond": (lambda x: mil.builder().gather(x=WEIGHT, indices=x), _I + 5, "index of 4 into 4"),
    "integer division": (
        lambda x: mil.builder().real_div(x=x, y=np.array([2], np.int32)),
        _I,
        "not documented",
    ),
    "nearest between two": (
        lambda x: mil.builder().resize_nearest_neighbor(x=x, target_size_height=1, target_size_width=7),
        np.zeros((1, 1, 1, 5), _F),
        "when 5 become 7",
    ),
    "box sampling": (
        lambda x: mil.builder().crop_resize(x=x, boxes=np.zeros((1, 4), _F), target_height=1, target_width=1),
        _ROW,
        '"DEFAULT" samples a box',
    ),
    "gru of a batch": (
        lambda x: mil.builder().gru(
            x=x,
            initial_h=np.zeros((2, 4), _F),
            weight_ih=np.zeros((12, 3), _F),
            weight_hh=np.zeros((12, 4), _F),
        ),
        np.zeros((5, 2, 3), _F),
        "batch of 2 is known to come out wrong",
    ),
    "even window": (
        lambda x: mil.builder().local_response_norm(x=x, size=4),
        X,
        "which channels a window of 4",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_documented_is_refused(case: str, tmp_path: Path) -> None:
    build, x, reason = REFUSED[case]
    package = mil.save(build, {"x": x}, tmp_path)
    with pytest.raises(ModelError, match=reason):
        interpret(package, {"x": x})


# --- damaged packages -----------------------------------------------------------------------------


def _manifest(package: Path) -> dict[str, Any]:
    return dict(json.loads((package / "Manifest.json").read_text()))


def test_damaged_manifests(package: Path) -> None:
    sound = _manifest(package)
    root = sound["rootModelIdentifier"]
    entry = sound["itemInfoEntries"][root]
    for text in ["", "[]", "{}", "nonsense", "[" * 100_000, json.dumps({**sound, "rootModelIdentifier": 7})]:
        (package / "Manifest.json").write_text(text)
        with pytest.raises(ModelError, match="names no model"):
            interpret(package, {"x": X})
    for path in ["../../other", "/etc/passwd", 7, "a\0b"]:
        changed = {**sound, "itemInfoEntries": {root: {**entry, "path": path}}}
        (package / "Manifest.json").write_text(json.dumps(changed))
        with pytest.raises(ModelError, match="outside the package"):
            interpret(package, {"x": X})
    (package / "Manifest.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(ModelError, match="more than"):
        interpret(package, {"x": X})
    (package / "Manifest.json").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        interpret(package, {"x": X})


def test_files_that_are_no_program(package: Path) -> None:
    mil.model_file(package).write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="no Core ML model"):
        interpret(package, {"x": X})
    mil.model_file(package).write_bytes(b"")
    with pytest.raises(ModelError, match="not an ML Program"):
        interpret(package, {"x": X})


def test_operator_sets_and_functions_that_are_missing(package: Path) -> None:
    sound = mil.specification(package)
    model = mil.specification(package)
    model.mlProgram.functions["main"].opset = "CoreML99"
    mil.model_file(package).write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match='no block for its operator set "CoreML99"; it has: CoreML7'):
        interpret(package, {"x": X})
    sound.mlProgram.functions["other"].CopyFrom(sound.mlProgram.functions["main"])
    del sound.mlProgram.functions["main"]
    mil.model_file(package).write_bytes(sound.SerializeToString())
    with pytest.raises(ModelError, match="no function main; it has: other"):
        interpret(package, {"x": X})


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "@model_path/../../../x", "weights/weight.bin", "@model_path//etc/passwd"]
)
def test_weight_files_outside_the_package(package: Path, name: str) -> None:
    _edit(package, lambda block: setattr(_const(block, "first", "weight").blobFileValue, "fileName", name))
    with pytest.raises(ModelError, match=r"outside the package|cannot be read"):
        interpret(package, {"x": X})


def test_a_weight_file_that_is_a_link(package: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.bin"
    shutil.move(mil.weight_file(package), elsewhere)
    mil.weight_file(package).symlink_to(elsewhere)
    with pytest.raises(ModelError, match="link out of the package"):
        interpret(package, {"x": X})


def test_weight_files_cut_short(package: Path) -> None:
    sound = mil.weight_file(package).read_bytes()
    for size in (0, 10, 64, 100, 128, len(sound) - 1):
        mil.weight_file(package).write_bytes(sound[:size])
        with pytest.raises(ModelError, match="weight file"):
            interpret(package, {"x": X})
    mil.weight_file(package).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        interpret(package, {"x": X})


_QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few bytes of a file overwritten, or its end cut off."""
    places = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
    cut = draw(st.one_of(st.none(), st.floats(0, 1)))

    def mutate(data: bytes) -> bytes:
        changed = bytearray(data)
        for share, byte in places:
            changed[min(len(changed) - 1, int(share * len(changed)))] = byte
        return bytes(changed if cut is None else changed[: int(cut * len(changed))])

    return mutate


@_QUICK
@given(mutations())
def test_mutated_weight_files(package: Path, saved: Path, mutate: Callable[[bytes], bytes]) -> None:
    mil.weight_file(package).write_bytes(mutate(mil.weight_file(saved).read_bytes()))
    _answers(package, ModelError)


@_QUICK
@given(mutations())
def test_mutated_programs(package: Path, saved: Path, mutate: Callable[[bytes], bytes]) -> None:
    mil.model_file(package).write_bytes(mutate(mil.model_file(saved).read_bytes()))
    _answers(package, ModelError, UserError)  # UserError: the input has another name or shape now


def _answers(package: Path, *errors: type[EdgebenchError]) -> None:
    """An answer or one of the errors, nothing else."""
    try:
        found = interpret(package, {"x": X})
    except errors:
        return
    assert all(isinstance(value, np.ndarray) for value in found.values())


# --- blob files -----------------------------------------------------------------------------------

_WRITERS = {
    "fp16": "write_fp16_data",
    "fp32": "write_float_data",
    "int8": "write_int8_data",
    "int16": "write_int16_data",
    "int32": "write_int32_data",
    "uint8": "write_uint8_data",
    "uint16": "write_uint16_data",
    "uint32": "write_uint32_data",
    "int4": "write_int4_data",
    "uint1": "write_uint1_data",
    "uint2": "write_uint2_data",
    "uint3": "write_uint3_data",
    "uint4": "write_uint4_data",
    "uint6": "write_uint6_data",
}
BY_NAME = {element.name: element for element in ELEMENTS.values()}


def test_every_stored_type_is_known_to_the_test() -> None:
    assert {element.name for element in ELEMENTS.values() if element.blob} == set(_WRITERS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(sorted(_WRITERS)), st.integers(1, 200)), min_size=1, max_size=4))
def test_blobs_that_coremltools_wrote(tmp_path: Path, blobs: list[tuple[str, int]]) -> None:
    mil.tools()
    from coremltools.libmilstoragepython import _BlobStorageWriter

    path = tmp_path / "weight.bin"
    path.unlink(missing_ok=True)
    writer, written = _BlobStorageWriter(str(path)), []
    for number, (name, size) in enumerate(blobs):
        values = _values(name, size, number)
        as_written = values.view(np.uint16) if name == "fp16" else values
        written.append((getattr(writer, _WRITERS[name])(as_written), name, values))
    del writer
    file = BlobFile(path)
    for offset, name, values in written:
        found = file.read(offset, BY_NAME[name], values.shape)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)
        with pytest.raises(ModelError):
            file.read(offset, BY_NAME[name], (values.size + 9,))
        with pytest.raises(ModelError):
            file.read(offset, BY_NAME["fp32" if name != "fp32" else "int32"], values.shape)
        with pytest.raises(ModelError):
            file.read(offset + 4, BY_NAME[name], values.shape)


def _values(name: str, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng((seed, size))
    element = BY_NAME[name]
    if element.floating:
        return rng.normal(size=size).astype(element.numpy)
    low = -(1 << (element.bits - 1)) if name.startswith("int") else 0
    return rng.integers(low, low + (1 << element.bits), size).astype(element.numpy)


@given(st.sampled_from(["int4", "uint1", "uint2", "uint3", "uint4", "uint6"]), st.integers(0, 50))
def test_narrow_elements_fill_bytes_from_the_least_bit(name: str, size: int) -> None:
    element, values = BY_NAME[name], _values(name, size, 0)
    stream = sum(
        (int(value) & ((1 << element.bits) - 1)) << (element.bits * i) for i, value in enumerate(values)
    )
    packed = np.frombuffer(stream.to_bytes(-(-size * element.bits // 8), "little"), np.uint8)
    np.testing.assert_array_equal(unpack_bits(packed, element, size), values)


# --- a process of its own -------------------------------------------------------------------------


def _evaluate(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgebench.convert.coreml.evaluate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fed") / "inputs.npz"
    np.savez(path, x=X)
    return path


def test_evaluate_in_a_process(saved: Path, fed: Path, tmp_path: Path) -> None:
    finished = _evaluate(saved, fed, tmp_path / "outputs.npz")
    assert (finished.returncode, finished.stdout) == (0, "")
    with np.load(tmp_path / "outputs.npz", allow_pickle=False) as outputs:
        np.testing.assert_allclose(outputs["out0"], _expected(), rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["outputs.npz"]


LATER = """
import sys
from pathlib import Path
import numpy as np
from edgebench.convert.coreml.interpreter import interpret

package = Path(sys.argv[1])
interpret(package, {"x": np.load(sys.argv[2])["x"]})
assert "coremltools" not in sys.modules
import coremltools
model = coremltools.models.MLModel(str(package), skip_model_load=True)
assert isinstance(model.get_spec(), coremltools.proto.Model_pb2.Model)
interpret(package, {"x": np.load(sys.argv[2])["x"]})
"""


def test_coremltools_can_be_imported_afterwards(saved: Path, fed: Path) -> None:
    command = [sys.executable, "-c", LATER, str(saved), str(fed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


WITHOUT = """
import sys
from pathlib import Path

class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("coremltools", "google"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Gone())
from edgebench.convert.coreml.interpreter import interpret
from edgebench.errors import InfrastructureError
try:
    interpret(Path(sys.argv[1]), {})
except InfrastructureError as error:
    print(error.message, error.hint)
"""


def test_without_coremltools(saved: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "coremltools is not installed" in done.stdout, done.stderr
    assert "edgebench[coreml]" in done.stdout


def test_evaluate_says_what_is_wrong(package: Path, fed: Path, tmp_path: Path) -> None:
    _edit(package, lambda block: setattr(_operation(block, "second"), "type", "mystery"))
    finished = _evaluate(package, fed, tmp_path / "outputs.npz")
    assert finished.returncode == 4
    answer = json.loads(finished.stdout)
    assert answer["owner"] == "model"
    assert '"mystery" is not known' in answer["message"]
    assert not (tmp_path / "outputs.npz").exists()


def test_evaluate_loads_no_python_objects(saved: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("no npz")

    for name in ("objects.npz", "text.npz", "missing.npz"):
        with pytest.raises(UserError, match="cannot be read as an npz file"):
            read_arrays(tmp_path / name)
