"""Facts and conditions from folders of recorded device files, decoded as strictly as the controller does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.probe import conditions, facts, jetson, macos, power, raspberry
from edgebench.records import Conditions, Facts

RECORDED = Path(__file__).parent / "recorded"
BOARDS = sorted(host.parent.name for host in RECORDED.glob("*/host.json"))


def recorded_host(board: str) -> facts.Host:
    return facts.Host(**json.loads((RECORDED / board / "host.json").read_text()))


def expected(board: str, what: str) -> object:
    return json.loads((RECORDED / board / "expected.json").read_text())[what]


@pytest.mark.parametrize("board", BOARDS)
def test_facts_of_recorded_boards(board: str) -> None:
    found = facts.read(str(RECORDED / board), recorded_host(board))
    assert found == expected(board, "facts")
    msgspec.convert(found, Facts)


@pytest.mark.parametrize("board", BOARDS)
def test_conditions_of_recorded_boards(board: str) -> None:
    found = conditions.read(str(RECORDED / board))
    assert found == expected(board, "conditions")
    msgspec.convert(found, Conditions)


def test_every_field_of_the_records_is_there() -> None:
    assert set(facts.read("/nowhere", recorded_host("bare-container"))) == set(Facts.__struct_fields__)
    assert set(conditions.read("/nowhere")) == set(Conditions.__struct_fields__)


def test_no_serial_number_is_collected() -> None:
    found = facts.read(str(RECORDED / "raspberry-pi-4"), recorded_host("raspberry-pi-4"))
    assert "xxxxxxxx" not in json.dumps(found)


def test_facts_of_this_computer() -> None:
    msgspec.convert(facts.read(), Facts)
    msgspec.convert(conditions.read(), Conditions)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("throttled=0x50005\n", 0x50005),
        ("throttled=0x0\n", 0),
        ("60002", 0x60002),
        ("0", 0),
        ("VCHI initialization failed", None),
        ("Can't open device file: /dev/vcio_gencmd", None),
        ("", None),
    ],
)
def test_throttle_words(text: str, value: int | None) -> None:
    assert raspberry.parse_throttled(text) == value


def test_vcgencmd_is_asked_only_without_sysfs_and_only_on_a_live_raspberry_pi() -> None:
    from edgebench.probe.tree import Tree

    asked: list[str] = []

    def tool(path: str, *arguments: str) -> str:
        asked.append(path)
        return "throttled=0x4\n"

    tree = Tree("/nowhere")
    assert power.throttle(tree, "bcm2711", tool)["throttled"] is None
    tree.live = True
    assert power.throttle(tree, "tegra234", tool)["throttled"] is None
    assert asked == []
    told = power.throttle(tree, "bcm2711", tool)
    assert (told["throttled"], told["throttle_flags"], told["throttle_now"]) == (True, "0x4", ["throttled"])


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\n", "MAXN"),
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
        ("", None),
    ],
)
def test_nvpmodel_output(text: str, mode: str | None) -> None:
    assert jetson.parse_nvpmodel(text) == mode


def test_a_mac() -> None:
    text = (
        "hw.model: Mac14,2\nhw.memsize: 17179869184\nhw.ncpu: 8\nmachdep.cpu.brand_string: Apple M2\n"
        "kern.osproductversion: 14.5\nvm.swapusage: total = 2048.00M  used = 512.50M  free = 1535.50M\n"
    )
    found = macos.parse_facts(text)
    assert (found["board"], found["cpu"], found["cores"]) == ("Mac14,2", "Apple M2", 8)
    assert (found["os_release"], found["memory_bytes"]) == ("macOS 14.5", 17179869184)
    state = macos.parse_conditions(text, 1.5)
    assert state["swap_used_bytes"] == 537395200
    msgspec.convert(state, Conditions)
    assert set(macos.parse_facts("")) <= set(Facts.__struct_fields__)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_readers_take_any_text(text: str) -> None:
    facts.ranges(text)
    facts.installed(text)
    jetson.jetpack_version(text)
    jetson.parse_nvpmodel(text)
    raspberry.parse_throttled(text)
    macos.parse_facts(text)


@settings(deadline=None)
@given(st.lists(st.integers(0, 64), min_size=1, unique=True))
def test_ranges(numbers: list[int]) -> None:
    assert facts.ranges(",".join(map(str, sorted(numbers)))) == sorted(numbers)


def test_a_libc_is_known_here() -> None:
    said = subprocess.run(
        ["ldd", "--version"], capture_output=True, text=True, timeout=30, check=False
    ).stdout
    libc = facts.this_host().libc
    if "GLIBC" in said.upper():
        assert libc is not None
        assert libc.removeprefix("glibc ") in said
