"""Targets: the shipped files, the rules beyond the types, and what of a device differs from its target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench import targets
from edgebench.errors import ConfigError, EdgebenchError, UserError
from edgebench.records import Facts, Target, Workload, replace

GOOD = """\
version: 1
name: board
summary: A board
platform: {os: linux, arch: aarch64}
python: ">=3.9,<3.15"
expects:
  board: Board 5
runtimes:
  ncnn: {precisions: [fp32, fp16], options: {threads: 4}}
workload:
  launches: 7
limits: {max_temperature_c: 80}
"""

NAMES = (
    "apple-silicon-mac",
    "jetson-nano",
    "jetson-orin-nano",
    "linux-aarch64",
    "linux-x86_64",
    "raspberry-pi-3b-plus",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "raspberry-pi-zero-2w",
)


def facts(**changes: object) -> Facts:
    return replace(Facts(arch="x86_64", bits=64, os="linux", kernel="6.1", python="3.11.2"), **changes)


PI_5 = facts(arch="aarch64", board="Raspberry Pi 5 Model B Rev 1.0", soc="bcm2712")
# Recorded from real boards or published captures of them.
BOARDS = {
    "linux-x86_64": facts(),
    "linux-aarch64": facts(arch="aarch64", python="3.6.9"),
    "raspberry-pi-zero-2w": facts(arch="aarch64", board="Raspberry Pi Zero 2 W Rev 1.0", soc="bcm2837"),
    "raspberry-pi-3b-plus": facts(arch="aarch64", board="Raspberry Pi 3 Model B Plus Rev 1.3", soc="bcm2837"),
    "raspberry-pi-4": facts(
        arch="aarch64", board="Raspberry Pi 4 Model B Rev 1.5", python="3.13.5", soc="bcm2711"
    ),
    "raspberry-pi-5": PI_5,
    "jetson-nano": facts(
        arch="aarch64",
        board="NVIDIA Jetson Nano Developer Kit",
        soc="tegra210",
        python="3.6.9",
        kernel="4.9.337-tegra",
    ),
    "jetson-orin-nano": facts(
        arch="aarch64", board="NVIDIA Jetson Orin Nano Super Developer Kit", soc="tegra234", python="3.10.12"
    ),
    "apple-silicon-mac": facts(arch="arm64", os="macos", board="Mac14,2", soc="Apple M2", python="3.9.6"),
}


def test_the_shipped_targets_are_these_and_all_are_right() -> None:
    shipped = targets.all_targets()
    assert targets.names() == tuple(shipped) == NAMES
    assert all(target.name == name and target.summary for name, target in shipped.items())
    assert targets.find("raspberry-pi-5") == shipped["raspberry-pi-5"]


@pytest.mark.parametrize("name", NAMES)
def test_each_board_fits_its_own_target_and_no_other_board_target(name: str) -> None:
    shipped = targets.all_targets()
    assert targets.mismatches(shipped[name], BOARDS[name]) == ()
    others = [other for other in NAMES if other != name and shipped[other].expects.board]
    assert all(targets.mismatches(shipped[other], BOARDS[name]) for other in others)


def test_no_target_offers_what_its_hardware_or_the_runtime_cannot() -> None:
    for target in targets.all_targets().values():
        if "tensorrt" in target.runtimes:
            assert "int8-dynamic" not in target.runtimes["tensorrt"].precisions
        assert ("int8" in target.runtimes["ncnn"].precisions) == (target.platform.os == "linux")
        if target.platform.arch == "aarch64" and "openvino" in target.runtimes:
            assert target.runtimes["openvino"].precisions == ("fp32", "fp16")


REFUSALS = [
    (GOOD.replace("version: 1", "version: 2"), "board.yaml:1: version is 2; this edgebench reads version 1"),
    (GOOD.replace("version: 1\n", ""), 'board.yaml:1: the file lacks the key "version"'),
    (
        GOOD.replace("name: board", "name: bord"),
        'board.yaml:2: name is "bord", but the file is called "board.yaml"',
    ),
    (GOOD.replace("name: board", "name: ../board"), 'board.yaml:2: "../board" cannot be a name'),
    (GOOD.replace("sum", "sun"), 'board.yaml:3: unknown key "sunmary" in the file'),
    (
        GOOD.replace("linux,", "linus,"),
        'board.yaml:4: platform.os expects one of "linux", "macos", found the text "linus"',
    ),
    (GOOD.replace(">=3.9,<3.15", "three"), 'board.yaml:5: python is "three", which is no range of versions'),
    (GOOD.replace('">=3.9,<3.15"', '""'), 'board.yaml:5: python is "", which is no range of versions'),
    (GOOD.replace('">=3.9,<3.15"', "3.9"), "board.yaml:5: python expects a text, found the number 3.9"),
    (
        GOOD.replace("board: Board 5", "tensorrt: '10'\n  python: '>>3'"),
        'board.yaml:8: expects.python is ">>3", which is no range of versions',
    ),
    (GOOD.replace("ncnn:", "ncn:"), 'board.yaml:9: unknown runtime "ncn"'),
    (GOOD.replace("fp16", "fp61"), 'board.yaml:9: unknown precision "fp61" in runtimes.ncnn.precisions'),
    (GOOD.replace("fp16", "fp32"), "board.yaml:9: runtimes.ncnn.precisions names fp32 twice"),
    (GOOD.replace("fp32, fp16", ""), "board.yaml:9: runtimes.ncnn.precisions is empty"),
    (GOOD.replace("launches: 7", "launches: 0"), "board.yaml:11: workload.launches is 0"),
    (
        GOOD.replace("launches: 7", "max_duration_s: .5"),
        "board.yaml:11: workload.max_duration_s is 0.5, below min_duration_s 1",
    ),
    (GOOD.replace("80", "-1"), "board.yaml:12: limits.max_temperature_c is -1"),
    (
        GOOD.replace("80", "8_0"),
        'board.yaml:12: limits.max_temperature_c expects a number, found the text "8_0"',
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSALS, ids=range(len(REFUSALS)))
def test_refuses_in_these_words(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        targets.parse(text, "board.yaml")
    assert caught.value.message == message
    assert caught.value.hint


def test_an_empty_table_of_runtimes_is_refused() -> None:
    text = re.sub(r"  ncnn: .*\n", "", GOOD).replace("runtimes:", "runtimes: {}")
    with pytest.raises(ConfigError, match=r"board.yaml:8: runtimes is empty"):
        targets.parse(text, "board.yaml")


def test_own_targets_stand_beside_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "board.yaml").write_text(GOOD)
    (tmp_path / "notes.txt").write_text("not a target")
    assert targets.find("board", tmp_path).workload.launches == 7
    assert tuple(targets.all_targets(tmp_path)) == tuple(sorted((*NAMES, "board")))
    with pytest.raises(UserError) as caught:
        targets.find("raspbery-pi-5", tmp_path)
    assert caught.value.message == 'there is no target "raspbery-pi-5"'
    assert caught.value.hint == 'did you mean "raspberry-pi-5"?'


def test_an_own_target_cannot_take_a_shipped_name(tmp_path: Path) -> None:
    (tmp_path / "raspberry-pi-5.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match="the target raspberry-pi-5 already ships with edgebench"):
        targets.all_targets(tmp_path)


def test_a_missing_folder_of_own_targets_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot list the folder"):
        targets.find("linux-x86_64", tmp_path / "none")


def only(target: Target, **changes: object) -> str:
    """The one sentence about a Raspberry Pi 5 with some facts changed."""
    (sentence,) = targets.mismatches(target, replace(PI_5, **changes))
    return sentence


def test_mismatches_say_expected_found_and_what_to_do() -> None:
    pi = targets.find("raspberry-pi-5")
    assert only(pi, board="Raspberry Pi 4 Model B Rev 1.5") == (
        'target raspberry-pi-5 expects board "Raspberry Pi 5", '
        'the device says "Raspberry Pi 4 Model B Rev 1.5": '
        "choose another target for it in the inventory (edgebench targets list), or check its address"
    )
    assert "the device says nothing about it" in only(pi, board=None)
    assert only(pi, arch="x86_64") == (
        'target raspberry-pi-5 expects linux on aarch64, the device runs "linux" on "x86_64": '
        "choose another target for it in the inventory (edgebench targets list), or check its address"
    )
    assert only(pi, bits=32) == (
        "target raspberry-pi-5 expects 64-bit programs, the device's Python is a 32-bit program: "
        "install the 64-bit system; a 64-bit kernel alone is not enough"
    )
    assert only(pi, python="3.9.2+") == (
        'target raspberry-pi-5 expects Python >=3.11,<3.15, the device has "3.9.2+": '
        "install a Python in that range beside it, or write a target for the system that it has"
    )
    assert 'the device has "unknown"' in only(pi, python="unknown")


def test_power_mode_and_tensorrt_are_compared_where_expected() -> None:
    orin = targets.find("jetson-orin-nano")
    strict = replace(orin, expects=replace(orin.expects, power_mode="15W", tensorrt=">=10.3,<11"))
    device = BOARDS["jetson-orin-nano"]
    assert (
        targets.mismatches(strict, replace(device, power_mode="15W", versions={"tensorrt": "10.3.0.30"}))
        == ()
    )
    power, tensorrt = targets.mismatches(
        strict, replace(device, power_mode="7W", versions={"tensorrt": "8.6.2"})
    )
    assert power == (
        'target jetson-orin-nano expects power mode "15W", the device says "7W": '
        "set the mode on the device (nvpmodel), or write a target for the mode that it has"
    )
    assert tensorrt == (
        'target jetson-orin-nano expects TensorRT >=10.3,<11, the device has "8.6.2": '
        "choose the target of the device's JetPack release"
    )
    assert len(targets.mismatches(strict, device)) == 2, "unknown is not equal"


@pytest.mark.parametrize(
    ("wanted", "version", "fits"),
    [
        (">=3.6,<3.12", "3.11.2", True),
        (">=3.6,<3.12", "3.12.0", False),
        ("3.10", "3.10.12", True),
        ("3.10", "3.1.0", False),
        (">=3.13", "3.13.0rc1", True),
        (">=3.6", "", False),
    ],
)
def test_python_ranges(wanted: str, version: str, fits: bool) -> None:
    assert targets.python_fits(wanted, version) is fits


def test_32_bit_systems_on_64_bit_kernels_are_armv7l() -> None:
    pi = targets.find("raspberry-pi-5")
    small = replace(pi, platform=replace(pi.platform, arch="armv7l"))
    assert targets.mismatches(small, replace(PI_5, bits=32)) == ()
    assert targets.mismatches(small, PI_5)


def test_workloads_have_ends() -> None:
    assert targets.workload_problem(Workload()) is None
    for bad in (
        Workload(launches=10**9),
        Workload(threads=-1),
        Workload(min_duration_s=float("nan")),
        Workload(max_duration_s=float("inf")),
        Workload(min_duration_s=100.0),
    ):
        assert targets.workload_problem(bad) is not None


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD)), st.text(alphabet="ab: []{}\"'\n,.-<>=10", max_size=6), st.integers(0, 6))
def test_damaged_targets_never_end_in_a_traceback(at: int, new: str, removed: int) -> None:
    text = GOOD[:at] + new + GOOD[at + removed :]
    try:
        target = targets.parse(text, "board.yaml")
    except EdgebenchError as error:
        found: object = error
    else:
        found = targets.mismatches(target, PI_5)
    assert isinstance(found, tuple | ConfigError)


def test_core_mls_compute_units_are_known_ones() -> None:
    chosen = GOOD.replace("ncnn: {precisions: [fp32, fp16], options: {threads: 4}}", "coreml: UNITS")
    chosen = chosen.replace("UNITS", "{precisions: [fp32], options: {compute_units: UNITS}}")
    good = targets.parse(chosen.replace("UNITS", "cpu_and_ne"), "board.yaml")
    assert good.runtimes["coreml"].options == {"compute_units": "cpu_and_ne"}
    with pytest.raises(ConfigError, match=r'board\.yaml:9: unknown compute_units "cpu_and_gpus"') as caught:
        targets.parse(chosen.replace("UNITS", "cpu_and_gpus"), "board.yaml")
    assert "cpu_and_gpu" in caught.value.hint
