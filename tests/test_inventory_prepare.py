"""What an inventory asks of boards: merged key by key like all else, and refused where it cannot be."""

from __future__ import annotations

import pytest

from edgebench import inventory
from edgebench.errors import ConfigError
from edgebench.records import Preparation

KEY = "SHA256:2mZk0cQ0o0w3Xh1nYt8Jr6vLx5uQe9sPa4dBf7gHi1k"
FLEET = f"""\
version: 1
defaults:
  prepare: {{governor: performance}}
groups:
  nano: {{prepare: {{power_mode: MAXN, clocks: locked}}}}
  slow: {{prepare: {{power_mode: 5W}}}}
devices:
  a: {{target: jetson-nano, address: 10.0.0.1, host_key: "{KEY}", groups: [nano]}}
  b: {{target: jetson-nano, address: n-2, host_key: "{KEY}", groups: [nano], prepare: {{power_mode: 5W}}}}
  c: {{target: raspberry-pi-5, address: 10.0.0.3, host_key: "{KEY}"}}
"""


def parsed(text: str) -> inventory.Inventory:
    return inventory.parse(text, "inventory.yaml", local_target=lambda: "linux-x86_64")


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    return f"{caught.value.message}\n{caught.value.hint}"


def test_each_key_comes_from_the_strongest_that_names_it() -> None:
    fleet = parsed(FLEET)
    assert fleet.device("a").prepare == Preparation(
        power_mode="MAXN", governor="performance", clocks="locked"
    )
    assert fleet.device("b").prepare == Preparation(power_mode="5W", governor="performance", clocks="locked")
    assert fleet.device("c").prepare == Preparation(governor="performance")
    shown = {each.key: (each.value, each.origin) for each in inventory.explain(fleet, "b")}
    assert shown["prepare.power_mode"] == ("5W", "inventory.yaml:9")
    assert shown["prepare.clocks"] == ("locked", "inventory.yaml:5 (group nano)")
    assert shown["prepare.governor"] == ("performance", "inventory.yaml:3 (defaults)")


def test_nothing_is_asked_where_nothing_is_written() -> None:
    fleet = parsed("version: 1\ndevices:\n  here: {transport: local, prepare: {}}\n")
    assert fleet.device("here").prepare is None
    assert not [each for each in inventory.explain(fleet, "here") if each.key.startswith("prepare")]


def test_groups_that_disagree_are_an_error() -> None:
    said = refused(FLEET.replace("groups: [nano], prepare: {power_mode: 5W}", "groups: [nano, slow]"))
    assert "prepare.power_mode" in said
    assert "MAXN" in said
    assert "5W" in said


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("{power_mode: 'MAXN; reboot'}", "MAXN"),
        ("{power_mode: --help}", "no board has"),
        ("{governor: ../performance}", "no board has"),
        ("{governor: ''}", "no board has"),
        ("{clocks: free}", "locked"),
        ("{power_mode: 0}", "power_mode"),
        ("{fan: 255}", "fan"),
    ],
)
def test_what_no_board_has(wanted: str, said: str) -> None:
    told = refused(f"version: 1\ndevices:\n  here: {{transport: local, prepare: {wanted}}}\n")
    assert told.startswith("inventory.yaml:3: ")
    assert said in told
