"""Fields of a request, checked: the value, or a `bad_request` that names the field and what is wanted."""

import os
import re
from typing import Any, Dict, Tuple

from .wire import ProbeError

DIGEST = re.compile(r"[0-9a-f]{64}\Z")
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")
MAX_TEXT = 4096
MAX_PATH = 1024
MAX_FILES = 100000
MAX_FILE_BYTES = 1 << 40
_REQUIRED = object()


def bad(message: str) -> ProbeError:
    """The error for a request that cannot be understood."""
    return ProbeError("bad_request", message)


def text(fields: Any, key: str, default: Any = _REQUIRED, limit: int = MAX_TEXT) -> Any:
    """A string of at most `limit` characters without NUL."""
    value = _get(fields, key, default)
    if value is default:
        return value
    if not isinstance(value, str) or len(value) > limit or "\0" in value:
        raise bad('"%s" must be a text of at most %d characters' % (key, limit))
    return value


def name(fields: Any, key: str) -> str:
    """A short lower-case word."""
    value = text(fields, key)
    if not NAME.match(value):
        raise bad('"%s" must be a short lower-case name' % key)
    return str(value)


def digest(value: Any, what: str) -> str:
    """64 lower-case hex digits."""
    if not isinstance(value, str) or not DIGEST.match(value):
        raise bad("%s must be 64 lower-case hex digits" % what)
    return value


def whole(fields: Any, key: str, low: int, high: int, default: Any = _REQUIRED) -> Any:
    """An integer between `low` and `high`."""
    value = _get(fields, key, default)
    if value is default:
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad('"%s" must be a whole number from %d to %d' % (key, low, high))
    return value


def flag(fields: Any, key: str) -> bool:
    """True or false."""
    value = _get(fields, key, _REQUIRED)
    if not isinstance(value, bool):
        raise bad('"%s" must be true or false' % key)
    return value


def number(fields: Any, key: str, low: float, high: float, default: Any = _REQUIRED) -> Any:
    """A number between `low` and `high`, as a float."""
    value = _get(fields, key, default)
    if value is default:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise bad('"%s" must be a number from %g to %g' % (key, low, high))
    return float(value)


def items(fields: Any, key: str, limit: int = MAX_FILES, default: Any = _REQUIRED) -> Any:
    """A list of at most `limit` entries."""
    value = _get(fields, key, default)
    if value is default:
        return value
    if not isinstance(value, list) or len(value) > limit:
        raise bad('"%s" must be a list of at most %d entries' % (key, limit))
    return value


def table(fields: Any, key: str, default: Any = _REQUIRED) -> Any:
    """An object."""
    value = _get(fields, key, default)
    if value is not default and not isinstance(value, dict):
        raise bad('"%s" must be an object' % key)
    return value


def texts(fields: Any, key: str) -> Dict[str, str]:
    """An object whose values are texts; an empty one when the field is absent."""
    value: Dict[str, str] = table(fields, key, {})
    for each in value:
        text(value, each)
    return value


def relative(path: Any, what: str = "a path") -> str:
    """A relative path with forward slashes and no empty, "." or ".." part."""
    if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH or "\0" in path or "\\" in path:
        raise bad("%s must be a relative path of at most %d characters" % (what, MAX_PATH))
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise bad('%s "%s" must stay inside its folder: no leading "/", no "." and no ".."' % (what, path))
    return path


def below(path: Any, folder: str, what: str) -> str:
    """The absolute `path`, with links resolved, when it lies inside `folder` and exists."""
    if not isinstance(path, str) or "\0" in path or len(path) > MAX_TEXT or not os.path.isabs(path):
        raise bad("%s must be an absolute path" % what)
    real, root = os.path.realpath(path), os.path.realpath(folder)
    if real != root and not real.startswith(root + os.sep):
        raise bad('%s "%s" lies outside the work folder %s' % (what, path, folder))
    if not os.path.exists(real):
        raise bad('%s "%s" is not there' % (what, path))
    return real


def file_entry(value: Any) -> Tuple[str, int]:
    """(sha256, size in bytes) of one entry of a list of files."""
    if not isinstance(value, dict):
        raise bad("a file must be an object with sha256 and size_bytes")
    return digest(value.get("sha256"), "sha256"), whole(value, "size_bytes", 0, MAX_FILE_BYTES)


def _get(fields: Any, key: str, default: Any) -> Any:
    if not isinstance(fields, dict):
        raise bad('an object with "%s" is wanted' % key)
    value = fields.get(key)
    if value is not None:
        return value
    if default is _REQUIRED:
        raise bad('"%s" is missing' % key)
    return default
