"""Functions that a user names as "module:function": found, called, and blamed by line where they fail.

They run in this process with all that it may do, as the user asked.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from types import TracebackType
from typing import Any

from edgebench.errors import EdgebenchError, UserError, did_you_mean, printable

LARGEST_SOURCE = 16 << 20  # of a file whose content is looked at
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_function_name(text: str) -> bool:
    """Whether a text has the form "module:function"."""
    return len(text) <= 300 and _NAME.fullmatch(text) is not None


def call(name: str, *arguments: object) -> Any:
    """What the function of that name returns; whatever goes wrong in it is a UserError that tells the line.

    Modules are looked for in the working directory first, then where Python looks. What it prints goes to
    stderr: stdout is for results.
    """
    with _working_directory(), blamed(name):
        return _function(name)(*arguments)


def source(name: str) -> bytes:
    """The file that holds the function of that name, or b"" where it has none; errors as for `call`."""
    with _working_directory(), blamed(name):
        _function(name)
    path = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    if path is None or not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read(LARGEST_SOURCE)


def _function(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if not (module_name == missing or module_name.startswith(f"{missing}.")):
            raise
        raise UserError(
            f"{name}: there is no module {missing}",
            hint=f"{module_name.replace('.', '/')}.py is looked for in {os.getcwd()} and in PYTHONPATH",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise UserError(
            f"{name}: {module_name} has no function {function_name}", hint=did_you_mean(function_name, known)
        )
    found: Callable[..., Any] = function
    return found


@contextmanager
def _working_directory() -> Iterator[None]:
    """The working directory is the first place where Python looks for modules."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """Whatever goes wrong while it is open is a UserError that blames the user's function of that name.

    What the function prints goes to stderr: stdout is for results.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except EdgebenchError:
        raise
    except (Exception, SystemExit) as error:
        told = printable(f"{type(error).__name__}: {error}")[:500]
        raise UserError(
            f"{name} failed{_where(error)}: {told}",
            hint="correct it; the detail holds its traceback",
            detail=printable("".join(traceback.format_exception(error))[-8192:], lines=True),
        ) from error


def _where(error: BaseException) -> str:
    """Words such as: at metrics.py:12 in score. The last place in code that belongs to no package."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {os.path.basename(error.filename)}:{error.lineno}"
    frames = [each for each in _frames(error.__traceback__) if not _is_installed(each.filename)]
    if not frames:
        return ""
    last = frames[-1]
    place = "" if last.name == "<module>" else f" in {last.name}"
    return f" at {os.path.basename(last.filename)}:{last.lineno}{place}"


def _frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames of a traceback below those of this module and of importing."""
    return [each for each in traceback.extract_tb(trace) if each.filename != __file__]


def _is_installed(path: str) -> bool:
    """Whether a file is of Python itself or of a package, and not of the user."""
    parts = path.replace(os.sep, "/")
    library = os.path.dirname(os.__file__)
    return path.startswith(("<", library + os.sep)) or "/site-packages/" in parts
