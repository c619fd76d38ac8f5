"""Resident memory of this process, from /proc/self/status. Never `ru_maxrss`: a fork inherits it."""

import re
from typing import Dict, Optional, Tuple

from . import jetson
from .tree import Tree
from .wire import Json

Sizes = Tuple[Optional[int], Optional[int]]  # resident, high-water mark
STATUS = "/proc/self/status"
CLEAR_REFS = "/proc/self/clear_refs"
_LINE = re.compile(r"^(VmRSS|VmHWM):\s+(\d+) kB$", re.MULTILINE)

METHOD = "VmRSS and VmHWM of /proc/self/status"
METHOD_RESET = METHOD + ", high-water mark reset by clear_refs 5"
METHOD_NO_RESET = METHOD + ", high-water mark not resettable"
METHOD_NONE = "none: no /proc/self/status"


def parse(status: str) -> Sizes:
    """(VmRSS, VmHWM) in bytes out of the text of /proc/PID/status; None for a missing line."""
    found = {key: int(kilobytes) * 1024 for key, kilobytes in _LINE.findall(status)}
    return found.get("VmRSS"), found.get("VmHWM")


def read() -> Sizes:
    """(resident, high-water mark) of this process in bytes; None where unknown."""
    try:
        with open(STATUS) as file:
            return parse(file.read())
    except (OSError, ValueError):
        return None, None


def reset_peak() -> bool:
    """True when the kernel set the high-water mark back to the present size."""
    try:
        with open(CLEAR_REFS, "w") as file:
            file.write("5")
    except (OSError, ValueError):
        return False
    return True


def added(before: Optional[int], after: Optional[int]) -> Optional[int]:
    """What came on top between two readings; None where unknown, and where others gave something back."""
    return after - before if before is not None and after is not None and after >= before else None


class Ladder:
    """The memory steps of one launch; `to_json` has the fields of the record MemoryLadder."""

    def __init__(self) -> None:
        self._steps: Dict[str, Optional[int]] = {}
        self._peak: Optional[int] = None
        self._reset = False
        self._gpu: Dict[str, Optional[int]] = {}
        self.step("start")

    def step(self, name: str) -> None:
        """Note the resident size as `<name>_bytes`."""
        resident, mark = read()
        self._steps[name + "_bytes"] = resident
        self._gpu[name] = jetson.gpu_memory_used(Tree())
        self._raise_peak(mark)

    def before_samples(self) -> None:
        """Keep the high-water mark so far and reset it, so that the next is that of the timed part alone."""
        self._raise_peak(read()[1])
        self._reset = reset_peak()

    def after_samples(self) -> None:
        """Note the high-water mark of the timed part; unknown where it could not be reset."""
        mark = read()[1]
        self._raise_peak(mark)
        self._steps["steady_peak_bytes"] = mark if self._reset else None

    def to_json(self) -> Json:
        """The fields of MemoryLadder; None is unknown."""
        known = METHOD_RESET if self._reset else METHOD_NO_RESET
        names = ("start", "runtime", "model", "first_inference", "steady_peak")
        plain: Json = {name + "_bytes": self._steps.get(name + "_bytes") for name in names}
        plain.update(method=METHOD_NONE if self._peak is None else known, peak_bytes=self._peak)
        plain["gpu_model_bytes"] = added(self._gpu.get("runtime"), self._gpu.get("model"))
        plain["gpu_bytes"] = added(self._gpu.get("start"), self._gpu.get("first_inference"))
        return plain

    def _raise_peak(self, mark: Optional[int]) -> None:
        if mark is not None and (self._peak is None or mark > self._peak):
            self._peak = mark
