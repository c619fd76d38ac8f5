"""Strict YAML and TOML -> records: closed schemas, bounded sizes, errors with file, line and nearest key.

The text is read as a tree of nodes that know their line; the tree is walked together with the record's types.
It is stricter than YAML on purpose, because people write these files by hand and read the errors at night: no
anchors, aliases or tags (so no expansion bombs and no objects), no duplicate keys, `true` and `false` are the
only booleans, and `3.10` for a text is an error that says "put it in quotes" instead of becoming 3.1.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from edgebench.errors import BugError, ConfigError, UserError, did_you_mean

if TYPE_CHECKING:
    from msgspec import inspect

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 100_000

T = TypeVar("T")
At = tuple[str | int, ...]
"""Where a value stands: ("devices", "pi5-01", "groups", 0)."""


class Document(NamedTuple, Generic[T]):
    """A parsed file: its record, its name, and the line of every value in it (1 is the first)."""

    value: T
    source: str
    lines: Mapping[At, int]

    def line(self, *at: str | int) -> int:
        """The line of a value, or that of the nearest thing around it which the file does hold."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at, 1)

    def error(self, at: At, message: str, *, hint: str = "") -> ConfigError:
        """A ConfigError at the value's line, for rules that the types do not say."""
        return ConfigError(self.source, self.line(*at), message, hint=hint)


def load(text: str, kind: type[T], *, source: str) -> T:
    """The record of `kind` that a YAML text holds; ConfigError with `source` and line for anything else."""
    return load_with_lines(text, kind, source=source).value


def load_with_lines(text: str, kind: type[T], *, source: str) -> Document[T]:
    """As `load`, with the line of every value, for later checks and for showing where a value comes from."""
    _check_size(text, source)
    return _document(_yaml_tree(text, source), kind, source)


def load_toml(text: str, kind: type[T], *, source: str, table: tuple[str, ...] = ()) -> Document[T] | None:
    """The record in a TOML text, or in its `table` ("tool", "edgebench"); None where there is no such table.

    Lines are found by looking for the key's own line, since the standard parser keeps none.
    """
    _check_size(text, source)
    data = _toml_data(text, source)
    for key in table:
        data = data.get(key) if isinstance(data, dict) else None
    if data is None:
        return None
    return _document(_toml_tree(data, text, table), kind, source)


def read(path: Path, kind: type[T]) -> T:
    """The record of `kind` in a YAML file; UserError: it cannot be read, ConfigError: it is wrong."""
    return load(read_text(path), kind, source=str(path))


def read_text(path: Path) -> str:
    """The text of a regular UTF-8 file of at most 1 MiB; UserError or ConfigError says why there is none."""
    data = _read_bytes(path)
    if len(data) > MAX_BYTES:
        raise _too_large(str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            str(path), line, "this is not UTF-8 text", hint="save the file with the encoding UTF-8"
        ) from error


def find_files(folder: Path, suffix: str) -> tuple[Path, ...]:
    """The files in a folder with names that end in `suffix`, by name; UserError when it cannot be listed."""
    try:
        return tuple(sorted(path for path in folder.iterdir() if path.name.endswith(suffix)))
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}") from error


def quoted(text: str) -> str:
    """The text in quotes, cut at 40 characters, with everything unprintable escaped; safe in a message."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:40])
    return f'"{shown}..."' if len(text) > 40 else f'"{shown}"'


# --- files --------------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device might never end
            raise UserError(f"{path} is not a regular file", hint="give the path of a file")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(
            f"there is no file {path}", hint="check the path, or the folder you are in"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot read {quoted(str(path))}: {reason}") from error


def _check_size(text: str, source: str) -> None:
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise ConfigError(source, line, "holds a character that is no text (a lone surrogate)") from error
    if size_bytes > MAX_BYTES:
        raise _too_large(source)


def _too_large(source: str) -> ConfigError:
    return ConfigError(
        source, 1, "is larger than 1 MiB", hint="a file of settings is small; is this the right one?"
    )


# --- the tree -----------------------------------------------------------------------------------


class _Other(NamedTuple):
    """A value that no type of ours takes: TOML's dates, times, infinity and not-a-number."""


class _Scalar(NamedTuple):
    line: int
    text: str
    value: str | int | float | bool | _Other | None


class _Entry(NamedTuple):
    line: int
    node: _Node


class _Mapping(NamedTuple):
    line: int
    entries: dict[str, _Entry]


class _Sequence(NamedTuple):
    line: int
    items: list[_Node]


_Node = _Scalar | _Mapping | _Sequence

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(
    r"[-+]?(?:[0-9]{1,40}\.[0-9]{0,40}|\.[0-9]{1,40}|[0-9]{1,40}(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?"
)
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def _plain(text: str) -> str | int | float | bool | None:
    """What an unquoted scalar means: YAML 1.2's core rules, without octal, infinity and not-a-number."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and abs(float(text)) <= 1e300:
        return float(text)
    return text


def _yaml_tree(text: str, source: str) -> _Node:
    import yaml

    _refuse_tabs(text, source)
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or error.context or "the text cannot be read"
        if "nesting depth" in problem:  # PyYAML 6.0.4 and newer find out before our own count does
            raise ConfigError(source, line, _TOO_DEEP, hint=_YAML_HINT) from error
        raise ConfigError(source, line, f"this is not YAML: {problem}", hint=_YAML_HINT) from error
    except yaml.reader.ReaderError as error:
        where = error.position if isinstance(error.position, int) else 0
        line = text.count("\n", 0, where) + 1
        raise ConfigError(source, line, f"this is not YAML: {error.reason}") from error
    if builder.root is None:
        raise ConfigError(source, 1, "is empty", hint="the first line is usually: version: 1")
    return builder.root


_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
_YAML_HINT = "look at this line and the one above: indentation, a missing colon, quote or bracket"


def _refuse_tabs(text: str, source: str) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        body = line.lstrip(" ")
        if body.startswith("\t") and body.strip() and not body.lstrip().startswith("#"):
            raise ConfigError(
                source, number, "the line is indented with a tab", hint="YAML wants spaces: use two"
            )


class _Open(NamedTuple):
    """A mapping or sequence without its end yet, where it stands, and the key that waits for its value."""

    node: _Mapping | _Sequence
    at: At
    key: list[_Scalar]


class _Builder:
    """Parser events -> one tree. Events are taken one by one, so that nothing is built beyond the bounds."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.root: _Node | None = None
        self._open: list[_Open] = []
        self._count = 0

    def take(self, event: Any) -> None:
        """Add one PyYAML event to the tree, or raise ConfigError for what is not allowed here."""
        import yaml

        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._error(
                line, "anchors and aliases (& and *) are not allowed", "write the value out each time"
            )
        if getattr(event, "tag", None) is not None:
            raise self._error(line, f"the tag {quoted(event.tag)} is not allowed", "write plain values only")
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise self._error(
                line, "a second document begins here", "one file holds one document: remove the ---"
            )
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None or event.style == ""
            self._add(_Scalar(line, event.value, _plain(event.value) if plain else event.value))
        elif isinstance(event, yaml.MappingStartEvent):
            self._descend(_Mapping(line, {}))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._descend(_Sequence(line, []))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()

    def _descend(self, node: _Mapping | _Sequence) -> None:
        at = self._add(node)
        if len(self._open) >= MAX_DEPTH:
            raise self._error(node.line, _TOO_DEEP, _YAML_HINT)
        self._open.append(_Open(node, at, []))

    def _add(self, node: _Node) -> At:
        """Put the node where it belongs and return its place."""
        self._count += 1
        if self._count > MAX_VALUES:
            raise self._error(node.line, f"holds more than {MAX_VALUES} values", "")
        if not self._open:
            self.root = node
            return ()
        parent, at, key = self._open[-1]
        if isinstance(parent, _Sequence):
            parent.items.append(node)
            return (*at, len(parent.items) - 1)
        if key:
            name = key.pop()
            parent.entries[name.text] = _Entry(name.line, node)
            return (*at, name.text)
        key.append(self._new_key(node, parent, at))
        return at

    def _new_key(self, node: _Node, parent: _Mapping, at: At) -> _Scalar:
        if not isinstance(node, _Scalar) or not node.text:
            raise self._error(
                node.line, "a key must be a word", 'put it in quotes if it begins with "{" or "["'
            )
        if node.text in parent.entries:
            first = parent.entries[node.text].line
            message = f"the key {quoted(node.text)} in {place(at)} is already on line {first}"
            raise self._error(node.line, message, "remove or rename one of the two")
        return node

    def _error(self, line: int, message: str, hint: str) -> ConfigError:
        return ConfigError(self.source, line, message, hint=hint)


def _toml_data(text: str, source: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, position = str(error).partition(" (at ")
        found = re.match(r"line ([0-9]+)", position)
        line = int(found[1]) if found else text.count("\n") + 1
        raise ConfigError(source, line, f"this is not TOML: {reason}") from error
    except (RecursionError, ValueError) as error:  # very deep nesting; a number of thousands of digits
        raise ConfigError(source, 1, "this is not TOML: nested too deep, or a huge number") from error


def _toml_tree(data: object, text: str, table: tuple[str, ...]) -> _Node:
    lines = text.split("\n")
    header = re.compile(r"\s*\[\s*" + r"\s*\.\s*".join(map(re.escape, table)) + r"\s*\]")
    start = next((number for number, line in enumerate(lines) if table and header.match(line)), 0)
    found = _toml_lines(lines, start)

    def node(value: object, line: int, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            return _Scalar(line, "...", _Other())
        if isinstance(value, dict):
            at = {key: found.get(key, line) for key in value}
            return _Mapping(
                line, {key: _Entry(at[key], node(value[key], at[key], depth + 1)) for key in value}
            )
        if isinstance(value, list):
            return _Sequence(line, [node(item, line, depth + 1) for item in value])
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        return _Scalar(line, shown, _toml_value(value))

    return node(data, start + 1, 0)


def _toml_lines(lines: list[str], start: int) -> dict[str, int]:
    """The line on which each key first stands before a "=", alone or as a part of a dotted key."""
    found: dict[str, int] = {}
    for number in range(start, len(lines)):
        keys, equals, _ = lines[number].partition("=")
        for key in keys.split(".") if equals else ():
            found.setdefault(key.strip().strip("\"'"), number + 1)
    return found


def _toml_value(value: object) -> str | int | float | bool | _Other:
    if isinstance(value, float) and not math.isfinite(value):
        return _Other()
    return value if isinstance(value, str | int | float) else _Other()


# --- tree x types -> record ---------------------------------------------------------------------


def place(at: At) -> str:
    """Where a value stands, for messages: `devices.pi5-01.groups[0]`; the whole file is "the file"."""
    words = ""
    for step in at:
        shown = f"[{step}]" if isinstance(step, int) else quoted(step)[1:-1]
        words += shown if isinstance(step, int) or not words else f".{shown}"
    return words or "the file"


def _document(root: _Node, kind: type[T], source: str) -> Document[T]:
    import msgspec
    from msgspec import inspect

    reader = _Reader(source)
    plain = reader.read(root, inspect.type_info(kind), ())
    try:
        value = msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise BugError(
            f"{source}: the schema {kind.__name__} took what its record refuses: {error}"
        ) from error
    return Document(value, source, {(): root.line, **reader.lines})


class _Reader:
    """Walks nodes and types together; what comes out is plain values that the record takes as they are."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[At, int] = {}

    def read(self, node: _Node, kind: inspect.Type, at: At) -> Any:
        """The plain value of a node; ConfigError when the type does not take it."""
        from msgspec import inspect

        for wanted in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
            if _takes(wanted, node):
                return self._take(node, wanted, at)
        raise self._mismatch(node, kind, at)

    def _take(self, node: _Node, kind: inspect.Type, at: At) -> Any:
        from msgspec import inspect

        if isinstance(node, _Scalar):
            return float(node.text) if isinstance(kind, inspect.FloatType) else node.value
        if isinstance(node, _Sequence):
            lists = inspect.VarTupleType | inspect.ListType
            item = kind.item_type if isinstance(kind, lists) else inspect.AnyType()
            return [self._child(child, child.line, item, (*at, n)) for n, child in enumerate(node.items)]
        if isinstance(kind, inspect.StructType):
            return self._struct(node, kind, at)
        value = kind.value_type if isinstance(kind, inspect.DictType) else inspect.AnyType()
        return {k: self._child(entry.node, entry.line, value, (*at, k)) for k, entry in node.entries.items()}

    def _struct(self, node: _Mapping, kind: inspect.StructType, at: At) -> dict[str, Any]:
        fields = {field.encode_name: field for field in kind.fields}
        for key, entry in node.entries.items():
            if key not in fields:
                message = f"unknown key {quoted(key)} in {place(at)}"
                raise ConfigError(self.source, entry.line, message, hint=did_you_mean(key, fields))
        for name, field in fields.items():
            if field.required and name not in node.entries:
                message = f"{place(at)} lacks the key {quoted(name)}"
                hint = f"add: {name}: <{_noun(field.type)}>"
                raise ConfigError(self.source, self.lines.get(at, node.line), message, hint=hint)
        return {
            key: self._child(entry.node, entry.line, fields[key].type, (*at, key))
            for key, entry in node.entries.items()
        }

    def _child(self, node: _Node, line: int, kind: inspect.Type, at: At) -> Any:
        self.lines[at] = line
        return self.read(node, kind, at)

    def _mismatch(self, node: _Node, kind: inspect.Type, at: At) -> ConfigError:
        line = self.lines.get(at, node.line)
        message = f"{place(at)} expects {_noun(kind)}, found {_found(node)}"
        return ConfigError(self.source, line, message, hint=_mismatch_hint(node, kind))


def _takes(kind: inspect.Type, node: _Node) -> bool:
    from msgspec import inspect

    if isinstance(kind, inspect.AnyType):
        return True
    if isinstance(node, _Mapping):
        return isinstance(kind, inspect.StructType | inspect.DictType)
    if isinstance(node, _Sequence):
        return isinstance(kind, inspect.VarTupleType | inspect.ListType)
    if isinstance(kind, inspect.LiteralType):
        return isinstance(node.value, str) and node.value in kind.values
    if isinstance(kind, inspect.FloatType):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    return type(node.value) is _SCALAR_TYPES.get(type(kind).__name__)


_SCALAR_TYPES: dict[str, type] = {"StrType": str, "IntType": int, "BoolType": bool, "NoneType": type(None)}
_NOUNS = {
    "StrType": "a text",
    "IntType": "a whole number",
    "FloatType": "a number",
    "BoolType": "true or false",
    "StructType": "a mapping (key: value)",
    "DictType": "a mapping (key: value)",
    "VarTupleType": "a list",
    "ListType": "a list",
}


def _noun(kind: inspect.Type) -> str:
    """What a type takes, in plain words; "nothing" is left out of an optional one."""
    from msgspec import inspect

    if isinstance(kind, inspect.UnionType):
        return " or ".join(_noun(part) for part in kind.types if not isinstance(part, inspect.NoneType))
    if isinstance(kind, inspect.LiteralType):
        return "one of " + ", ".join(f'"{value}"' for value in kind.values)
    return _NOUNS.get(type(kind).__name__, "a value")


def _found(node: _Node) -> str:
    if isinstance(node, _Mapping):
        return "a mapping"
    if isinstance(node, _Sequence):
        return "a list"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool | _Other):
        return node.text
    return f"the text {quoted(node.text)}" if isinstance(node.value, str) else f"the number {node.text}"


def _mismatch_hint(node: _Node, kind: inspect.Type) -> str:
    """What to write instead."""
    from msgspec import inspect

    kinds = {type(part): part for part in (kind.types if isinstance(kind, inspect.UnionType) else (kind,))}
    text = node.text if isinstance(node, _Scalar) else ""
    literal = kinds.get(inspect.LiteralType)
    if isinstance(literal, inspect.LiteralType) and text:
        return did_you_mean(text, [str(value) for value in literal.values])
    if inspect.StrType in kinds and text:
        return f"put it in quotes: {quoted(text)}"
    if text and {inspect.VarTupleType, inspect.ListType} & set(kinds):
        shown = quoted(text) if isinstance(node, _Scalar) and isinstance(node.value, str) else text
        return f"write it as a list: [{shown}]"
    if text and {inspect.IntType, inspect.FloatType} & set(kinds):
        return "write the number alone, without quotes and unit"
    return f"write {_noun(kind)} there"
