"""`targets`, `runtimes`, and the parts of `devices` that connect to nothing."""

from __future__ import annotations

import pytest

from edgebench.records import Target, from_json
from edgebench.tools import find_pnnx
from tests.commands import Cli
from tests.convert.support import pnnx_home

INVENTORY = """\
version: 1
defaults:
  ssh: {user: edgebench}
groups:
  lab:
    tags: {site: north}
devices:
  here: {transport: local}
  pi:
    target: raspberry-pi-5
    address: 10.20.0.31
    host_key: "SHA256:4hYt7rE2wQ9pLk3jH6gF1dS8aZ5xC0vB2nM4qW6eR8t"
    groups: [lab]
    quarantine: "no fan"
"""
TARGET = """\
version: 1
name: {name}
summary: mine
platform: {{os: linux, arch: {arch}}}
python: "3.11"
runtimes:
  ncnn: {{{keys}}}
"""


@pytest.fixture
def inventory(cli: Cli) -> None:
    (cli.folder / "inventory.yaml").write_text(INVENTORY)


# --- targets -------------------------------------------------------------------------------------


def test_the_targets_of_the_issue_are_listed(cli: Cli) -> None:
    table = cli("targets", "list").out
    listed = [from_json(Target, each, source="targets") for each in cli.json("targets", "list")["targets"]]
    names = {target.name for target in listed}
    assert {"linux-x86_64", "linux-aarch64", "jetson-nano", "jetson-orin-nano"} <= names
    assert {"raspberry-pi-zero-2w", "raspberry-pi-3b-plus", "raspberry-pi-4", "raspberry-pi-5"} <= names
    assert any(target.platform.os == "macos" for target in listed)
    assert all(name in table for name in names)


def test_all_known_targets_are_right(cli: Cli) -> None:
    assert "wrong" not in cli("targets", "check").out
    assert all(each["ok"] for each in cli.json("targets", "check")["checked"])


def test_a_wrong_target_is_told_with_line_and_nearest_key(cli: Cli) -> None:
    good, wrong = cli.folder / "good.yaml", cli.folder / "wrong.yaml"
    good.write_text(TARGET.format(name="good", arch="aarch64", keys="precisions: [fp16]"))
    wrong.write_text(TARGET.format(name="wrong", arch="aarch64", keys="precision: [fp16]"))
    answer = cli("targets", "check", good.name, wrong.name, code=2)
    assert "ok     good.yaml" in answer.out
    assert "wrong  wrong.yaml:7:" in answer.out
    assert 'did you mean "precisions"' in answer.out
    checked = cli.json("targets", "check", good.name, wrong.name, code=2)["checked"]
    assert [each["ok"] for each in checked] == [True, False]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (TARGET.format(name="x", arch="z80", keys="precisions: [fp16]"), "z80"),
        (TARGET.format(name="x", arch="aarch64", keys="precisions: fp16"), "precisions"),
        ("a: &a [1, 2]\nb: [*a, *a]\n", "anchor"),
        ("version: [", ""),
    ],
)
def test_wrong_targets(cli: Cli, content: str, told: str) -> None:
    (cli.folder / "x.yaml").write_text(content)
    (checked,) = cli.json("targets", "check", "x.yaml", code=2)["checked"]
    assert checked["error"].startswith("x.yaml:")
    assert told in checked["error"]


def test_a_target_file_that_is_not_there(cli: Cli) -> None:
    answer = cli("targets", "check", "nothing.yaml", code=2)
    assert "nothing.yaml" in answer.out + answer.err


def test_own_targets_come_from_the_setting(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (cli.folder / "mine").mkdir()
    content = TARGET.format(name="mine-board", arch="aarch64", keys="precisions: [fp16]")
    (cli.folder / "mine" / "mine-board.yaml").write_text(content)
    monkeypatch.setenv("EDGEBENCH_TARGETS", "mine")
    assert "mine-board" in cli("targets", "list").out
    (cli.folder / "mine" / "broken.yaml").write_text("version: 1\n")
    assert "broken.yaml" in cli.fails(2, "user", "targets", "list")


# --- runtimes ------------------------------------------------------------------------------------


def test_what_is_installed_and_what_to_type(fresh_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    table = fresh_cli("runtimes").out
    assert "edgebench runtimes install pnnx" in table
    listed = {each["runtime"]: each for each in fresh_cli.json("runtimes")["runtimes"]}
    assert set(listed) >= {"onnxruntime", "ncnn", "openvino"}
    assert listed["onnxruntime"]["ready"]
    assert listed["onnxruntime"]["versions"]["onnxruntime"]
    assert not listed["ncnn"]["ready"]
    monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
    assert all(each["ready"] for each in fresh_cli.json("runtimes")["runtimes"] if each["runtime"] == "ncnn")
    assert "'pnx' is not" in fresh_cli("runtimes", "install", "pnx", code=2).err


# --- devices, from the inventory alone -----------------------------------------------------------


def test_without_an_inventory_there_is_this_computer(cli: Cli) -> None:
    (device,) = cli.json("devices", "list")["devices"]
    assert (device["name"], device["transport"]) == ("local", "local")


def test_devices_are_listed_with_their_quarantine(cli: Cli, inventory: None) -> None:
    table = cli("devices", "list").out
    assert "no fan" in table
    assert "site=north" in table
    document = cli.json("devices", "list", "--on", "group:lab")
    assert [device["name"] for device in document["devices"]] == ["pi"]
    assert document["inventory"].endswith("inventory.yaml")


def test_every_value_is_shown_with_its_line(cli: Cli, inventory: None) -> None:
    values = {each["key"]: each for each in cli.json("devices", "show", "pi")["values"]}
    assert values["ssh.user"]["value"] == "edgebench"
    assert "inventory.yaml:3" in str(values["ssh.user"])
    assert "inventory.yaml:6" in str(values["tags.site"])
    assert "group lab" in cli("devices", "show", "pi").out


def test_an_unknown_device_names_the_nearest(cli: Cli, inventory: None) -> None:
    assert 'did you mean "here"' in cli.fails(2, "user", "devices", "show", "hree")
    assert 'did you mean "group:lab"' in cli.fails(2, "user", "devices", "list", "--on", "group:lib")
    assert "matches no device" in cli.fails(2, "user", "devices", "doctor", "tag:site=south")
    assert "matches no device" in cli.fails(2, "user", "devices", "clean", "pie")


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("address: 10", "adress: 10", 10, 'did you mean "address"'),
        ("groups: [lab]", "groups: lab", 12, "groups"),
        ("  pi:\n", "  here:\n", 9, "here"),
        ("groups:\n  lab", "groups: &x\n  lab", 4, "anchor"),
        ("raspberry-pi-5", "raspbery-pi-5", 10, 'did you mean "raspberry-pi-5"'),
        ("    host_key", "    host_key: []\n    #", 9, "edgebench devices scan 10.20.0.31"),
        ("version: 1", "version: 7", 1, "7"),
    ],
)
def test_wrong_inventories(cli: Cli, old: str, new: str, line: int, told: str) -> None:
    (cli.folder / "inventory.yaml").write_text(INVENTORY.replace(old, new, 1))
    said = cli.fails(2, "user", "devices", "list")
    assert "inventory.yaml:" in said
    assert told in said


@pytest.mark.parametrize("address", ["", "-oProxyCommand=x", "a b", "user@board", "10.0.0.1:22"])
def test_what_is_no_address_is_not_scanned(cli: Cli, address: str) -> None:
    answer = cli("devices", "scan", "--", address, code=2)
    assert "is no address" in answer.err
