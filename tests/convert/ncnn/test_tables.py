"""Weights as tables of 256 values: ncnn computes the very same, and the file is a quarter of the size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgebench.convert.ncnn import param, tables
from edgebench.convert.ncnn.param import FLOAT32, Block, Layer, Network
from tests.convert.ncnn import networks

ROWS, COLUMNS = 40, 50


def inner_product(weights: np.ndarray) -> Network:
    """in0 [50] -> out0 [40], without a bias."""
    block = Block(FLOAT32, weights.astype("<f4").tobytes())
    keys = (("0", str(ROWS)), ("1", "0"), ("2", str(ROWS * COLUMNS)))
    entry = Layer("Input", "in0", (), ("in0",))
    return Network((entry, Layer("InnerProduct", "fc", ("in0",), ("out0",), keys, (block,))))


def computed(network: Network, values: np.ndarray, folder: Path) -> np.ndarray:
    """What ncnn itself makes of the files."""
    import ncnn

    text, weights = param.write(network)
    (folder / "m.param").write_text(text)
    (folder / "m.bin").write_bytes(weights)
    net = ncnn.Net()
    net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = False
    assert (net.load_param(str(folder / "m.param")), net.load_model(str(folder / "m.bin"))) == (0, 0)
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(values).clone())
    status, made = extractor.extract("out0")
    assert status == 0
    return np.array(made)


def test_ncnn_computes_the_same_to_the_last_bit(tmp_path: Path) -> None:
    networks.needs_ncnn()
    random = np.random.default_rng(1)
    codes = random.integers(-128, 128, ROWS * COLUMNS)
    network = inner_product((codes - 3) * np.float32(0.0173))
    made = tables.tabled(network)
    values = random.normal(size=COLUMNS).astype(np.float32)
    assert (made.done, made.all) == (1, 1)
    assert np.array_equal(computed(network, values, tmp_path), computed(made.network, values, tmp_path))


@given(count=st.integers(1, 300), seed=st.integers(0, 1 << 30))
def test_a_table_holds_the_very_bits_or_is_none(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    known = np.unique(random.integers(0, 1 << 32, count, dtype=np.uint32))  # -0.0 and NaN of any bits too
    bits = random.permutation(np.resize(known, ROWS * COLUMNS))
    made = tables.tabled(inner_product(bits.view(np.float32)))
    assert made.done == (known.size <= 256)
    (block,) = param.read(*param.write(made.network)).layers[1].blocks
    if made.done:
        table, places = (
            np.frombuffer(block.data[:1024], np.uint32),
            np.frombuffer(block.data[1024:], np.uint8),
        )
        assert np.array_equal(table[places], bits)
    else:
        assert block.data == bits.tobytes()


def test_small_weights_stay_as_they_are() -> None:
    block = Block(FLOAT32, np.zeros(tables.MIN_VALUES - 1, np.float32).tobytes())
    network = Network((Layer("MemoryData", "m", (), ("out0",), (("0", "1023"), ("21", "0")), (block,)),))
    assert tables.tabled(network) == (network, 0, 0)
