"""Leases as the controller sees them, on real sessions of this computer: renewed, lost, waited for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebench.device.leases import Patience, holder_of
from edgebench.device.session import Lease, Session, open_session
from edgebench.errors import DeviceBusy, DeviceError
from edgebench.records import Device


@pytest.fixture
def here(tmp_path: Path) -> Device:
    return Device(name="here", target="", transport="local", work_dir=str(tmp_path / "work"), lease="folder")


@pytest.fixture
def short(here: Device, tmp_path: Path) -> Iterator[Session]:
    """A session whose lease ends soon."""
    with open_session(here, home=tmp_path, lease=Lease(run="r7", purpose="test", seconds=2.0)) as session:
        yield session


def test_work_renews_the_lease(short: Session, tmp_path: Path) -> None:
    until = set()
    for _ in range(6):
        short.conditions()
        note = json.loads((tmp_path / "work" / "lease.json").read_text())
        until.add(note["until_monotonic_s"])
        time.sleep(0.5)
    assert max(until) - note["since_monotonic_s"] > 100


def test_a_controller_that_beats_but_does_not_work_loses_the_lease(short: Session) -> None:
    time.sleep(4.0)
    with pytest.raises(DeviceError, match="the lease has ended: it was not renewed") as caught:
        short.conditions()
    assert caught.value.retryable


def test_a_busy_device_is_waited_for_and_named(here: Device, tmp_path: Path) -> None:
    first = open_session(here, home=tmp_path, lease=Lease(run="r7", purpose="test", seconds=600.0))
    heard: list[DeviceBusy] = []

    def announce(busy: DeviceBusy, _waited_s: float) -> None:
        heard.append(busy)
        if len(heard) == 2:
            first.close()

    lease = Lease(run="r8", purpose="test")
    with open_session(here, home=tmp_path, lease=lease, patience=Patience(60.0, announce)) as second:
        assert second.conditions()
    assert len(heard) == 2
    holder = heard[0].holder
    assert holder is not None
    assert (holder.run, holder.purpose) == ("r7", "test")
    assert holder.left_s is not None
    assert 500 < holder.left_s <= 600
    assert "(run r7, test), since " in heard[0].message


def test_who_gives_up_waiting_hears_who_holds_the_device(here: Device, tmp_path: Path) -> None:
    lease = Lease(run="r7", purpose="test")
    with (
        open_session(here, home=tmp_path, lease=lease),
        pytest.raises(DeviceBusy, match="run r7"),
    ):
        open_session(here, home=tmp_path, lease=lease, patience=Patience(60.0, pause=lambda _s: True))


@pytest.mark.parametrize(
    "told", [None, 7, {}, {"holder": 3}, {"holder": {"user": 7}}, {"holder": {}, "pid": "x"}]
)
def test_a_holder_that_makes_no_sense_is_nobody(told: object) -> None:
    assert holder_of(told) is None


def test_a_holders_words_cannot_reach_the_terminal() -> None:
    holder = holder_of({"holder": {"user": "a\x1b[2Jb", "run": "x" * 10_000}})
    assert holder is not None
    assert holder.user == "a?[2Jb"
    assert len(holder.run) == 256
