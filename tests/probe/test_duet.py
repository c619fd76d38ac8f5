"""Launches of two models in one process: turn by turn, with one pool of threads, and whom an error names."""

from __future__ import annotations

from typing import Any

from tests.probe.fakes import replay_spec
from tests.probe.harness import Probe
from tests.probe.test_launch import as_launch

OF_AN_ARTIFACT = ("artifact", "entry", "blobs", "options", "outputs")


def both(
    candidate: dict[str, Any], baseline: dict[str, Any], *, baseline_first: bool = False
) -> dict[str, Any]:
    """The spec of a duet of two launches' specs."""
    beside = {key: baseline[key] for key in OF_AN_ARTIFACT}
    return {**candidate, "beside": beside, "baseline_first": baseline_first}


def test_a_replay_gives_the_recorded_times_of_both(probe: Probe) -> None:
    candidate = replay_spec(probe, samples_ns=[900, 1000, 1100])
    baseline = replay_spec(probe, samples_ns=[700, 800], load_ns=77, first_ns=88)
    result = probe.result("duet", spec=both(candidate, baseline))
    assert probe.phases == [
        "import",
        "load",
        "load_baseline",
        "first",
        "first_baseline",
        "warmup",
        "samples",
        "done",
    ]
    launch = as_launch(result)
    assert (launch.load_ns, launch.first_inference_ns) == (22, 33)
    assert launch.samples_ns == tuple([900, 1000, 1100] * 6 + [900, 1000])
    assert launch.baseline_ns == (700, 800) * 10
