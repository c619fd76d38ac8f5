"""What a probe answers, made harmless before anybody looks at it: bounded, printable, with possible numbers.

A device is a computer of somebody else's. Its answer may hold control characters that a terminal would obey,
numbers that no database takes, or more of everything than fits in memory.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.errors import printable
from edgebench.records import Engine, Launch, Prepared, Record

if TYPE_CHECKING:
    import numpy as np

MAX_TEXT = 16 << 10
MAX_NAME = 256
MAX_ITEMS = 200_000  # as many samples as a probe keeps
MAX_KEYS = 4096
MAX_DEPTH = 16
MAX_WHOLE = 2**63 - 1  # the largest that every database takes
MAX_REAL = 1e18
MAX_SAMPLE_NS = 86400 * 10**9  # a workload lasts a day at most
NEVER_NEGATIVE = re.compile(r"(_ns|_bytes|_khz|_pages|_load|_1m|cores|bits)$")
MAX_LINES, MAX_LINE_CHARACTERS = 100, 2000  # of what a device tells of a build


class NonsenseError(ValueError):
    """An answer that no probe of ours gives; the text says what it holds."""


def harmless(value: object, name: str = "the answer", depth: int = 0) -> Any:
    """The same plain JSON value with printable texts; NonsenseError for what is too much or cannot be."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return printable(value[:MAX_TEXT], lines=True)
    if isinstance(value, int | float):
        return _number(value, name)
    if depth == MAX_DEPTH:
        raise NonsenseError("it is nested too deeply")
    if isinstance(value, dict):
        if len(value) > MAX_KEYS:
            raise NonsenseError(f"{name} has {len(value)} keys")
        return {
            printable(str(key)[:MAX_NAME]): harmless(each, printable(str(key)[:MAX_NAME]), depth + 1)
            for key, each in value.items()
        }
    if isinstance(value, list):
        if len(value) > MAX_ITEMS:
            raise NonsenseError(f"{name} has {len(value)} entries, more than {MAX_ITEMS}")
        return [harmless(each, name, depth + 1) for each in value]
    raise NonsenseError(f"{name} is a {type(value).__name__}")


def _number(value: int | float, name: str) -> int | float:
    limit = MAX_WHOLE if isinstance(value, int) else MAX_REAL
    if not (math.isfinite(value) and abs(value) <= limit):
        raise NonsenseError(f"{name} is a number beyond all bounds")
    if value < 0 and NEVER_NEGATIVE.search(name):
        raise NonsenseError(f"{name} is {value}")
    return value


def wrong_pairs(launch: Launch) -> str:
    """What is wrong with the pairs of a duet; "" where each sample has the baseline's beside it."""
    ours, theirs = launch.samples_ns, launch.baseline_ns
    if not ours or len(ours) != len(theirs):
        return f"{len(ours)} samples beside {len(theirs)} of the baseline"
    if not all(0 < each <= MAX_SAMPLE_NS for each in (*ours, *theirs)):
        return "times that no inference takes"
    return ""


def own_path(value: object, work: str) -> str:
    """The path of a file that the probe made below its work folder; NonsenseError for any other text."""
    text = value if isinstance(value, str) else ""
    inside = text.startswith(work.rstrip("/") + "/") and ".." not in text.split("/")
    if not (inside and len(text) <= 4096 and text.isprintable()):
        raise NonsenseError(f"a path outside of its work folder: {printable(str(value)[:80])}")
    return text


def read_array(path: Path, size_bytes: int) -> np.ndarray:
    """The numbers of a `.npy` file of at most so many bytes; NonsenseError for any other content.

    The header is read first: it may ask for more memory than the file holds numbers, or for Python objects.
    """
    import numpy as np
    from numpy.lib import format as npy

    try:
        with path.open("rb") as file:
            readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            reader = readers.get(npy.read_magic(file))
            if reader is None:
                raise NonsenseError("an output file of an unknown version")
            shape, _, dtype = reader(file)
            held = path.stat().st_size - file.tell()
        if dtype.kind not in "fiub" or dtype.hasobject:
            raise NonsenseError(f"an output of the type {printable(str(dtype)[:80])}")
        if math.prod(shape) * dtype.itemsize != held or held > size_bytes or min(shape, default=0) < 0:
            raise NonsenseError("an output file that does not hold what its header says")
        array: np.ndarray = np.load(path, allow_pickle=False)
    except NonsenseError:
        raise
    except (ValueError, OSError, EOFError, MemoryError, OverflowError, TypeError) as error:
        raise NonsenseError(f"an output file that is no array ({printable(str(error))[:200]})") from error
    return array


# --- the answers that are records of their own ---


class Hello(Record, frozen=True):
    """What a session needs of the probe's first message."""

    work: str


def fields_of(kind: type[Record], message: dict[str, Any]) -> dict[str, Any]:
    """The fields of a message that a record has."""
    return {name: message[name] for name in kind.__struct_fields__ if name in message}


class Busy(Record, frozen=True):
    """A process of the device and how many cores it keeps busy."""

    pid: int
    name: str
    cores: float


class Checkup(Record, frozen=True):
    """What a doctor wants to know of a device beside its facts and conditions. None is unknown.

    `leftovers` are folders of dead sessions, `prepared` what such a session did not undo. `prepare_problem`
    and `sudoers` (the line that grants what is missing) are None where the inventory asks for no preparation.
    """

    unix_s: float
    busiest: tuple[Busy, ...]
    free_bytes: int
    used_bytes: int
    leftovers: tuple[str, ...]
    prepared: tuple[Prepared, ...]
    prepare_problem: str | None = None
    sudoers: str | None = None


class Undone(Record, frozen=True):
    """What became of one change that a preparation had made."""

    what: str
    state: str
    text: str


class Output(Record, frozen=True):
    """Where one output of a sample lies on the device."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    size_bytes: int


class Built(Record, frozen=True):
    """The answer to `build`, as far as it is kept."""

    engine: str
    sha256: str
    size_bytes: int
    cached: bool
    build_s: float | None = None
    tensorrt: str | None = None
    trtexec: str | None = None
    flags: tuple[str, ...] | None = None
    gpu: str | None = None
    peak_bytes: int | None = None
    build_peak_gpu_mib: float | None = None
    warnings: tuple[str, ...] | None = None

    def record(self) -> Engine:
        """The record that a measurement keeps."""
        return Engine(
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            cached=self.cached,
            build_s=self.build_s,
            version=printable(self.tensorrt or ""),
            program=printable(self.trtexec or ""),
            flags=_cleaned(self.flags),
            gpu=None if self.gpu is None else printable(self.gpu),
            build_peak_bytes=self.peak_bytes,
            build_peak_gpu_mib=self.build_peak_gpu_mib,
            warnings=_cleaned(self.warnings),
        )


def _cleaned(lines: tuple[str, ...] | None) -> tuple[str, ...]:
    """Lines that a device sent, as far as they are worth keeping."""
    return tuple(printable(each)[:MAX_LINE_CHARACTERS] for each in (lines or ())[:MAX_LINES])
