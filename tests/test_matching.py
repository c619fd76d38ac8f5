"""Tensors are found again by their values: the same numbers under other names and in other shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgebench.pipeline.matching import Print, fingerprint, matched


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def prints(**arrays: Any) -> dict[str, Print]:
    return {name: fingerprint(each) for name, each in arrays.items()}


def test_the_same_numbers_are_the_same_tensor_whatever_its_name() -> None:
    a, b = random(1, 4, 5), random(1, 4, 5, seed=1)
    assert matched(prints(one=a[0], two=b[0]), prints(x=b, y=a), 1e-3) == {"one": "y", "two": "x"}


def test_the_same_shape_is_preferred_and_another_one_will_do() -> None:
    a = random(6, 4)
    theirs = prints(plain=a, flat=a.reshape(24))
    assert matched(prints(u=a.reshape(24)), theirs, 1e-3) == {"u": "flat"}
    assert matched(prints(u=a.reshape(2, 12)), prints(plain=a), 1e-3) == {"u": "plain"}
    assert matched(prints(u=a.T.copy()), prints(plain=a), 1e-3) == {}


def test_equal_tensors_are_taken_in_order_and_the_last_by_the_last() -> None:
    a = random(8)
    theirs = prints(conv=a, dropout=a, identity=a)
    assert matched(prints(u=a), theirs, 1e-3) == {"u": "identity"}
    assert matched(prints(u=a, v=a), theirs, 1e-3) == {"u": "conv", "v": "identity"}
    assert matched(prints(u=a, v=a, w=a, z=a), theirs, 1e-3) == {
        "u": "conv",
        "v": "dropout",
        "w": "identity",
        "z": "identity",
    }


@pytest.mark.parametrize(("error", "found"), [(1e-4, {"u": "x"}), (0.01, {}), (0.5, {})])
def test_how_far_apart_they_may_lie_is_bounded(error: float, found: dict[str, str]) -> None:
    a = random(64)
    noise = error * np.abs(a).max() * np.sign(random(64, seed=2))
    assert matched(prints(u=a + noise), prints(x=a), 1e-3) == found


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_nothing_is_concluded_from_zeros_or_what_is_no_number(value: float) -> None:
    odd = np.full((4,), value, np.float32)
    assert matched(prints(u=odd), prints(x=odd, y=random(4)), 0.2) == {}
    assert matched(prints(u=random(4)), prints(x=odd), 1e-3) == {}


def test_empty_and_scalar_tensors_are_no_obstacle() -> None:
    scalar, empty = np.float32(2.5), np.zeros((0, 3), np.float32)
    assert matched(prints(s=np.asarray([scalar]), e=empty), prints(x=np.asarray(scalar), y=empty), 1e-3) == {
        "s": "x"
    }
