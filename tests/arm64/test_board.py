"""The whole path of a user with an Arm board, on a true aarch64 userland: its Python, its wheels, over SSH.

scan -> inventory -> doctor -> run -> report -> clean. What is computed there is compared with what is here;
times and memory are taken like anywhere else and shown nowhere, for an emulator's are no board's.
"""

from __future__ import annotations

from typing import Any

import pytest

from edgebench.errors import EXIT_ERROR
from edgebench.records import Device, Facts, from_json, replace
from edgebench.store import Store, sqlite_url
from tests.commands import DEMO, DIGITS, Cli, follows_schema
from tests.fleet.boards import WORK
from tests.fleet.netns import FleetDevice

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(900)]

MATRIX = ("--to", "onnxruntime,ncnn", "--precision", "fp32,int8")
SAMPLES = ("--calibration", DEMO / "digits-calibration.npz")
FEW = ("--launches", "2", "--min-samples", "5", "--min-duration", "1 ms", "--threads", "1")


TWO_RUNTIMES = """\
version: 1
name: two-runtimes
summary: An Arm board without OpenVINO, whose wheel takes a minute to unpack under emulation
platform: {os: linux, arch: aarch64}
python: ">=3.6"
runtimes:
  onnxruntime: {precisions: [fp32]}
  ncnn: {precisions: [fp32]}
"""


METRICS = ("latency.p50", "memory_peak", "parity.snr")
BUDGETS = """\
version: 1
budgets:
  - name: all
    limits:
      latency.p50: {max: 10 s}
      memory_peak: {max: 1 GiB}
      parity.snr: {min: 10 dB}
"""


@pytest.fixture
def pi(cli: Cli, arm_board: FleetDevice) -> Device:
    """The board in the inventory, under a target without pauses between launches."""
    login = f"{{user: {arm_board.user}, key_file: {arm_board.key_file}}}"
    lines = [
        "version: 1",
        "devices:",
        "  pi:",
        "    target: linux-aarch64",
        f"    address: {arm_board.address}",
    ]
    lines += [f'    host_key: "{arm_board.fingerprints[0]}"', f"    ssh: {login}"]
    (cli.folder / "inventory.yaml").write_text("\n".join(lines) + "\n")
    return replace(arm_board.record("pi"), target="linux-aarch64")


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """The document of the one run that several tests look at."""
    return {}


@pytest.fixture
def document(cli: Cli, pi: Device, measured: dict[str, Any]) -> dict[str, Any]:
    """A run of both runtimes in fp32 and int8, made once."""
    if not measured:
        measured.update(
            cli.json("run", DIGITS, *MATRIX, *SAMPLES, *FEW, code=EXIT_ERROR)
        )  # no board's figures
    return measured


def test_a_scan_tells_an_emulated_arm_board(cli: Cli, arm_board: FleetDevice) -> None:
    login = ("--user", arm_board.user, "--key-file", arm_board.key_file)
    said = cli.json("devices", "scan", arm_board.address, *login)
    facts = from_json(Facts, said["facts"], source="scan")
    assert (facts.arch, facts.bits, facts.os, facts.emulated) == ("aarch64", 64, "linux", True)
    assert (facts.board, facts.cpu) == ("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72")
    assert facts.libc == "glibc 2.36"
    assert "target: raspberry-pi-4" in said["entry"]
    assert not (arm_board.home / WORK).exists()
    assert "emulated" in cli("devices", "scan", arm_board.address, *login).out


def test_every_cell_computes_the_same_there(document: dict[str, Any]) -> None:
    follows_schema(document)
    assert document["failures"] == []
    assert document["counts"]["emulated"] == document["counts"]["planned"] == 4
    cells = {(each["runtime"], each["precision"]): each for each in document["measurements"]}
    assert set(cells) == {(r, p) for r in ("onnxruntime", "ncnn") for p in ("fp32", "int8")}
    for each in cells.values():
        assert each["facts"]["arch"] == "aarch64"
        assert each["parity"]["device"]["passed"]
        assert each["parity"]["device"]["where"] == "pi"
        assert each["runtime_version"]
    for runtime in ("onnxruntime", "ncnn"):
        assert all(
            output["snr_db"] is None or output["snr_db"] > 100
            for output in cells[runtime, "fp32"]["parity"]["device"]["outputs"]
        )


def test_the_wheels_are_arm_s_own(cli: Cli, document: dict[str, Any]) -> None:
    folders = [path for path in (cli.home / "bundles").iterdir() if "aarch64" in path.name]
    wheels = {wheel.name.split("-")[0] for folder in folders for wheel in folder.glob("*_aarch64.whl")}
    assert {"onnxruntime", "ncnn", "numpy"} <= wheels


def test_no_emulated_figure_is_shown_as_a_board_s(cli: Cli, document: dict[str, Any]) -> None:
    for each in document["measurements"]:
        assert each["status"] == "emulated"
        assert set(each["latency_ms"].values()) == {None}
        assert each["launch_p50_ms"] == []
        assert [each[key] for key in ("import_ms", "load_ms", "first_inference_ms", "throughput_per_s")] == [
            None
        ] * 4
        assert {value for key, value in each["memory"].items() if key.endswith("_bytes")} == {None}
        assert each["ratios_to_fp32"]["speedup"] is None
        assert "emulated" in {caution["kind"] for caution in each["cautions"]}
    for style in ("terminal", "markdown"):
        text = cli("report", document["run"], "--format", style).out
        assert "an emulator" in text
        row = next(line for line in text.splitlines() if "onnxruntime" in line and "fp32" in line)
        assert "emulated" in row


def test_no_gate_stands_on_emulated_figures(cli: Cli, document: dict[str, Any]) -> None:
    cli("export", document["run"], "-o", "measured.json")
    (cli.folder / "budgets.yaml").write_text(BUDGETS)
    verdicts = cli.json("gate", "measured.json", "--budgets", "budgets.yaml", code=EXIT_ERROR)["cells"]
    words = {metric: {each["verdict"] for each in verdicts if each["metric"] == metric} for metric in METRICS}
    assert words == {"latency.p50": {"invalid"}, "memory_peak": {"invalid"}, "parity.snr": {"pass"}}


def test_times_and_memory_were_taken_all_the_same(cli: Cli, document: dict[str, Any]) -> None:
    with Store(sqlite_url(cli.home / "store.sqlite")) as store:
        launches = [launch for each in store.measurements(document["run"]) for launch in each.launches]
    assert len(launches) == 4 * 2
    for launch in launches:
        assert len(launch.samples_ns) >= 5
        assert min(launch.samples_ns) > 0
        assert launch.memory.peak_bytes
        assert launch.memory.peak_bytes > 1 << 20


def test_a_second_run_pushes_nothing(cli: Cli, pi: Device, document: dict[str, Any]) -> None:
    assert sum(each["pushed_bytes"] for each in document["measurements"]) > 10 << 20  # two runtimes
    again = cli.json("run", DIGITS, *MATRIX, *SAMPLES, *FEW, "--launches", "1", code=EXIT_ERROR)
    assert [each["pushed_bytes"] for each in again["measurements"]] == [0] * 4


def test_the_doctor_imports_arm_s_runtimes_there(cli: Cli, pi: Device, arm_board: FleetDevice) -> None:
    (cli.folder / "targets").mkdir()
    (cli.folder / "targets" / "two-runtimes.yaml").write_text(TWO_RUNTIMES)
    (cli.folder / "edgebench.toml").write_text('targets = "targets"\n')
    inventory = cli.folder / "inventory.yaml"
    inventory.write_text(inventory.read_text().replace("linux-aarch64", "two-runtimes"))
    found = cli.json("devices", "doctor", "pi")["devices"]["pi"]
    (emulated,) = [each for each in found if each["check"] == "emulated"]
    assert "no board's" in emulated["what"]
    runtimes = {each["check"]: each for each in found if each["check"].startswith("runtime ")}
    assert set(runtimes) == {"runtime onnxruntime", "runtime ncnn"}
    for each in runtimes.values():
        assert each["level"] == "ok"
        assert "is imported there" in each["what"]


def test_clean_leaves_nothing(cli: Cli, pi: Device, arm_board: FleetDevice, document: dict[str, Any]) -> None:
    (arm_board.home / "mine.txt").write_text("mine")
    assert (arm_board.home / WORK).is_dir()
    assert "pi: clean" in cli("devices", "clean", "pi").out
    assert sorted(path.name for path in arm_board.home.iterdir()) == ["mine.txt"]
    (arm_board.home / "mine.txt").unlink()
