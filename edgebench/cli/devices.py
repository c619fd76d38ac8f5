"""`edgebench devices`: the boards of the fleet."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import click

from edgebench.cli.output import emit_json, json_option, print_pairs, print_table
from edgebench.cli.setup import (
    ask_for_secrets,
    inventory_option,
    read_inventory,
    read_settings,
    read_targets,
)
from edgebench.device.bootstrap import remove_everything
from edgebench.device.bundle import resolve
from edgebench.device.session import open_session
from edgebench.errors import EXIT_ERROR, EXIT_OK, EdgebenchError, UserError
from edgebench.inventory import explain, is_address, select
from edgebench.records import Conditions, Device, Facts, SshSettings, Target, to_json
from edgebench.targets import mismatches
from edgebench.transport.connect import answer_with, open_transport
from edgebench.transport.ssh import explained, known_keys, scan_device
from edgebench.units import format_bytes


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


class Finding(NamedTuple):
    """One thing the doctor looked at."""

    level: str  # ok, warn, wrong
    what: str
    next: str = ""


@devices.command()
@click.argument("selector", default="all")
@inventory_option
@json_option
def doctor(selector: str, inventory: str | None, as_json: bool) -> int:
    """Whether the devices are ready: reachable, as their target says, cool, quiet, with runtimes."""
    settings = read_settings(inventory)
    fleet, targets = read_inventory(settings), read_targets(settings)
    picked = select(fleet, selector, include_quarantined=True).devices
    found = {device.name: examine(device, targets[device.target]) for device in picked}
    if as_json:
        emit_json(
            {"devices": {name: [each._asdict() for each in findings] for name, findings in found.items()}}
        )
    else:
        rows = [(name, *finding) for name, findings in found.items() for finding in findings]
        print_table(["device", "", "finding", "next"], rows)
    wrong = any(finding.level == "wrong" for findings in found.values() for finding in findings)
    return EXIT_ERROR if wrong else EXIT_OK


def examine(device: Device, target: Target) -> list[Finding]:
    """What there is to say about one device."""
    home = read_settings().home
    if device.quarantine:
        return [
            Finding("warn", f"in quarantine: {device.quarantine}", "remove quarantine from the inventory")
        ]
    try:
        with open_session(device, home=home) as session:
            facts, conditions = session.facts(), session.conditions()
    except EdgebenchError as error:
        return [Finding("wrong", error.message, error.hint)]
    told = facts.board or facts.cpu or "unknown board"
    findings = [Finding("ok", f"{told}, {facts.os_release or facts.os}, Python {facts.python}")]
    findings += [Finding("wrong", sentence, "") for sentence in mismatches(target, facts)]
    findings += _conditions(conditions, target)
    if device.transport != "local":
        findings += [_runtime(runtime, facts) for runtime in target.runtimes]
    return findings


def _conditions(now: Conditions, target: Target) -> list[Finding]:
    findings = []
    limit_c = target.limits.max_temperature_c
    if now.throttled:
        findings.append(
            Finding("wrong", f"throttled now ({now.throttle_flags})", "cool it, check its power supply")
        )
    if now.temperature_c is not None and limit_c is not None and now.temperature_c > limit_c:
        findings.append(
            Finding("wrong", f"{now.temperature_c:.0f} °C, limit {limit_c:.0f} °C", "let it cool down")
        )
    if now.governor not in (None, "performance"):
        hint = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        findings.append(Finding("warn", f"governor is {now.governor}: clocks will move", hint))
    if now.load_1m is not None and now.load_1m > 0.5:
        findings.append(
            Finding("warn", f"load is {now.load_1m:.1f}: something else runs there", "look with top")
        )
    if now.memory_available_bytes is not None:
        findings.append(Finding("ok", f"{format_bytes(now.memory_available_bytes)} of memory are free"))
    return findings


def _runtime(runtime: str, facts: Facts) -> Finding:
    try:
        bundle = resolve(runtime, facts, read_settings().home)
    except EdgebenchError as error:
        return Finding("wrong", f"{runtime}: {error.message}", error.hint)
    return Finding("ok", f"{runtime}: {', '.join(wheel.path for wheel in bundle.wheels)}")


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
        ("architecture", f"{facts.arch}, {facts.bits} bit userland"),
        ("system", facts.os_release or facts.os),
        ("kernel", facts.kernel),
        ("C library", facts.libc),
        ("Python", facts.python),
        ("memory", None if facts.memory_bytes is None else format_bytes(facts.memory_bytes)),
        ("power mode", facts.power_mode),
    ]
    return [(name, "unknown" if value is None else str(value)) for name, value in rows]
