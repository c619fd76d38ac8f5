"""One fresh process: import, load, first inference, warm-up until stable, samples. Or only the outputs.

The task comes as one line on stdin; phases and the result go out as messages. The process ends itself when
its stdin ends, because then its session is gone.
"""

import faulthandler
import os
import resource
import sys
import threading
import time
from typing import Any, Callable, List

from . import npy, prctl, wire
from .loading import Phases, blame, blamed, import_runtime, read_inputs, timed
from .memory import Ladder
from .runtimes.base import Adapter, adapter
from .timing import steady, take_samples, warm_up
from .wire import Json, Output, ProbeError

EXIT_ORPHAN = 3


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
    tasks = {
        "launch": measure,
        "duet": duet,
        "infer": infer,
        "build": build,
        "profile": profile,
        "versions": versions,
    }
    try:
        return {"result": tasks[task["task"]](task, output)}
    except ProbeError as error:
        return {"error": error.to_json()}
    except Exception as error:  # noqa: BLE001 - the last door of this process: every failure becomes data
        return {"error": blame("failed", error).to_json()}


# --- the tasks ---


def measure(task: Json, output: Output) -> Json:
    """The raw numbers of one launch, as docs/probe-protocol.md has them."""
    spec = task["spec"]
    runtime = adapter(spec)
    clock, enter = runtime.clock, Phases(output, runtime)
    ladder = Ladder()
    result: Json = {"started_unix_s": time.time()}
    enter("import")
    result["import_ns"] = timed(clock, lambda: import_runtime(runtime, spec, result))
    ladder.step("runtime")
    inputs = read_inputs(runtime, spec["samples"][0])
    if runtime.program:
        result.update(runtime.launched(inputs, enter))
        enter("done")
        return result
    enter("load")
    with blamed("model_load"):
        result["load_ns"] = timed(clock, runtime.load)
        run = runtime.bind(inputs)
    ladder.step("model")
    with blamed("inference"):
        enter("first")
        result["first_inference_ns"] = timed(clock, run)
        ladder.step("first_inference")
        result.update(_steady(run, runtime, enter, ladder))
        result["effective"] = runtime.effective()
    result["memory"] = ladder.to_json()
    enter("done")
    return result


def _steady(run: Callable[[], Any], runtime: Adapter, enter: Callable[[str], None], ladder: Ladder) -> Json:
    workload, clock = runtime.spec["workload"], runtime.clock
    return steady(
        lambda: warm_up(run, clock, workload),
        lambda: {"samples_ns": take_samples(run, clock, workload)},
        clock,
        enter,
        ladder,
    )


def duet(task: Json, output: Output) -> Json:
    """The raw numbers of a launch of two models, turn by turn."""
    from .duet import measure_both  # a launch of one does not wait for it

    return measure_both(task, output)


def infer(task: Json, output: Output) -> Json:
    """The model's outputs on every sample, as files in the task's folder."""
    spec = task["spec"]
    result: Json = {}
    runtime = adapter(spec)
    enter = Phases(output, runtime)
    _load(runtime, spec, result, enter)
    enter("first")
    result["samples"] = [
        _save(runtime, read_inputs(runtime, sample), os.path.join(task["folder"], str(number)))
        for number, sample in enumerate(spec["samples"])
    ]
    with blamed("inference"):
        result["effective"] = runtime.effective()
    enter("done")
    return result


def _load(runtime: Adapter, spec: Json, result: Json, enter: Callable[[str], None]) -> None:
    """Import the runtime and load the model, where neither is timed."""
    enter("import")
    import_runtime(runtime, spec, result)
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
    enter = Phases(output, runtime)
    result: Json = {"started_unix_s": time.time()}
    _load(runtime, spec, result, enter)
    inputs = read_inputs(runtime, spec["samples"][0])
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
    enter = Phases(output, runtime)
    enter("import")
    import_runtime(runtime, spec, result)
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
    import_runtime(adapter(spec), spec, result)
    return {spec["runtime"]: result["runtime_version"]}


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
