"""Logging in over a verified link: key file, agent keys or default keys, then a password where one is given.

Secrets come from two environment variables or the caller's callbacks, stay in memory and reach no message.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.errors import DeviceError
from edgebench.transport.base import Credentials
from edgebench.transport.ssh.base import KEY_TYPES, Link, Login, family

if TYPE_CHECKING:
    import paramiko

PASSPHRASE_VARIABLE = "EDGEBENCH_SSH_PASSPHRASE"  # noqa: S105  # a variable's name, no secret
PASSWORD_VARIABLE = "EDGEBENCH_SSH_PASSWORD"  # noqa: S105  # as above
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
MAX_KEY_BYTES = 1 << 16
MAX_AGENT_KEYS = 5  # OpenSSH ends a login after six attempts

_AGENT_S = 5.0


def authenticate(link: Link, login: Login, credentials: Credentials) -> None:
    """Prove who we are: key file, agent or default keys, then a password; DeviceError when refused."""
    attempts = _Attempts(link.transport, login)
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

    def __init__(self, transport: paramiko.Transport, login: Login) -> None:
        self.tried: list[str] = []
        self._transport = transport
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
        if not (self.may_go_on("password") or self.may_go_on("keyboard-interactive")):
            return False
        asked = f"{self._login.user}@{self._login.address}"
        password = os.environ.get(PASSWORD_VARIABLE) or credentials.password(asked)
        if not password:
            self.tried.append(f"no password ({PASSWORD_VARIABLE} is not set)")
            return False
        self.tried.append("a password")
        return self._step(lambda: self._transport.auth_password(self._login.user, password))

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


def _keys(
    login: Login, credentials: Credentials, problems: list[str]
) -> Generator[tuple[str, paramiko.PKey], None, None]:
    """The keys to try, in order, each with what messages call it; unusable ones are added to `problems`."""
    if login.key_file is not None:
        yield from _file_key(login.key_file, credentials, problems)
    yield from _agent_keys(problems)
    if login.key_file is None:
        for path in DEFAULT_KEYS:
            if Path(path).expanduser().is_file():
                yield from _file_key(path, credentials, problems)


def _file_key(
    name: str, credentials: Credentials, problems: list[str]
) -> Generator[tuple[str, paramiko.PKey], None, None]:
    import paramiko

    path = Path(name).expanduser()
    if not path.is_file():
        problems.append(f"{name} (no such file)")
        return
    if not os.access(path, os.R_OK) or path.stat().st_size > MAX_KEY_BYTES:
        problems.append(f"{name} (not readable)")
        return
    try:
        key = _parse_key(path, None)
        problem = "no private key of a type in use"
    except paramiko.PasswordRequiredException:
        key, problem = _unlock(path, name, credentials)
    if key is None:
        problems.append(f"{name} ({problem})")
    else:
        yield name, key


def _unlock(path: Path, name: str, credentials: Credentials) -> tuple[paramiko.PKey | None, str]:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    key = _parse_key(path, given) if given else None
    if key is None:
        asked = credentials.passphrase(name)
        given = asked or given
        key = _parse_key(path, asked) if asked else None
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


def _agent_keys(problems: list[str]) -> Generator[tuple[str, paramiko.PKey], None, None]:
    agent = _ask_agent(problems)
    if agent is None:
        return
    try:
        usable = [key for key in agent.get_keys() if family(key.name) in map(family, KEY_TYPES)]
        for key in usable[:MAX_AGENT_KEYS]:
            yield f"agent key {key.comment or key.fingerprint}", key
    finally:
        agent.close()


def _ask_agent(problems: list[str]) -> paramiko.Agent | None:
    """The running ssh-agent, or None; one that does not answer is left alone after a few seconds."""
    import paramiko

    if "SSH_AUTH_SOCK" not in os.environ:
        return None
    found: list[paramiko.Agent] = []

    def ask() -> None:
        with contextlib.suppress(paramiko.SSHException, OSError):
            found.append(paramiko.Agent())

    asking = threading.Thread(target=ask, name="ssh-agent", daemon=True)
    asking.start()
    asking.join(_AGENT_S)
    if not found:
        problems.append("ssh-agent (no answer)")
        return None
    return found[0]
