"""Every error of edgebench, classed by who must act.

    EdgebenchError
    ├── UserError             owner user            exit 2    a wrong argument or file
    │   └── ConfigError                                       ... with file, line and nearest known key
    ├── NothingDone           owner user            exit 5    nothing matched, so nothing was measured
    ├── ModelError            owner model           exit 4    the network itself: damaged, unsupported, NaN
    │   └── ParityError                                       ... what was converted computes something else
    ├── DeviceError           owner device          exit 4    unreachable, full, crashed, too hot
    │   ├── DeviceBusy                              exit 75   somebody else holds the lease
    │   ├── RuntimeDied                                       a runtime crashed or hung over an artifact there
    │   └── NoDuet                                            a runtime there cannot time two models in turns
    ├── InfrastructureError   owner infrastructure  exit 4    a tool, a registry, the controller's disk
    ├── Interrupted           owner user            exit 130 or 143
    └── BugError              owner bug             exit 70   edgebench is wrong

A message says what was asked and what is there; the hint says what to type next. Errors are caught
in one place, the doors (`cli`, `service`), or turned into a `Failure` record by the pipeline.
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

Owner = Literal["user", "model", "device", "infrastructure", "bug"]

EXIT_OK = 0
EXIT_GATE_FAILED = 1
EXIT_USAGE = 2
EXIT_INCONCLUSIVE = 3
EXIT_ERROR = 4
EXIT_NOTHING_DONE = 5
EXIT_BUG = 70
EXIT_BUSY = 75
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class EdgebenchError(Exception):
    """Base of all errors: a message, a hint (what to type next) and an optional detail (a log's tail)."""

    owner: ClassVar[Owner] = "bug"
    exit_code: int = EXIT_BUG

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied as it is: a process that works for another one may raise it."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UserError(EdgebenchError):
    """The command or a file the user wrote is wrong."""

    owner = "user"
    exit_code = EXIT_USAGE


class ConfigError(UserError):
    """A YAML or TOML file is wrong at a known place; the message begins with `file:line:`."""

    def __init__(self, source: str, line: int, message: str, *, hint: str = "") -> None:
        super().__init__(f"{source}:{line}: {message}", hint=hint)
        self.source = source
        self.line = line


class NothingDone(UserError):
    """Nothing matched, so nothing was measured or judged."""

    exit_code = EXIT_NOTHING_DONE


class ModelError(EdgebenchError):
    """The network is damaged, unsupported by the runtime, or computes nonsense."""

    owner = "model"
    exit_code = EXIT_ERROR


class ParityError(ModelError):
    """What was converted computes something else than the model: it is never timed or given out."""


class DeviceError(EdgebenchError):
    """A device cannot be reached, refused the work, or broke during it."""

    owner = "device"
    exit_code = EXIT_ERROR

    def __init__(self, message: str, *, hint: str = "", detail: str = "", retryable: bool = False) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.retryable = retryable


class Holder(NamedTuple):
    """Who holds a busy device, what for, since when and for how long at most (None: unknown)."""

    user: str
    controller: str
    run: str
    purpose: str
    since_s: float | None = None
    left_s: float | None = None


class DeviceBusy(DeviceError):
    """Somebody else holds the device's lease; the message names the holder, `holder` has it in parts."""

    exit_code = EXIT_BUSY

    def __init__(self, message: str, *, hint: str = "", holder: Holder | None = None) -> None:
        super().__init__(message, hint=hint, retryable=True)
        self.holder = holder


class RuntimeDied(DeviceError):
    """A runtime's process crashed, or was not done in time; the session on the device goes on."""


class NoDuet(DeviceError):
    """The runtime cannot load two models into one process and share its threads: separate launches can."""


class InfrastructureError(EdgebenchError):
    """A tool, a package registry or the controller itself is not able to do its part."""

    owner = "infrastructure"
    exit_code = EXIT_ERROR


class Interrupted(EdgebenchError):
    """The user or the system asked to stop: exit 130 (Ctrl-C) or 143 (SIGTERM)."""

    owner = "user"
    exit_code = EXIT_INTERRUPTED


class BugError(EdgebenchError):
    """edgebench broke its own rules."""


def printable(text: str, *, lines: bool = False) -> str:
    """The text with "?" for control characters (terminal escapes among them); line ends stay when `lines`."""
    return "".join(c if c.isprintable() or (lines and c == "\n") else "?" for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?`, or the list of what is known; for the hint of an unknown name."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return "known: " + ", ".join(names) if names else "none is known"
