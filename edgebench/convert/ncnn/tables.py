"""Weights of at most 256 different values as a table of them and a byte each: a quarter of the size.

ncnn reads such a block in the place of a float32 one, and computes with the float values of the table:
nothing is rounded. int8 weights with one scale for a whole tensor, dequantized, are of that kind.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgebench.convert.ncnn.param import FLOAT32, TABLE, Block, Network

MIN_VALUES = 1024  # below, the table of 1 KiB would eat what is saved


class Tabled(NamedTuple):
    """The network with tables, and how many of its larger weights became one."""

    network: Network
    done: int
    all: int


def tabled(network: Network) -> Tabled:
    """The same network, its weights as tables where they have 256 different values or fewer."""
    done = large = 0
    layers = []
    for layer in network.layers:
        blocks = []
        for block in layer.blocks:
            made = _table(block)
            large += block.tag == FLOAT32 and len(block.data) >= 4 * MIN_VALUES
            done += made is not None
            blocks.append(made or block)
        layers.append(layer._replace(blocks=tuple(blocks)))
    return Tabled(Network(tuple(layers)), done, large)


def _table(block: Block) -> Block | None:
    """The block as a table, or None where it cannot be one."""
    if block.tag != FLOAT32 or len(block.data) < 4 * MIN_VALUES:
        return None
    values, places = np.unique(
        np.frombuffer(block.data, np.uint32), return_inverse=True
    )  # bits: no -0.0 is lost
    if values.size > 256:
        return None
    table = np.zeros(256, np.uint32)
    table[: values.size] = values
    return Block(TABLE, table.astype("<u4").tobytes() + places.astype(np.uint8).tobytes())
