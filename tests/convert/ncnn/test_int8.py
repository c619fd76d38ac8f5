"""int8 from end to end: pnnx, ranges, proof and files, in the conversion's own process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from onnx import ModelProto, helper

from edgebench import compress, model, parity
from edgebench.artifacts import ArtifactStore
from edgebench.convert.base import converter
from edgebench.convert.ncnn import param
from edgebench.convert.ncnn.param import Layer
from edgebench.convert.run import Conversion, Prepared, Wanted, convert
from edgebench.errors import ModelError, UserError
from edgebench.records import ModelInfo
from tests.commands import DEMO
from tests.convert import support
from tests.convert.ncnn import networks
from tests.models import generate

pytestmark = pytest.mark.usefixtures("_ncnn")


@pytest.fixture
def _ncnn() -> None:
    networks.needs_ncnn()


class Made(NamedTuple):
    """An int8 artifact with what it was made from."""

    conversion: Conversion
    store: ArtifactStore
    ready: Prepared

    def layers(self) -> dict[str, Layer]:
        folder = self.store.path(self.conversion.artifact.digest)
        text, weights = (folder / "model.param").read_text(), (folder / "model.bin").read_bytes()
        return {layer.name: layer for layer in param.read(text, weights).layers}

    def notes(self) -> str:
        return "\n".join(self.conversion.artifact.notes)


def int8(path: Path, folder: Path, *, calibration: Path | None = None, ranges: str = "best") -> Made:
    """A model in int8 for ncnn, through the worker."""
    folder.mkdir(exist_ok=True)
    out = folder / "canonical.onnx"
    ready = Prepared(out, model.prepare(path, shapes={}, out=out), calibration)
    wanted = Wanted(
        runtime="ncnn",
        precision="int8",
        model=path.stem,
        variant="test",
        model_digest=ready.info.digest,
        ingredients={"calibration": str(calibration)},
        options={"ranges": ranges},
    )
    store = ArtifactStore(folder / "store")
    made = convert(wanted, lambda: ready, store, home=support.pnnx_home(), limits=support.QUICK)
    return Made(made, store, ready)


def outputs(made: Made, feeds: Sequence[dict[str, np.ndarray]], folder: Path) -> list[dict[str, np.ndarray]]:
    return [support.run_artifact(made.conversion, made.store, feed, folder) for feed in feeds]


def check_parity(made: Made, feeds: Sequence[dict[str, np.ndarray]], folder: Path) -> float:
    """The worst SNR against ONNX Runtime; all outputs must be within the int8 bound."""
    wanted = [support.reference(made.ready, feed) for feed in feeds]
    report = parity.judge(
        wanted,
        outputs(made, feeds, folder),
        parity.bound_for("int8"),
        where="controller",
        reference_name="onnxruntime",
    )
    assert report.passed, report.outputs
    return min(output.snr_db for output in report.outputs)


def saved_samples(path: Path, values: np.ndarray, name: str = "image") -> Path:
    np.savez(path, **{name: values})
    return path


# --- the digits ---------------------------------------------------------------------------------


def digits(info: ModelInfo, count: int) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    with np.load(DEMO / "digits-test.npz") as held:
        images, labels = held["image"][:count], held["labels"][:count]
    return list(model.batches({info.inputs[0].name: images}, info)), labels


def right(made: Made, feeds: list[dict[str, np.ndarray]], labels: np.ndarray) -> int:
    """How many digits the artifact knows, in ncnn alone."""
    import ncnn

    folder = made.store.path(made.conversion.artifact.digest)
    net = ncnn.Net()
    net.opt.use_winograd43_convolution = False
    assert net.load_param(str(folder / "model.param")) == net.load_model(str(folder / "model.bin")) == 0
    known = 0
    for feed, label in zip(feeds, labels, strict=True):
        extractor = net.create_extractor()
        held = np.ascontiguousarray(feed["image"][0], np.float32)
        assert extractor.input("in0", ncnn.Mat(held).clone()) == 0
        status, found = extractor.extract("out0")
        assert status == 0
        known += int(np.array(found).argmax() == label)
    return known


@pytest.mark.parametrize("ranges", ["absmax", "kl", "best"])
def test_digits_keep_their_accuracy(ranges: str, tmp_path: Path) -> None:
    with np.load(DEMO / "digits-calibration.npz") as held:
        calibration = saved_samples(tmp_path / "samples.npz", held["image"][:64])
    made = int8(DEMO / "digits.onnx", tmp_path, calibration=calibration, ranges=ranges)
    feeds, labels = digits(made.ready.info, 200)
    assert check_parity(made, feeds[:4], tmp_path) > 25
    assert right(made, feeds, labels) >= 198  # of 200; in float all are right
    artifact = made.conversion.artifact
    assert re.fullmatch(
        r"requantised-by-edgebench: int8 in [78] of 8 layers, calibrated with 64 samples \(.*\)",
        artifact.notes[0],
    )
    assert ranges == "best" or f"({ranges} for " in artifact.notes[0]
    assert artifact.options == {"fp16": "off", "batch_axis": "drop", "winograd43": "off"}
    assert artifact.size_bytes < 0.35 * (DEMO / "digits.onnx").stat().st_size


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    path = generate.write(tmp_path, "conv_net")
    values = np.random.default_rng(1).standard_normal((4, 3, 16, 16)).astype(np.float32)
    samples = saved_samples(tmp_path / "a.npz", values)
    first, second = (int8(path, tmp_path / name, calibration=samples) for name in ("one", "two"))
    assert first.conversion.artifact.digest == second.conversion.artifact.digest


# --- QDQ ----------------------------------------------------------------------------------------


def test_the_scales_of_a_qdq_model_are_taken_over(tmp_path: Path) -> None:
    made = int8(generate.write(tmp_path, "conv_net_qdq"), tmp_path)
    feeds = [model.random_inputs(made.ready.info, seed) for seed in range(3)]
    assert check_parity(made, feeds, tmp_path) > 23
    assert "requantised-by-edgebench: int8 in 4 of 4 layers, with the QDQ model's scales" in made.notes()
    scales = sorted(
        float(np.frombuffer(layer.blocks[-1].data, "<f4")[0])
        for layer in made.layers().values()
        if layer.whole(8)
    )
    wanted = sorted(127 / (255 * scale) for scale in (1 / 255, 0.012, 0.015, 0.012))
    assert scales == pytest.approx(wanted, rel=1e-5)


def test_a_quantized_model_without_its_relu_nodes(tmp_path: Path) -> None:
    source = generate.write(tmp_path, "conv_net")
    values = np.random.default_rng(5).standard_normal((8, 3, 16, 16)).astype(np.float32)
    samples = saved_samples(tmp_path / "samples.npz", values)
    compress.apply(
        source, ("int8-static",), compress.Settings(calibration=samples), out=tmp_path / "qdq.onnx"
    )
    made = int8(tmp_path / "qdq.onnx", tmp_path / "made", calibration=samples)
    check_parity(made, [{"image": value[None]} for value in values[:3]], tmp_path)


# --- layers that hurt ---------------------------------------------------------------------------


def lopsided() -> ModelProto:
    """A network whose second layer sees one huge channel and lives from the small ones."""
    first, second = np.eye(3, dtype=np.float32), generate.he((4, 3), 2)
    first[0, 0], second[:, 0] = 1e4, second[:, 0] * 1e-7
    weights = {"w1": first.reshape(3, 3, 1, 1), "w2": second.reshape(4, 3, 1, 1)}
    weights["w3"] = generate.he((6, 4, 3, 3), 3)
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], name="spread"),
        helper.make_node("Conv", ["c1", "w2"], ["c2"], name="gather"),
        helper.make_node("Conv", ["c2", "w3"], ["y"], name="last", pads=[1, 1, 1, 1]),
    ]
    ends = [generate.tensor("image", [1, 3, 8, 8])], [generate.tensor("y", [1, 6, 8, 8])]
    return generate.build(nodes, *ends, weights)


def test_a_layer_that_hurts_stays_float_to_the_byte_and_is_named(tmp_path: Path) -> None:
    path = generate.save(lopsided(), tmp_path / "lopsided.onnx")
    values = np.random.default_rng(7).standard_normal((6, 3, 8, 8)).astype(np.float32)
    made = int8(path, tmp_path, calibration=saved_samples(tmp_path / "samples.npz", values))
    check_parity(made, [{"image": value[None]} for value in values[:3]], tmp_path)
    first, second, last = [layer for layer in made.layers().values() if layer.kind == "Convolution"]
    assert [bool(each.whole(8)) for each in (first, second, last)] == [True, False, True]
    assert f"float stay: {second.name} (int8 leaves it" in made.notes()
    assert "int8 in 2 of 3 layers" in made.notes()
    (tmp_path / "float").mkdir()
    floats = {
        layer.name: layer for layer in networks.network(networks.saved(lopsided(), tmp_path / "float")).layers
    }
    assert floats[second.name] == second


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("conv_net", np.zeros((2, 3, 16, 16), np.float32), ""),
        ("deconv_net", None, "no layer that ncnn runs in int8"),
    ],
)
def test_models_at_the_edge(name: str, values: np.ndarray | None, told: str, tmp_path: Path) -> None:
    path = generate.write(tmp_path, name)
    tensor = model.inspect(path).inputs[0]
    if values is None:
        values = np.ones([int(size) for size in tensor.shape], np.float32)
    samples = saved_samples(tmp_path / "samples.npz", values, tensor.name)
    if told:
        with pytest.raises(ModelError, match=told) as caught:
            int8(path, tmp_path, calibration=samples)
        assert caught.value.hint
    else:  # the first layer's input is always 0: it has no range, and says so
        assert "(its input is 0 on every sample)" in int8(path, tmp_path, calibration=samples).notes()


def test_samples_that_do_not_fit_are_the_users(tmp_path: Path) -> None:
    path = generate.write(tmp_path, "conv_net")
    for bad in (
        saved_samples(tmp_path / "shape.npz", np.zeros((2, 3, 9, 9), np.float32)),
        saved_samples(tmp_path / "name.npz", np.zeros((2, 3, 16, 16), np.float32), "picture"),
        None,
    ):
        with pytest.raises(UserError) as caught:
            int8(path, tmp_path / "made", calibration=bad)
        assert caught.value.hint
        assert not list((tmp_path / "made" / "store").rglob("manifest.json"))


def test_only_qdq_models_and_float_ones_are_taken() -> None:
    made = converter("ncnn")
    info = model.inspect(DEMO / "digits.onnx")
    from edgebench.records import replace

    codes = {"QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}
    assert made.refuse(replace(info, precision="int8-qdq", operators=codes, inputs=()), "int8") is None
    for precision, operators in (
        ("mixed", codes),
        ("int8-qdq", codes | {"QLinearConv": 1}),
        ("fp16", {"Conv": 1}),
    ):
        refusal = made.refuse(replace(info, precision=precision, operators=operators, inputs=()), "int8")
        assert refusal is not None, precision
        assert refusal.hint
