"""OpenSSH's configuration files, read here: where there is no `ssh`, and to say where a value was written.

Host, Include, and Match with all, host, originalhost, user and localuser; nothing is run. Of each keyword
the first line that holds for a host counts, as for `ssh` (tests/transport/test_config.py compares the two).
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edgebench.errors import UserError, printable
from edgebench.inventory import is_address
from edgebench.transport.ssh.base import patterns_match, short_path

MAX_BYTES = 1 << 20
MAX_DEPTH = 16  # of Includes, as OpenSSH has it
MAX_FILES = 500
USER_CONFIG = "~/.ssh/config"
SYSTEM_CONFIG = "/etc/ssh/ssh_config"

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
LISTS = ("userknownhostsfile", "globalknownhostsfile")
MANY = ("identityfile",)  # each line adds one; of the others the first line counts


class Asked(NamedTuple):
    """What a configuration is asked about: a host as the inventory calls it, and what is known already.

    `source` is where to look: None for the user's own configuration, "none" for nowhere, else a file.
    """

    host: str
    user: str | None = None
    port: int | None = None
    source: str | None = None


class Parsed(NamedTuple):
    """Values by keyword, and the file and line of the first one."""

    values: dict[str, list[str]] = {}  # never changed: the parser makes its own
    origins: dict[str, str] = {}


def parse(asked: Asked) -> Parsed:
    """What the configuration files say of the host, read without `ssh`."""
    parser = _Parser(asked)
    if asked.source is not None:
        parser.read(existing(asked.source), Path.home() / ".ssh", checked=False)
        return parser.found
    parser.read(Path(USER_CONFIG).expanduser(), Path.home() / ".ssh", checked=True)
    parser.read(Path(SYSTEM_CONFIG), Path(SYSTEM_CONFIG).parent, checked=True)
    return parser.found


def existing(source: str) -> Path:
    """The file that an inventory names; UserError where there is none."""
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
                active = may_match and patterns_match(words, self._asked.host)
            elif keyword == "match":
                active = may_match and self._match(words)
            elif keyword == "include":
                for included in _included(words, base):
                    self.read(included, base, checked=checked, depth=depth + 1, may_match=active)
            elif active and keyword in KEYWORDS and words:
                self._take(keyword, words, f"{short_path(path)}:{number}")

    def _take(self, keyword: str, words: list[str], where: str) -> None:
        values = self.found.values
        if keyword in values and keyword not in MANY:
            return
        kept = words if keyword in LISTS else [" ".join(words)]
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
            return hostname_of(host, values.get("hostname")) or host
        if name == "originalhost":
            return host
        if name == "user":
            return next(iter(values.get("user", ())), own_name())
        return own_name() if name == "localuser" else None


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
        path = os.path.expanduser(with_environment(word))
        yield from map(Path, sorted(glob.glob(path if os.path.isabs(path) else os.path.join(base, path))))


def _list_matches(patterns: str, value: str) -> bool:
    return patterns_match(patterns.lower().split(","), value.lower())


def hostname_of(host: str, values: Sequence[str] | None) -> str | None:
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


def with_environment(text: str) -> str:
    """The text with the values of its variables, which stand as `${NAME}`."""
    return re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], ""), text)


def own_name() -> str:
    """The login name of whoever runs this; empty where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
