"""Host keys that OpenSSH's known_hosts files hold for a name: read only, nothing is ever added.

Hashed names, `[host]:port`, wildcards, negation and several keys of one host are understood. A line that is
not is skipped alone: paramiko refuses a whole file for one. Keys after `@revoked` are told apart. Those after
`@cert-authority` sign host certificates, which paramiko cannot check, so they prove nothing here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from edgebench.errors import UserError
from edgebench.transport.ssh.base import HostKey, patterns_match, short_path

MAX_BYTES = 16 << 20
MAX_LINE_BYTES = 1 << 16

Marker = Literal["", "@revoked", "@cert-authority"]
_MARKERS: dict[str, Marker] = {"@revoked": "@revoked", "@cert-authority": "@cert-authority"}


class Known(NamedTuple):
    """One line of a known_hosts file: whom it is about, the key, what it says of it, and where it stands."""

    names: str
    key: HostKey
    marker: Marker
    where: str


class Found(NamedTuple):
    """What the files say of one server."""

    trusted: tuple[Known, ...] = ()
    revoked: tuple[Known, ...] = ()
    authorities: tuple[Known, ...] = ()


def names_of(address: str, port: int, alias: str | None) -> tuple[str, ...]:
    """The names that a server's keys stand under, the one that counts first."""
    if alias is not None:
        return (alias.lower(),)
    host = address.lower()
    return (host,) if port == 22 else (f"[{host}]:{port}", host)


def look_up(files: Sequence[str], names: Sequence[str]) -> Found:
    """The keys of a server; those of a later name count only where the files do not know an earlier one."""
    lines = [line for file in files for line in read(file)]
    about = [[line for line in lines if is_about(line.names, name)] for name in names]
    revoked = tuple(line for found in about for line in found if line.marker == "@revoked")
    for found in about:
        trusted = tuple(line for line in found if not line.marker)
        authorities = tuple(line for line in found if line.marker == "@cert-authority")
        if trusted or authorities:
            return Found(trusted, revoked, authorities)
    return Found(revoked=revoked)


def is_about(patterns: str, name: str) -> bool:
    """Whether the first word of a line is about a name."""
    if patterns.startswith("|"):
        return _hash_is_of(patterns, name)
    return patterns_match(patterns.lower().split(","), name)


def _hash_is_of(hashed: str, name: str) -> bool:
    """Whether "|1|salt|hash" is the HMAC-SHA1 of the name, as OpenSSH writes it with HashKnownHosts."""
    parts = hashed.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, digest = base64.b64decode(parts[2], validate=True), base64.b64decode(parts[3], validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def read(file: str) -> Iterator[Known]:
    """The lines of a file that are understood; none of a file that is not there."""
    path = Path(file).expanduser()
    try:
        if not path.is_file():
            return
        with path.open("rb") as opened:
            data = opened.read(MAX_BYTES)
    except OSError:
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        known = parse_line(line[:MAX_LINE_BYTES].decode("utf-8", "replace"), f"{short_path(file)}:{number}")
        if known is not None:
            yield known


def parse_line(line: str, where: str) -> Known | None:
    """One line, or None where it is a comment or not understood."""
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    marker: Marker = ""
    if words[0].startswith("@"):
        if words[0] not in _MARKERS:
            return None
        marker = _MARKERS[words.pop(0)]
    if len(words) < 3:
        return None
    key = public_key(words[1], words[2])
    return None if key is None else Known(words[0], key, marker, where)


def public_key(kind: str, text: str) -> HostKey | None:
    """The key of a type and its base64 text; None where the two do not belong together."""
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if blob[:4] != len(kind).to_bytes(4, "big") or blob[4 : 4 + len(kind)] != kind.encode("utf-8", "replace"):
        return None
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    return HostKey(kind, "SHA256:" + digest.rstrip("="))


def revoked_by(file: str | None) -> tuple[str, ...]:
    """The fingerprints in a RevokedHostKeys file; UserError where it is one that cannot be read here."""
    if file is None:
        return ()
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from error
    if data.startswith(b"SSHKRL\n"):
        raise _unreadable(file, "it is a binary revocation list")
    return tuple(_keys(data.decode("utf-8", "replace").splitlines()))


def _keys(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        words = line.split()
        key = public_key(*words[:2]) if len(words) > 1 else None
        if key is not None:
            yield key.fingerprint


def _unreadable(file: str, why: str) -> UserError:
    return UserError(
        f"your ssh configuration revokes host keys by {os.path.basename(file)}, which cannot be read: {why}",
        hint="pin host_key in the inventory, or set ssh.config: none there",
    )
