"""The cases themselves: scope, the two forms, and how outputs are compared."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.conformance import cases
from tests.conformance.route import differs


@pytest.fixture(scope="module")
def known() -> dict[str, cases.Case]:
    return {case.name: case for case in cases.cases("frozen", cases.cache_folder())}


def test_nothing_out_of_scope_is_in(known: dict[str, cases.Case]) -> None:
    assert 1600 < len(known) < 1800
    strangers = (
        "sequence_insert",
        "optional_get",
        "string",
        "training",
        "bernoulli",
        "momentum",
        "image_decoder",
    )
    assert not [name for name in known if name.removeprefix("test_").startswith(strangers)]


def test_frozen_parameters_are_no_inputs(known: dict[str, cases.Case]) -> None:
    live = {case.name: case for case in cases.cases("live", cases.cache_folder())}
    name = "test_reshape_reordered_all_dims"
    assert set(cases.read(live[name])[0]) == {"data", "shape"}
    assert set(cases.read(known[name])[0]) == {"data"}
    model = onnx.load(known[name].folder / "model.onnx")
    assert [tensor.name for tensor in model.graph.initializer] == ["shape"]


def test_a_sample_is_the_same_each_time(known: dict[str, cases.Case]) -> None:
    listed = list(known.values())
    assert cases.sample(listed, 20) == cases.sample(listed, 20)
    assert cases.sample(listed, 0) == listed


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        (np.float32([1, 2]), np.float32([1, 2.001]), True),
        (np.float32([1, 2]), np.float32([1, 2.01]), False),
        (np.float32([1, 2]), np.float32([[1, 2]]), False),  # another shape
        (np.float32(3), np.float32([3]), True),  # rank 0 may come back as one element
        (np.int64([7]), np.int32([7]), True),
        (np.int64([7]), np.int32([8]), False),
        (np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf]), True),
        (np.float32([np.inf]), np.float32([3e38]), False),
        (np.float32([0, 500]), np.float32([1e-4, 500]), True),  # one step of a float32 of 500 is 3e-5
        (np.float32([0, 1]), np.float32([1e-4, 1]), False),
    ],
)
def test_outputs_are_compared_by_the_rules(expected: np.ndarray, got: np.ndarray, same: bool) -> None:
    assert (differs({"y": expected}, {"y": got}) == "") is same
