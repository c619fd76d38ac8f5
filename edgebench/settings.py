"""Settings: defaults < `[tool.edgebench]` in pyproject.toml < edgebench.toml < EDGEBENCH_* < flags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from edgebench import documents
from edgebench.documents import quoted
from edgebench.errors import BugError, UserError
from edgebench.records import Record

PREFIX = "EDGEBENCH_"
PYPROJECT = "pyproject.toml"
FILES = (PYPROJECT, "edgebench.toml")  # weakest first
INVENTORY = "inventory.yaml"


class SettingsFile(Record, frozen=True):
    """The keys of edgebench.toml; EDGEBENCH_HOME and so on in the environment."""

    home: str | None = None
    inventory: str | None = None
    targets: str | None = None
    store_url: str | None = None
    convert_timeout_s: float | None = None
    convert_memory_mib: int | None = None
    build_timeout_s: float | None = None
    jobs: int | None = None
    lease: Literal["board", "folder"] | None = None
    health_check: Literal["boards", "all", "off"] | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for one call of edgebench. `store_url` may hold a password: show `redacted_store_url` only.

    `inventory` None means this computer alone, `targets` is a folder of target files beside the shipped ones,
    `store_url` None means SQLite in `home`, `jobs` is the largest number of devices at work at the same time.
    `lease` is what a lease guards where the inventory does not say: the board, or the work folder alone.
    `build_timeout_s` is how long a device may take to build one engine. `health_check`: which devices run a
    known tiny model before their first job; "boards" are all but this computer.
    """

    home: Path
    inventory: Path | None = None
    targets: Path | None = None
    store_url: str | None = field(default=None, repr=False)
    convert_timeout_s: float = 900.0
    convert_memory_mib: int = 8192
    build_timeout_s: float = 3600.0
    jobs: int = 16
    lease: Literal["board", "folder"] = "board"
    health_check: Literal["boards", "all", "off"] = "boards"

    @property
    def redacted_store_url(self) -> str | None:
        """The store's URL without password and option values, for messages; None where there is none."""
        return None if self.store_url is None else redacted(self.store_url)


def load(folder: Path, environ: Mapping[str, str], flags: Mapping[str, object] | None = None) -> Settings:
    """The settings for a working folder (`Path()` keeps the names in messages short).

    Its inventory.yaml is used where nothing else is named. Errors as `resolve`.
    """
    texts = {name: documents.read_text(folder / name) for name in FILES if (folder / name).is_file()}
    settings = resolve(texts, environ, flags or {})
    if settings.inventory is None and (folder / INVENTORY).is_file():
        return replace(settings, inventory=folder / INVENTORY)
    return settings


def resolve(
    toml_texts: Mapping[str, str], environ: Mapping[str, str], flags: Mapping[str, object]
) -> Settings:
    """The settings from file name -> text (weakest first), environment and flags (None: not given). Pure.

    ConfigError for a wrong file, UserError for a wrong variable or flag; both name the nearest known key.
    """
    values: dict[str, Any] = {}
    for name, text in toml_texts.items():
        values |= _from_toml(name, text)
    values |= _from_environment(environ)
    values |= _from_flags(flags)
    for key in ("home", "inventory", "targets"):
        if key in values:
            values[key] = _path(str(values[key]), environ)
    if "home" not in values:
        values["home"] = _default_home(environ)
    return Settings(**values)


def redacted(url: str) -> str:
    """A database URL without its password and without its options: rather too little is shown than too much.

    A password may hold any of the characters that divide a URL, so all between login name and last @ goes.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"
    login, at, place = rest.rpartition("@")
    user = re.split(r"[:/?@]", login)[0]
    hidden = ":***" if user != login else ""
    path, question, _ = place.partition("?")
    return f"{scheme}://{user}{hidden}{at}{path}{question}{'***' if question else ''}"


# --- sources -------------------------------------------------------------------------------------


def _from_toml(name: str, text: str) -> dict[str, Any]:
    table = ("tool", "edgebench") if Path(name).name == PYPROJECT else ()
    document = documents.load_toml(text, SettingsFile, source=name, table=table)
    if document is None:
        return {}
    values = _given(document.value)
    for key, value in values.items():
        wrong = _wrong(key, value)
        if wrong:
            raise document.error((key,), f"{key} {wrong}", hint=_hint(key, wrong))
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    keys = {PREFIX + key.upper(): key for key in SettingsFile.__struct_fields__}
    for name in environ:
        near = get_close_matches(name, keys, n=1, cutoff=0.85) if name.startswith(PREFIX) else []
        if near and name not in keys:
            raise UserError(f"unknown variable {name} in the environment", hint=f'did you mean "{near[0]}"?')
    return {key: _checked(name, key, environ[name]) for name, key in keys.items() if environ.get(name)}


def _from_flags(flags: Mapping[str, object]) -> dict[str, Any]:
    unknown = set(flags) - set(SettingsFile.__struct_fields__)
    if unknown:
        raise BugError(f"no setting is called {', '.join(sorted(unknown))}")
    given = {key: value for key, value in flags.items() if value is not None}
    return {key: _checked("--" + key.replace("_", "-"), key, str(value)) for key, value in given.items()}


def _given(values: SettingsFile) -> dict[str, Any]:
    every = {key: getattr(values, key) for key in SettingsFile.__struct_fields__}
    return {key: value for key, value in every.items() if value is not None}


def _checked(name: str, key: str, text: str) -> str | int | float:
    """The value of a variable or flag; UserError names it, but never shows the store's URL."""
    value: str | int | float = text
    if key in _RANGES:
        pattern, kind = _NUMBERS[key.endswith("_s")]
        if not re.fullmatch(pattern, text):
            raise UserError(f"{name} is {quoted(text)}, which is no number", hint=_hint(key, ""))
        value = kind(text)
    wrong = _wrong(key, value)
    if wrong:
        raise UserError(f"{name} {wrong}", hint=_hint(key, wrong))
    return value


# --- rules ---------------------------------------------------------------------------------------

_NUMBERS: dict[bool, tuple[str, type[int] | type[float]]] = {
    False: (r"[0-9]{1,9}", int),
    True: (r"[0-9]{1,9}(\.[0-9]{1,9})?", float),
}
_RANGES = {
    "convert_timeout_s": (1, 86400),
    "convert_memory_mib": (256, 1 << 24),
    "build_timeout_s": (1, 86400),
    "jobs": (1, 256),
}
_WORDS = {"lease": ("board", "folder"), "health_check": ("boards", "all", "off")}
_NO_WORD = {"lease": "is neither board nor folder", "health_check": "is none of boards, all, off"}
_NO_URL = "is no URL of a database"


def _hint(key: str, wrong: str) -> str:
    if key in _RANGES:
        low, high = _RANGES[key]
        return f"write a number from {low} to {high}"
    if wrong == _NO_WORD["lease"]:
        return "write board, or folder where several work folders of one board may be used at the same time"
    if wrong == _NO_WORD["health_check"]:
        return "write boards (all but this computer), all, or off"
    if wrong == _NO_URL:
        return "write for example postgresql+psycopg://user@host/edgebench"
    return "write a value, or leave the key out"


def _wrong(key: str, value: str | int | float) -> str:
    """What is wrong with a value, or nothing; the value itself is shown only where it is a number."""
    if isinstance(value, str):
        if not value.strip():
            return "is empty"
        if not value.isprintable():
            return "holds a character that cannot be printed"
        if key in _WORDS:
            return "" if value in _WORDS[key] else _NO_WORD[key]
        return _NO_URL if key == "store_url" and not _is_url(value) else ""
    low, high = _RANGES[key]
    return "" if low <= value <= high else f"is {value if abs(value) < 1e12 else 'far too large'}"


def _is_url(text: str) -> bool:
    return re.match(r"[a-z][a-z0-9]*(\+[a-z0-9_]+)?://", text) is not None


def _path(text: str, environ: Mapping[str, str]) -> Path:
    """A path with a leading `~` put out; relative ones stay relative to the working folder."""
    if text == "~" or text.startswith("~/"):
        return _user_home(environ) / text[2:]
    return Path(text)


def _default_home(environ: Mapping[str, str]) -> Path:
    data = environ.get("XDG_DATA_HOME", "")
    if data.startswith("/"):  # the XDG base directory specification: relative values are to be ignored
        return Path(data) / "edgebench"
    return _user_home(environ) / ".local" / "share" / "edgebench"


def _user_home(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    if not home:
        hint = "set HOME or EDGEBENCH_HOME"
        raise UserError("there is no home folder to keep artifacts and results in", hint=hint)
    return Path(home)
