"""The interpreter's `gather` with batch dimensions, on an axis right behind them and further on."""

from __future__ import annotations

import numpy as np
import pytest

from edgebench.errors import ModelError
from tests.convert.coreml import mil

X = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)


def gathered(indices: np.ndarray, axis: int, batch: int) -> np.ndarray:
    mb = mil.builder()
    (found,) = mil.run(
        lambda x, indices: mb.gather(x=x, indices=indices, axis=axis, batch_dims=batch),
        {"x": X, "indices": indices},
        kinds=["gather"],
    )
    return found


def test_indices_of_each_sample_on_the_last_axis():
    indices = np.array([[0, 4, 4, 1], [3, 2, 0, 0]], np.int32)
    want = np.stack([X[n][:, indices[n]] for n in range(2)])
    np.testing.assert_array_equal(gathered(indices, 2, 1), want)


def test_indices_of_several_axes_keep_their_shape():
    indices = np.random.default_rng(1).integers(0, 5, (2, 3, 2)).astype(np.int32)
    want = np.stack([X[n][:, indices[n]] for n in range(2)])
    assert want.shape == (2, 3, 3, 2)
    np.testing.assert_array_equal(gathered(indices, 2, 1), want)


def test_two_batch_dimensions():
    indices = np.random.default_rng(2).integers(0, 5, (2, 3, 4)).astype(np.int32)
    np.testing.assert_array_equal(gathered(indices, 2, 2), np.take_along_axis(X, indices, axis=2))


def test_an_index_outside_of_the_axis_is_an_error():
    with pytest.raises(ModelError, match="5 into 5 elements"):
        gathered(np.array([[0], [5]], np.int32), 2, 1)
