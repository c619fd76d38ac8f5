"""The way to a device: inventory, ssh configuration and known_hosts become the logins one after the other.

What the inventory says wins over the configuration. Each stop's host key is pinned in the inventory, or else
known by known_hosts; a stop that is neither is refused before anything is connected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgebench.errors import DeviceError, UserError, printable
from edgebench.inventory import Explained
from edgebench.records import Device
from edgebench.transport.ssh import known_hosts
from edgebench.transport.ssh.base import KEY_TYPES, Login, Trusted, family, short_path
from edgebench.transport.ssh.config import NONE, HostConfig, origin, read
from edgebench.transport.ssh.config_files import Asked

MAX_JUMPS = 8

_PLAIN = re.compile(r"(?P<address>[^\s:\[\]]+)(:(?P<port>[0-9]{1,5}))?")
_BRACKETED = re.compile(r"\[(?P<address>[^\s\[\]]+)\](:(?P<port>[0-9]{1,5}))?")
_IPV6 = re.compile(r"(?P<address>[0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*:[0-9A-Fa-f.:%\w]*)(?P<port>)")
# What was written before ProxyJump existed, and means the same.
_JUMP_COMMAND = re.compile(
    r"(?:\S*/)?ssh(?: -q)? (?:-W \[?%h\]?:%p (?P<one>[\w.@-]+)|(?P<two>[\w.@-]+) -W \[?%h\]?:%p)"
)


def route_to(device: Device) -> tuple[Login, ...]:
    """The logins on the way to the device, the device's own last; DeviceError where a host key is unknown."""
    return tuple(known(login) for login in unverified_route(device))


def unverified_route(device: Device) -> tuple[Login, ...]:
    """The logins on the way to the device, also those whose host key is unknown."""
    return (*_jumps(device), _last(device))


def known(login: Login) -> Login:
    """The login itself; DeviceError where its host key is unknown."""
    if login.trusted.fingerprints:
        return login
    pinned = "" if login.trusted.pinned else f", and {login.trusted.told}"
    raise DeviceError(
        f"{login.name}: no host key is pinned for {login.address}{pinned}",
        hint=f"edgebench devices scan {login.address} shows it; compare, then write it as "
        f"{login.trusted.option} in the inventory",
    )


# --- the stops -----------------------------------------------------------------------------------


def _last(device: Device) -> Login:
    ssh, config = device.ssh, read(_asked(device))
    address, port = config.hostname or device.address, ssh.port or config.port or 22
    return Login(
        name=device.name,
        address=address,
        port=port,
        user=ssh.user or config.user or _own_name(device),
        key_files=(ssh.key_file,) if ssh.key_file else config.identity_files,
        usual_files=not config.no_identity_files,
        identities_only=ssh.key_file is None and config.identities_only,
        agent=config.agent,
        trusted=_trusted(device.host_keys, "host_key", address, port, config),
    )


def _asked(device: Device) -> Asked:
    return Asked(device.address, device.ssh.user, device.ssh.port, device.ssh.config)


def _jumps(device: Device) -> tuple[Login, ...]:
    given = device.ssh.jump
    if given is not None:
        return () if given == NONE else _chain(device, given, device.ssh.user, ())
    return _configured(device, read(_asked(device)), ())


def _configured(device: Device, config: HostConfig, seen: tuple[str, ...]) -> tuple[Login, ...]:
    """The jump hosts that a stop's configuration names."""
    jump = config.jump
    if jump is None and config.command is not None:
        jump = jump_of_command(config.command)
        if jump is None:
            raise UserError(
                f"{device.name}: your ssh configuration has a ProxyCommand, which edgebench does not run: "
                f"{printable(config.command)[:100]}",
                hint="write ProxyJump in its place, or ssh.jump (or none) in the inventory",
            )
    return () if jump is None else _chain(device, jump, None, seen)


def jump_of_command(command: str) -> str | None:
    """The jump host of a ProxyCommand that only calls ssh -W, or None."""
    match = _JUMP_COMMAND.fullmatch(" ".join(command.split()))
    return None if match is None else match["one"] or match["two"]


def _chain(device: Device, text: str, user: str | None, seen: tuple[str, ...]) -> tuple[Login, ...]:
    """The stops of "a,b", and before them those that the configuration of `a` names in its turn."""
    stops: list[Login] = []
    for number, part in enumerate(text.split(",")):
        jump = _jump(part.strip().removeprefix("ssh://"))
        config = read(Asked(jump.address, jump.user, jump.port, device.ssh.config))
        if number == 0:
            stops += _configured(device, config, _not_again(device, part, seen))
        stops.append(_jump_login(device, jump, config, user))
    return tuple(stops)


def _not_again(device: Device, part: str, seen: tuple[str, ...]) -> tuple[str, ...]:
    if part in seen or len(seen) >= MAX_JUMPS:
        raise UserError(
            f"{device.name}: the way over jump hosts goes in a circle: {' -> '.join((*seen, part))}",
            hint=f"write `ProxyJump none` for {part} in your ssh configuration",
        )
    return (*seen, part)


def _jump_login(device: Device, jump: Jump, config: HostConfig, user: str | None) -> Login:
    ssh = device.ssh
    address, port = config.hostname or jump.address, jump.port or config.port or 22
    own = (ssh.key_file,) if ssh.key_file else ()
    return Login(
        name=f"jump host {jump.address} of {device.name}",
        address=address,
        port=port,
        user=jump.user or config.user or user or _own_name(device),
        key_files=tuple(dict.fromkeys((*config.identity_files, *own))),
        usual_files=not config.no_identity_files,
        identities_only=config.identities_only,
        agent=config.agent,
        trusted=_trusted(ssh.jump_host_keys, "ssh.jump_host_key", address, port, config),
    )


class Jump(NamedTuple):
    """One "[user@]host[:port]"; None where it says nothing."""

    user: str | None
    address: str
    port: int | None


def parse_jump(text: str) -> tuple[str | None, str, int]:
    """User, address and port of "[user@]host[:port]"; an IPv6 address with a port stands in brackets."""
    jump = _jump(text)
    return jump.user, jump.address, jump.port or 22


def _jump(text: str) -> Jump:
    user, _, host = text.rpartition("@")
    match = _BRACKETED.fullmatch(host) or _PLAIN.fullmatch(host) or _IPV6.fullmatch(host)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        raise UserError(f'"{text}" is no jump host', hint="write it as user@host or user@host:port")
    return Jump(user or None, match["address"], port)


def _own_name(device: Device) -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise UserError(f"{device.name}: as whom to log in?", hint="set ssh.user in the inventory") from error


# --- host keys -----------------------------------------------------------------------------------


def _trusted(pins: Sequence[str], option: str, address: str, port: int, config: HostConfig) -> Trusted:
    """The pinned keys alone where there are any, else those of known_hosts."""
    if pins:
        return Trusted(fingerprints=tuple(pins), told=f"pinned {', '.join(pins)}", option=option)
    names = known_hosts.names_of(address, port, config.host_key_alias)
    found = known_hosts.look_up(config.known_hosts, names)
    refused = (
        *(line.key.fingerprint for line in found.revoked),
        *known_hosts.revoked_by(config.revoked_keys),
    )
    usable = [
        line
        for line in found.trusted
        if family(line.key.type) in map(family, KEY_TYPES) and line.key.fingerprint not in refused
    ]
    return Trusted(
        fingerprints=tuple(line.key.fingerprint for line in usable),
        types=tuple(line.key.type for line in usable),
        revoked=refused,
        told=_told(found, usable, config, names[0]),
        option=option,
        pinned=False,
    )


def _told(found: known_hosts.Found, usable: list[known_hosts.Known], config: HostConfig, name: str) -> str:
    """What known_hosts has of a server, in words."""
    if usable:
        return ", ".join(f"{line.where} has {line.key.fingerprint} ({line.key.type})" for line in usable)
    if found.revoked:
        return f"{found.revoked[0].where} revokes it"
    if found.authorities:
        return (
            f"{found.authorities[0].where} knows it by a certificate authority only: edgebench cannot "
            "check host certificates"
        )
    if found.trusted:
        line = found.trusted[0]
        return f"{line.where} knows it by a key of type {line.key.type} only, which edgebench cannot check"
    files = [short_path(file) for file in config.known_hosts[:2]] or ["no known_hosts file"]
    return f"{' and '.join(files)} {'do' if len(files) > 1 else 'does'} not know {name}"


# --- showing -------------------------------------------------------------------------------------


def explained(device: Device, rows: Sequence[Explained]) -> tuple[Explained, ...]:
    """The rows of a device with what the ssh configuration and known_hosts add, and where that is from."""
    route = unverified_route(device)
    asked, config = _asked(device), read(_asked(device))
    added = dict(_added(device, asked, config, route[-1]))
    merged = [added.pop(row.key, row) for row in rows if row.key != "host_key" or row.value]
    at = next(number for number, row in enumerate(merged) if row.key == "address") + 1
    return (*merged[:at], *(added[key] for key in added), *merged[at:])


def _added(device: Device, asked: Asked, config: HostConfig, last: Login) -> Iterator[tuple[str, Explained]]:
    ssh = device.ssh

    def row(key: str, value: str, keyword: str, raw: str) -> tuple[str, Explained]:
        return key, Explained(key, value, origin(asked, keyword, raw))

    if config.hostname is not None:
        yield row("ssh.hostname", config.hostname, "hostname", config.hostname)
    if not device.host_keys:
        yield (
            "host_key",
            Explained("host_key", ", ".join(last.trusted.fingerprints) or "(none)", last.trusted.told),
        )
    if ssh.user is None and config.user is not None:
        yield row("ssh.user", config.user, "user", config.user)
    if ssh.port is None and config.port not in (None, 22):
        yield row("ssh.port", str(config.port), "port", str(config.port))
    if ssh.key_file is None and config.identity_files:
        yield row("ssh.key_file", ", ".join(config.identity_files), "identityfile", config.identity_files[0])
    if ssh.jump is None and (config.jump or config.command):
        keyword = "proxyjump" if config.jump else "proxycommand"
        yield row(
            "ssh.jump", config.jump or config.command or "", keyword, config.jump or config.command or ""
        )
