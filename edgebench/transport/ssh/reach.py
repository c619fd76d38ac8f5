"""From a login's address to a link whose server holds a pinned host key; nothing is logged in yet."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgebench.errors import DeviceError
from edgebench.transport.ssh.base import (
    KEY_TYPES,
    SLACK_S,
    HostKey,
    Link,
    Login,
    NoChannelError,
    Timeouts,
    family,
)

if TYPE_CHECKING:
    import paramiko

# AES-GCM costs the least processor time on both sides; CBC, 3DES, SHA-1 and MD5 are not offered at all.
CIPHERS = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")

_NO_MORE_CHANNELS = (1, 4)  # prohibited, resource shortage (RFC 4254, 5.1)
# What may wait in the kernel: behind more of a large file a beat would come too late over a slow link.
UNSENT_BYTES = 1 << 17


class _NoCommonKeyError(DeviceError):
    """The server has no host key of the types asked for."""


def scan_host_keys(address: str, port: int = 22, timeout_s: float = 10.0) -> tuple[HostKey, ...]:
    """All host keys of a server that it could be known by, without a login; DeviceError when there is none.

    One handshake per type of key. `timeout_s` is the limit of each step.
    """
    timeouts = Timeouts(connect_s=timeout_s, banner_s=timeout_s, handshake_s=timeout_s)
    return shown_host_keys(Login(name=address, address=address, port=port), None, timeouts)


def shown_host_keys(login: Login, via: Link | None, timeouts: Timeouts) -> tuple[HostKey, ...]:
    """All host keys of a server, as `scan_host_keys`, perhaps behind a jump host."""
    found: list[HostKey] = []
    refused: DeviceError | None = None
    for key_types in _families(KEY_TYPES):
        try:
            link = _greet(login, via, key_types, timeouts)
        except _NoCommonKeyError as error:
            refused = error
            continue
        found.append(_host_key(link))
        link.release()
    if refused is not None and not found:
        raise refused
    return tuple(found)


def verified_link(login: Login, via: Link | None, timeouts: Timeouts) -> Link:
    """A link to a server that holds a trusted key.

    A server has a key of each type and shows one; the other types are asked for before it is refused.
    """
    trusted = {key.rstrip("=") for key in login.trusted.fingerprints} - set(login.trusted.revoked)
    offered: list[HostKey] = []
    left = _known_first(login)
    while left:
        try:
            link = _greet(login, via, left, timeouts)
        except _NoCommonKeyError:
            if not offered:
                raise
            break
        offered.append(_host_key(link))
        if offered[-1].fingerprint in trusted:
            return link
        link.release()
        if offered[-1].fingerprint in login.trusted.revoked:
            raise _revoked_key(login, offered[-1])
        left = tuple(kind for kind in left if family(kind) != family(offered[-1].type))
    raise _wrong_key(login, offered)


def _known_first(login: Login) -> tuple[str, ...]:
    """The types to ask for, those of the known keys first: the first that both sides have is taken."""
    known = set(map(family, login.trusted.types))
    return tuple(sorted(KEY_TYPES, key=lambda kind: family(kind) not in known))


def _revoked_key(login: Login, key: HostKey) -> DeviceError:
    return DeviceError(
        f"{login.name}: the host key at {login.where} is revoked: {key.fingerprint} ({key.type})",
        hint="that key must not be trusted any more: set up new host keys on the device (ssh-keygen -A)",
    )


def _wrong_key(login: Login, offered: Sequence[HostKey]) -> DeviceError:
    trusted = login.trusted
    shown = ", ".join(f"{key.fingerprint} ({key.type})" for key in offered)
    change = f"change {trusted.option}" if trusted.pinned else f"write {trusted.option}"
    return DeviceError(
        f"{login.name}: wrong host key at {login.where}: {trusted.told}, offered {shown}",
        hint="another machine answers there, or the device was set up anew; if you know that it was: "
        f"edgebench devices scan {login.address}, compare, then {change} in the inventory",
    )


def _host_key(link: Link) -> HostKey:
    key = link.transport.get_remote_server_key()
    return HostKey(key.get_name(), key.fingerprint)


def _families(kinds: Sequence[str]) -> list[tuple[str, ...]]:
    """The types in groups of which a server has one key each (one RSA key serves two signature types)."""
    names = dict.fromkeys(family(kind) for kind in kinds)
    return [tuple(kind for kind in kinds if family(kind) == name) for name in names]


def _greet(login: Login, via: Link | None, key_types: Sequence[str], timeouts: Timeouts) -> Link:
    """A link after the key exchange, nothing verified yet; DeviceError when no such server answers."""
    import paramiko

    _silence_paramiko()
    wire = _dial(login, timeouts) if via is None else _dial_through(via, login, timeouts)
    transport = paramiko.Transport(wire)
    transport.banner_timeout = timeouts.banner_s
    transport.handshake_timeout = timeouts.handshake_s
    transport.auth_timeout = timeouts.auth_s
    transport.channel_timeout = timeouts.channel_s
    options = transport.get_security_options()
    options.ciphers, options.digests, options.key_types = CIPHERS, MACS, tuple(key_types)
    link = Link(wire, transport, via)
    try:
        _shake_hands(link, login, timeouts)
    except BaseException:
        link.release()
        raise
    return link


def _shake_hands(link: Link, login: Login, timeouts: Timeouts) -> None:
    import paramiko
    from paramiko.ssh_exception import IncompatiblePeer

    limit_s = timeouts.banner_s + timeouts.handshake_s
    try:
        with link.watchdog.within(limit_s + SLACK_S):
            link.transport.start_client(timeout=limit_s)
    except IncompatiblePeer as error:
        raise _incompatible(login, error) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise _no_greeting(login, error) from error
    if not link.transport.initial_kex_done:
        raise _no_greeting(login, TimeoutError("the key exchange did not end"))


def _incompatible(login: Login, error: Exception) -> DeviceError:
    kind = _NoCommonKeyError if "host key" in str(error) else DeviceError
    return kind(
        f"{login.name}: the SSH server at {login.where} offers nothing that is safe to use: {error}",
        hint="an old server with SHA-1 only (ssh-rsa, hmac-sha1)? create an Ed25519 host key there "
        "(ssh-keygen -A) or update OpenSSH",
    )


def _no_greeting(login: Login, error: Exception) -> DeviceError:
    return DeviceError(
        f"{login.name}: {login.where} took the connection, but no SSH server greeted",
        hint="too many logins at once (MaxStartups), a server that is just starting, or no SSH server; "
        "try again in a moment",
        detail=str(error),
        retryable=True,
    )


def _dial(login: Login, timeouts: Timeouts) -> socket.socket:
    try:
        sock = socket.create_connection((login.address, login.port), timeout=timeouts.connect_s)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: no name that DNS could hold
        raise DeviceError(
            f'{login.name}: the name "{login.address}" does not resolve',
            hint="check the address in the inventory and this computer's DNS",
            detail=str(error),
            retryable=isinstance(error, OSError) and error.errno == socket.EAI_AGAIN,
        ) from error
    except ConnectionRefusedError as error:
        raise DeviceError(
            f"{login.name}: port {login.port} at {login.address} is refused",
            hint="start the SSH server there (sudo systemctl start ssh), or check ssh.port in the inventory",
            retryable=True,
        ) from error
    except OSError as error:
        raise DeviceError(
            f"{login.name}: {login.where} cannot be reached ({error.strerror or error})",
            hint=f"is the device on and in the network? try: ping {login.address}",
            retryable=True,
        ) from error
    _keep_watch(sock, timeouts)
    return sock


def _keep_watch(sock: socket.socket, timeouts: Timeouts) -> None:
    """Let the kernel notice a dead link: keepalive when idle, and an end to waiting for acknowledgements."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", timeouts.keepalive_s),
        ("TCP_KEEPINTVL", timeouts.keepalive_s),
        ("TCP_USER_TIMEOUT", round(timeouts.dead_link_s * 1000)),
        ("TCP_NOTSENT_LOWAT", UNSENT_BYTES),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _dial_through(via: Link, login: Login, timeouts: Timeouts) -> paramiko.Channel:
    import paramiko

    try:
        with via.watchdog.within(timeouts.connect_s + SLACK_S):
            return via.transport.open_channel(
                "direct-tcpip", (login.address, login.port), ("127.0.0.1", 0), timeout=timeouts.connect_s
            )
    except paramiko.ChannelException as error:
        raise (NoChannelError if error.code in _NO_MORE_CHANNELS else DeviceError)(
            f"{login.name}: the jump host cannot open {login.where} ({error.text})",
            hint="is the device on? may the jump host forward (AllowTcpForwarding)?",
            retryable=True,
        ) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise DeviceError(
            f"{login.name}: the jump host gives no way to {login.where}",
            hint="check the jump host and the network behind it",
            detail=str(error),
            retryable=True,
        ) from error


def _silence_paramiko() -> None:
    """Without a handler Python itself would print the library's tracebacks to stderr."""
    logger = logging.getLogger("paramiko")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
