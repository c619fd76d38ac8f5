"""fp16 and int8 of what edgebench writes for ncnn itself: from the files' bytes to the proven artifact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from edgebench import model
from edgebench.convert.ncnn import direct, param
from edgebench.convert.ncnn.base import Net
from edgebench.convert.ncnn.param import FLOAT16, FLOAT32, Layer
from edgebench.pipeline import Cell, Prepared, Workbench, prepare
from tests.convert import support
from tests.convert.ncnn import networks
from tests.models import generate
from tests.models.architectures import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("_ncnn")


@pytest.fixture
def _ncnn() -> None:
    networks.needs_ncnn()


class Written:
    """A model through the direct writer."""

    def __init__(self, network: ModelProto, folder: Path, *, half: bool = False) -> None:
        self.param, self.weights = folder / f"{half}.param", folder / f"{half}.bin"
        direct.write(generate.save(network, folder / "m.onnx"), self.param, self.weights, half=half)

    def layers(self, kind: str) -> list[Layer]:
        read = param.read(self.param.read_text(), self.weights.read_bytes())
        return [layer for layer in read.layers if layer.kind == kind]

    def run(self, values: np.ndarray) -> np.ndarray:
        return np.array(Net(self.param, self.weights).run({"in0": values}).values("out0"))


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(11).standard_normal(shape).astype(np.float32)


def built(nodes: list[object], shapes: tuple[list[int], list[int]], **weights: np.ndarray) -> ModelProto:
    ends = [generate.tensor("x", shapes[0])], [generate.tensor("y", shapes[1])]
    return generate.build(nodes, *ends, weights)


# --- float16 in the files -----------------------------------------------------------------------


def mixed() -> ModelProto:
    """A convolution, a fully connected layer and a transposed convolution."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["c", "m"], ["d"]),
        helper.make_node("ConvTranspose", ["d", "t"], ["y"], strides=[2, 2]),
    ]
    weights = {"w": numbers(8, 4, 3, 3), "b": numbers(8), "m": numbers(6, 6), "t": numbers(8, 5, 2, 2)}
    return built(nodes, ([1, 4, 6, 6], [1, 5, 12, 12]), **weights)


def test_half_the_bytes_and_float16s_rounding(tmp_path: Path) -> None:
    exact, half = Written(mixed(), tmp_path), Written(mixed(), tmp_path, half=True)
    assert half.weights.stat().st_size < 0.55 * exact.weights.stat().st_size
    values = numbers(1, 4, 6, 6)
    wanted, found = exact.run(values), half.run(values)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 1e-6 < error < 2e-3
    (convolution,) = half.layers("Convolution")
    assert [block.tag for block in convolution.blocks] == [FLOAT16, None]


def test_weights_beyond_float16_stay_as_they_are(tmp_path: Path) -> None:
    for weights in (numbers(3, 3) * 1e6, numbers(3, 3) * 1e-9):
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        network = built(nodes, ([1, 3], [1, 3]), w=weights)
        exact, half = Written(network, tmp_path), Written(network, tmp_path, half=True)
        (layer,) = half.layers("InnerProduct")
        assert layer.blocks[0].tag == FLOAT32
        assert np.array_equal(exact.run(numbers(1, 3)), half.run(numbers(1, 3)))


def test_a_constant_that_is_no_weight_keeps_all_digits(tmp_path: Path) -> None:
    offsets = np.array([[2049.0, 0.1, 1e-9, 7.0]], np.float32)
    nodes = [helper.make_node("Add", ["x", "offsets"], ["y"])]
    half = Written(built(nodes, ([1, 4], [1, 4]), offsets=offsets), tmp_path, half=True)
    assert np.array_equal(half.run(np.zeros((1, 4), np.float32)).ravel(), offsets.ravel())


# --- fully connected layers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [((5, 4), (4, 3)), ((2, 5, 4), (4, 3)), ((5, 4), (1, 1, 4, 3)), ((1, 2, 5, 4), (1, 4, 3))],
)
def test_a_product_with_constant_weights_is_a_layer_of_its_own(
    left: tuple[int, ...], right: tuple[int, ...], tmp_path: Path
) -> None:
    values, weights = numbers(*left), numbers(*right)
    wanted = values @ weights
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    made = Written(built(nodes, (list(left), list(wanted.shape)), w=weights), tmp_path)
    (layer,) = made.layers("InnerProduct")
    assert not made.layers("MatMul")
    assert layer.whole(0) == 3
    np.testing.assert_allclose(made.run(values).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", [None, (3,), (1, 3), (1,), (2, 3)])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_gemm_with_every_bias(
    turned: int, bias: tuple[int, ...] | None, alpha: float, tmp_path: Path
) -> None:
    values, weights = numbers(2, 4), numbers(3, 4) if turned else numbers(4, 3)
    held = {"w": weights} | ({} if bias is None else {"b": numbers(*bias)})
    wanted = alpha * (values @ (weights.T if turned else weights)) + (held.get("b", np.float32(0)))
    node = helper.make_node("Gemm", ["x", *held], ["y"], transB=turned, alpha=alpha)
    made = Written(built([node], ([2, 4], [2, 3]), **held), tmp_path)
    assert len(made.layers("InnerProduct")) == 1
    np.testing.assert_allclose(made.run(values).reshape(2, 3), wanted, rtol=1e-4, atol=1e-5)


# --- the whole way ------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "tools").symlink_to(support.pnnx_home() / "tools")
    made = Workbench(home, limits=support.QUICK)
    yield made
    made.close()


def proven(name: str, precision: str, bench: Workbench, folder: Path) -> Prepared:
    """The artifact of a network that pnnx fails on, with its parity."""
    path = generate.save(ARCHITECTURES[name](), folder / f"{name}.onnx")
    info = model.inspect(path)
    feeds = [model.random_inputs(info, seed) for seed in range(8)]
    samples = folder / "samples.npz"
    np.savez(samples, **{key: np.stack([feed[key] for feed in feeds]) for key in feeds[0]})
    asked = {"calibration": str(samples)} if precision == "int8" else {}
    return prepare(Cell(model_path=str(path), runtime="ncnn", precision=precision, **asked), bench)


@pytest.mark.parametrize("name", ["gru", "lstm_bidirectional", "vit_fused_qkv"])
def test_fp16_where_pnnx_fails(name: str, bench: Workbench, tmp_path: Path) -> None:
    whole, half = (proven(name, precision, bench, tmp_path) for precision in ("fp32", "fp16"))
    assert half.parity.passed
    assert half.artifact.options == {"fp16": "off", "batch_axis": "keep"}
    assert "weights are stored as fp16; arithmetic is fp32" in half.artifact.notes
    assert half.artifact.size_bytes < 0.7 * whole.artifact.size_bytes


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gru", "int8 in 2 of 2 layers"),
        ("lstm", "weights alone for 2"),
        ("swin_like", "int8 in 19 of 19 layers"),
    ],
)
def test_int8_where_pnnx_fails(name: str, told: str, bench: Workbench, tmp_path: Path) -> None:
    whole, made = (proven(name, precision, bench, tmp_path) for precision in ("fp32", "int8"))
    assert made.parity.passed
    notes = "\n".join(made.artifact.notes)
    assert notes.startswith("requantised-by-edgebench")
    assert told in notes
    assert "written by edgebench itself" in notes
    assert made.artifact.options == {"fp16": "off", "batch_axis": "keep", "winograd43": "off"}
    assert made.artifact.size_bytes < 0.5 * whole.artifact.size_bytes
