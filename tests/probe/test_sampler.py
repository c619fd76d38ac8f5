"""The sampler: what it keeps, in real processes of its own, and that none of them is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.probe import facts, gauges, sampler, watch
from edgebench.probe.tree import Tree
from edgebench.records import Conditions, Track
from tests.probe.fakes import HANG, fake_spec, replay_spec
from tests.probe.harness import DEADLINE_S, Probe, children, eventually, launches, running

RECORDED = Path(__file__).parent / "recorded"
Open = Callable[..., Probe]


# --- what is kept ---------------------------------------------------------------------------------


def recording(pinned: dict[str, int] | None = None) -> sampler.Recording:
    return sampler.Recording(0.5, pinned or {})


def track_of(kept: sampler.Recording) -> Track:
    return msgspec.convert(kept.to_json(), Track)


def test_only_readings_of_the_timed_part_count() -> None:
    kept = recording({"cpu0": 1800000})
    kept.add({"temperature_c": 90.0, "power_mw": 9000.0})
    kept.mark("samples")
    for value in (50.0, 54.0, 52.0):
        kept.add({"temperature_c": value, "power_mw": 100 * value, "clock:cpu0": 1.8e6, "rail:VDD_IN": 5.0})
    kept.mark("done")
    kept.add({"temperature_c": 91.0, "power_mw": 9100.0})
    track = track_of(kept)
    assert (track.temperature_max_c, track.temperature_mean_c) == (54.0, 52.0)
    assert track.power_mw is not None
    assert (track.power_mw.readings, track.power_mw.low, track.power_mw.high) == (3, 5000.0, 5400.0)
    assert track.clocks_khz["cpu0"].mean == 1.8e6
    assert track.rails_mw["VDD_IN"].mean == 5.0
    assert track.series["temperature_c"] == (90.0, 50.0, 54.0, 52.0, 91.0)
    assert track.series["clock:cpu0"] == (None, 1.8e6, 1.8e6, 1.8e6, None)
    assert track.pinned_khz == {"cpu0": 1800000}
    assert track.unknown == ("gpu_load",)
    assert track.throttled is None


def test_a_launch_without_a_timed_part_knows_nothing_of_it() -> None:
    kept = recording()
    kept.add({"temperature_c": 50.0})
    track = track_of(kept)
    assert (track.from_s, track.to_s, track.temperature_max_c) == (None, None, None)
    assert track.unknown == ("temperature_c", "power_mw", "gpu_load")


def test_throttling_at_any_time_of_the_launch_counts() -> None:
    kept = recording()
    kept.throttle(False, set())
    kept.throttle(True, {"under-voltage"})
    kept.throttle(None, set())
    kept.throttle(False, set())
    track = track_of(kept)
    assert track.throttled is True
    assert track.throttle_events == ("under-voltage",)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(-1e6, 1e6)), max_size=2500))
def test_the_series_are_bounded_and_the_figures_exact(readings: list[dict[str, float]]) -> None:
    kept = recording()
    kept.mark("samples")
    for reading in readings:
        kept.add({f"rail:{name}": value for name, value in reading.items()})
    track = track_of(kept)
    assert len(track.times_s) <= sampler.MAX_POINTS
    assert list(track.times_s) == sorted(track.times_s)
    for name in "abc":
        values = [reading[name] for reading in readings if name in reading]
        if not values:
            assert name not in track.rails_mw
            continue
        spread = track.rails_mw[name]
        assert (spread.readings, spread.low, spread.high) == (len(values), min(values), max(values))
        assert spread.mean == pytest.approx(sum(values) / len(values), abs=1e-3)
        assert len(track.series[f"rail:{name}"]) == len(track.times_s)


def test_ten_thousand_readings_are_a_small_document() -> None:
    kept = recording()
    for number in range(10_000):
        kept.add({"temperature_c": 50.0 + number % 7, "power_mw": 4000.5, "clock:cpu0": 1800000.0})
    assert 300 <= len(track_of(kept).times_s) <= sampler.MAX_POINTS
    assert len(json.dumps(kept.to_json())) < 64 << 10


def test_what_the_sampler_says_of_a_board() -> None:
    root = str(RECORDED / "jetson-orin-nano")
    tree = Tree(root)
    made = sampler.Sampler(gauges.Gauges(tree, facts.soc_name(tree), lambda *_words: ""), root)
    assert made.wait_s() is None
    for message in ({"begin": True}, {"mark": "samples"}):
        assert made.obey(message) is None
    made.take()
    made.obey({"mark": "done"})
    answer = made.obey({"end": True})
    assert answer is not None
    track = msgspec.convert(answer["track"], Track)
    assert (track.power_rail, track.power_method) == ("VDD_IN", "INA3221 in sysfs")
    assert track.power_mw is not None
    assert track.power_mw.mean == 2955.512
    assert track.gpu_load is not None
    assert track.throttled is False
    assert track.unknown == ()
    assert track.cpu_s is not None
    for moment in ("before", "after"):
        msgspec.convert(answer[moment], Conditions)
    assert made.obey({"end": True}) == {"track": None}


def test_a_launch_is_filled_with_what_only_tools_tell() -> None:
    own = {"before": {"throttled": None, "governor": "performance", "throttle_now": []}, "load_ns": 1}
    told = {"throttled": True, "governor": "ondemand", "throttle_now": ["throttled"], "new": 1}
    whole = watch.filled(own, {"track": {"cpu_s": 0.0}, "before": told})
    assert whole["before"] == {"throttled": True, "governor": "performance", "throttle_now": ["throttled"]}
    assert (whole["track"], whole["load_ns"]) == ({"cpu_s": 0.0}, 1)
    assert "after" not in whole


# --- real processes -------------------------------------------------------------------------------

ON_A_RECORDED_BOARD = """
import sys
from edgebench.probe import sampler
assert sys.argv[1:] == ["sampler"]
sampler.main({root!r})
"""


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Callable[[str], watch.Watch]]:
    """Makes a Watch whose sampler reads a recorded board, or runs any other program."""
    made = []

    def make(board: str = "", program: str = "") -> watch.Watch:
        path = tmp_path / "program.py"
        path.write_text(program or ON_A_RECORDED_BOARD.format(root=str(RECORDED / board)))
        made.append(watch.Watch(str(path), str(tmp_path), "token"))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def test_idle_power_is_measured_once_before_the_first_launch(watching: Any) -> None:
    watched = watching("jetson-orin-nano")
    tracks = []
    for _ in range(2):
        started = time.monotonic()
        with watched.over() as launch:
            took_s = time.monotonic() - started
            launch.phases(lambda _phase: None)("samples")
            launch.phases(lambda _phase: None)("done")
            tracks.append((took_s, msgspec.convert(launch.end()["track"], Track)))
    (first_s, first), (second_s, second) = tracks
    assert first_s >= watch.IDLE_S > second_s
    assert first.idle_power_mw == second.idle_power_mw == 2955.512
    assert first.idle_readings == second.idle_readings > 0


def test_no_idle_time_is_spent_without_rails(watching: Any) -> None:
    with watching("raspberry-pi-4").over() as launch:
        track = msgspec.convert(launch.end()["track"], Track)
    assert (track.idle_power_mw, track.idle_readings, track.power_mw) == (None, 0, None)
    assert "power_mw" in track.unknown


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(1)",
        "print('no message', flush=True); input()",
        "print('{\"ready\": true}', flush=True)",
        "print('{\"ready\": true}', flush=True); input(); print('[1]', flush=True); input()",
    ],
)
def test_a_sampler_that_fails_costs_its_track_only(watching: Any, program: str) -> None:
    watched = watching(program=program)
    for _ in range(2):
        with watched.over() as launch:
            launch.phases(lambda _phase: None)("samples")
            track = msgspec.convert(launch.end()["track"], Track)
        assert track.unknown == ("everything: the sampler did not answer",)


def test_a_launch_carries_its_track(probe: Probe) -> None:
    result = probe.result("launch", spec=replay_spec(probe))
    track = msgspec.convert(result["track"], Track)
    assert track.from_s is not None
    assert track.to_s is not None
    assert track.from_s <= track.to_s
    assert track.cpu_s is not None


def test_one_sampler_serves_all_launches_and_ends_with_the_session(probe: Probe) -> None:
    pids = set()
    for _ in range(2):
        probe.result("launch", spec=replay_spec(probe))
        (pid,) = children(probe.hello["pid"])
        pids.add(pid)
    assert len(pids) == 1
    (pid,) = pids
    assert os.getpgid(pid) == pid  # a group of its own
    assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
    assert probe.end() == 0
    assert not running(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("during", [True, False])
def test_no_sampler_outlives_a_killed_session(open_probe: Open, number: int, *, during: bool) -> None:
    probe = open_probe()
    probe.lease()
    if during:
        probe.start("launch", spec=fake_spec(probe, on_run=HANG))
        probe.until_phase("first")
        assert len(launches(probe.hello["pid"])) == 1
    else:
        probe.result("launch", spec=replay_spec(probe))
    pids = children(probe.hello["pid"])
    assert len(pids) == (2 if during else 1)
    probe.process.send_signal(number)
    probe.process.wait(DEADLINE_S)
    for pid in pids:
        eventually(lambda pid=pid: not running(pid), f"process {pid} outlived its session")  # type: ignore[misc]


def test_a_sampler_ends_when_its_stdin_does() -> None:
    script = "from edgebench.probe import sampler; sampler.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stdin
    assert process.stdout
    assert json.loads(process.stdout.readline())["ready"] is True
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 0
    process.stdout.close()


def test_a_sampler_that_was_killed_is_started_anew(probe: Probe) -> None:
    probe.result("launch", spec=replay_spec(probe))
    (pid,) = children(probe.hello["pid"])
    os.kill(pid, signal.SIGKILL)
    lost = msgspec.convert(probe.result("launch", spec=replay_spec(probe))["track"], Track)
    assert lost.unknown == ("everything: the sampler did not answer",)
    found = msgspec.convert(probe.result("launch", spec=replay_spec(probe))["track"], Track)
    assert found.to_s is not None


def test_a_track_of_a_size_that_no_sampler_sends_is_refused() -> None:
    for hostile in (
        {"times_s": [0.0] * (sampler.MAX_POINTS + 1)},
        {"series": {"temperature_c": [1.0] * (sampler.MAX_POINTS + 1)}},
        {"rails_mw": {str(number): {"readings": 1, "low": 0, "mean": 0, "high": 0} for number in range(999)}},
        {"throttle_events": ["x" * 10_000]},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(hostile, Track)
