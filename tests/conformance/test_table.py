"""The page: totals, boundaries, goals, operators and reasons, out of outcomes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.conformance import cases, table
from tests.conformance.boundary import Bounds, bounds, coreml_limits, ncnn_takes
from tests.conformance.child import ROOT
from tests.conformance.goals import goals
from tests.conformance.route import Outcome

BOUNDS = Bounds(frozenset({"test_a", "test_b"}), frozenset({"test_a"}), {"inputs of rank 0": 1}, 3)


def _outcome(verdict: str, **changes: str) -> Outcome:
    told = {"case": "test_a", "operator": "Add", "form": "frozen", "runtime": "ncnn", "verdict": verdict}
    return Outcome(**(told | changes))


def test_the_page_counts_and_names_what_is_wrong() -> None:
    outcomes = [_outcome("passed"), _outcome("wrong", case="test_b", reason="5 | 6")]
    made = table.document(outcomes, BOUNDS, "make it")
    assert "| ncnn | frozen | 2 | 1 | 0 | 1 | 0 |" in made
    assert "| Add | 1/2 (1w) |" in made
    assert "| ncnn | frozen | test_b | wrong: 5 / 6 |" in made
    assert "- ncnn: 1 of 1 frozen cases that ncnn's boundary allows" in made
    assert "A sample" in made
    assert "onnx2coreml" not in made


def test_the_other_routes_stand_beside_ours_and_are_no_fault_of_ours() -> None:
    outcomes = [
        *(_outcome("passed", runtime="coreml", case=name) for name in ("test_a", "test_b", "test_c")),
        _outcome("wrong", runtime="onnx2coreml", reason="not ours"),
        _outcome("crashed", runtime="onnxsim", reason="not ours"),
    ]
    made = table.document(outcomes, BOUNDS, "make it")
    assert "| Add | 3/3 | 0/1 (1w) | 0/1 (1c) |" in made
    assert "- coreml: 2 of 2 frozen cases that Core ML's boundary allows" in made
    assert "- onnx2coreml: 0 of 1 frozen cases that Core ML's boundary allows" in made
    assert "not ours" not in made
    assert "| edgebench, every runtime: wrong | 0 | 0 of 3 | holds |" in made
    assert "| edgebench, every runtime: crashed | 0 | 0 of 3 | holds |" in made


def test_a_goal_that_is_missed_says_so() -> None:
    outcomes = [
        *(_outcome("passed", case=name) for name in ("test_a", "test_b", "test_c")),
        _outcome("wrong", form="live"),
    ]
    found = {goal.what: goal.holds for goal in goals(outcomes, BOUNDS)}
    assert found == {
        "edgebench, every runtime: wrong": False,
        "edgebench, every runtime: crashed": True,
        "ncnn, frozen cases: passed": False,  # 3, and 600 are wanted
    }
    assert "**DOES NOT HOLD**" in table.document(outcomes, BOUNDS, "make it")


def test_counts_of_a_part_are_held_against_no_goal() -> None:
    assert [goal.what for goal in goals([_outcome("passed")], BOUNDS)] == [
        "edgebench, every runtime: wrong",
        "edgebench, every runtime: crashed",
    ]


@pytest.mark.parametrize(
    ("inputs", "outputs", "limits"),
    [
        ([np.zeros((2, 3), np.float32)], [np.float32(1)], []),  # rank 0 comes back as one element
        ([np.float32(1)], [], ["inputs of rank 0"]),
        ([np.zeros(3, np.uint8)], [], ["small or unsigned integers"]),
        ([], [np.zeros(3, np.int8)], ["small or unsigned integers"]),
        ([np.zeros((2, 0), np.float32)], [], ["tensors of no elements"]),
        ([], [np.zeros((1,) * 6, np.float32)], ["more than 5 axes"]),
        ([np.array([-1e39])], [], ["float64 beyond float32"]),
        ([np.array([np.inf, 1e30])], [], []),
        ([np.array([2**31])], [], ["int64 beyond int32"]),
        ([np.array([2**31 - 1])], [], []),
    ],
)
def test_what_core_mls_boundary_allows(
    inputs: list[np.ndarray], outputs: list[np.ndarray], limits: list[str]
) -> None:
    assert coreml_limits(inputs, outputs) == limits


def test_what_ncnns_boundary_allows() -> None:
    assert ncnn_takes([np.zeros((1, 2), np.float32), np.zeros((1, 1, 1, 1), np.float32)])
    assert not ncnn_takes([np.zeros((1, 2), np.float16)])
    assert not ncnn_takes([np.float32(1)])
    assert not ncnn_takes([np.zeros((1,) * 5, np.float32)])


def test_the_boundaries_of_the_frozen_cases() -> None:
    """The two limits that no way of freezing changes are those that were counted before edgebench."""
    found = bounds(cases.cases("frozen", cases.cache_folder()))
    assert found.limits["small or unsigned integers"] == 156
    assert found.limits["more than 5 axes"] == 15
    assert 1400 < len(found.coreml) < found.cases
    assert 950 < len(found.ncnn) < found.cases


def test_pages_are_made_from_outcomes_of_several_runs(tmp_path: Path) -> None:
    """The later file counts, the page's order is kept, and a wrong case is the exit status."""
    runs = {
        "one.json": [_outcome("wrong"), _outcome("passed", runtime="onnxsim")],
        "two.json": [_outcome("passed"), _outcome("refused", runtime="openvino", case="test_b")],
    }
    for name, outcomes in runs.items():
        (tmp_path / name).write_bytes(msgspec.json.encode(outcomes))
    command = [sys.executable, "-m", "tests.conformance", "--read"]
    both = [*command, str(tmp_path / "one.json"), "--read", str(tmp_path / "two.json")]
    done = subprocess.run(both, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    rows = [line for line in done.stdout.splitlines() if "frozen | " in line]
    assert [row.split(" | ")[0] for row in rows] == ["| openvino", "| ncnn", "| onnxsim"]
    one = subprocess.run(
        [*command, str(tmp_path / "one.json")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert one.returncode == 1
