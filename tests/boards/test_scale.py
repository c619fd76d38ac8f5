"""Many devices at once, in small: real servers, and simulated ones (`make bench` has the large numbers)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.fleets import real_devices, simulated_devices
from tests.commands import DIGITS
from tests.fleet.netns import available_kind

pytestmark = pytest.mark.fleet


def test_eight_real_servers_at_the_same_time(shared_home: Path) -> None:
    if available_kind() != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    lines = {line.name.partition(", ")[2]: line for line in real_devices(shared_home, 8, Path(DIGITS))}
    assert lines["jobs not measured"].value == 0, lines["jobs not measured"].remark
    assert lines["controller's threads at most"].holds
    assert lines["controller's memory per connection"].value < 4096  # of few devices the rest weighs more


def test_fifty_simulated_devices_are_all_measured(shared_home: Path) -> None:
    lacking, cpu = simulated_devices(shared_home, 50, Path(DIGITS))
    assert lacking.value == 0, lacking.remark
    assert cpu.value < 10


def test_the_cost_of_a_device_does_not_grow_with_the_fleet(shared_home: Path) -> None:
    few, many = (list(simulated_devices(shared_home, count, Path(DIGITS)))[1].value for count in (30, 130))
    assert many < few + 100 * 0.06  # start-up and preparing are in both
