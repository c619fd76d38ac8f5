"""What the user's OpenSSH configuration says of a host: `ssh -G` where OpenSSH is installed, else read here.

The configuration is the user's own and is trusted as far as `ssh` itself trusts it; the host name, user and
port that are asked for come from an inventory and are not: they are checked before they become arguments.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebench.errors import UserError, printable
from edgebench.inventory import is_address, is_user
from edgebench.transport.ssh.config_files import (
    KEYWORDS,
    LISTS,
    MAX_BYTES,
    Asked,
    Parsed,
    existing,
    hostname_of,
    own_name,
    parse,
    with_environment,
)

SSH_G_S = 10.0
NONE = "none"
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")

_DEFAULT_IDENTITIES = re.compile(r"~/\.ssh/id_(rsa|ecdsa|ecdsa_sk|ed25519|ed25519_sk|xmss|dsa)")


@dataclass(frozen=True)
class HostConfig:
    """What a configuration says of one host; None and () where it says nothing. Paths are expanded."""

    hostname: str | None = None
    user: str | None = None
    port: int | None = None
    jump: str | None = None
    command: str | None = None
    identity_files: tuple[str, ...] = ()
    no_identity_files: bool = False
    identities_only: bool = False
    agent: str | None = None
    known_hosts: tuple[str, ...] = (*KNOWN_HOSTS, *SYSTEM_KNOWN_HOSTS)
    host_key_alias: str | None = None
    revoked_keys: str | None = None


Values = Mapping[str, Sequence[str]]


def read(asked: Asked) -> HostConfig:
    """What the configuration says of the host; UserError when it cannot be read or is not understood."""
    if asked.source == NONE or not _may_be_asked(asked):
        return HostConfig()
    return host_config(asked, _by_ssh(asked) if _ssh_can_answer(asked) else parse(asked).values)


def origin(asked: Asked, keyword: str, value: str) -> str:
    """Where the value of a keyword was written: file and line, or only that `ssh -G` says so."""
    found = Parsed() if asked.source == NONE else parse(asked)
    if value in found.values.get(keyword, ()) or value == " ".join(found.values.get(keyword, ())):
        return found.origins[keyword]
    return "ssh -G"


def _may_be_asked(asked: Asked) -> bool:
    """Whether host and user are nothing that `ssh` could take for an option, or a shell for a command.

    About anything else no configuration is asked; it will not be found in any network either.
    """
    good_user = asked.user is None or is_user(asked.user)
    return is_address(asked.host) and not asked.host.startswith("-") and good_user


# --- as ssh says ---------------------------------------------------------------------------------


def _ssh_can_answer(asked: Asked) -> bool:
    """Whether `ssh` is there and looks where we look: it goes by the password file's home, not by $HOME."""
    if shutil.which("ssh") is None:
        return False
    return asked.source is not None or _same_file(Path.home(), _home_of_the_user())


def _same_file(one: Path, other: Path | None) -> bool:
    return other is not None and os.path.realpath(one) == os.path.realpath(other)


def _home_of_the_user() -> Path | None:
    entry = _password_entry()
    return None if entry is None else Path(entry.pw_dir)


def _password_entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None


def _by_ssh(asked: Asked) -> dict[str, list[str]]:
    """What `ssh -G` prints of the host, by keyword."""
    file = [] if asked.source is None else ["-F", str(existing(asked.source))]
    user = [] if asked.user is None else ["-l", asked.user]
    port = [] if asked.port is None else ["-p", str(asked.port)]
    try:
        done = subprocess.run(  # no shell; the words are checked and stand behind `--`
            [shutil.which("ssh") or "ssh", "-T", "-G", *file, *user, *port, "--", asked.host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SSH_G_S,
            check=False,
            env={name: value for name, value in os.environ.items() if not name.startswith("EDGEBENCH_")},
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"`ssh -G {asked.host}` did not end within {SSH_G_S:g} s",
            hint="does a `Match exec` of your ssh configuration hang? set ssh.config: none in the inventory",
        ) from error
    except OSError as error:
        raise UserError(
            f"`ssh -G` cannot be started: {error.strerror}", hint="check OpenSSH's client"
        ) from error
    if done.returncode != 0:
        said = printable(done.stderr[-2000:].decode("utf-8", "replace").strip(), lines=True)
        raise UserError(
            f"your ssh configuration is not understood: {said.splitlines()[0] if said else 'ssh -G failed'}",
            hint="correct it, or set ssh.config: none in the inventory to do without it",
            detail=said,
        )
    return parse_ssh_g(done.stdout[:MAX_BYTES].decode("utf-8", "replace"))


def parse_ssh_g(output: str) -> dict[str, list[str]]:
    """The values that `ssh -G` printed, by keyword, without those that it always prints."""
    values: dict[str, list[str]] = {}
    for line in output.splitlines():
        keyword, _, value = line.partition(" ")
        if keyword in KEYWORDS and value:
            values.setdefault(keyword, []).append(value)
    identities = values.get("identityfile", [])
    if len(identities) > 1 and all(_DEFAULT_IDENTITIES.fullmatch(name) for name in identities):
        del values["identityfile"]  # the list of a configuration that names none
    _forget_defaults(values)
    for keyword in LISTS:
        if keyword in values:
            values[keyword] = _split_paths(values[keyword][0])
    return values


def _forget_defaults(values: dict[str, list[str]]) -> None:
    """Drop what `ssh -G` prints where nobody named a user or a known_hosts file."""
    entry = _password_entry()
    if entry is None:
        return
    files = " ".join(name.replace("~", entry.pw_dir) for name in KNOWN_HOSTS)
    for keyword, default in (("user", entry.pw_name), ("userknownhostsfile", files)):
        if values.get(keyword) == [default]:
            del values[keyword]


def _split_paths(text: str) -> list[str]:
    """Paths that `ssh -G` prints with blanks between them, also where one holds a blank."""
    return [text] if Path(text).expanduser().exists() else text.split()


# --- values --------------------------------------------------------------------------------------


def host_config(asked: Asked, values: Values) -> HostConfig:
    """The values of a configuration as what they mean."""
    one = {keyword: next(iter(found), None) for keyword, found in values.items()}
    hostname = hostname_of(asked.host, values.get("hostname"))
    expand = _Tokens(asked, hostname, one).expand
    identities = [name for name in values.get("identityfile", ()) if name != NONE]
    agent = _unless_none(one.get("identityagent"))
    return HostConfig(
        hostname=hostname,
        user=one.get("user"),
        port=_port(one.get("port")),
        jump=_unless_none(one.get("proxyjump")),
        command=_unless_none(one.get("proxycommand")),
        identity_files=tuple(dict.fromkeys(map(expand, identities))),
        no_identity_files=bool(values.get("identityfile")) and not identities,
        identities_only=one.get("identitiesonly") in ("yes", "true"),
        agent=NONE if one.get("identityagent") == NONE else agent and _agent(expand(agent)),
        known_hosts=_files(values, "userknownhostsfile", KNOWN_HOSTS, expand)
        + _files(values, "globalknownhostsfile", SYSTEM_KNOWN_HOSTS, expand),
        host_key_alias=one.get("hostkeyalias"),
        revoked_keys=expand(revoked) if (revoked := _unless_none(one.get("revokedhostkeys"))) else None,
    )


def _files(
    values: Values, keyword: str, default: tuple[str, ...], expand: Callable[[str], str]
) -> tuple[str, ...]:
    names = values.get(keyword) or default
    return tuple(expand(name) for name in names if name != NONE)


def _unless_none(text: str | None) -> str | None:
    return None if text is None or text.lower() == NONE else text


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UserError(
            f'your ssh configuration has Port "{printable(text)}"', hint="a number from 1 to 65535"
        )
    return int(text)


def _agent(text: str) -> str | None:
    """The socket of an agent: IdentityAgent may also name a variable that holds it."""
    if text == "SSH_AUTH_SOCK":
        return None
    return os.environ.get(text[1:], NONE) if text.startswith("$") else text


@dataclass(frozen=True)
class _Tokens:
    """The percent tokens of paths."""

    asked: Asked
    hostname: str | None
    one: Mapping[str, str | None]

    def expand(self, text: str) -> str:
        """A path with its tokens, variables and `~` replaced; tokens that are not known here stay."""
        import platform

        own = own_name()
        known = {
            "%%": "%",
            "%d": str(Path.home()),
            "%h": self.hostname or self.asked.host,
            "%i": str(os.getuid()),
            "%k": self.one.get("hostkeyalias") or self.asked.host,
            "%l": platform.node(),
            "%L": platform.node().partition(".")[0],
            "%n": self.asked.host,
            "%p": self.one.get("port") or "22",
            "%r": self.one.get("user") or own,
            "%u": own,
        }
        named = re.sub("%.", lambda found: known.get(found[0], found[0]), with_environment(text))
        return os.path.expanduser(named)
