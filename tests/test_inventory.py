"""Inventories: precedence, rules with their exact words, selectors, and where values come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench import inventory
from edgebench.errors import ConfigError, EdgebenchError, NothingDone, UserError
from edgebench.inventory import Explained
from edgebench.records import Device, SshSettings

KEY = "SHA256:2mZk0cQ0o0w3Xh1nYt8Jr6vLx5uQe9sPa4dBf7gHi1k"
KEY_2 = "SHA256:9tRw3eYu1iOp5aSd7fGh9jKl1zXc3vBn5mQw7eRt9yU"

FLEET = f"""\
version: 1
defaults:
  ssh: {{user: edgebench, key_file: ~/.ssh/id}}
  work_dir: /var/lib/edgebench
groups:
  lab:
    tags: {{site: north}}
    ssh: {{jump: "gate@bastion.example:2222", jump_host_key: "{KEY_2}"}}
  canary:
    tags: {{ring: canary}}
    work_dir: bench
devices:
  orin-01:
    target: jetson-orin-nano
    address: 10.20.0.11
    host_key: "{KEY}"
    groups: [lab, canary]
    ssh: {{port: 2022}}
    tags: {{site: south}}
  orin-02:
    target: jetson-orin-nano
    address: fe80::1%eth0
    host_key: ["{KEY}", "{KEY_2}"]
    groups: [lab]
    quarantine: "eMMC read errors, ticket 214"
  pi5-01:
    target: raspberry-pi-5
    address: pi5-01.lab.example
    host_key: "{KEY}"
    ssh: {{user: pi}}
  here: {{transport: local, target: linux-x86_64}}
"""
KNOWN = ("jetson-orin-nano", "raspberry-pi-5", "linux-x86_64")


def parsed(text: str) -> inventory.Inventory:
    return inventory.parse(text, "inventory.yaml", known_targets=KNOWN, local_target=lambda: "linux-x86_64")


def refused(act: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(UserError) as caught:
        act()
    return caught.value.message, caught.value.hint


def device(body: str, more: str = "") -> str:
    """An inventory with one device `d` on line 3, made of `body`, then more."""
    return f"version: 1\ndevices:\n  d: {body}\n{more}"


GOOD = f'target: raspberry-pi-5, address: 10.0.0.1, host_key: "{KEY}"'


def test_merges_device_over_groups_over_defaults() -> None:
    fleet = parsed(FLEET)
    jump = "gate@bastion.example:2222"
    assert fleet.device("orin-01") == Device(
        name="orin-01",
        target="jetson-orin-nano",
        transport="ssh",
        address="10.20.0.11",
        host_keys=(KEY,),
        ssh=SshSettings(
            user="edgebench", port=2022, key_file="~/.ssh/id", jump=jump, jump_host_keys=(KEY_2,)
        ),
        work_dir="bench",
        groups=("lab", "canary"),
        tags={"site": "south", "ring": "canary"},
    )
    orin_2 = fleet.device("orin-02")
    assert (orin_2.host_keys, orin_2.quarantine) == ((KEY, KEY_2), "eMMC read errors, ticket 214")
    pi = fleet.device("pi5-01")
    assert (pi.ssh.user, pi.ssh.port, pi.ssh.jump, pi.work_dir) == ("pi", 22, None, "/var/lib/edgebench")
    assert fleet.device("here") == Device(
        name="here", target="linux-x86_64", transport="local", work_dir="/var/lib/edgebench"
    )


def test_explains_where_each_value_was_written() -> None:
    assert inventory.explain(parsed(FLEET), "orin-01") == (
        Explained("target", "jetson-orin-nano", "inventory.yaml:14"),
        Explained("transport", "ssh", "default"),
        Explained("address", "10.20.0.11", "inventory.yaml:15"),
        Explained("host_key", KEY, "inventory.yaml:16"),
        Explained("ssh.user", "edgebench", "inventory.yaml:3 (defaults)"),
        Explained("ssh.port", "2022", "inventory.yaml:18"),
        Explained("ssh.key_file", "~/.ssh/id", "inventory.yaml:3 (defaults)"),
        Explained("ssh.jump", "gate@bastion.example:2222", "inventory.yaml:8 (group lab)"),
        Explained("ssh.jump_host_key", KEY_2, "inventory.yaml:8 (group lab)"),
        Explained("work_dir", "bench", "inventory.yaml:11 (group canary)"),
        Explained("groups", "lab, canary", "inventory.yaml:17"),
        Explained("tags.site", "south", "inventory.yaml:19"),
        Explained("tags.ring", "canary", "inventory.yaml:10 (group canary)"),
    )
    assert inventory.explain(inventory.default("linux-x86_64"), "local") == (
        Explained("target", "linux-x86_64", "default"),
        Explained("transport", "local", "default"),
        Explained("work_dir", ".edgebench", "default"),
    )


def test_groups_that_disagree_are_an_error_unless_the_device_decides() -> None:
    text = device(
        f"{{{GOOD}, groups: [a, b]%s}}",
        "groups:\n  a:\n    ssh: {user: pi}\n  b:\n    ssh: {user: root}\n",
    )
    message, hint = refused(lambda: parsed(text.replace("%s", "")))
    assert message == (
        'inventory.yaml:3: device d gets two values of ssh.user: "pi" from group a (line 6) '
        'and "root" from group b (line 8)'
    )
    assert hint == "set ssh.user at the device, or make the groups agree"
    assert parsed(text.replace("%s", ", ssh: {user: me}")).device("d").ssh.user == "me"
    assert parsed(text.replace("%s", "").replace("root", "pi")).device("d").ssh.user == "pi"
    tags = text.replace("%s", "").replace("ssh: {user:", "tags: {ring:")
    assert "two values of tags.ring" in refused(lambda: parsed(tags))[0]


REFUSALS = [
    (
        device(f"{{{GOOD}, adress: x}}"),
        'inventory.yaml:3: unknown key "adress" in devices.d',
        'did you mean "address"?',
    ),
    (
        device(f"{{{GOOD}, ssh: {{password: hunter2}}}}"),
        'inventory.yaml:3: unknown key "password" in devices.d.ssh',
        "known: jump, jump_host_key, key_file, port, user",
    ),
    (
        device(f"{{{GOOD}}}", f"  d: {{{GOOD}}}\n"),
        'inventory.yaml:4: the key "d" in devices is already on line 3',
        "remove or rename one of the two",
    ),
    (
        device(f"{{{GOOD}, ssh: {{port: ssh}}}}"),
        'inventory.yaml:3: devices.d.ssh.port expects a whole number, found the text "ssh"',
        "write the number alone, without quotes and unit",
    ),
    ("version: 2\ndevices: {}", "inventory.yaml:1: version is 2; this edgebench reads version 1", None),
    ("version: 1\ndevices: {}", "inventory.yaml:2: devices is empty", "add one: local: {transport: local}"),
    ("version: 1", 'inventory.yaml:1: the file lacks the key "devices"', None),
    (
        device("{target: raspberry-pi-5, address: 10.0.0.1}"),
        "inventory.yaml:3: devices.d has no host_key, so nobody could tell it from an impostor",
        "edgebench devices scan 10.0.0.1  prints the entry to paste",
    ),
    (
        device(f"{{{GOOD.replace(KEY, KEY[:-1])}}}"),
        f'inventory.yaml:3: devices.d.host_key holds "{KEY[:40]}...", which is no fingerprint',
        'write "SHA256:" and 43 characters, as `edgebench devices scan ADDRESS` prints it',
    ),
    (
        device(f"{{{GOOD.replace('10.0.0.1', '-oProxyCommand=x')}}}"),
        'inventory.yaml:3: devices.d.address is "-oProxyCommand=x", which is no host name or IP address',
        "the port belongs to ssh.port, the login to ssh.user",
    ),
    (
        device(f'{{target: raspberry-pi-5, host_key: "{KEY}"}}'),
        'inventory.yaml:3: devices.d lacks the key "address"',
        "write its host name or IP address; this computer itself has transport: local instead",
    ),
    (
        device(f'{{address: 10.0.0.1, host_key: "{KEY}"}}'),
        'inventory.yaml:3: devices.d lacks the key "target"',
        "edgebench targets list  shows what there is",
    ),
    (
        device(f"{{{GOOD.replace('pi-5', 'pi5')}}}"),
        'inventory.yaml:3: devices.d names the target "raspberry-pi5", which is not there',
        'did you mean "raspberry-pi-5"?',
    ),
    (
        device(f"{{{GOOD}, groups: [lap]}}", "groups: {lab: {}}"),
        'inventory.yaml:3: devices.d is in the group "lap", which is not there',
        'did you mean "lab"?',
    ),
    (
        device(f"{{{GOOD}, groups: [lab, lab]}}", "groups: {lab: {}}"),
        "inventory.yaml:3: devices.d is twice in the group lab",
        None,
    ),
    (
        device(f'{{{GOOD}, quarantine: " "}}'),
        "inventory.yaml:3: devices.d is in quarantine without a reason",
        'say why: quarantine: "eMMC read errors since 2026-11-02"; or remove the key',
    ),
    (
        device(f"{{{GOOD}, quarantine: }}"),
        "inventory.yaml:3: devices.d is in quarantine without a reason",
        None,
    ),
    (
        device(f"{{{GOOD}, transport: local}}"),
        "inventory.yaml:3: devices.d is this computer (transport: local) and has address as well",
        "remove address, or write transport: ssh",
    ),
    (
        device(f"{{{GOOD}, transport: usb}}"),
        'inventory.yaml:3: devices.d.transport expects one of "local", "ssh", found the text "usb"',
        None,
    ),
    (
        device(f"{{{GOOD}, work_dir: /}}"),
        'inventory.yaml:3: devices.d.work_dir is "/", which is no folder to give to edgebench',
        "write a folder for edgebench alone: .edgebench (below the home), or /var/lib/edgebench",
    ),
    (
        device(f"{{{GOOD}, ssh: {{jump: bastion.example}}}}"),
        "inventory.yaml:3: device d jumps through bastion.example, which has no ssh.jump_host_key",
        "edgebench devices scan bastion.example  prints it; write it beside jump",
    ),
    (
        device(f"{{{GOOD}, ssh: {{user: -lroot}}}}"),
        'inventory.yaml:3: devices.d.ssh.user is "-lroot", which cannot be right',
        "write a login name, for example pi",
    ),
    (
        device(f"{{{GOOD}, ssh: {{port: 70000}}}}"),
        'inventory.yaml:3: devices.d.ssh.port is "70000", which cannot be right',
        "write a number from 1 to 65535",
    ),
    (
        device("{transport: local}").replace("d:", "all:"),
        'inventory.yaml:3: a device cannot be called "all": edgebench uses that word itself',
        "choose another name",
    ),
    (
        device("{transport: local}").replace("d:", '"a b":'),
        'inventory.yaml:3: "a b" in devices cannot be a name',
        "letters, digits, dot, dash and underscore, beginning with a letter or digit; at most 64",
    ),
    (
        device("{transport: local, tags: {a: 'b,c'}}"),
        'inventory.yaml:3: "b,c" in devices.d.tags cannot be a name',
        None,
    ),
    (
        "version: 1\ndevices: &d\n  a: *d",
        "inventory.yaml:2: anchors and aliases (& and *) are not allowed",
        None,
    ),
]


@pytest.mark.parametrize(("text", "message", "hint"), REFUSALS, ids=range(len(REFUSALS)))
def test_refuses_in_these_words(text: str, message: str, hint: str | None) -> None:
    found = refused(lambda: parsed(text))
    assert found[0] == message
    assert hint is None or found[1] == hint


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("10.0.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("pi", True),
        ("pi_5.lab.example.", True),
        ("10.0.0.256", False),
        ("10.0.0", False),
        ("-v", False),
        ("a b", False),
        ("pi@host", False),
        ("host:22", False),
        ("fe80::1%$(id) x", False),
        ("fe80::1%;/bin/sh", False),
        ("", False),
        ("a" * 64 + ".b", False),
        ("host\n", False),
    ],
)
def test_addresses(address: str, good: bool) -> None:
    assert inventory.is_address(address) is good


@pytest.mark.parametrize(
    "folder", ["", "/", "/etc", ".", "..", "a/../..", "/var/../etc", "a b", "$HOME/x", "~/x", "a;b"]
)
def test_work_dirs_that_are_none(folder: str) -> None:
    assert (
        "no folder to give"
        in refused(lambda: parsed(device(f'{{transport: local, work_dir: "{folder}"}}')))[0]
    )


def test_the_local_device_gets_its_target_from_this_computer() -> None:
    assert parsed(device("{transport: local}")).device("d").target == "linux-x86_64"
    assert inventory.target_for("Linux", "aarch64") == "linux-aarch64"
    assert inventory.target_for("Darwin", "arm64") == "apple-silicon-mac"
    assert refused(lambda: inventory.target_for("Linux", "riscv64")) == (
        'there is no generic target for "Linux" on "riscv64"',
        "write one and name it in inventory.yaml: local: {transport: local, target: NAME}",
    )


def test_without_a_file_there_is_this_computer() -> None:
    fleet = inventory.load(None)
    assert [(each.name, each.transport) for each in fleet.devices] == [("local", "local")]
    assert fleet.device("local").target == inventory.this_target()


def test_the_shipped_example_works_and_so_does_what_it_shows_in_comments(tmp_path: Path) -> None:
    path = Path(__file__).parent.parent / "inventory.yaml"
    assert [each.name for each in inventory.load(path).devices] == ["local"]

    shown = path.read_text().partition("# defaults:")[2].partition("# Then:")[0]
    lines = ["version: 1", "# defaults:" + shown]
    (tmp_path / "fleet.yaml").write_text("\n".join(lines).replace("\n# ", "\n").replace("\n#\n", "\n\n"))
    fleet = inventory.load(tmp_path / "fleet.yaml")
    assert [each.name for each in fleet.devices] == ["orin-01", "nano-01", "pi5-01"]
    assert fleet.device("nano-01").quarantine


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    assert "there is no file" in refused(lambda: inventory.load(tmp_path / "none.yaml"))[0]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("all", "orin-01 pi5-01 here"),
        ("pi5-01", "pi5-01"),
        ("here, orin-01", "orin-01 here"),
        ("orin-*", "orin-01"),
        ("group:lab", "orin-01"),
        ("tag:site=south", "orin-01"),
        ("target:raspberry-pi-5,here", "pi5-01 here"),
        ("p?5-*,pi5-01", "pi5-01"),
    ],
)
def test_selectors(selector: str, names: str) -> None:
    assert [each.name for each in inventory.select(parsed(FLEET), selector).devices] == names.split()


def test_quarantine_is_told_apart() -> None:
    fleet = parsed(FLEET)
    selection = inventory.select(fleet, "group:lab")
    assert [each.name for each in selection.quarantined] == ["orin-02"]
    every = inventory.select(fleet, "group:lab", include_quarantined=True)
    assert [each.name for each in every.devices] == ["orin-01", "orin-02"]
    assert every.quarantined == ()
    with pytest.raises(NothingDone) as caught:
        inventory.select(fleet, "orin-02")
    assert caught.value.exit_code == 5
    assert caught.value.message == (
        'everything that "orin-02" picks is in quarantine: orin-02 (eMMC read errors, ticket 214)'
    )


@pytest.mark.parametrize(
    ("selector", "message", "hint"),
    [
        ("orin-1", '"orin-1" matches no device of inventory.yaml', 'did you mean "orin-01"?'),
        ("zzz", '"zzz" matches no device of inventory.yaml', "known: all, here, orin-01, orin-02, pi5-01"),
        ("here,orin-9*", '"orin-9*" matches no device of inventory.yaml', 'did you mean "orin-02"?'),
        ("group:lap", '"group:lap" matches no device of inventory.yaml', 'did you mean "group:lab"?'),
        (
            "tag:site=noth",
            '"tag:site=noth" matches no device of inventory.yaml',
            'did you mean "tag:site=north"?',
        ),
        ("", '"" matches no device of inventory.yaml', "known: all, here, orin-01, orin-02, pi5-01"),
        (
            "ring:canary",
            '"ring:canary" is no selector',
            "write a name, all, or one of: group:..., tag:..., target:...",
        ),
    ],
)
def test_a_selector_that_matches_nothing_says_what_there_is(selector: str, message: str, hint: str) -> None:
    assert refused(lambda: inventory.select(parsed(FLEET), selector)) == (message, hint)


def test_an_unknown_device_says_what_there_is() -> None:
    assert refused(lambda: parsed(FLEET).device("pi5-1")) == (
        'there is no device "pi5-1" in inventory.yaml',
        'did you mean "pi5-01"?',
    )


@settings(max_examples=250, deadline=None)
@given(st.integers(0, len(FLEET)), st.text(alphabet="ab: []{}\"'\n,.-%/@10~", max_size=6), st.integers(0, 8))
def test_damaged_inventories_never_end_in_a_traceback(at: int, new: str, removed: int) -> None:
    try:
        fleet = parsed(FLEET[:at] + new + FLEET[at + removed :])
    except EdgebenchError as error:
        found: object = error
    else:
        found = [inventory.explain(fleet, each.name) for each in fleet.devices]
        assert all(each.transport == "local" or each.host_keys for each in fleet.devices)
    assert isinstance(found, list | ConfigError)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=20), st.text(alphabet="all,group:tag=*?[]-orin01 ", max_size=20)))
def test_any_selector_picks_something_or_is_refused(selector: str) -> None:
    fleet = parsed(FLEET)
    try:
        found: object = len(inventory.select(fleet, selector).devices)
    except EdgebenchError as error:
        found = error
    assert isinstance(found, UserError) or found


def test_what_a_lease_guards_is_inherited_like_the_work_folder() -> None:
    text = """version: 1
defaults: {lease: board}
groups:
  shared: {lease: folder}
devices:
  one: {transport: local, target: linux-x86_64}
  two: {transport: local, target: linux-x86_64, groups: [shared]}
"""
    found = inventory.parse(text, "inventory.yaml")
    assert [device.lease for device in found.devices] == ["board", "folder"]
    assert ("lease", "folder") in [(each.key, each.value) for each in inventory.explain(found, "two")]
    with pytest.raises(ConfigError, match="lease"):
        inventory.parse(text.replace("lease: folder", "lease: desk"), "inventory.yaml")
