"""TensorRT through trtexec: builds the engine, times it, computes outputs, times layers. One process each."""

import math
import os
import re
import shutil
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from .. import check, conditions, exports, npy, program, trtexec
from ..child import out_of_memory_kills
from ..foreign import ForeignLoad
from ..npy import Array
from ..program import Ended, Progress, Run
from ..store import free_bytes
from ..wire import Json, ProbeError
from .base import Adapter

VERSION_TIMEOUT_S = 120.0  # the first start of a large library from a slow card
FULL_BYTES = 64 << 10  # trtexec does not say why it cannot write a file
WARMUP_BLOCK = 10
STABLE = 0.01
MAX_EXPORT_BYTES = 1 << 30
PATHS = re.compile(r"\{(model|engine|timing_cache|times|outputs|profile|layers|input\d+)\}")


class TensorRt(Adapter):
    """entry: model (.onnx) and plan (plan.json). options: tensorrt_version, compute_capability, precision.

    The spec's `engine` is what `build` made of it. Nothing of this is imported: trtexec is a program, and its
    own process is the launch.
    """

    known_options = {"tensorrt_version": (), "compute_capability": (), "precision": ()}
    program = True

    def __init__(self, spec: Json) -> None:
        Adapter.__init__(self, spec)
        self.plan: Json = trtexec.read_plan(self.entry("plan")) if "plan" in spec["entry"] else {}
        self._told: Dict[str, str] = {}
        self._python: Any = None
        self._asked_python = False

    def import_runtime(self) -> str:
        """The version of this device's trtexec; ProbeError `wrong_version` where the plan is for another."""
        self._trtexec = trtexec.find()
        version = trtexec.banner_version(program.output_of([self._trtexec, "--help"], VERSION_TIMEOUT_S))
        if version is None:
            raise ProbeError("tool_missing", "%s --help does not tell its version" % self._trtexec)
        if self.plan and version != self.plan["tensorrt"]:
            raise ProbeError(
                "wrong_version",
                "the device has TensorRT %s (%s), and the plan is for %s"
                % (version, self._trtexec, self.plan["tensorrt"]),
            )
        self._version = version
        return version

    # --- building ---

    def build(
        self, folder: str, timing_cache: Optional[str], on_progress: Callable[[float, str], None]
    ) -> Json:
        """Write `engine.plan` and `timing.cache` into an empty folder; what trtexec told of it."""
        from ..engines import ENGINE, TIMING

        places = {"model": self.entry("model"), "engine": ENGINE, "timing_cache": TIMING}
        if timing_cache is not None:
            shutil.copyfile(timing_cache, os.path.join(folder, TIMING))
        progress = Progress(on_progress)
        started = time.monotonic()
        ended, argv = self._run("build", places, folder, self._watching(progress), progress.beat)
        spent_s = time.monotonic() - started
        engine = os.path.join(folder, ENGINE)
        if not os.path.isfile(engine) or not os.path.getsize(engine):
            raise ProbeError("model_load", "trtexec passed, and wrote no engine", "\n".join(ended.log.tail))
        log = ended.log
        return {
            "build_s": log.figures.get("build_s"),
            "process_s": round(spent_s, 3),
            "trtexec": self._trtexec,
            "tensorrt": self._version,
            "flags": self._flags("build", argv),
            "gpu": log.texts.get("device"),
            "compute_capability": log.texts.get("compute_capability"),
            "engine_mib": log.figures.get("engine_mib"),
            "build_peak_gpu_mib": log.figures.get("build_peak_gpu_mib"),
            "peak_bytes": self._watch.peak,
            "available_drop_bytes": self._watch.drop(),
            "warnings": log.warnings[:50],
        }

    def _watching(self, progress: Progress) -> Callable[[str, Run], None]:
        def take(line: str, run: Run) -> None:
            found = run.log.texts.get("compute_capability")
            if found is not None and found != self.plan["compute_capability"]:
                raise ProbeError(
                    "wrong_version",
                    "the device's GPU has compute capability %s, and the plan is for %s"
                    % (found, self.plan["compute_capability"]),
                )
            progress.line(line)

        return take

    # --- one launch ---

    def load(self) -> None:
        """Nothing: each process of trtexec loads the engine itself."""
        self._engine()

    def launched(self, inputs: Any, enter: Callable[[str], None]) -> Json:
        """The raw numbers of a launch: what one fresh trtexec exports and says."""
        folder = _scratch("measure")
        try:
            return self._launched(inputs, enter, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _launched(self, inputs: Any, enter: Callable[[str], None], folder: str) -> Json:
        workload = self.spec["workload"]
        warmup_ms = self._warmup_ms(workload)
        places = dict(
            self._fed(inputs, folder),
            times="times.json",
            warmup_ms=warmup_ms,
            duration_s=max(1, math.ceil(workload["min_duration_s"])),
            iterations=workload["min_samples"],
        )
        phases = _LaunchPhases(enter, warmup_ms / 1000.0, workload["max_duration_s"])
        foreign = ForeignLoad()
        ended, argv = self._run("measure", places, folder, phases.line, phases.tick)
        if ended.stopped:  # so many would take too long: as many as `max_duration_s` has room for
            places.update(iterations=1, duration_s=max(1, int(workload["max_duration_s"])))
            phases = _LaunchPhases(enter, warmup_ms / 1000.0, None)
            ended, argv = self._run("measure", places, folder, phases.line, phases.tick)
        cores = foreign.cores()
        after = conditions.read()
        times = self._times(os.path.join(folder, "times.json"), warmup_ms)
        return {
            "import_ns": None,
            "load_ns": phases.load_ns,
            "first_inference_ns": times.warmup_ns[0] if times.warmup_ns else None,
            "warmup_ns": times.warmup_ns,
            "warmup_stable": _settled(times),
            "samples_ns": times.samples_ns,
            "memory": self._memory(phases, ended),
            "before": phases.before,
            "after": after,
            "foreign_load": cores,
            "effective": self._effective(ended, argv),
        }

    def _warmup_ms(self, workload: Json) -> int:
        try:
            planned = int(self.plan["defaults"]["warmup_ms"])
        except (KeyError, TypeError, ValueError):
            raise check.bad('plan.json has no default "warmup_ms"') from None
        return min(planned, int(workload["max_warmup_s"] * 1000))

    def _times(self, path: str, warmup_ms: int) -> exports.Times:
        held = float(warmup_ms) if self.plan["times_hold_warmup"] else None
        try:
            return exports.parse_times(_text(path), self.plan["times_field"], held)
        except (OSError, ValueError) as error:
            raise ProbeError("inference", "trtexec passed, but exported no times: %s" % error) from None

    def _memory(self, phases: "_LaunchPhases", ended: Ended) -> Json:
        peaks = [each for each in (phases.peak_before, self._watch.peak) if each is not None]
        return {
            "method": program.METHOD + (", high-water mark reset by clear_refs 5" if phases.reset else ""),
            "model_bytes": phases.resident,
            "steady_peak_bytes": self._watch.peak if phases.reset else None,
            "peak_bytes": max(peaks) if peaks else None,
            "available_drop_bytes": self._watch.drop(),
            "engine_bytes": ended.log.engine_bytes(),
        }

    def _effective(self, ended: Ended, argv: List[str]) -> Dict[str, str]:
        log = ended.log
        told = {
            "precision": self.plan["precision"],
            "trtexec": self._trtexec,
            "flags": " ".join(self._flags("measure", argv)),
            "gpu": log.texts.get("device"),
            "compute_capability": log.texts.get("compute_capability"),
            "clock_ghz": _shown(log.figures.get("clock_ghz")),
            "deserialize_s": _shown(log.figures.get("load_s")),
            "warning": log.unstable(),
        }
        return {name: value for name, value in told.items() if value is not None}

    # --- outputs ---

    def read_sample(self, files: Any) -> Any:
        """The files themselves: trtexec reads them, in another form."""
        return {each["name"]: each["path"] for each in files}

    def outputs(self, inputs: Any) -> List[Tuple[str, Any]]:
        """Named arrays of one inference: a process of its own, unless the Python package computes them."""
        arrays = self._arrays(inputs)
        self._choose()
        found = self._python.run(arrays) if self._python is not None else self._computed(arrays)
        return [(name, found[self.blob(name)]) for name in self.spec["outputs"]]

    def _choose(self) -> None:
        """Who computes outputs: TensorRT's own Python package where it works, else trtexec."""
        from . import tensorrt_python

        if self._asked_python:
            return
        self._asked_python = True
        self._python, why = tensorrt_python.opened(self._engine(), self.plan)
        by = "trtexec --exportOutput, 6 digits: %s" % why
        self._told["outputs_by"] = by if self._python is None else "TensorRT's Python package, exact bytes"

    def _computed(self, arrays: List[Array]) -> Dict[str, Array]:
        folder = _scratch("infer")
        try:
            places = dict(_raw_files(arrays, folder), outputs="outputs.json")
            self._run("infer", places, folder)
            with open(os.path.join(folder, "outputs.json"), "rb") as file:
                content = file.read(MAX_EXPORT_BYTES)
            return exports.parse_outputs(content, self.plan["outputs"])
        except (FileNotFoundError, ValueError) as error:
            raise ProbeError("inference", "the outputs of trtexec cannot be read: %s" % error) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def save(self, output: Any, path: str) -> None:
        """Write one array, without numpy."""
        npy.write(path, output)

    def effective(self) -> Dict[str, str]:
        """Who computed outputs, and the GPU memory that the Python package saw the engine take."""
        return dict(self._told, **(self._python.figures() if self._python is not None else {}))

    # --- layers ---

    def profile(self, inputs: Any, repeats: int) -> List[Dict[str, Any]]:
        """Each layer's mean time, kind and ONNX nodes, in a process of its own: it slows the whole."""
        folder = _scratch("profile")
        try:
            places = dict(
                self._fed(inputs, folder),
                profile="profile.json",
                layers="layers.json",
                warmup_ms=self._warmup_ms(self.spec["workload"]),
                duration_s=0,
                iterations=repeats,
            )
            self._run("profile", places, folder)
            timed = exports.parse_profile(_text(os.path.join(folder, "profile.json")))
            described = self._layers(os.path.join(folder, "layers.json"))
        except (FileNotFoundError, ValueError) as error:
            raise ProbeError("inference", "trtexec's profile cannot be read: %s" % error) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.profiled = {
            "method": "trtexec's layer profile, mean of its runs",
            "estimated": False,
            "total_ns": None,  # the profiled run's own total is exported nowhere
            "repeats": timed.runs or repeats,
        }
        known = self.plan.get("nodes") or []
        return [_told_layer(layer, described.get(layer.name), known) for layer in timed.layers]

    def _layers(self, path: str) -> Dict[str, exports.Kind]:
        if not os.path.isfile(path):  # 8.0 has no such export
            return {}
        return exports.parse_layers(_text(path), self.plan.get("nodes") or [])

    # --- parts ---

    def _engine(self) -> str:
        engine = self.spec.get("engine")
        if not engine:
            raise check.bad("the spec names no engine: ask for build first")
        return str(engine)

    def _run(
        self,
        what: str,
        places: Dict[str, Any],
        folder: str,
        on_line: Optional[Callable[[str, Run], None]] = None,
        on_tick: Optional[Callable[[Run], None]] = None,
    ) -> Tuple[Ended, List[str]]:
        """One trtexec with the plan's arguments; ProbeError where it fails."""
        if what != "build":
            places = dict(places, engine=self._engine())
        argv = [self._trtexec] + trtexec.filled(self.plan[what], places)
        kills = out_of_memory_kills()
        run = Run(argv, folder, on_line, on_tick)
        self._watch = run.watch
        ended = run.wait()
        if not ended.stopped:
            kind = "model_load" if what == "build" else "inference"
            kind = "no_space" if free_bytes(folder) < FULL_BYTES else kind
            program.demand(ended, kind, self.plan["success_line"], argv, kills)
        return ended, argv

    def _flags(self, what: str, argv: List[str]) -> List[str]:
        """The arguments that say how, not where."""
        asked = zip(self.plan[what], argv[1:])
        return [given for plain, given in asked if not PATHS.search(plain)]

    def _fed(self, inputs: Any, folder: str) -> Dict[str, str]:
        return _raw_files(self._arrays(inputs), folder)

    def _arrays(self, inputs: Any) -> List[Array]:
        """The inputs in the types of the engine's bindings, in the plan's order."""
        arrays = []
        for binding in self.plan["inputs"]:
            if binding["name"] not in inputs:
                raise check.bad('the sample has no input "%s"' % binding["name"])
            try:
                value = npy.read(inputs[binding["name"]])
                arrays.append(npy.converted(value, binding["binding_dtype"]))
            except (OSError, ValueError) as error:
                raise ProbeError("inference", 'input "%s": %s' % (binding["name"], error)) from None
        return arrays


class _LaunchPhases:
    """What a launch's lines tell: the engine is loaded, the warm-up begins. Sizes are read at that moment.

    The samples begin when the warm-up's time is over; a run that ends sooner than that is seen has no such
    phase.
    """

    def __init__(self, enter: Callable[[str], None], warmup_s: float, limit_s: Optional[float]) -> None:
        self._enter = enter
        self._warmup_s = warmup_s
        self._limit_s = limit_s
        self._samples_at: Optional[float] = None
        self.before = conditions.read()
        self.load_ns: Optional[int] = None
        self.resident: Optional[int] = None
        self.peak_before: Optional[int] = None
        self.reset = False
        enter("load")
        self._started = time.perf_counter()

    def line(self, line: str, run: Run) -> None:
        """Note when inference starts."""
        if self.load_ns is not None or trtexec.STARTING not in line:
            return
        self.load_ns = int((time.perf_counter() - self._started) * 1e9)
        self._enter("warmup")
        self.resident, self.peak_before = run.watch.resident, run.watch.peak
        self.reset = run.watch.reset(run.pid)
        self.before = conditions.read()
        self._samples_at = time.monotonic() + self._warmup_s
        if self._limit_s is not None:
            run.limit = self._samples_at + self._limit_s

    def tick(self, _run: Run) -> None:
        """Enter the samples' phase when its time has come."""
        if self._samples_at is not None and time.monotonic() >= self._samples_at:
            self._samples_at = None
            self._enter("samples")


def _settled(times: exports.Times) -> bool:
    """True when the samples' first two blocks of ten differ by less than 1 %: the warm-up was long enough."""
    first, second = times.samples_ns[:WARMUP_BLOCK], times.samples_ns[WARMUP_BLOCK : 2 * WARMUP_BLOCK]
    if len(second) < WARMUP_BLOCK:
        return False
    one, other = sorted(first)[WARMUP_BLOCK // 2], sorted(second)[WARMUP_BLOCK // 2]
    return abs(one - other) < STABLE * one


def _told_layer(layer: exports.Layer, kind: Optional[exports.Kind], known: List[str]) -> Dict[str, Any]:
    kind = kind or exports.Kind("unknown", exports.nodes_of(layer.name, "", known))
    return {
        "name": layer.name,
        "kind": kind.kind,
        "mean_ns": layer.mean_ns,
        "unit": "GPU",
        "nodes": kind.nodes,
    }


def _raw_files(arrays: List[Array], folder: str) -> Dict[str, str]:
    """{placeholder: file name} of the raw bytes of each input; names without commas and colons."""
    names = {}
    for number, value in enumerate(arrays):
        names["input%d" % number] = "input%d.bin" % number
        with open(os.path.join(folder, names["input%d" % number]), "wb") as file:
            file.write(value.data)
    return names


def _scratch(name: str) -> str:
    """An empty folder in the session's run folder, where this process was started."""
    path = os.path.join(os.getcwd(), "trtexec-" + name)
    shutil.rmtree(path, ignore_errors=True)
    os.mkdir(path, 0o700)
    return path


def _text(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(MAX_EXPORT_BYTES).decode("utf-8", "replace")


def _shown(value: Optional[float]) -> Optional[str]:
    return None if value is None else "%g" % value
