"""Ranges from one pass over the samples, and what a Memory keeps of a network's computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.convert.ncnn import calibrate, param
from edgebench.convert.ncnn.base import Memory, Net, Run, Sample
from edgebench.convert.ncnn.calibrate import BINS, Histogram
from edgebench.errors import ModelError
from tests.convert.ncnn import networks


def seen(parts: list[np.ndarray]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        assert histogram.add(np.asarray(part, np.float32))
    return histogram


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=6), st.integers(0, 2**20))
@settings(deadline=None, max_examples=40)
def test_one_pass_sees_what_two_passes_see(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = [random.standard_normal(3000).astype(np.float32) * np.float32(2.0**size) for size in sizes]
    found = seen(parts)
    values = np.abs(np.concatenate(parts))
    assert found.largest == values.max()
    counts = found.over_largest()
    assert counts.sum() == pytest.approx(np.count_nonzero(values))
    exact, _ = np.histogram(values, BINS, (0, values.max()))
    # values move by less than a quarter of a bin, so running sums differ by what lies in one bin at most
    assert np.all(np.abs(np.cumsum(counts) - np.cumsum(exact)) <= exact + np.roll(exact, -1) + 1e-6)


def test_the_order_of_samples_does_not_matter() -> None:
    random = np.random.default_rng(1)
    parts = [random.standard_normal(500) * size for size in (0.3, 90.0, 0.0, 4.0)]
    one, other = seen(parts), seen(parts[::-1])
    assert one.largest == other.largest
    assert np.array_equal(one.over_largest(), other.over_largest())


def test_zeros_and_values_that_float32_cannot_scale_have_no_distribution() -> None:
    for values in (np.zeros(5), np.full(5, 1e-42)):
        histogram = seen([values])
        assert histogram.over_largest().sum() == 0
        assert calibrate.kl_threshold(histogram.over_largest(), histogram.largest) == histogram.largest
    assert seen([np.zeros(3), np.full(2, 3.0)]).over_largest().sum() == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_not_counted(value: float) -> None:
    histogram = seen([np.ones(3)])
    assert not histogram.add(np.array([1.0, value], np.float32))
    assert histogram.over_largest().sum() == 3


# --- in ncnn ------------------------------------------------------------------------------------


class Counting:
    """A network that counts how often it computes."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self.computed = 0

    def run(self, sample: Sample) -> Run:
        self.computed += 1
        return self._net.run(sample)


@pytest.fixture
def floats() -> Counting:
    networks.needs_ncnn()
    folder = networks.float_files("conv_net")
    return Counting(Net(folder / "m.ncnn.param", folder / "m.ncnn.bin"))


def test_ranges_are_those_of_two_passes(floats: Counting) -> None:
    samples = networks.samples((3, 16, 16), 9)
    blobs = ["in0", "1", "out0"]
    found = calibrate.ranges(floats, blobs, samples)
    assert floats.computed == len(samples)
    largest = calibrate.absmax(floats, blobs, samples)
    assert {blob: each.largest for blob, each in found.items()} == largest
    exact = calibrate.histograms(floats, largest, samples)
    for blob, each in found.items():
        assert calibrate.kl_threshold(each.over_largest(), each.largest) == pytest.approx(
            calibrate.kl_threshold(exact[blob], largest[blob]), rel=0.03
        )
    samples[4]["in0"][0, 0, 0] = np.inf
    with pytest.raises(ModelError, match='"in0" NaN or infinite'):
        calibrate.ranges(floats, blobs, samples)


def test_what_is_kept_is_not_computed_again_and_is_the_same(floats: Counting) -> None:
    samples = networks.samples((3, 16, 16), 5)
    memory = Memory(floats, samples[:2], {"1": "1", "copy": "1", "out0": "out0"})
    for _ in range(3):
        for sample in samples:
            memory.run(sample).values("out0")
    assert floats.computed == 2 + 3 * 3
    kept, fresh = memory.run(samples[1]), floats.run(samples[1])
    assert kept.mat("copy") is kept.mat("1")
    for blob in ("1", "out0"):
        assert np.array_equal(kept.values(blob), fresh.values(blob))


def test_a_memory_without_room_computes_again(floats: Counting) -> None:
    samples = networks.samples((3, 16, 16), 3)
    one = floats.run(samples[0]).only({"1": "1"})
    assert one.size_bytes() >= one.values("1").nbytes
    memory = Memory(floats, samples, {"1": "1"}, room_bytes=2 * one.size_bytes())
    floats.computed = 0
    for _ in range(2):
        for sample in samples:
            assert memory.run(sample).values("1").size
    assert floats.computed == 3 + 1


def test_distances_do_not_depend_on_what_was_kept(tmp_path: Path) -> None:
    """Distances are the same whether blobs were kept or are computed again."""
    networks.needs_ncnn()
    folder = networks.float_files("conv_net")
    floats = Net(folder / "m.ncnn.param", folder / "m.ncnn.bin")
    network = param.read((folder / "m.ncnn.param").read_text(), (folder / "m.ncnn.bin").read_bytes())
    layers = [layer for layer in network.layers if layer.kind.startswith("Convolution")]
    samples = networks.samples((3, 16, 16), 4)
    blobs = {blob: blob for layer in layers for blob in (layer.inputs[0], layer.outputs[0])}
    other = Net(folder / "m.ncnn.param", folder / "m.ncnn.bin")
    plain = calibrate.layer_snr(floats, other, layers, samples)
    assert plain == calibrate.layer_snr(Memory(floats, samples, blobs), other, layers, samples)
    assert plain == calibrate.layer_snr(Memory(floats, samples, blobs, 0), other, layers, samples)
