"""What only boards have: power rails, power modes, locked clocks, tegrastats, vcgencmd."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.probe import facts, gauges, jetson, macos, rails, raspberry, tegrastats
from edgebench.probe.tree import Tree, first_line
from tests.probe.harness import running

RECORDED = Path(__file__).parent / "recorded"


def said(name: str) -> str:
    return (RECORDED / "tools" / f"{name}.txt").read_text()


def tree(board: str) -> Tree:
    return Tree(str(RECORDED / board))


def no_tool(_path: str, *_words: str) -> str:
    return ""


# --- tegrastats -----------------------------------------------------------------------------------

GB, MB = 1 << 30, 1 << 20


def test_tegrastats_of_a_nano_for_root() -> None:
    found = tegrastats.parse(said("tegrastats-r32-nano-root"))
    assert (found["ram_used_bytes"], found["ram_total_bytes"]) == (717 * MB, 3964 * MB)
    assert (found["swap_used_bytes"], found["swap_total_bytes"]) == (0, 1982 * MB)
    assert found["largest_free_bytes"] == 4 * MB
    assert found["cpus"][0] == {"load_percent": 18, "clock_mhz": 102}
    assert len(found["cpus"]) == 4
    assert found["engines"]["EMC_FREQ"] == {"load_percent": 2, "clocks_mhz": [204]}
    assert found["engines"]["GR3D_FREQ"] == {"load_percent": 0, "clocks_mhz": [76]}
    assert found["temperatures_c"] == {
        "PLL": 26.0,
        "CPU": 29.5,
        "iwlwifi": 33.0,
        "GPU": 29.0,
        "AO": 38.5,
        "thermal": 29.5,
    }
    assert found["rails_mw"] == {"POM_5V_IN": 1057, "POM_5V_GPU": 0, "POM_5V_CPU": 126}


def test_tegrastats_of_a_nano_for_a_user_and_without_rails() -> None:
    user = tegrastats.parse(said("tegrastats-r32-nano-user"))
    assert user["engines"]["GR3D_FREQ"] == {"load_percent": 0, "clocks_mhz": []}
    assert user["rails_mw"]["POM_5V_IN"] == 933
    bare = tegrastats.parse(said("tegrastats-r32-nano-no-rails"))
    assert bare["rails_mw"] == {}
    assert bare["engines"]["GR3D_FREQ"]["load_percent"] == 99
    assert [core["load_percent"] for core in bare["cpus"]] == [47, 96, 73, 37]


def test_tegrastats_knows_cores_that_are_off() -> None:
    cpus = tegrastats.parse(said("tegrastats-r32-tx2-nx"))["cpus"]
    assert cpus[1] is None
    assert cpus[3] == {"load_percent": 0, "clock_mhz": 345}
    assert len(cpus) == 6


def test_tegrastats_of_orin() -> None:
    idle = tegrastats.parse(said("tegrastats-r36-orin-nano-idle"))
    assert idle["rails_mw"] == {"VDD_IN": 2957, "VDD_CPU_GPU_CV": 486, "VDD_SOC": 1012}
    assert idle["engines"]["GR3D_FREQ"] == {"load_percent": 0, "clocks_mhz": [305]}
    assert idle["temperatures_c"]["tj"] == 44.531
    assert idle["off"] == ["NVDEC", "NVJPG", "NVJPG1", "VIC", "OFA"]
    loaded = tegrastats.parse(said("tegrastats-r36-orin-nano-loaded"))
    assert loaded["rails_mw"]["VDD_IN"] == 12479
    assert loaded["engines"]["GR3D_FREQ"] == {"load_percent": 63, "clocks_mhz": [621]}
    assert loaded["swap_used_bytes"] == 851 * MB


def test_tegrastats_of_r39_and_thor_and_absent_sensors() -> None:
    agx = tegrastats.parse(said("tegrastats-r39-agx-orin"))
    assert agx["rails_mw"] == {"VDD_GPU_SOC": 5139, "VDD_CPU_CV": 3268, "VIN_SYS_5V0": 5500}
    assert agx["engines"]["GR3D_FREQ"] == {"load_percent": 12, "clocks_mhz": [1300, 1300]}
    assert agx["temperatures_c"]["cpu"] == 52.968
    assert len(agx["cpus"]) == 12
    thor = tegrastats.parse(said("tegrastats-r38-thor"))
    assert thor["engines"]["GR3D_FREQ"] == {"load_percent": None, "clocks_mhz": [1000, 1000, 1000]}
    old = tegrastats.parse(said("tegrastats-r35-agx-orin"))
    assert old["temperatures_c"] == {"CPU": 44.5, "tj": 41.656}
    assert "NC" not in old["rails_mw"]
    assert old["cpus"][2] is None


def test_tegrastats_that_says_nothing_is_unknown() -> None:
    found = tegrastats.parse("")
    assert found["ram_used_bytes"] is None
    assert found["cpus"] is None
    assert (found["rails_mw"], found["temperatures_c"], found["engines"]) == ({}, {}, {})


# --- rails ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("board", "readings", "total"),
    [
        ("jetson-nano", {"POM_5V_IN": 1057.0, "POM_5V_GPU": 0.0, "POM_5V_CPU": 126.0}, 1057.0),
        (
            "jetson-orin-nano",
            {"VDD_IN": 2955.512, "VDD_CPU_GPU_CV": 483.448, "VDD_SOC": 1010.128},
            2955.512,
        ),
        (
            "jetson-agx-orin",
            {
                "VDD_GPU_SOC": 5140.0,
                "VDD_CPU_CV": 3270.0,
                "VIN_SYS_5V0": 5500.0,
                "VDDQ_VDD2_1V8AO": 900.0,
            },
            14810.0,
        ),
    ],
)
def test_rails_of_jetsons(board: str, readings: dict[str, float], total: float) -> None:
    meter = rails.find(tree(board), "tegra234", no_tool)
    assert meter is not None
    assert meter.read() == pytest.approx(readings)
    assert meter.total_mw(meter.read()) == pytest.approx(total)


def test_tegrastats_tells_power_where_the_files_may_not_be_read() -> None:
    live = Tree("/nowhere")
    live.live = True
    asked: list[tuple[str, ...]] = []

    def line(*words: str) -> str:
        asked.append(words)
        return said("tegrastats-r36-orin-nano-loaded")

    assert rails.find(live, "bcm2711", no_tool, line) is None
    assert asked == []
    meter = rails.find(live, "tegra234", no_tool, line)
    assert meter is not None
    assert (meter.method, meter.total_name, meter.slow) == ("tegrastats", "VDD_IN", True)
    assert meter.total_mw(meter.read()) == 12479.0
    assert rails.find(live, "tegra234", no_tool, no_tool) is None


def test_the_first_line_of_an_endless_tool(tmp_path: Path) -> None:
    tool = tmp_path / "endless"
    tool.write_text("#!/bin/sh\necho $$ $1\nexec sleep 1000\n")
    tool.chmod(0o755)
    pid, word = first_line(str(tool), "--x").split()
    assert word == "--x"
    assert not running(int(pid))
    assert first_line(str(tmp_path / "missing")) == ""
    tool.write_text("#!/bin/sh\nexit 3\n")
    assert first_line(str(tool)) == ""


def test_a_total_with_a_part_missing_is_unknown() -> None:
    meter = rails.Meter(["A", "B"], ["A", "B"], "", dict)
    assert meter.total_mw({"A": 5.0}) is None
    assert meter.total_mw({"A": 5.0, "B": 0.0}) == 5.0
    assert rails.Meter([], [], "", dict).total_mw({}) is None


def test_the_rails_of_a_raspberry_pi_5() -> None:
    found = rails.parse_pmic(said("pmic_read_adc-pi-5"))
    assert len(found) == 12
    assert sum(found.values()) / 1000 == pytest.approx(3.50705, abs=5e-6)
    assert found["VDD_CORE"] / 1000 == pytest.approx(1.37071, abs=5e-6)
    assert {"EXT5V", "BATT"}.isdisjoint(found)


def test_vcgencmd_is_asked_for_power_on_a_raspberry_pi_5_only() -> None:
    def tool(path: str, *words: str) -> str:
        assert words == ("pmic_read_adc",)
        return said("pmic_read_adc-pi-5")

    live = Tree("/nowhere")
    live.live = True
    assert rails.find(live, "bcm2711", tool) is None
    meter = rails.find(live, "bcm2712", tool)
    assert meter is not None
    assert meter.slow
    assert meter.total_mw(meter.read()) == pytest.approx(3507.05, abs=0.01)


def test_energy_counters_of_x86_wrap_around() -> None:
    counter = rails.Counter(1_000_000)
    assert counter.milliwatts(0.0, 900_000) is None  # a first reading says nothing
    assert counter.milliwatts(1.0, 950_000) == 50.0
    assert counter.milliwatts(3.0, 50_000) == 50.0
    assert counter.milliwatts(4.0, None) is None
    assert counter.milliwatts(5.0, 60_000) is None
    assert rails.Counter(None).milliwatts(0.0, 5) is None
    endless = rails.Counter(None)
    endless.milliwatts(0.0, 5)
    assert endless.milliwatts(1.0, 4) is None


def test_energy_counters_of_x86_in_sysfs() -> None:
    meter = rails.find(tree("linux-x86_64"), None, no_tool)
    assert meter is not None
    assert meter.names == ["package-0", "dram-0"]  # core and uncore are parts of the package
    assert set(meter.read()) <= set(meter.names)


def test_no_rails_is_none() -> None:
    assert rails.find(tree("raspberry-pi-4"), "bcm2711", no_tool) is None
    assert rails.find(Tree("/nowhere"), None, no_tool) is None


# --- the Jetson's own -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("32.6.1", "4.6"),
        ("32.7.6", "4.6.6"),
        ("35.4.1", "5.1.2"),
        ("36.4.3", "6.2"),
        ("36.5", "6.2.2"),
        ("38.2", "7.0"),
        ("38.4.0", "7.1"),
        ("39.2.1", "7.2.1"),
        ("40.0", None),
        ("", None),
    ],
)
def test_jetpack(release: str, jetpack: str | None) -> None:
    assert jetson.jetpack_version(release) == jetpack


@pytest.mark.parametrize(
    ("name", "locked", "mode", "cores"),
    [
        ("nano-free", False, "MAXN", 4),
        ("nano-locked", True, "MAXN", 1),
        ("nano-5w", True, "5W", 4),
    ],
)
def test_jetson_clocks_show(name: str, locked: bool, mode: str, cores: int) -> None:
    found = jetson.parse_show(said(f"jetson_clocks-{name}"))
    assert found["locked"] is locked
    assert found["mode"] == mode
    assert found["cores"][0]["governor"] == "schedutil"
    assert len(found["cores"]) <= cores
    assert found["gpu"]["MaxFreq"] > 0
    assert jetson.parse_show("")["locked"] is None


def test_a_mode_that_waits_for_a_reboot() -> None:
    assert jetson.power_mode_pending(tree("jetson-agx-orin"), [0, 1, 2, 3]) is True
    assert jetson.power_mode_pending(tree("jetson-nano"), [0, 1]) is False
    assert jetson.power_mode_pending(tree("jetson-nano"), [0, 1, 2, 3]) is True  # 5W switches two off
    assert jetson.power_mode_pending(tree("raspberry-pi-4"), [0]) is None


def test_what_a_power_mode_asks_for() -> None:
    conf = (RECORDED / "jetson-nano/etc/nvpmodel.conf").read_text()
    five_watts = {"cores": [0, 1], "off": [2, 3], "cpu_khz": [918000], "gpu_hz": 640000000}
    assert jetson.mode_limits(conf, 1) == five_watts
    assert jetson.mode_limits(conf, 0)["gpu_hz"] is None  # -1: whatever the GPU has
    assert jetson.mode_limits(conf, 7) == {"cores": [], "off": [], "cpu_khz": [], "gpu_hz": None}
    assert jetson.power_modes(conf) == {0: "MAXN", 1: "5W"}


def test_nvmap_clients() -> None:
    found = jetson.parse_nvmap(said("nvmap-clients-nano"))
    assert found == {
        "4481": 118372 << 10,
        "2831": 5384 << 10,
        "1731": 18140 << 10,
        "1012": 0,
        "total": 141896 << 10,
    }
    with_pss = jetson.parse_nvmap(said("nvmap-clients-with-pss"))
    assert with_pss["20101"] == 824320 << 10
    assert with_pss["total"] == 829704 << 10


def test_versions_of_cuda_and_cudnn() -> None:
    assert jetson.parse_cuda(said("nvcc-10.2")) == "10.2.300"
    assert jetson.parse_cuda("CUDA Version 10.2.300\n") == "10.2.300"
    assert jetson.parse_cuda('{"cuda" : {"name" : "CUDA SDK", "version" : "12.6.11"}}') == "12.6.11"
    assert jetson.parse_cudnn("#define CUDNN_MAJOR 8\n#define CUDNN_MINOR 2\n") is None


def test_the_mode_is_found_below_warnings() -> None:
    assert jetson.parse_nvpmodel(said("nvpmodel-nano")) == "MAXN"


# --- Raspberry Pi and Mac -------------------------------------------------------------------------


def test_throttle_bits_in_words() -> None:
    assert raspberry.words(0x50005) == (["under-voltage", "throttled"], ["under-voltage", "throttled"])
    assert raspberry.words(0x60002) == (["frequency capped"], ["frequency capped", "throttled"])
    assert raspberry.words(0x80008) == (["soft temperature limit"], ["soft temperature limit"])
    assert raspberry.words(0) == ([], [])


def test_vcgencmd_texts() -> None:
    assert raspberry.parse_clock("frequency(48)=1141118000\n") == 1141118
    assert raspberry.parse_clock("frequency(0)=2400000000") == 2400000
    assert raspberry.parse_clock("frequency(48)=0") is None
    assert raspberry.parse_clock("VCHI initialization failed") is None
    assert raspberry.parse_temperature("temp=43.8'C\n") == 43.8
    assert raspberry.parse_temperature("Can't open device file: /dev/vcio") is None


def test_a_mac_without_root() -> None:
    memory = macos.parse_vm_stat(said("vm_stat-apple-silicon"))
    assert memory == {
        "memory_available_bytes": (12345 + 290000 + 1000) * 16384,
        "swapped_in_pages": 17,
    }
    assert macos.parse_sw_vers("ProductName:\t\tmacOS\nProductVersion:\t\t14.5\n") == "macOS 14.5"
    limited = macos.thermal(said("pmset-therm-intel-limited"), "")
    assert limited == (True, ["processor limited to 71 %"])
    calm = macos.thermal(said("pmset-therm-apple-silicon"), "com.apple.system.thermalpressurelevel 0\n")
    assert calm == (False, [])
    hot = macos.thermal("", "com.apple.system.thermalpressurelevel 2\n")
    assert hot == (True, ["thermal pressure heavy"])
    assert macos.thermal(said("pmset-therm-apple-silicon"), "") == (None, [])


# --- what the sampler reads -----------------------------------------------------------------------


def figures(board: str) -> tuple[dict[str, float], gauges.Gauges]:
    read = gauges.Gauges(tree(board), facts.soc_name(tree(board)), no_tool)
    return read.read(), read


def test_gauges_of_an_orin() -> None:
    found, read = figures("jetson-orin-nano")
    assert found["temperature_c"] == 54.1
    assert (found["clock:cpu0"], found["clock:cpu4"], found["clock:gpu"]) == (729600, 1728000, 306000)
    assert found["gpu_load"] == 0.12
    assert found["power_mw"] == found["rail:VDD_IN"] == 2955.512
    assert read.throttle() == (False, set())
    assert read.pinned() == {}


def test_alarms_of_rails(tmp_path: Path) -> None:
    board = tmp_path / "board"
    shutil.copytree(RECORDED / "jetson-orin-nano", board)
    (alarm,) = board.rglob("curr1_max_alarm")
    read = gauges.Gauges(Tree(str(board)), "tegra234", no_tool)
    assert read.alarms() == set()
    alarm.write_text("1\n")
    assert read.alarms() == {"current of VDD_IN over its limit"}
    assert read.throttle() == (False, set())


def test_gauges_of_a_pi_without_the_throttle_word() -> None:
    _, read = figures("raspberry-pi-5")
    assert read.throttle() == (False, set())


def test_gauges_of_boards_that_hold_their_clocks() -> None:
    _, locked = figures("jetson-agx-orin")
    assert locked.pinned() == {"cpu0": 2201600, "gpu": 1300500}
    _, performance = figures("raspberry-pi-4")
    assert performance.pinned() == {"cpu0": 1800000}
    _, chooses_itself = figures("linux-x86_64")
    assert "cpu0" not in chooses_itself.pinned()


def test_gauges_of_a_throttled_pi_and_of_nothing() -> None:
    _, zero = figures("raspberry-pi-zero-2-w")
    assert zero.throttle() == (True, {"frequency capped"})
    found, bare = figures("bare-container")
    assert found == {}
    assert bare.throttle() == (None, set())
    assert bare.meter is None


# --- any text at all ------------------------------------------------------------------------------

PARSERS: list[Any] = [
    tegrastats.parse,
    rails.parse_pmic,
    jetson.parse_show,
    jetson.parse_nvmap,
    jetson.parse_cuda,
    jetson.parse_cudnn,
    jetson.parse_nvpmodel,
    jetson.power_modes,
    jetson.jetpack_version,
    lambda text: jetson.mode_limits(text, 1),
    raspberry.parse_throttled,
    raspberry.parse_clock,
    raspberry.parse_temperature,
    macos.parse_vm_stat,
    macos.parse_sw_vers,
    macos.parse_facts,
    lambda text: macos.parse_conditions(text, None, 1.0),
    lambda text: macos.thermal(text, text),
]
WORDS = sorted({word for path in (RECORDED / "tools").glob("*.txt") for word in path.read_text().split()})
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from(WORDS) | st.text(max_size=12), max_size=40).map(" ".join),
    st.lists(st.sampled_from(WORDS), max_size=40).map("\n".join),
)


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_no_text_crashes_a_parser(text: str) -> None:
    for parse in PARSERS:
        parse(text)


@settings(deadline=None)
@given(st.integers(0, 0xFFFFF))
def test_every_bit_of_a_throttle_word_has_its_words(value: int) -> None:
    now, since = raspberry.words(value)
    assert len(now) == bin(value & 0xF).count("1")
    assert len(since) == bin(value >> 16 & 0xF).count("1")
    assert raspberry.parse_throttled(f"throttled=0x{value:x}") == value


@settings(deadline=None)
@given(
    st.integers(1, 1 << 40),
    st.lists(st.integers(0, 1 << 20), min_size=1, max_size=50),
)
def test_a_counter_that_wraps_loses_no_energy(range_uj: int, spent: list[int]) -> None:
    """However often the counter wraps, mean power times time is what was spent."""
    counter, total = rails.Counter(range_uj), 0
    counter.milliwatts(0.0, 0)
    for second, amount in enumerate(spent, 1):
        total += amount % range_uj
        seen = counter.milliwatts(float(second), total % range_uj)
        assert seen == pytest.approx(amount % range_uj / 1000.0)
