"""What the user's OpenSSH configuration says of a host: `ssh -G` where OpenSSH is installed, else read here.

The configuration is the user's own and is trusted as far as `ssh` itself trusts it; the host name, user and
port that are asked for come from an inventory and are not: they are checked before they become arguments.
Read here means: Host, Include, and Match with all, host, originalhost, user and localuser; nothing is run.
"""

from __future__ import annotations

import getpass
import glob
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgebench.errors import UserError, printable
from edgebench.inventory import is_address, is_user
from edgebench.transport.ssh.base import pattern_matches as matches
from edgebench.transport.ssh.base import short_path

SSH_G_S = 10.0
MAX_BYTES = 1 << 20
MAX_DEPTH = 16  # of Includes, as OpenSSH has it
MAX_FILES = 500
NONE = "none"
USER_CONFIG = "~/.ssh/config"
SYSTEM_CONFIG = "/etc/ssh/ssh_config"
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")

# What is used of a configuration; every other keyword is left alone.
KEYWORDS = (
    "hostname",
    "user",
    "port",
    "proxyjump",
    "proxycommand",
    "identityfile",
    "identitiesonly",
    "identityagent",
    "userknownhostsfile",
    "globalknownhostsfile",
    "hostkeyalias",
    "revokedhostkeys",
)
_LISTS = ("userknownhostsfile", "globalknownhostsfile")
_MANY = ("identityfile",)  # each line adds one; of the others the first line counts
_DEFAULT_IDENTITIES = re.compile(r"~/\.ssh/id_(rsa|ecdsa|ecdsa_sk|ed25519|ed25519_sk|xmss|dsa)")


class Asked(NamedTuple):
    """What a configuration is asked about: a host as the inventory calls it, and what is known already.

    `source` is where to look: None for the user's own configuration, "none" for nowhere, else a file.
    """

    host: str
    user: str | None = None
    port: int | None = None
    source: str | None = None


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
    file = [] if asked.source is None else ["-F", str(_existing(asked.source))]
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
    for keyword in _LISTS:
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


# --- as read here --------------------------------------------------------------------------------


class Parsed(NamedTuple):
    """Values by keyword, and the file and line of the first one."""

    values: dict[str, list[str]] = {}  # never changed: the parser makes its own
    origins: dict[str, str] = {}


def parse(asked: Asked) -> Parsed:
    """What the configuration files say of the host, read without `ssh`."""
    parser = _Parser(asked)
    if asked.source is not None:
        parser.read(_existing(asked.source), Path.home() / ".ssh", checked=False)
        return parser.found
    parser.read(Path(USER_CONFIG).expanduser(), Path.home() / ".ssh", checked=True)
    parser.read(Path(SYSTEM_CONFIG), Path(SYSTEM_CONFIG).parent, checked=True)
    return parser.found


def _existing(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"there is no ssh configuration {source}", hint="correct ssh.config in the inventory")
    return path.absolute()


class _Parser:
    """Walks through configuration files and keeps what holds for one host."""

    def __init__(self, asked: Asked) -> None:
        self.found = Parsed({}, {})
        self._asked = asked
        self._files = 0
        for keyword, value in (("user", asked.user), ("port", asked.port)):
            if value is not None:
                self.found.values[keyword] = [str(value)]
                self.found.origins[keyword] = "inventory"

    def read(self, path: Path, base: Path, *, checked: bool, depth: int = 0, may_match: bool = True) -> None:
        """Take in one file; `base` is where its relative Includes lie."""
        self._files += 1
        if depth > MAX_DEPTH or self._files > MAX_FILES:
            raise UserError(f"{path}: too many Includes", hint="does a file include itself?")
        active = may_match
        for number, keyword, words in _lines(path, checked=checked):
            if keyword == "host":
                active = may_match and _host_matches(words, self._asked.host)
            elif keyword == "match":
                active = may_match and self._match(words)
            elif keyword == "include":
                for included in _included(words, base):
                    self.read(included, base, checked=checked, depth=depth + 1, may_match=active)
            elif active and keyword in KEYWORDS and words:
                self._take(keyword, words, f"{short_path(path)}:{number}")

    def _take(self, keyword: str, words: list[str], where: str) -> None:
        values = self.found.values
        if keyword in values and keyword not in _MANY:
            return
        kept = words if keyword in _LISTS else [" ".join(words)]
        values.setdefault(keyword, []).extend(kept)
        self.found.origins.setdefault(keyword, where)

    def _match(self, words: list[str]) -> bool:
        left = iter(words)
        for word in left:
            name = word.lstrip("!").lower()
            if name == "all":
                continue
            pattern = next(left, "")
            value = self._matched_value(name)
            if value is None or _list_matches(pattern, value) == word.startswith("!"):
                return False
        return True

    def _matched_value(self, name: str) -> str | None:
        """What a criterion of Match looks at; None for one that is not known here, which never matches."""
        values, host = self.found.values, self._asked.host
        if name == "host":
            return _hostname(host, values.get("hostname")) or host
        if name == "originalhost":
            return host
        if name == "user":
            return next(iter(values.get("user", ())), _own_name())
        return _own_name() if name == "localuser" else None


def _lines(path: Path, *, checked: bool) -> Iterator[tuple[int, str, list[str]]]:
    """Number, keyword and words of each line that says something; nothing of a file that is not there."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                return
            if checked and (found.st_uid not in (0, os.getuid()) or found.st_mode & 0o022):
                raise UserError(
                    f"{path}: others may write it, so ssh does not trust it", hint=f"chmod go-w {path}"
                )
            text = file.read(MAX_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return
    for number, line in enumerate(text.split("\n"), 1):
        keyword, rest = _keyword(line)
        if keyword:
            yield number, keyword, words_of(rest)


def _keyword(line: str) -> tuple[str, str]:
    match = re.match(r"[\s\f]*([A-Za-z][A-Za-z0-9]*)(?:[ \t]*=[ \t]*|[ \t]+)(.*)", line.rstrip())
    return ("", "") if match is None else (match[1].lower(), match[2])


def words_of(text: str) -> list[str]:
    """The words of a line as OpenSSH splits them: quotes hold blanks, `#` begins a comment."""
    words = []
    for match in re.finditer(r"""(?:"(?:\\.|[^"\\])*"?|'[^']*'?|\\.|[^\s"'\\])+|\\""", text):
        if match[0].startswith("#"):
            break
        words.append(re.sub(r"""\\(["'\\ ])|["']""", lambda found: found[1] or "", match[0]))
    return words


def _included(words: list[str], base: Path) -> Iterator[Path]:
    for word in words:
        path = os.path.expanduser(_with_environment(word))
        yield from map(Path, sorted(glob.glob(path if os.path.isabs(path) else os.path.join(base, path))))


def _host_matches(patterns: list[str], host: str) -> bool:
    """Whether a Host line is about the host: one pattern matches and none that begins with `!` does."""
    found = False
    for pattern in patterns:
        if matches(pattern.removeprefix("!"), host):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _list_matches(patterns: str, value: str) -> bool:
    return _host_matches([each.lower() for each in patterns.split(",")], value.lower())


# --- values --------------------------------------------------------------------------------------


def host_config(asked: Asked, values: Values) -> HostConfig:
    """The values of a configuration as what they mean."""
    one = {keyword: next(iter(found), None) for keyword, found in values.items()}
    hostname = _hostname(asked.host, values.get("hostname"))
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


def _hostname(host: str, values: Sequence[str] | None) -> str | None:
    """The name or address that HostName makes of a host; None where it is the host itself."""
    if not values:
        return None
    name = re.sub("%[%h]", lambda found: "%" if found[0] == "%%" else host, values[0])
    if "%h" not in values[0] and is_address(values[0]):
        name = values[0]  # an IPv6 address with a scope, as `ssh -G` prints it
    if not is_address(name):
        raise UserError(
            f'your ssh configuration makes "{printable(name)}" of {host}, which is no address',
            hint="correct HostName there, or set ssh.config: none in the inventory",
        )
    return None if name == host else name


@dataclass(frozen=True)
class _Tokens:
    """The percent tokens of paths."""

    asked: Asked
    hostname: str | None
    one: Mapping[str, str | None]

    def expand(self, text: str) -> str:
        """A path with its tokens, variables and `~` replaced; tokens that are not known here stay."""
        import platform

        own = _own_name()
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
        named = re.sub("%.", lambda found: known.get(found[0], found[0]), _with_environment(text))
        return os.path.expanduser(named)


def _with_environment(text: str) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], ""), text)


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
