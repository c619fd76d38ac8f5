"""What int8 networks are judged by before they are given out, and what is said of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from edgebench import compress
from edgebench.convert.ncnn import calibrate
from edgebench.convert.ncnn.base import Run, Sample
from edgebench.errors import ModelError
from tests.convert.ncnn import networks
from tests.convert.ncnn.test_int8 import Made, check_parity, int8, saved_samples
from tests.models import generate


class Given:
    """A network whose output is known."""

    def __init__(self, *values: float) -> None:
        self._values = np.array(values, np.float32)

    def run(self, _: Sample) -> Run:
        return Run(None, {"out": self._values, "far": self._values * 1000})


@pytest.mark.parametrize(
    ("found", "share"),
    [
        ((4.0, -1.0, 0.0), 0.0),
        ((4.0, -1.0, 0.5), 0.125),  # where the wanted value is 0 too
        ((3.0, -1.0, 0.0), 0.25),
        ((np.nan, -1.0, 0.0), np.inf),
        ((4.0, -1.0), np.inf),
    ],
)
def test_the_largest_error_as_a_share_of_the_largest_value(found: tuple[float, ...], share: float) -> None:
    wanted = Given(4.0, -1.0, 0.0)
    assert calibrate.output_share(wanted, Given(*found), ["out", "far"], [{}]) == pytest.approx(share)


def test_an_error_where_all_is_zero_is_no_small_share() -> None:
    assert calibrate.output_share(Given(0.0), Given(0.1), ["out"], [{}]) == np.inf
    assert calibrate.output_share(Given(0.0), Given(0.0), ["out"], [{}]) == 0


# --- networks at the edge -----------------------------------------------------------------------

pnnx = pytest.mark.usefixtures("_ncnn")


@pytest.fixture
def _ncnn() -> None:
    networks.needs_ncnn()


def convolutions(*weights: np.ndarray, groups: tuple[int, ...] = (), size: int = 8) -> ModelProto:
    """Convolutions without bias, a Relu between each two."""
    nodes, name = [], "x"
    for place, each in enumerate(weights):
        out = "y" if place == len(weights) - 1 else f"c{place}"
        group, pad = (groups or (1,) * len(weights))[place], each.shape[-1] // 2
        nodes.append(helper.make_node("Conv", [name, f"w{place}"], [out], group=group, pads=[pad] * 4))
        if out != "y":
            nodes.append(helper.make_node("Relu", [out], [f"r{place}"]))
        name = f"r{place}"
    channels = [weights[0].shape[1] * (groups or (1,))[0], weights[-1].shape[0]]
    ends = [
        [generate.tensor(name, [1, count, size, size])] for name, count in zip("xy", channels, strict=True)
    ]
    return generate.build(nodes, *ends, {f"w{place}": each for place, each in enumerate(weights)})


def feeds(count: int, channels: int) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((count, channels, 8, 8)).astype(np.float32)


def calibrated(network: ModelProto, folder: Path, *, channels: int = 4) -> Made:
    samples = saved_samples(folder / "samples.npz", feeds(16, channels), "x")
    made = int8(generate.save(network, folder / "m.onnx"), folder, calibration=samples)
    check_parity(made, [{"x": value[None]} for value in feeds(3, channels)], folder)
    return made


@pnnx
def test_grouped_convolutions_stay_float_and_are_told(tmp_path: Path) -> None:
    first, grouped, last = (
        generate.he((8, 4, 3, 3), 1),
        generate.he((8, 4, 3, 3), 2),
        generate.he((8, 8, 1, 1), 3),
    )
    made = calibrated(convolutions(first, grouped, last, groups=(1, 2, 1)), tmp_path)
    assert "int8 in 2 of 2 layers" in made.notes()
    assert "float too: ConvolutionDepthWise, 45% of the weights" in made.notes()


@pnnx
def test_channels_of_zeros_are_no_harm(tmp_path: Path) -> None:
    first = generate.he((8, 4, 3, 3), 1)
    first[4:] = 0
    made = calibrated(convolutions(first, generate.he((8, 8, 1, 1), 3)), tmp_path)
    assert "int8 in 2 of 2 layers" in made.notes()
    assert "float too" not in made.notes()


@pnnx
def test_layers_with_the_same_weights_stay_float_and_say_why(tmp_path: Path) -> None:
    first, same = generate.he((8, 4, 3, 3), 1), generate.he((8, 8, 1, 1), 3)
    samples = saved_samples(tmp_path / "samples.npz", feeds(16, 4), "x")
    source = generate.save(convolutions(first, same, same), tmp_path / "m.onnx")
    compress.apply(
        source, ("int8-static",), compress.Settings(calibration=samples), out=tmp_path / "qdq.onnx"
    )
    made = int8(tmp_path / "qdq.onnx", tmp_path, calibration=samples)
    assert "int8 in 1 of 3 layers" in made.notes()
    assert made.notes().count("(another layer has the same weights)") == 2
    check_parity(made, [{"x": value[None]} for value in feeds(3, 4)], tmp_path)


@pnnx
def test_what_is_far_off_in_one_place_is_not_given_out(tmp_path: Path) -> None:
    """One value in 256 is larger than the rest and is cut: 27 dB are enough, an error of a quarter is not."""
    weights = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    values = np.random.default_rng(4).uniform(-1, 1, (8, 4, 8, 8)).astype(np.float32)
    values[:, 0, 0, 0] = 1.4
    samples = saved_samples(tmp_path / "samples.npz", values, "x")
    path = generate.save(convolutions(weights), tmp_path / "m.onnx")
    made = int8(path, tmp_path, calibration=samples, ranges="absmax")
    assert re.search(r"int8 in 1 of 1 layers", made.notes())
    with pytest.raises(ModelError, match="without harm to the outputs") as caught:
        int8(path, tmp_path, calibration=samples, ranges="kl")
    assert "leaves it" not in caught.value.detail  # no layer was too noisy by itself


@pnnx
def test_one_sample_and_many(tmp_path: Path) -> None:
    path = generate.write(tmp_path, "conv_net")
    random = np.random.default_rng(6)
    for count in (1, 1500):
        values = random.standard_normal((count, 3, 16, 16)).astype(np.float32)
        made = int8(path, tmp_path, calibration=saved_samples(tmp_path / f"{count}.npz", values))
        assert f"calibrated with {count} samples" in made.notes()
        assert f"({min(8, count)} of {count} samples tried)" in made.notes()
