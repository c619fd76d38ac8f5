"""`edgebench devices`: the boards of the fleet."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import click

from edgebench.cli.output import emit_json, json_option, print_pairs, print_table
from edgebench.cli.progress import Progress
from edgebench.cli.setup import (
    ask_for_secrets,
    inventory_option,
    read_inventory,
    read_settings,
    read_targets,
)
from edgebench.device.bootstrap import remove_everything
from edgebench.device.doctor import Finding, examine
from edgebench.device.session import Session, open_session
from edgebench.errors import EXIT_ERROR, EXIT_GATE_FAILED, EXIT_OK, EdgebenchError, UserError
from edgebench.inventory import explain, is_address, select
from edgebench.pipeline import Step
from edgebench.records import Device, Facts, SshSettings, Target, to_json
from edgebench.settings import Settings
from edgebench.targets import mismatches
from edgebench.transport.connect import answer_with, open_transport
from edgebench.transport.ssh import explained, known_keys, scan_device
from edgebench.units import format_bytes

AT_ONCE = 32


@click.group()
def devices() -> None:
    """The boards of the fleet: what the inventory says and what they say themselves."""


@devices.command("list")
@click.option(
    "--on", "selector", default="all", metavar="SELECTOR", help="all, NAME, group:G, tag:K=V, target:T."
)
@inventory_option
@json_option
def list_devices(selector: str, inventory: str | None, as_json: bool) -> None:
    """All devices, those in quarantine with the reason. Nothing is connected."""
    fleet = read_inventory(read_settings(inventory))
    picked = select(fleet, selector, include_quarantined=True).devices
    if as_json:
        emit_json({"inventory": fleet.source, "devices": [to_json(device) for device in picked]})
        return
    print_table(
        ["device", "target", "where", "groups", "tags", "quarantine"], [_row(device) for device in picked]
    )


def _row(device: Device) -> tuple[str, ...]:
    tags = " ".join(f"{key}={value}" for key, value in device.tags.items())
    where = device.address or "this computer"
    return device.name, device.target, where, " ".join(device.groups), tags, device.quarantine or ""


@devices.command()
@click.argument("name")
@inventory_option
@json_option
def show(name: str, inventory: str | None, as_json: bool) -> None:
    """The merged entry of device NAME, each value with the line it comes from.

    What the inventory leaves open is shown as your ssh configuration and known_hosts have it.
    """
    fleet = read_inventory(read_settings(inventory))
    values, device = explain(fleet, name), fleet.device(name)
    if device.transport == "ssh":
        values = explained(device, values)
    if as_json:
        emit_json({"device": name, "values": [value._asdict() for value in values]})
        return
    print_table(["key", "value", "from"], values)


# --- scan ---------------------------------------------------------------------------------------


@devices.command()
@click.argument("address")
@click.option("--user", help="Login; default: as your ssh configuration says, else yours.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Default: as your ssh configuration says, else 22."
)
@click.option(
    "--key-file", type=click.Path(), help="Private key; default: the ssh agent and your usual keys."
)
@click.option(
    "--jump", metavar="[USER@]HOST[:PORT]", help="Jump hosts, which known_hosts must know; none: go directly."
)
@json_option
def scan(
    address: str, user: str | None, port: int | None, key_file: str | None, jump: str | None, as_json: bool
) -> None:
    """The host keys and facts of the board at ADDRESS, and the inventory entry to paste.

    ADDRESS may be a Host of your ssh configuration. The inventory's ssh settings are not used here.

    No password is sent to a board whose key is not in your known_hosts: anybody may answer.

    Before you trust it, compare the fingerprint with the board's own:
    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    Nothing stays on the board.
    """
    if not is_address(address):
        raise UserError(f'"{address}" is no address', hint="a host name or an IP address")
    ssh = SshSettings(user=user, port=port, key_file=key_file, jump=jump)
    unknown = Device(name=address, target="", transport="ssh", address=address, ssh=ssh)
    credentials = ask_for_secrets()
    keys = scan_device(unknown, credentials)
    confirmed = set(known_keys(unknown))
    if not confirmed & {key.fingerprint for key in keys}:
        answer_with(credentials.without_passwords())
    device = Device(
        name=suggested_name(address),
        target="",
        transport="ssh",
        address=address,
        host_keys=tuple(key.fingerprint for key in keys),
        ssh=ssh,
        work_dir=f".edgebench-scan-{os.getpid()}",
    )
    facts, problem = _facts(device)
    target = None if facts is None else best_target(facts, read_targets(read_settings()))
    entry = inventory_entry(device, target)
    if as_json:
        emit_json(
            {
                "address": address,
                "host_keys": [{"type": key.type, "fingerprint": key.fingerprint} for key in keys],
                "facts": None if facts is None else to_json(facts),
                "problem": problem,
                "entry": entry,
            }
        )
        return
    print_pairs([(key.type, _told(key.fingerprint, confirmed)) for key in keys])
    if facts is not None:
        print_pairs(_fact_rows(facts))
    else:
        click.echo(f"no facts: {problem}", err=True)
    click.echo(f"\n# paste below `devices:` in inventory.yaml\n{entry}")


def _told(fingerprint: str, confirmed: set[str]) -> str:
    return f"{fingerprint} (as in your known_hosts)" if fingerprint in confirmed else fingerprint


def _facts(device: Device) -> tuple[Facts | None, str]:
    try:
        session = open_session(device, home=read_settings().home)
        with session:
            facts = session.facts()
        _remove(device)
    except EdgebenchError as error:
        return None, f"{error.message} (next: {error.hint})"
    return facts, ""


def suggested_name(address: str) -> str:
    """A device name made of an address."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", address)[:64].strip("-.") or "board"


def best_target(facts: Facts, targets: dict[str, Target]) -> str | None:
    """The fitting target that says most of what it expects; None where none fits."""
    fitting = [target for target in targets.values() if not mismatches(target, facts)]
    fitting.sort(key=lambda target: sum(value is not None for value in to_json(target.expects).values()))
    return fitting[-1].name if fitting else None


def inventory_entry(device: Device, target: str | None) -> str:
    """The YAML of a device, to paste into an inventory."""
    lines = [
        f"  {device.name}:",
        f"    target: {target or 'CHOOSE-ONE  # edgebench targets list'}",
        f"    address: {device.address}",
    ]
    if len(device.host_keys) == 1:
        lines.append(f'    host_key: "{device.host_keys[0]}"')
    else:
        lines.append("    host_key:")
        lines += [f'      - "{key}"' for key in device.host_keys]
    ssh = {
        "user": device.ssh.user,
        "port": device.ssh.port,
        "key_file": device.ssh.key_file,
        "jump": device.ssh.jump and f'"{device.ssh.jump}"',
    }
    given = [f"{key}: {value}" for key, value in ssh.items() if value and (key, value) != ("port", 22)]
    return "\n".join([*lines, f"    ssh: {{{', '.join(given)}}}"] if given else lines)


# --- doctor -------------------------------------------------------------------------------------


@devices.command()
@click.argument("selector", default="all")
@inventory_option
@json_option
def doctor(selector: str, inventory: str | None, as_json: bool) -> int:
    """Whether the devices are ready to be measured, and what to type where they are not.

    Reached, as their target says, cool, quiet, with room, a plausible clock and runtimes that import there.
    Runtimes are pushed where the device is free. Exit code 1 when something is wrong; warnings alone are 0.
    """
    settings = read_settings(inventory)
    fleet, targets = read_inventory(settings), read_targets(settings)
    picked = select(fleet, selector, include_quarantined=True).devices
    found = _examined(picked, targets, settings)
    if as_json:
        emit_json(
            {"devices": {name: [each._asdict() for each in findings] for name, findings in found.items()}}
        )
    else:
        print_table(["device", "", "finding"], _finding_rows(found))
    wrong = any(finding.level == "wrong" for findings in found.values() for finding in findings)
    return EXIT_GATE_FAILED if wrong else EXIT_OK


def _examined(
    picked: Sequence[Device], targets: Mapping[str, Target], settings: Settings
) -> dict[str, list[Finding]]:
    """What is found at each device, all at the same time; connections are dropped when the user stops it."""
    sessions: list[Session] = []
    with Progress({}) as progress:

        def one(device: Device) -> list[Finding]:
            return examine(
                device,
                targets[device.target],
                settings.home,
                tell=lambda stage: progress(Step("doctor", device.name, stage)),
                opened=sessions.append,
            )

        pool = ThreadPoolExecutor(max(1, min(len(picked), AT_ONCE)), thread_name_prefix="doctor")
        try:
            return dict(zip([device.name for device in picked], pool.map(one, picked), strict=True))
        except BaseException:
            for session in sessions:
                session.abort()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finding_rows(found: Mapping[str, Sequence[Finding]]) -> Iterator[tuple[str, str, str]]:
    """Rows that stay readable where the terminal is narrow: what to do next stands below what was found."""
    for name, findings in found.items():
        for number, finding in enumerate(findings):
            told = f"{finding.what}\nnext: {finding.next}" if finding.next else finding.what
            yield "" if number else name, finding.level, told


# --- clean --------------------------------------------------------------------------------------


@devices.command()
@click.argument("selector")
@inventory_option
@json_option
def clean(selector: str, inventory: str | None, as_json: bool) -> int:
    """Remove edgebench's work folder from the devices that SELECTOR picks: all that it ever wrote there."""
    fleet = read_inventory(read_settings(inventory))
    picked = select(fleet, selector, include_quarantined=True).devices
    done = {device.name: _cleaned(device) for device in picked}
    if as_json:
        emit_json({"cleaned": {name: not problem for name, problem in done.items()}, "problems": done})
    else:
        for name, problem in done.items():
            click.echo(f"{name}: {problem or 'clean'}")
    return EXIT_ERROR if any(done.values()) else EXIT_OK


def _cleaned(device: Device) -> str:
    try:
        _remove(device)
    except EdgebenchError as error:
        return f"{error.message} (next: {error.hint})"
    return ""


def _remove(device: Device) -> None:
    transport = open_transport(device)
    transport.connect()
    try:
        remove_everything(transport, device)
    finally:
        transport.close()


def _fact_rows(facts: Facts) -> list[tuple[str, str]]:
    rows = [
        ("board", facts.board),
        ("processor", facts.cpu),
        ("cores", facts.cores),
        ("architecture", _architecture(facts)),
        ("system", facts.os_release or facts.os),
        ("kernel", facts.kernel),
        ("C library", facts.libc),
        ("Python", facts.python),
        ("memory", None if facts.memory_bytes is None else format_bytes(facts.memory_bytes)),
        ("power mode", _power_mode(facts)),
        ("power rails", ", ".join(facts.rails) or None),
        ("emulated", None if facts.emulated is None else "yes" if facts.emulated else "no"),
    ]
    return [(name, "unknown" if value is None else str(value)) for name, value in rows]


def _architecture(facts: Facts) -> str:
    """The programs' processor; the kernel's too where it is another (32-bit programs on a 64-bit kernel)."""
    kernel = f" on a kernel for {facts.kernel_arch}" if facts.kernel_arch not in (None, facts.arch) else ""
    return f"{facts.arch}, {facts.bits} bit userland{kernel}"


def _power_mode(facts: Facts) -> str | None:
    if facts.power_mode is None or not facts.power_mode_pending:
        return facts.power_mode
    return f"{facts.power_mode} (saved; cores and clocks are still those of another: it waits for a reboot)"
