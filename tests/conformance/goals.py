"""What the design asks of the conformance cases, held against outcomes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.conformance.boundary import Bounds
from tests.conformance.route import Outcome

OTHERS = ("onnx2coreml", "onnxsim")
COREML_AT_LEAST = 1200
NCNN_AT_LEAST = 600
OPENVINO_AT_LEAST = 1504  # what OpenVINO's own converter passed of the frozen cases


class Goal(NamedTuple):
    """One goal: what is counted, how many there are, and whether that is enough."""

    what: str
    wanted: str
    found: str
    holds: bool


def within(outcomes: Sequence[Outcome], runtime: str, names: frozenset[str]) -> tuple[int, int]:
    """How many of the named frozen cases passed, and how many were taken."""
    taken = [each for each in _frozen(outcomes, runtime) if each.case in names]
    return sum(each.verdict == "passed" for each in taken), len(taken)


def goals(outcomes: Sequence[Outcome], bounds: Bounds) -> list[Goal]:
    """The goals that these outcomes can be held against: counts ask for every frozen case of the runtime."""
    ours = [each for each in outcomes if each.runtime not in OTHERS]
    made = [_none(ours, verdict) for verdict in ("wrong", "crashed")] if ours else []
    passed = {
        runtime: sum(each.verdict == "passed" for each in _frozen(outcomes, runtime))
        for runtime in ("openvino", "ncnn")
        if _complete(outcomes, runtime, bounds)
    }
    if _complete(outcomes, "coreml", bounds):
        inside, _ = within(outcomes, "coreml", bounds.coreml)
        what = "coreml, frozen cases within Core ML's boundary: passed"
        made.append(_at_least(what, inside, COREML_AT_LEAST))
    if "ncnn" in passed:
        made.append(_at_least("ncnn, frozen cases: passed", passed["ncnn"], NCNN_AT_LEAST))
    if "openvino" in passed:
        made.append(_at_least("openvino, frozen cases: passed", passed["openvino"], OPENVINO_AT_LEAST))
    return made


def _none(ours: Sequence[Outcome], verdict: str) -> Goal:
    count = sum(each.verdict == verdict for each in ours)
    return Goal(f"edgebench, every runtime: {verdict}", "0", f"{count:,} of {len(ours):,}", count == 0)


def _at_least(what: str, count: int, least: int) -> Goal:
    return Goal(what, f"at least {least:,}", f"{count:,}", count >= least)


def _complete(outcomes: Sequence[Outcome], runtime: str, bounds: Bounds) -> bool:
    return len(_frozen(outcomes, runtime)) == bounds.cases


def _frozen(outcomes: Sequence[Outcome], runtime: str) -> list[Outcome]:
    return [each for each in outcomes if (each.runtime, each.form) == (runtime, "frozen")]
