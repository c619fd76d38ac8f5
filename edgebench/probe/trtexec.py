"""trtexec: where it lies, its version, what its log says, the plan that the controller made for it.

Formats: NVIDIA/TensorRT, samples/common (sampleOptions, sampleReporting, logging) at 8.0 to 11.
"""

import glob
import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from . import check
from .wire import Json, ProbeError

VARIABLE = "EDGEBENCH_TRTEXEC"
PLACES = (
    "/usr/src/tensorrt/bin/trtexec",  # JetPack and NVIDIA's Debian packages (libnvinfer-bin)
    "/opt/tensorrt/bin/trtexec",  # NVIDIA's containers
    "/workspace/tensorrt/bin/trtexec",
    "/usr/local/tensorrt/bin/trtexec",  # unpacked archives
    "/usr/local/TensorRT/bin/trtexec",
    "/usr/local/bin/trtexec",
    "/usr/bin/trtexec",  # OE4T's images
)
PASSED = "&&&& PASSED"
STARTING = "Starting inference"  # the engine is loaded, the warm-up begins
MAX_LINES = 200  # of errors and of warnings
MAX_LINE_CHARACTERS = 2000
TAIL_LINES = 40
MAX_PLAN_BYTES = 64 << 20
MIB = 1 << 20

BANNER = re.compile(r"^&&&& (RUNNING|PASSED|FAILED|WAIVED) TensorRT\.trtexec \[TensorRT v(\d{4,6})\]")
LINE = re.compile(r"^\[[^\]\n]{1,40}\] \[([VIWEF])\] (.*)$")
UNKNOWN_OPTION = re.compile(r"Unknown option: (\S+)")
STALE = re.compile(
    r"[Ss]erialization (assertion|error)|Engine deserialization failed|Version tag does not match"
)
UNSTABLE = re.compile(r"GPU compute time is unstable")
NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|cudaErrorMemoryAllocation|Cuda failure: 2\b|Could not allocate|bad_alloc",
    re.IGNORECASE,
)
_NUMBER = r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
FIGURES = {
    "build_s": re.compile(r"Engine built in %s sec" % _NUMBER),
    "load_s": re.compile(r"Engine (?:loaded|deserialized) in %s sec" % _NUMBER),
    "clock_ghz": re.compile(r"Compute Clock Rate: %s GHz" % _NUMBER),
    "engine_mib": re.compile(r"Created engine with size: %s MiB" % _NUMBER),
    "context_mib": re.compile(r"Created execution context with device memory size: %s MiB" % _NUMBER),
    "allocated_mib": re.compile(
        r"TensorRT-managed allocation in IExecutionContext creation: .*now: CPU \d+, GPU (\d+) \(MiB\)"
    ),
    "build_peak_gpu_mib": re.compile(r"Peak memory usage of TRT CPU/GPU memory allocators: .*GPU (\d+) MiB"),
}
TEXTS = {
    "device": re.compile(r"Selected Device: (.{1,200})"),
    "compute_capability": re.compile(r"Compute Capability: (\d{1,2}\.\d)\b"),
}

Banner = NamedTuple("Banner", [("state", str), ("version", str)])
PLAN_FIELDS = {
    "tensorrt": str,
    "compute_capability": str,
    "precision": str,
    "model_digest": str,
    "build": list,
    "infer": list,
    "measure": list,
    "profile": list,
    "inputs": list,
    "outputs": list,
    "cache_key": dict,
    "defaults": dict,
    "success_line": str,
    "times_field": str,
    "times_hold_warmup": bool,
}


# --- where it is -----------------------------------------------------------------------------------


def find() -> str:
    """The path of this device's trtexec; ProbeError `tool_missing` says where it was looked for."""
    named = os.environ.get(VARIABLE)
    if named:
        if not _is_program(named):
            raise ProbeError("tool_missing", "%s names %s, which is no program" % (VARIABLE, named))
        return named
    onpath = [os.path.join(folder, "trtexec") for folder in os.environ.get("PATH", "").split(os.pathsep)]
    for place in PLACES + tuple(onpath):
        if os.path.isabs(place) and _is_program(place):
            return place
    raise ProbeError(
        "tool_missing",
        "trtexec was not found at %s, nor at %s nor on PATH: install libnvinfer-bin, or let %s name it"
        % (PLACES[0], ", ".join(PLACES[1:]), VARIABLE),
    )


def environment(path: str) -> Dict[str, str]:
    """What a trtexec is started with: an unpacked archive's own libraries lie beside its `bin`."""
    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(path))), "lib")
    if not glob.glob(os.path.join(glob.escape(beside), "libnvinfer.so*")):
        return dict(os.environ)
    known = os.environ.get("LD_LIBRARY_PATH")
    return dict(os.environ, LD_LIBRARY_PATH=os.pathsep.join(filter(None, (beside, known))))


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


# --- versions --------------------------------------------------------------------------------------


def parse_banner(line: str) -> Optional[Banner]:
    """The state and version of a `&&&&` line, or None: v8201 is 8.2.1, v100300 is 10.3.0."""
    found = BANNER.match(line)
    return Banner(found.group(1), version_text(int(found.group(2)))) if found else None


def version_text(number: int) -> str:
    """ "8.2.1" for 8201, "10.3.0" for 100300."""
    major = 1000 if number < 10000 else 10000
    return "%d.%d.%d" % (number // major, number % major // 100, number % 100)


def banner_version(text: str) -> Optional[str]:
    """The version that the first banner in a program's output names."""
    for line in text.splitlines():
        banner = parse_banner(line)
        if banner:
            return banner.version
    return None


# --- its log ---------------------------------------------------------------------------------------


class Log:
    """What a run of trtexec said, line by line: banner, errors and warnings verbatim, figures."""

    def __init__(self) -> None:
        self.version: Optional[str] = None
        self.state: Optional[str] = None
        self.errors: List[str] = []
        self.warnings: List[str] = []
        self.figures: Dict[str, float] = {}
        self.texts: Dict[str, str] = {}
        self.banners: List[str] = []
        self.tail: List[str] = []

    def read(self, text: str) -> "Log":
        """The same log, after all lines of a text."""
        for line in text.splitlines():
            self.take(line)
        return self

    def take(self, line: str) -> None:
        """Note one line."""
        line = line.rstrip()[:MAX_LINE_CHARACTERS]
        self.tail = (self.tail + [line])[-TAIL_LINES:]
        if line.startswith("&&&& "):
            self.banners = self.banners[: MAX_LINES - 1] + [line]
        banner = parse_banner(line)
        if banner:
            self.state, self.version = banner.state, banner.version
            return
        told = LINE.match(line)
        if told is None:
            return
        level, text = told.groups()
        if level in "EF":
            self.errors = self.errors[: MAX_LINES - 1] + [line]
        elif level == "W":
            self.warnings = self.warnings[: MAX_LINES - 1] + [line]
        else:
            self._figure(text)

    def _figure(self, text: str) -> None:
        for name, pattern in FIGURES.items():
            found = pattern.search(text)
            if found:
                self.figures[name] = float(found.group(1))
        for name, pattern in TEXTS.items():
            found = pattern.match(text)
            if found:
                self.texts.setdefault(name, found.group(1).strip())

    def unstable(self) -> Optional[str]:
        """The warning that the GPU's compute time was unstable, verbatim."""
        return next((line for line in self.warnings if UNSTABLE.search(line)), None)

    def engine_bytes(self) -> Optional[int]:
        """GPU memory that the loaded engine says it takes: weights and context."""
        if "allocated_mib" in self.figures:
            return int(self.figures["allocated_mib"] * MIB)
        if "engine_mib" in self.figures and "context_mib" in self.figures:
            return int((self.figures["engine_mib"] + self.figures["context_mib"]) * MIB)
        return None

    def first_error(self) -> str:
        """The first error as its own words, without time and level; "" where there is none."""
        if not self.errors:
            return ""
        found = LINE.match(self.errors[0])
        return (found.group(2) if found else self.errors[0]).strip()


def failure(kind: str, status: int, log: Log, success_line: str, command: Sequence[str]) -> ProbeError:
    """The error of a run that did not end well: the first [E] line in its message, all in its detail."""
    unknown = UNKNOWN_OPTION.search("\n".join(log.errors))
    if unknown:
        kind, text = "bad_request", "trtexec %s does not know the option %s" % (log.version, unknown.group(1))
    elif NO_MEMORY.search("\n".join(log.errors)):
        kind, text = "out_of_memory", "trtexec ran out of memory: %s" % log.first_error()
    elif STALE.search("\n".join(log.errors)):
        kind, text = "corrupt", "the kept engine does not load any more: trtexec: %s" % log.first_error()
    elif kind == "no_space":
        text = "the device's disk is full: trtexec: %s" % (log.first_error() or "no error named")
    elif log.errors:
        text = "trtexec: %s" % log.first_error()
    elif status == 0:
        text = 'trtexec ended with status 0, but without "%s"' % success_line
    else:
        text = "trtexec ended with status %d and named no error" % status
    lines = ["$ " + " ".join(command)] + (log.errors or log.tail)
    return ProbeError(kind, text[:1000], "\n".join(lines))


# --- the controller's plan -------------------------------------------------------------------------


def read_plan(path: str) -> Json:
    """The plan of an artifact; ProbeError `bad_request` where it is none that this probe can carry out."""
    try:
        with open(path, "rb") as file:
            plan = json.loads(file.read(MAX_PLAN_BYTES).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise check.bad("plan.json is no JSON: %s" % error) from None
    if not isinstance(plan, dict) or plan.get("schema_version") != 1:
        raise check.bad("plan.json is of another version than this probe reads (1)")
    for name, kind in PLAN_FIELDS.items():
        if not isinstance(plan.get(name), kind):
            raise check.bad('plan.json has no "%s" of the right kind' % name)
    for name in ("build", "infer", "measure", "profile"):
        if not all(isinstance(each, str) for each in plan[name]):
            raise check.bad('"%s" of plan.json must hold texts' % name)
    _check_bindings(plan["inputs"] + plan["outputs"])
    return plan


def _check_bindings(bindings: Sequence[Any]) -> None:
    for each in bindings:
        wanted = {"name": str, "dtype": str, "binding_dtype": str, "shape": list}
        if not isinstance(each, dict) or not all(isinstance(each.get(k), v) for k, v in wanted.items()):
            raise check.bad("plan.json has a binding without name, types and shape")
        if not all(isinstance(size, int) and size >= 0 for size in each["shape"]):
            raise check.bad("plan.json has a binding of open shape: %r" % each["name"])


def filled(arguments: Sequence[str], places: Dict[str, Any]) -> List[str]:
    """The arguments with every `{name}` replaced; ProbeError `bad_request` for a name that is not there."""

    def put(found: Any) -> str:
        if found.group(1) not in places:
            raise check.bad("plan.json asks for {%s}, which this probe does not know" % found.group(1))
        return str(places[found.group(1)])

    return [re.sub(r"\{([a-z_]+[0-9]*)\}", put, each) for each in arguments]
