"""Thresholds and distances, against definitions written out here, and in ncnn on small networks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.convert.ncnn import calibrate, param, quantize
from edgebench.convert.ncnn.calibrate import BINS, CODES, EPSILON, Net
from edgebench.errors import ModelError
from tests.convert.ncnn import networks


def overlap(low: float, high: float, at: int) -> float:
    return max(0.0, min(high, at + 1) - max(low, at))


def slow_divergence(share: np.ndarray, bins: int) -> float:
    """The sum of P log(P / Q) by the definition: every code, every bin, every fraction."""
    kept = share[:bins] + EPSILON
    kept[-1] += share[bins:].sum()
    width = bins / CODES
    seen = np.full(bins, EPSILON)
    for code in range(CODES):
        low, high = code * width, (code + 1) * width
        reach = range(math.floor(low), min(bins, math.ceil(high)))
        mean = sum(overlap(low, high, at) * share[at] for at in reach) / width
        for at in reach:
            seen[at] += overlap(low, high, at) * mean
    return float(np.sum(kept * np.log(kept / seen)))


@pytest.mark.parametrize("kind", ["half normal", "uniform", "outlier", "sparse"])
def test_kl_is_what_its_definition_says(kind: str) -> None:
    random = np.random.default_rng(1)
    values = np.abs(random.standard_normal(20_000))
    if kind == "uniform":
        values = random.uniform(size=20_000)
    elif kind == "outlier":
        values = np.append(values, 40.0)
    elif kind == "sparse":
        values = random.choice([0.1, 0.7, 3.0], size=500)
    counts, _ = np.histogram(values, BINS, (0, values.max()))
    share = counts / counts.sum()
    found = calibrate.kl_threshold(counts, float(values.max()))
    best = round(found / values.max() * BINS - 0.5)
    assert CODES <= best < BINS
    least = slow_divergence(share, best)
    near = [bins for bins in (best - 1, best + 1) if CODES <= bins < BINS]
    for bins in (*near, *range(CODES, BINS, 97), BINS - 1):
        assert least <= slow_divergence(share, bins) + 1e-9
    if kind == "outlier":
        assert found < 10  # the one far value is cut off
    if kind == "uniform":
        assert found > 0.9


@given(st.dictionaries(st.integers(0, BINS - 1), st.integers(1, 10**6), min_size=1), st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=5)
def test_a_threshold_lies_within_what_was_seen(counts: dict[int, int], largest: float) -> None:
    histogram = np.zeros(BINS, np.int64)
    for at, count in counts.items():
        histogram[at] = count
    assert 0 < calibrate.kl_threshold(histogram, largest) <= largest


def test_without_any_value_the_threshold_is_the_largest() -> None:
    assert calibrate.kl_threshold(np.zeros(BINS, np.int64), 3.0) == 3.0


# --- in ncnn ------------------------------------------------------------------------------------


class Pair:
    """conv_net in ncnn, in float and with all layers in int8."""

    def __init__(self, folder: Path) -> None:
        networks.needs_ncnn()
        source = networks.float_files("conv_net")
        self.network = networks.network(source)
        self.layers = [layer for layer in self.network.layers if quantize.quantizable(layer)]
        self.floats = Net(source / "m.ncnn.param", source / "m.ncnn.bin")
        self.samples = networks.samples((3, 16, 16))
        self._folder = folder

    def int8(self, thresholds: dict[str, float]) -> Net:
        text, weights = param.write(quantize.quantized(self.network, thresholds))
        (self._folder / "q.param").write_text(text)
        (self._folder / "q.bin").write_bytes(weights)
        return Net(self._folder / "q.param", self._folder / "q.bin")

    def thresholds(self) -> dict[str, float]:
        blobs = [layer.inputs[0] for layer in self.layers]
        largest = calibrate.absmax(self.floats, blobs, self.samples)
        return {layer.name: largest[layer.inputs[0]] for layer in self.layers}


def test_absmax_and_histograms_of_the_input(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.samples[0]["in0"][0, 0, :5] = 0.0
    wanted = np.abs(np.stack([sample["in0"] for sample in pair.samples]))
    largest = calibrate.absmax(pair.floats, ["in0"], pair.samples)
    assert largest == {"in0": pytest.approx(wanted.max())}
    counts = calibrate.histograms(pair.floats, largest, pair.samples)["in0"]
    assert counts.sum() == np.count_nonzero(wanted)
    expected, _ = np.histogram(wanted[wanted > 0], BINS, (0, wanted.max()))
    assert np.abs(counts - expected).sum() <= 4  # float32 places a value on an edge either way


def test_a_mat_owns_its_data_whatever_its_strides(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    turned = pair.samples[0]["in0"].transpose(0, 2, 1)
    assert not turned.flags.c_contiguous
    run = pair.floats.run({"in0": turned})
    assert np.array_equal(run.values("in0"), turned)


def test_layers_alone_lose_little_and_a_wrong_threshold_is_seen(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    thresholds = pair.thresholds()
    net = pair.int8(thresholds)
    snr = calibrate.layer_snr(pair.floats, net, pair.layers, pair.samples)
    assert list(snr) == [layer.name for layer in pair.layers]
    assert min(snr.values()) > 22
    assert calibrate.output_snr(pair.floats, net, ["out0"], pair.samples) > 20
    worst = pair.layers[2].name
    poor = calibrate.layer_snr(
        pair.floats, pair.int8(thresholds | {worst: thresholds[worst] / 50}), pair.layers, pair.samples
    )
    assert poor[worst] < 5
    assert {name: value for name, value in poor.items() if name != worst} == {
        name: value for name, value in snr.items() if name != worst
    }


def test_equal_networks_are_equal_and_others_are_not(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    thresholds = pair.thresholds()
    net = pair.int8(thresholds)
    assert calibrate.unequal(net, net, pair.layers, pair.samples) == []
    name = pair.layers[1].name
    other = pair.int8(thresholds | {name: thresholds[name] * 2})
    assert calibrate.unequal(net, other, pair.layers, pair.samples) == [name]


def test_what_ncnn_cannot_do_is_an_error_never_a_zero(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with pytest.raises(ModelError, match="nowhere"):
        calibrate.absmax(pair.floats, ["nowhere"], pair.samples)
    with pytest.raises(ModelError, match="nowhere"):
        pair.floats.run({"nowhere": pair.samples[0]["in0"]})
    pair.samples[1]["in0"][0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        calibrate.absmax(pair.floats, ["in0"], pair.samples)
    (tmp_path / "q.param").write_text("7767517\n1 1\nNothing n 0 1 x\n")
    (tmp_path / "q.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="does not load"):
        Net(tmp_path / "q.param", tmp_path / "q.bin")
