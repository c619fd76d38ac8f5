"""What every task of a launch's process begins with: phases, imports, inputs, and whom to blame."""

import contextlib
import errno
import os
import sys
import traceback
from typing import Any, Callable, Iterator, List, Optional

from . import wire
from .runtimes.base import Adapter
from .wire import Json, Output, ProbeError

WHERE_NOT_WHAT = ("Exception from ", "Check '")
NO_MEMORY_TEXTS = ("bad_alloc", "failed to allocate memory", "out of memory")


class Phases:
    """Called with the name of each phase that begins: the session hears of it, and the runtime."""

    def __init__(self, output: Output, runtime: Adapter) -> None:
        self._output = output
        self._runtime = runtime

    def __call__(self, name: str) -> None:
        self._output.send({"phase": name})
        self._runtime.enter(name)


def timed(clock: Any, work: Callable[[], Any]) -> int:
    """How long `work` took, ns."""
    start = clock.tick()
    work()
    return int(clock.to_ns(clock.tick() - start))


def import_runtime(runtime: Adapter, spec: Json, result: Json) -> None:
    """Import the runtime, from its bundle where it has one; `result` gets its version."""
    if spec["bundle"] is not None:
        sys.path.insert(0, spec["bundle"])
    try:
        with blamed("runtime_missing"):
            result["runtime_version"] = str(runtime.import_runtime())
    except ProbeError as error:
        if error.kind == "runtime_missing" and _runs_no_code(spec["bundle"]):
            where = os.path.dirname(spec["bundle"])
            raise ProbeError(
                "noexec", "%s lies on a file system mounted noexec: no library loads" % where
            ) from error
        if error.kind == "runtime_missing":
            where = "the bundle pushed for it" if spec["bundle"] else "this device's Python"
            error.message = "%s cannot be imported from %s: %s" % (spec["runtime"], where, error.message)
        raise


def _runs_no_code(folder: Optional[str]) -> bool:
    """Whether nothing in the folder may be mapped as code."""
    flag = getattr(os, "ST_NOEXEC", 0)  # Linux only
    return folder is not None and bool(os.statvfs(folder).f_flag & flag)


def read_inputs(runtime: Adapter, sample: List[Json]) -> Any:
    """The inputs of one sample, as the runtime takes them."""
    with blamed("inference"):
        return runtime.read_sample(sample)


@contextlib.contextmanager
def blamed(kind: str) -> Iterator[None]:
    """What fails inside becomes a ProbeError of that kind; running out of memory or disk keeps its own."""
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything
        raise blame(kind, error) from error


def blame(kind: str, error: BaseException) -> ProbeError:
    """A failure as a ProbeError of that kind, or of the kind that its reason has of its own."""
    lines = _telling(str(error)) or [type(error).__name__]
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in NO_MEMORY_TEXTS):
        kind = "out_of_memory"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        kind = "no_space"
    return ProbeError(kind, "%s: %s" % (type(error).__name__, lines[0][:1000]), _detail(kind, error))


def _detail(kind: str, error: BaseException) -> str:
    """What the runtime itself said of a model; of everything else, where it happened."""
    if kind in ("model_load", "inference"):
        return str(error)[: wire.TAIL_BYTES]
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))[-wire.TAIL_BYTES :]


def _telling(text: str) -> List[str]:
    """The lines of an error, without those that say where in a runtime's source it came from."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith(WHERE_NOT_WHAT)] or lines
