"""One fresh process: import, load, first inference, warm-up until stable, samples. Or only the outputs.

The task comes as one line on stdin; phases and the result go out as messages. The process ends itself when
its stdin ends, because then its session is gone.
"""

import contextlib
import errno
import faulthandler
import gc
import os
import resource
import sys
import threading
import time
import traceback
from array import array
from typing import Any, Callable, Iterator, List, Optional, Tuple

from . import conditions, npy, prctl, wire
from .foreign import ForeignLoad
from .memory import Ladder
from .runtimes.base import Adapter, adapter
from .wire import Json, Output, ProbeError

MAX_SAMPLES = 200000
BLOCK = 10
STABLE = 0.01
EXIT_ORPHAN = 3
WHERE_NOT_WHAT = ("Exception from ", "Check '")
NO_MEMORY_TEXTS = ("bad_alloc", "failed to allocate memory", "out of memory")


def main() -> None:
    """Do the task on stdin, report, and end without the runtime's own teardown (which may crash)."""
    output = wire.take_stdout()
    prctl.die_with_parent()
    _be_first_to_be_killed()
    _leave_no_core()
    faulthandler.enable()  # a crash in a runtime leaves the Python lines that led to it in the log
    task = _read_task()
    threading.Thread(target=_watch_stdin, name="stdin", daemon=True).start()
    message = _do(task, output)
    output.send(message)
    sys.stderr.flush()
    os._exit(0)


def _do(task: Json, output: Output) -> Json:
    tasks = {"launch": measure, "infer": infer, "build": build, "profile": profile, "versions": versions}
    try:
        return {"result": tasks[task["task"]](task, output)}
    except ProbeError as error:
        return {"error": error.to_json()}
    except Exception as error:  # noqa: BLE001 - the last door of this process: every failure becomes data
        return {"error": _blame("failed", error).to_json()}


# --- the tasks ---


def measure(task: Json, output: Output) -> Json:
    """The raw numbers of one launch, as docs/probe-protocol.md has them."""
    spec = task["spec"]
    runtime = adapter(spec)
    clock, enter = runtime.clock, _Phases(output, runtime)
    ladder = Ladder()
    result: Json = {"started_unix_s": time.time()}
    enter("import")
    result["import_ns"] = _timed(clock, lambda: _import(runtime, spec, result))
    ladder.step("runtime")
    inputs = _inputs(runtime, spec["samples"][0])
    if runtime.program:
        result.update(runtime.launched(inputs, enter))
        enter("done")
        return result
    enter("load")
    with blamed("model_load"):
        result["load_ns"] = _timed(clock, runtime.load)
        run = runtime.bind(inputs)
    ladder.step("model")
    with blamed("inference"):
        enter("first")
        result["first_inference_ns"] = _timed(clock, run)
        ladder.step("first_inference")
        result.update(_steady(run, runtime, enter, ladder))
        result["effective"] = runtime.effective()
    result["memory"] = ladder.to_json()
    enter("done")
    return result


def _steady(run: Callable[[], Any], runtime: Adapter, enter: Callable[[str], None], ladder: Ladder) -> Json:
    """Warm-up and samples, with the garbage collector off: its time is not the model's."""
    workload, clock = runtime.spec["workload"], runtime.clock
    gc.collect()
    gc.disable()
    try:
        enter("warmup")
        warmup, stable = warm_up(run, clock, workload)
        enter("samples")
        before = conditions.read(tools=False)
        ladder.before_samples()
        foreign = ForeignLoad()
        samples = take_samples(run, clock, workload)
        cores = foreign.cores()
        ladder.after_samples()
        after = conditions.read(tools=False)
    finally:
        gc.enable()
    return {
        "warmup_ns": [clock.to_ns(ticks) for ticks in warmup],
        "warmup_stable": stable,
        "samples_ns": [clock.to_ns(ticks) for ticks in samples],
        "before": before,
        "after": after,
        "foreign_load": cores,
    }


def warm_up(run: Callable[[], Any], clock: Any, workload: Json) -> Tuple["array[Any]", bool]:
    """(times, stable): at least `warmup_samples` and until the last two blocks of ten agree within 1 %.

    It ends after `max_warmup_s` in any case, then as not stable.
    """
    tick, times = clock.tick, array(clock.typecode)
    wanted, limit = max(workload["warmup_samples"], 2 * BLOCK), workload["max_warmup_s"] * clock.ticks_per_s
    begin = end = tick()
    while end - begin < limit and len(times) < MAX_SAMPLES:
        start = tick()
        run()
        end = tick()
        times.append(end - start)
        if len(times) >= wanted and len(times) % BLOCK == 0 and settled(times):
            return times, True
    return times, False


def settled(times: "array[Any]") -> bool:
    """True when the medians of the last two blocks of ten differ by less than 1 %."""
    last, previous = _median(times[-BLOCK:]), _median(times[-2 * BLOCK : -BLOCK])
    return abs(last - previous) < STABLE * previous


def _median(times: "array[Any]") -> float:
    ordered, half = sorted(times), len(times) // 2
    odd = len(ordered) % 2
    return float(ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2.0)


def take_samples(run: Callable[[], Any], clock: Any, workload: Json) -> "array[Any]":
    """Times until there are `min_samples` and `min_duration_s` is over; at most `max_duration_s` and 200,000.

    Between the two clock readings there is nothing but the call. Times go into a flat array: a list of
    integers would grow the process while its memory is being measured.
    """
    tick, times = clock.tick, array(clock.typecode)
    append, count = times.append, 0
    least = min(workload["min_samples"], MAX_SAMPLES)
    soft, hard = (
        workload["min_duration_s"] * clock.ticks_per_s,
        workload["max_duration_s"] * clock.ticks_per_s,
    )
    begin = tick()
    while True:
        start = tick()
        run()
        end = tick()
        append(end - start)
        count += 1
        spent = end - begin
        if (count >= least and spent >= soft) or spent >= hard or count >= MAX_SAMPLES:
            return times


def infer(task: Json, output: Output) -> Json:
    """The model's outputs on every sample, as files in the task's folder."""
    spec = task["spec"]
    result: Json = {}
    runtime = adapter(spec)
    enter = _Phases(output, runtime)
    _load(runtime, spec, result, enter)
    enter("first")
    result["samples"] = [
        _save(runtime, _inputs(runtime, sample), os.path.join(task["folder"], str(number)))
        for number, sample in enumerate(spec["samples"])
    ]
    with blamed("inference"):
        result["effective"] = runtime.effective()
    enter("done")
    return result


def _load(runtime: Adapter, spec: Json, result: Json, enter: Callable[[str], None]) -> None:
    """Import the runtime and load the model, where neither is timed."""
    enter("import")
    _import(runtime, spec, result)
    enter("load")
    with blamed("model_load"):
        runtime.load()


def _save(runtime: Adapter, inputs: Any, prefix: str) -> List[Json]:
    saved = []
    with blamed("inference"):
        for number, (name, value) in enumerate(runtime.outputs(inputs)):
            path = "%s-%d.npy" % (prefix, number)
            runtime.save(value, path)
            saved.append(dict(describe(path), name=name))
    return saved


def describe(path: str) -> Json:
    """dtype, shape, path and size_bytes of a `.npy` file, from its header."""
    head = npy.header(path)
    return {
        "dtype": head.dtype,
        "shape": head.shape,
        "path": path,
        "size_bytes": os.path.getsize(path),
    }


def profile(task: Json, output: Output) -> Json:
    """Where the time of an inference goes, layer by layer; nothing of it is a latency."""
    spec = task["spec"]
    runtime = adapter(spec)
    runtime.profiling = True
    enter = _Phases(output, runtime)
    result: Json = {"started_unix_s": time.time()}
    _load(runtime, spec, result, enter)
    inputs = _inputs(runtime, spec["samples"][0])
    enter("profile")
    with blamed("inference"):
        result["layers"] = runtime.profile(inputs, task["repeats"])
        result.update({"repeats": task["repeats"]}, **runtime.profiled)
        result["effective"] = runtime.effective()
    enter("done")
    return result


def build(task: Json, output: Output) -> Json:
    """What was told of building the artifact, whose result lies in the task's folder."""
    spec = task["spec"]
    result: Json = {}
    runtime = adapter(spec)
    enter = _Phases(output, runtime)
    enter("import")
    _import(runtime, spec, result)
    enter("build")

    def report(elapsed_s: float, line: str) -> None:
        output.send({"progress": {"elapsed_s": elapsed_s, "line": line}})

    result.update(runtime.build(task["folder"], task["timing_cache"], report))
    enter("done")
    return result


def versions(task: Json, _output: Output) -> Json:
    """{runtime: version}, found by importing it."""
    spec = task["spec"]
    result: Json = {}
    _import(adapter(spec), spec, result)
    return {spec["runtime"]: result["runtime_version"]}


# --- parts of the tasks ---


class _Phases:
    def __init__(self, output: Output, runtime: Adapter) -> None:
        self._output = output
        self._runtime = runtime

    def __call__(self, name: str) -> None:
        self._output.send({"phase": name})
        self._runtime.enter(name)


def _timed(clock: Any, work: Callable[[], Any]) -> int:
    start = clock.tick()
    work()
    return int(clock.to_ns(clock.tick() - start))


def _import(runtime: Adapter, spec: Json, result: Json) -> None:
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


def _inputs(runtime: Adapter, sample: List[Json]) -> Any:
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
        raise _blame(kind, error) from error


def _blame(kind: str, error: BaseException) -> ProbeError:
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


# --- the process ---


def _read_task() -> Json:
    reader = wire.LineReader()
    while True:
        chunk = os.read(0, 65536)
        if not chunk:
            os._exit(EXIT_ORPHAN)
        for line in reader.feed(chunk):
            return wire.parse(line or b"")


def _watch_stdin() -> None:
    try:
        while os.read(0, 4096):
            pass
    finally:
        os._exit(EXIT_ORPHAN)


def _be_first_to_be_killed() -> None:
    """When memory runs out the kernel shall end this process, not the session or the device's SSH server."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def _leave_no_core() -> None:
    """A crash shall not fill the device's disk."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (OSError, ValueError):
        pass
