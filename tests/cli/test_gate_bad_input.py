"""Bad input for `gate`, `compare` and `replay`: a clear verdict or error, never a pass, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_gate import CELL, _measurement, _write
from tests.commands import Cli

LIMITS = """\
version: 1
budgets:
  - name: all
    limits: {latency.p50: {regress: 2 %, max: 10 s}, latency.p99: {max: 10 s}, throughput: {min: 1 /s}}
"""
GOOD = [[1_000_000 + 997 * n + 13 * k for k in range(60)] for n in range(10)]


@pytest.fixture
def files(cli: Cli) -> Cli:
    """A sound baseline and budgets."""
    _write(cli, "A.json", _measurement(1.0, "s1", 1))
    (cli.folder / "budgets.yaml").write_text(LIMITS)
    return cli


def _launches(cli: Cli, launches: list[Any], **changes: Any) -> Path:
    told = [each if isinstance(each, dict) else {"latency_ns": each} for each in launches]
    return _write(cli, "bad.json", {**CELL, "session": "s1", "launches": told, **changes})


def _is_no_pass(cli: Cli, words: set[str], code: int) -> str:
    """The reasons of the verdicts on bad.json, none of which may be a pass; bundle and replay agree."""
    flags = ("bad.json", "--baseline", "A.json", "--bundle", "bad.zip")
    document = cli.json("gate", *flags, code=code)
    assert {cell["verdict"] for cell in document["cells"]} == words
    assert cli.json("replay", "bad.zip", code=code)["gate"] == document
    for files in (("A.json", "bad.json"), ("bad.json", "A.json")):
        found = cli.json("compare", *files, code=None)["cells"]
        assert not {cell["verdict"] for cell in found} & {"same", "slower", "faster", "more", "less"}
    return " ".join(cell["reason"] for cell in document["cells"])


def test_empty_launches(files: Cli) -> None:
    _launches(files, [])
    assert "there are no launches" in _is_no_pass(files, {"invalid"}, 4)
    _launches(files, [[]] * 10)
    assert "no samples" in _is_no_pass(files, {"invalid"}, 4)
    _launches(files, [{"latency_ns": each, "valid": False, "invalid_reason": "throttled"} for each in GOOD])
    assert "throttled" in _is_no_pass(files, {"invalid"}, 4)


def test_one_sample(files: Cli) -> None:
    _launches(files, [[1_000_000]])
    assert "1 valid launch;" in _is_no_pass(files, {"inconclusive"}, 3)
    _launches(files, [[1_000_000 + place] for place in range(10)])
    assert "1 samples in a launch" in _is_no_pass(files, {"inconclusive"}, 3)


def test_identical_samples(files: Cli) -> None:
    _launches(files, [[1_000_000] * 400] * 10)
    assert "all 4000 samples are exactly 1.00 ms" in _is_no_pass(files, {"invalid"}, 4)
    (files.folder / "A.json").write_bytes((files.folder / "bad.json").read_bytes())
    _is_no_pass(files, {"invalid"}, 4)


def test_a_baseline_of_identical_samples(files: Cli) -> None:
    _launches(files, GOOD)
    _write(files, "A.json", {**CELL, "session": "s1", "launches": [{"latency_ns": [1_000_000] * 60}] * 10})
    found = files.json("gate", "bad.json", "--baseline", "A.json", code=4)
    assert "invalid" in {cell["verdict"] for cell in found["cells"] if cell["kind"] == "regress"}


@pytest.mark.parametrize(
    "time", [0, -1, -1_000_000, 10**15, 2**63, 2**70, 1.5, "1 ms", None, True, [1]], ids=str
)
@pytest.mark.parametrize("verb", ["gate", "compare"])
def test_times_that_cannot_be_or_a_clock_going_back(files: Cli, verb: str, time: Any) -> None:
    _launches(files, [*GOOD, [1_000_000, time]])
    more = ("A.json",) if verb == "compare" else ()
    said = files.fails(2, "user", verb, "bad.json", *more)
    assert "bad.json" in said
    assert "nanoseconds" in said


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e400"])
@pytest.mark.parametrize("field", ["latency_ns", "foreign_load", "energy_mj", "load_ns"])
def test_what_is_no_number(files: Cli, field: str, number: str) -> None:
    path = _launches(files, [{"latency_ns": GOOD[0], field: [7] if field == "latency_ns" else 7}])
    path.write_text(path.read_text().replace("[7]", f"[{number}]").replace(": 7", f": {number}"))
    assert "bad.json" in files.fails(2, "user", "gate", "bad.json")
    assert "bad.json" in files.fails(2, "user", "compare", "A.json", "bad.json")


def test_mixed_units(files: Cli) -> None:
    in_us = [[time // 1000 for time in each] for each in GOOD]
    _launches(files, [*GOOD[:5], *in_us[5:]])
    assert "mixed units" in _is_no_pass(files, {"invalid"}, 4)
    _launches(files, [each[:30] + other[30:] for each, other in zip(GOOD, in_us, strict=True)])
    assert "mixed units" in _is_no_pass(files, {"invalid"}, 4)
    _launches(files, in_us)
    found = files.json("gate", "bad.json", "--baseline", "A.json", code=4)["cells"]
    assert "mixed units" in next(cell["reason"] for cell in found if cell["kind"] == "regress")
    compared = files.json("compare", "A.json", "bad.json")["cells"]
    assert "not-comparable" in {cell["verdict"] for cell in compared}
    assert not {"slower", "faster"} & {cell["verdict"] for cell in compared}


def test_ten_million_samples(files: Cli) -> None:
    samples = ",".join([",".join(str(1_000_000 + 37 * k % 4001) for k in range(4000))] * 250)
    launches = ",".join(f'{{"latency_ns": [{samples}, {1_000_000 + n}]}}' for n in range(10))
    head = json.dumps({**CELL, "session": "s1"})[:-1]
    text = f'{{"schema": 1, "measurements": [{head}, "launches": [{launches}]}}]}}'
    (files.folder / "bad.json").write_text(text)
    _write(files, "A.json", {**CELL, "session": "s1", "launches": [{"latency_ns": GOOD[0]}] * 3})
    found = files.json("gate", "bad.json", "--baseline", "A.json", code=3)["cells"]
    assert {cell["launches"] for cell in found if cell["kind"] == "max"} == {10}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{latency.p50: {max: 1 ms, min: 2 ms}}", "at least 2 ms and at most 1 ms"),
        ("{latency.p50: {max: 1 ms}}\n  - {name: b, limits: {latency.p50: {max: 2 ms}}}", "very same cells"),
        ("{latency.p50: {max: 0 ms}}", "cannot be meant"),
        ("{latency.p50: {regress: 3}}", "budgets.yaml:4"),
    ],
)
def test_contradictory_budgets(files: Cli, text: str, said: str) -> None:
    (files.folder / "budgets.yaml").write_text(f"version: 1\nbudgets:\n  - name: a\n    limits: {text}\n")
    assert said in files.fails(2, "user", "gate", "A.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": "x float32 1x3x64x64"}, "the inputs are"),
        ({"batch": 8}, "batch 8 is not batch 1"),
    ],
)
def test_a_baseline_with_other_inputs_or_batch(files: Cli, changes: dict[str, Any], said: str) -> None:
    _write(files, "A.json", _measurement(1.0, "s1", 1, inputs="x float32 1x3x32x32"))
    _write(files, "bad.json", _measurement(1.0, "s1", 2, **changes))
    found = files.json("gate", "bad.json", "--baseline", "A.json", code=3)["cells"]
    (relative,) = [cell for cell in found if cell["kind"] == "regress"]
    assert relative["verdict"] == "not-comparable"
    assert said in relative["reason"]
    compared = files.json("compare", "A.json", "bad.json")["cells"]
    assert {cell["verdict"] for cell in compared} == {"not-comparable"}


@pytest.mark.parametrize("verb", ["gate", "compare"])
def test_a_truncated_or_newer_file(files: Cli, verb: str) -> None:
    more = ("A.json",) if verb == "compare" else ()
    whole = (files.folder / "A.json").read_text()
    (files.folder / "bad.json").write_text(whole[: len(whole) // 2])
    assert "bad.json" in files.fails(2, "user", verb, "bad.json", *more)
    (files.folder / "bad.json").write_text(whole.replace('"schema": 1', '"schema": 2, "new": 1'))
    assert "newer edgebench" in files.fails(2, "user", verb, "bad.json", *more)
    (files.folder / "bad.json").write_text("")
    assert "bad.json" in files.fails(2, "user", verb, "bad.json", *more)


def test_a_cell_with_both_a_failure_and_launches(files: Cli) -> None:
    _launches(files, GOOD, failure="went away")
    assert "both a failure and launches" in files.fails(2, "user", "gate", "bad.json")
    _launches(files, [], failure="went away")
    assert "went away" in _is_no_pass(files, {"error"}, 4)
