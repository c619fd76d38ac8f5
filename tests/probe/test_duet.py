"""Launches of two models in one process: turn by turn, with one pool of threads, and whom an error names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.probe import duet
from edgebench.probe.runtimes.replay import RecordedClock
from tests.probe.fakes import HANG, SEGFAULT, fake_spec, fake_wheel, replay_spec
from tests.probe.harness import DEADLINE_S, Probe, eventually, launches, running, spec
from tests.probe.test_launch import NCNN_PARAM, as_launch, tiny_model, with_input

OF_AN_ARTIFACT = ("artifact", "entry", "blobs", "options", "outputs")
CANDIDATE_FIRST = ["import", "load", "load_baseline", "first", "first_baseline", "warmup", "samples", "done"]
BASELINE_FIRST = ["import", "load_baseline", "load", "first_baseline", "first", "warmup", "samples", "done"]


def both(
    candidate: dict[str, Any], baseline: dict[str, Any], *, baseline_first: bool = False
) -> dict[str, Any]:
    """The spec of a duet out of two launches' specs."""
    beside = {key: baseline[key] for key in OF_AN_ARTIFACT}
    return {**candidate, "beside": beside, "baseline_first": baseline_first}


# --- recorded timings ---


@pytest.mark.parametrize(("baseline_first", "phases"), [(False, CANDIDATE_FIRST), (True, BASELINE_FIRST)])
def test_a_replay_gives_the_recorded_times_of_both(
    probe: Probe, baseline_first: bool, phases: list[str]
) -> None:
    candidate = replay_spec(probe, samples_ns=[900, 1000, 1100], effective={"precision": "int8"})
    baseline = replay_spec(probe, samples_ns=[700, 800], warmup_ns=[500], load_ns=77, first_ns=88)
    result = probe.result("duet", spec=both(candidate, baseline, baseline_first=baseline_first))
    assert probe.phases == phases
    launch = as_launch(result)
    assert (launch.import_ns, launch.load_ns, launch.first_inference_ns) == (11, 22, 33)
    assert launch.warmup_ns == (1000,) * 20
    assert launch.warmup_stable
    assert launch.samples_ns == tuple([900, 1000, 1100] * 6 + [900, 1000])
    assert launch.baseline_ns == (700, 800) * 10
    assert launch.effective == {"precision": "int8"}
    assert launch.track is not None


def test_pairs_last_as_long_as_asked(probe: Probe) -> None:
    workload = {"min_samples": 1, "min_duration_s": 1.0, "max_duration_s": 60.0}
    candidate = replay_spec(probe, workload, samples_ns=[100_000_000])
    result = probe.result("duet", spec=both(candidate, replay_spec(probe, samples_ns=[200_000_000])))
    assert len(result["samples_ns"]) == len(result["baseline_ns"]) == 4


def test_pairs_end_at_the_longest_time(probe: Probe) -> None:
    workload = {"min_samples": 1000, "max_duration_s": 1.0}
    candidate = replay_spec(probe, workload, samples_ns=[100_000_000])
    result = probe.result("duet", spec=both(candidate, replay_spec(probe, samples_ns=[500_000_000])))
    assert len(result["samples_ns"]) == len(result["baseline_ns"]) == 2


def test_pairs_are_bounded_in_number(probe: Probe) -> None:
    workload = {"min_samples": 200_000, "min_duration_s": 80_000.0, "max_duration_s": 80_000.0}
    candidate = replay_spec(probe, workload, samples_ns=[5])
    result = probe.result("duet", spec=both(candidate, replay_spec(probe, samples_ns=[7])))
    assert len(result["samples_ns"]) == len(result["baseline_ns"]) == 200_000


@pytest.mark.parametrize("restless", ["candidate", "baseline"])
def test_a_warm_up_waits_for_both(probe: Probe, restless: str) -> None:
    workload = {"max_warmup_s": 10.0, "warmup_samples": 3}
    late = {"warmup_ns": [9000] * 10 + [5000] * 10 + [4000] * 20}
    candidate = replay_spec(probe, workload, **(late if restless == "candidate" else {}))
    baseline = replay_spec(probe, **(late if restless == "baseline" else {}))
    result = probe.result("duet", spec=both(candidate, baseline))
    assert result["warmup_stable"]
    assert len(result["warmup_ns"]) == 40


def test_a_warm_up_that_never_settles_ends_and_says_so(probe: Probe) -> None:
    restless = replay_spec(probe, warmup_ns=[10_000_000, 20_000_000] * 5 + [40_000_000] * 10)
    result = probe.result("duet", spec=both(replay_spec(probe, {"max_warmup_s": 1.0}), restless))
    assert not result["warmup_stable"]
    assert len(result["samples_ns"]) == 20


# --- turns, without a process ---


@settings(deadline=None)
@given(
    st.lists(st.integers(10**6, 10**9), min_size=1, max_size=20),
    st.lists(st.integers(10**6, 10**9), min_size=1, max_size=20),
    st.integers(1, 40),
    st.floats(0, 2),
    st.floats(0, 4),
)
def test_pairs_are_taken_in_strict_turns(
    ours: list[int], theirs: list[int], least: int, soft_s: float, hard_s: float
) -> None:
    recorded, turns = RecordedClock(), ""

    def runner(name: str, times: list[int]) -> Callable[[], None]:
        def run() -> None:
            nonlocal turns
            recorded.now_ns += times[turns.count(name) % len(times)]
            turns += name

        return run

    workload = {"min_samples": least, "min_duration_s": soft_s, "max_duration_s": hard_s}
    first, second = duet.take_pairs(runner("a", ours), runner("b", theirs), recorded, workload)
    pairs = len(first)
    assert turns == "ab" * pairs
    assert list(first) == [ours[number % len(ours)] for number in range(pairs)]
    assert list(second) == [theirs[number % len(theirs)] for number in range(pairs)]
    total = sum(first) + sum(second)
    assert total >= hard_s * 1e9 or (pairs >= least and total >= soft_s * 1e9)
    without_last = total - first[-1] - second[-1]
    assert pairs == 1 or without_last < hard_s * 1e9
    assert pairs == 1 or pairs - 1 < least or without_last < soft_s * 1e9


# --- specs that are wrong ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beside": None}, '"beside" is missing'),
        ({"beside": []}, '"beside" must be an object'),
        ({"beside": {}}, 'the baseline: "artifact" is missing'),
        ({"baseline_first": None}, '"baseline_first" is missing'),
        ({"baseline_first": 1}, '"baseline_first" must be true or false'),
        ({"baseline_first": "yes"}, '"baseline_first" must be true or false'),
        ({"workload": {}}, '"threads" is missing'),
    ],
)
def test_wrong_specs(hardy: Probe, changes: dict[str, Any], said: str) -> None:
    plain = replay_spec(hardy)
    error = hardy.error("duet", spec={**both(plain, plain), **changes})
    assert error["kind"] == "bad_request"
    assert error["message"] == said


@pytest.mark.parametrize(
    "changes",
    [
        {"artifact": "/etc"},
        {"artifact": "relative"},
        {"entry": {"model": "missing.json"}},
        {"entry": {"model": "../../lock"}},
        {"blobs": {"x": 1}},
        {"options": {"unknown": "x"}},
        {"outputs": []},
        {"outputs": ["y"] * 2000},
        {"engine": "/etc/passwd"},
    ],
)
def test_wrong_baselines(hardy: Probe, changes: dict[str, Any]) -> None:
    plain = both(replay_spec(hardy), replay_spec(hardy))
    error = hardy.error("duet", spec={**plain, "beside": {**plain["beside"], **changes}})
    assert error["kind"] == "bad_request"
    assert error["message"].startswith("the baseline: ")


def test_the_lease_is_needed(open_probe: Callable[..., Probe]) -> None:
    probe = open_probe()
    error = probe.error("duet", spec=both(replay_spec_of_nobody(), replay_spec_of_nobody()))
    assert "needs the lease" in error["message"]


def replay_spec_of_nobody() -> dict[str, Any]:
    """A spec whose artifact was never pushed."""
    return spec("replay", "/nowhere")


# --- whom an error names ---


def test_a_recording_that_is_none(hardy: Probe) -> None:
    good, broken = replay_spec(hardy), spec("replay", hardy.place({"model.json": b"{}"}))
    error = hardy.error("duet", spec=both(good, broken))
    assert error["kind"] == "model_load"
    assert error["message"].startswith("the baseline: ")


POOL = "def set_global_thread_pool_sizes(intra, inter): pass"


def fake_duet(probe: Probe, who: str, *, on_load: str = "pass", on_run: str = "pass") -> dict[str, Any]:
    """A duet in the make-believe runtime, where what happens does so to one of the two alone."""
    load = f"self.path = path\n        if '{who}' in path: {on_load}"
    run = f"if '{who}' in self.path: {on_run}"
    bundle = probe.bundle(fake_wheel(on_import=POOL, on_load=load, on_run=run))
    made = {
        name: spec(
            "onnxruntime", probe.place({f"{name}.onnx": b""}), bundle=bundle, entry={"model": f"{name}.onnx"}
        )
        for name in ("candidate", "baseline")
    }
    return both(made["candidate"], made["baseline"])


@pytest.mark.parametrize("who", ["candidate", "baseline"])
@pytest.mark.parametrize(
    ("moments", "kind"),
    [
        ({"on_load": "raise ValueError('bad model')"}, "model_load"),
        ({"on_load": "raise MemoryError()"}, "out_of_memory"),
        ({"on_run": "raise ValueError('bad input')"}, "inference"),
    ],
)
def test_an_error_says_whose_it_is(hardy: Probe, who: str, moments: dict[str, str], kind: str) -> None:
    error = hardy.error("duet", spec=fake_duet(hardy, who, **moments))
    assert error["kind"] == kind
    assert error["message"].startswith(f"the {who}: ")


def test_a_crash_says_whose_it_is(hardy: Probe) -> None:
    error = hardy.error("duet", spec=fake_duet(hardy, "baseline", on_load=SEGFAULT))
    assert error["kind"] == "crashed"
    assert "SIGSEGV" in error["message"]
    assert "phase load_baseline" in error["message"]


def test_a_duet_dies_with_its_controller(probe: Probe) -> None:
    probe.start("duet", spec=fake_duet(probe, "baseline", on_run=HANG))
    probe.until_phase("first_baseline")
    (process,) = launches(probe.pid)
    assert probe.process.stdin
    probe.process.stdin.close()
    assert probe.process.wait(DEADLINE_S) == 0
    eventually(lambda: not running(process), "a killed duet is gone")
    assert os.listdir(probe.work / "runs") == []


# --- where there is no duet ---


def test_an_onnxruntime_that_shares_no_threads(probe: Probe) -> None:
    plain = fake_spec(probe)
    error = probe.error("duet", spec=both(plain, plain))
    assert error["kind"] == "no_duet"
    assert "share one pool of threads" in error["message"]
    assert "9.9.9" in error["message"]


def test_a_runtime_that_is_a_program(probe: Probe) -> None:
    plain = spec("tensorrt", probe.place({"model.onnx": b""}), entry={"model": "model.onnx"})
    error = probe.error("duet", spec=both(plain, plain))
    assert error["kind"] == "no_duet"
    assert "a duet needs both models in one process" in error["message"]
    assert "tensorrt" in error["message"]


# --- real runtimes ---


def real(probe: Probe, runtime: str, **workload: Any) -> dict[str, Any]:
    """A launch's spec of a tiny network, with two threads."""
    pytest.importorskip(runtime, reason=f"missing tool: {runtime}")
    if runtime == "ncnn":
        names = {"entry": {"param": "m.param", "bin": "m.bin"}, "blobs": {"x": "in0", "y": "out0"}}
        plain = with_input(probe, runtime, {"m.param": NCNN_PARAM, "m.bin": b""}, **names)
    else:
        plain = with_input(probe, runtime, {"model.onnx": tiny_model()}, entry={"model": "model.onnx"})
    return {**plain, "workload": {**plain["workload"], "threads": 2, **workload}}


@pytest.mark.parametrize("runtime", ["onnxruntime", "ncnn", "openvino"])
def test_real_runtimes(probe: Probe, runtime: str) -> None:
    plain = real(probe, runtime)
    launch = as_launch(probe.result("duet", spec=both(plain, plain)))
    assert len(launch.samples_ns) == len(launch.baseline_ns) >= 20
    assert min(launch.samples_ns + launch.baseline_ns) > 0
    assert launch.effective["threads"] == "2"
    assert launch.memory.peak_bytes


@pytest.mark.parametrize("runtime", ["onnxruntime", "ncnn"])  # OpenVINO's second model has two that sleep
def test_a_duet_starts_no_more_threads_than_a_launch(open_probe: Callable[..., Probe], runtime: str) -> None:
    counted = {}
    for op in ("launch", "duet"):
        probe = open_probe()
        probe.lease()
        plain = real(probe, runtime, min_duration_s=60.0, max_duration_s=60.0)
        probe.start(op, spec=plain if op == "launch" else both(plain, plain))
        probe.until_phase("samples")
        (process,) = launches(probe.pid)
        counted[op] = len(os.listdir(f"/proc/{process}/task"))
        probe.close()
    assert counted["duet"] == counted["launch"]
