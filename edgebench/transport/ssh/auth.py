"""Logging in over a verified link: key file, agent keys or default keys, then a password where one is given.

Secrets come from two environment variables or the caller's callbacks, stay in memory and reach no message.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.errors import DeviceError
from edgebench.transport.base import Credentials
from edgebench.transport.ssh.base import KEY_TYPES, SLACK_S, Link, Login, Timeouts, family

if TYPE_CHECKING:
    import paramiko

PASSPHRASE_VARIABLE = "EDGEBENCH_SSH_PASSPHRASE"  # noqa: S105  # a variable's name, no secret
PASSWORD_VARIABLE = "EDGEBENCH_SSH_PASSWORD"  # noqa: S105  # as above
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
MAX_KEY_BYTES = 1 << 16
MAX_ANSWERS = 3  # how often somebody may mistype a secret
MAX_AGENT_KEYS = 5  # OpenSSH ends a login after six attempts

_AGENT_S = 5.0


def authenticate(link: Link, login: Login, credentials: Credentials, timeouts: Timeouts) -> None:
    """Prove who we are: keys, then a password; DeviceError when refused. People may take their time."""
    attempts = _Attempts(link, login, timeouts)
    if attempts.with_nothing():
        return
    with contextlib.closing(_keys(login, credentials, attempts.tried)) as keys:
        for label, key in keys:
            if attempts.with_key(label, key):
                return
            if not attempts.may_go_on("publickey"):
                break
    if not attempts.with_password(credentials):
        raise attempts.refused()


class _Attempts:
    """The steps of one login and, in words for its error, what was tried."""

    def __init__(self, link: Link, login: Login, timeouts: Timeouts) -> None:
        self.tried: list[str] = []
        self._link = link
        self._limit_s = 2 * timeouts.auth_s + SLACK_S
        self._transport = link.transport
        self._login = login
        self._allowed: list[str] = []

    def with_nothing(self) -> bool:
        """Whether the server lets anybody in; else it has said which ways it takes."""
        return self._step(lambda: self._transport.auth_none(self._login.user))

    def with_key(self, label: str, key: paramiko.PKey) -> bool:
        """Whether this key is enough."""
        if not self.may_go_on("publickey"):
            return False
        self.tried.append(label)
        return self._step(lambda: self._transport.auth_publickey(self._login.user, key))

    def with_password(self, credentials: Credentials) -> bool:
        """Whether a password, where the server takes one and somebody gives one, is enough."""
        if not self._takes_passwords():
            return False
        if not credentials.passwords:
            self.tried.append("no password (the host key is not confirmed)")
            return False
        given = os.environ.get(PASSWORD_VARIABLE)
        if given:
            return self._with(given)
        asked, wrong = f"{self._login.user}@{self._login.address}", ""
        for _ in range(MAX_ANSWERS):
            given = credentials.password(asked)
            if not given or given == wrong:
                break
            if self._with(given):
                return True
            credentials.forget(asked, given)
            wrong = given
            if not self._takes_passwords():
                return False
        if not wrong:
            self.tried.append(f"no password ({PASSWORD_VARIABLE} is not set)")
        return False

    def _with(self, password: str) -> bool:
        self.tried.append("a password")
        return self._step(lambda: self._transport.auth_password(self._login.user, password))

    def _takes_passwords(self) -> bool:
        return self.may_go_on("password") or self.may_go_on("keyboard-interactive")

    def may_go_on(self, way: str) -> bool:
        """Whether the server still listens and takes this way to log in."""
        return self._transport.is_active() and (not self._allowed or way in self._allowed)

    def refused(self) -> DeviceError:
        """The login's error: user and keys by path, never their contents."""
        ended = "" if self._transport.is_active() else "; the server ended the login"
        return DeviceError(
            f"{self._login.name}: login as {self._login.user} at {self._login.where} refused: "
            f"tried {', '.join(self.tried) or 'no key (none found)'}{ended}",
            hint=f"put the public key into ~{self._login.user}/.ssh/authorized_keys there, or set ssh.user "
            "and ssh.key_file in the inventory",
            detail=f"the server takes: {', '.join(self._allowed) or 'unknown'}",
        )

    def _step(self, step: Callable[[], list[str]]) -> bool:
        """Whether the step completed the login; a further step asked for by the server is noted."""
        import paramiko

        try:
            with self._link.watchdog.within(self._limit_s):
                self._allowed = step() or []
        except paramiko.BadAuthenticationType as error:
            self._allowed = list(error.allowed_types)
            return False
        except paramiko.SSHException as error:
            if "timeout" in str(error).lower():
                raise _login_timeout(self._login) from error
            return False
        return not self._allowed


def _login_timeout(login: Login) -> DeviceError:
    return DeviceError(
        f"{login.name}: {login.where} did not answer the login in time",
        hint="the device may be overloaded; try again in a moment",
        retryable=True,
    )


Keys = Generator[tuple[str, "paramiko.PKey"], None, None]


def _keys(login: Login, credentials: Credentials, problems: list[str]) -> Keys:
    """The keys to try, each with what messages call it; unusable ones are added to `problems`.

    Key files in their order, by the agent where it holds them; then the agent's other keys; last the files
    that ask for a passphrase, so that nobody is asked in vain.
    """
    names = login.key_files or _usual_files(login)
    agent = _ask_agent(login, problems)
    held = _held(agent)
    locked: list[tuple[str, Path]] = []
    try:
        if not login.key_files and not login.identities_only:
            yield from _agent_keys(held)
        for name in names:
            yield from _file_key(name, held, problems, locked)
        if login.key_files and not login.identities_only:
            yield from _agent_keys(held)
        for name, path in locked:
            yield from _unlocked(name, path, credentials, problems)
    finally:
        if agent is not None:
            agent.close()


def _usual_files(login: Login) -> tuple[str, ...]:
    return tuple(name for name in DEFAULT_KEYS if login.usual_files and Path(name).expanduser().is_file())


def _file_key(
    name: str, held: list[paramiko.AgentKey], problems: list[str], locked: list[tuple[str, Path]]
) -> Keys:
    import paramiko

    path = Path(name).expanduser()
    if not path.is_file():
        problems.append(f"{name} (no such file)")
        return
    if not os.access(path, os.R_OK) or path.stat().st_size > MAX_KEY_BYTES:
        problems.append(f"{name} (not readable)")
        return
    public = public_part(path)
    for key in [key for key in held if key.asbytes() == public]:
        held.remove(key)
        yield f"{name} (in the agent)", key
        return
    try:
        own = _parse_key(path, None)
    except paramiko.PasswordRequiredException:
        locked.append((name, path))
        return
    if own is None:
        what = "only the public part, and no agent holds it" if public else "no private key of a type in use"
        problems.append(f"{name} ({what})")
    else:
        yield name, own


def public_part(path: Path) -> bytes | None:
    """The public key of a key file: the file itself, the `.pub` beside it, or the head of a private key."""
    text = path.read_bytes()[:MAX_KEY_BYTES]
    found = _public_line(text) or _public_head(text)
    beside = path.with_name(path.name + ".pub")
    if found is None and beside.is_file():
        with contextlib.suppress(OSError), beside.open("rb") as file:
            found = _public_line(file.read(MAX_KEY_BYTES))
    return found


def _public_line(text: bytes) -> bytes | None:
    words = text.split(None, 2)
    if len(words) < 2 or not words[0].startswith((b"ssh-", b"ecdsa-")):
        return None
    try:
        return base64.b64decode(words[1], validate=True)
    except ValueError:
        return None


def _public_head(text: bytes) -> bytes | None:
    """The public key in OpenSSH's own form of a private key, where it stands in clear also when locked."""
    match = re.search(rb"-----BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END", text, re.DOTALL)
    if match is None:
        return None
    try:
        data = base64.b64decode(b"".join(match[1].split()), validate=True)
    except ValueError:
        return None
    at = data.find(b"\0") + 1
    for _ in range(3):  # cipher, key derivation, its options
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    at += 4  # the number of keys
    size_bytes = int.from_bytes(data[at : at + 4], "big")
    return data[at + 4 : at + 4 + size_bytes] or None


def _unlocked(name: str, path: Path, credentials: Credentials, problems: list[str]) -> Keys:
    key, problem = _unlock(path, name, credentials)
    if key is None:
        problems.append(f"{name} ({problem})")
    else:
        yield name, key


def _unlock(path: Path, name: str, credentials: Credentials) -> tuple[paramiko.PKey | None, str]:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    key = _parse_key(path, given) if given else None
    for _ in range(MAX_ANSWERS):
        if key is not None:
            break
        answer = credentials.passphrase(name)
        if not answer or answer == given:
            break
        given = answer
        key = _parse_key(path, given)
        if key is None:
            credentials.forget(name, given)
    return key, "wrong passphrase" if given else f"encrypted, and {PASSPHRASE_VARIABLE} is not set"


def _parse_key(path: Path, passphrase: str | None) -> paramiko.PKey | None:
    """The private key in a file, or None; PasswordRequiredException when it is encrypted."""
    import struct

    import paramiko

    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            key: paramiko.PKey = kind.from_private_key_file(str(path), passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError, TypeError, IndexError, AssertionError, struct.error):
            continue  # damaged, or of another type: the parsers tell in many ways
        return key
    return None


def _held(agent: paramiko.Agent | None) -> list[paramiko.AgentKey]:
    """The agent's keys of the types in use."""
    keys = () if agent is None else agent.get_keys()
    return [key for key in keys if family(key.name) in map(family, KEY_TYPES)]


def _agent_keys(held: Sequence[paramiko.AgentKey]) -> Keys:
    for key in held[:MAX_AGENT_KEYS]:
        yield f"agent key {key.comment or key.fingerprint}", key


def _ask_agent(login: Login, problems: list[str]) -> paramiko.Agent | None:
    """The running ssh-agent, or None; one that does not answer is left alone after a few seconds."""
    import paramiko

    socket_path = login.agent or os.environ.get("SSH_AUTH_SOCK")
    if not socket_path or socket_path == "none":
        return None
    found: list[paramiko.Agent] = []

    def ask() -> None:
        with contextlib.suppress(paramiko.SSHException, OSError):
            found.append(_agent_at(socket_path))

    asking = threading.Thread(target=ask, name="ssh-agent", daemon=True)
    asking.start()
    asking.join(_AGENT_S)
    if not found:
        problems.append("ssh-agent (no answer)")
        return None
    return found[0]


def _agent_at(path: str) -> paramiko.Agent:
    """The agent behind a socket; paramiko itself asks only the one of the environment."""
    import socket

    import paramiko

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_AGENT_S)
        connection.connect(path)
        connection.settimeout(None)  # signing may wait for a person; the login has its own limit
    except OSError:
        connection.close()
        raise
    agent = paramiko.Agent.__new__(paramiko.Agent)
    paramiko.agent.AgentSSH.__init__(agent)
    agent._connect(connection)  # type: ignore[attr-defined]  # as Agent does with its own socket
    return agent
