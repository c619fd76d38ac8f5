"""Quantized models are judged over their own noise floor: a scale a little off is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgebench import compress, model, parity
from tests.commands import Cli
from tests.models.architectures import ARCHITECTURES
from tests.models.generate import save


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net-like network in static int8 with signed activations, as ONNX Runtime's quantizer makes it."""
    folder = tmp_path_factory.mktemp("quantized")
    source = save(ARCHITECTURES["unet_like"](), folder / "float.onnx")
    info = model.inspect(source)
    samples = [model.random_inputs(info, seed) for seed in range(4)]
    arrays = {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
    np.savez(folder / "calibration.npz", **arrays)
    settings = compress.Settings(arch="aarch64", calibration=folder / "calibration.npz")
    compress.apply(source, ("int8-static",), settings, out=folder / "unet.onnx")
    return folder / "unet.onnx"


def test_a_scale_that_is_off_is_found(cli: Cli, quantized: Path, tmp_path: Path) -> None:
    network = onnx.load(quantized)
    _scale_of_last_weights(network, 1.15)
    onnx.save(network, tmp_path / "wrong.onnx")
    cli("convert", tmp_path / "wrong.onnx", "--to", "onnxruntime", "-o", tmp_path / "out")
    (artifact,) = (tmp_path / "out").iterdir()
    told = cli.json("verify", quantized, artifact, code=4)["parity"]
    failed = [output for output in told["outputs"] if not output["passed"]]
    assert failed
    assert all(output["bound"]["noise_db"] > parity.BOUNDS["int8"].min_snr_db + 10 for output in failed)
    assert all(output["snr_db"] > parity.BOUNDS["int8"].min_snr_db for output in failed)


def test_openvino_gets_signed_activations_right(cli: Cli, quantized: Path) -> None:
    told = cli.json("convert", quantized, "--to", "onnxruntime,openvino,coreml")
    assert told["failures"] == []
    for made in told["artifacts"]:
        for output in made["parity"]["outputs"]:
            assert output["snr_db"] >= output["bound"]["noise_db"] - 3
    (openvino,) = [made for made in told["artifacts"] if made["artifact"]["runtime"] == "openvino"]
    assert openvino["artifact"]["notes"] == []  # as they are, not turned to uint8


def test_verify_says_what_it_stands_on(cli: Cli, quantized: Path, tmp_path: Path) -> None:
    cli("convert", quantized, "--to", "onnxruntime", "-o", tmp_path / "out")
    (artifact,) = (tmp_path / "out").iterdir()
    said = cli("verify", quantized, artifact).out
    assert "over the model's own noise floor" in said
    assert "needs" in said.splitlines()[0]


def _scale_of_last_weights(network: onnx.ModelProto, factor: float) -> None:
    """Another scale for the last quantized weights: what a wrong conversion could do."""
    stored = {tensor.name: tensor for tensor in network.graph.initializer}
    weights = {name for name, tensor in stored.items() if len(tensor.dims) == 4}
    node = [node for node in network.graph.node if node.input[0] in weights][-1]
    scale = stored[node.input[1]]
    values = numpy_helper.to_array(scale) * np.float32(factor)
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
