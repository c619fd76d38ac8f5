"""The table of runtimes, and what each of them must offer to a launch."""

import time
from importlib import import_module
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

from ..clock import Clock
from ..wire import Json, ProbeError

RUNTIMES = {
    "onnxruntime": ("onnxruntime", "OnnxRuntime"),
    "ncnn": ("ncnn", "Ncnn"),
    "openvino": ("openvino", "OpenVino"),
    "coreml": ("coreml", "CoreMl"),
    "tensorrt": ("tensorrt", "TensorRt"),
    "replay": ("replay", "Replay"),
}


class Adapter:
    """One runtime in one process: import, load, bind, then the bound callable again and again.

    `spec` is the launch's spec as docs/probe-protocol.md has it, with absolute, checked paths.
    """

    known_options: Dict[str, Tuple[str, ...]] = {}  # option -> the values it may have; () for any
    profiling = False  # set before `load`: the model is loaded to be profiled, never to be timed
    program = False  # a program of its own, whose process is the launch; not a Python package

    def __init__(self, spec: Json) -> None:
        self.spec = spec
        self.clock: Any = Clock
        # what `profile` says beside its layers: method, estimated, total_ns of an inference, repeats
        self.profiled: Json = {"method": "the runtime's own times", "estimated": False, "total_ns": None}
        self._check_options()

    def import_runtime(self) -> str:
        """Import the runtime; its version. ImportError when it is not there."""
        raise NotImplementedError

    def load(self) -> None:
        """Load the artifact's model."""
        raise NotImplementedError

    def share_with(self, _other: Any) -> None:
        """Before `load` of both: this model and the other will run turn by turn in this process.

        They get one pool of threads, and whatever else a process has once. ProbeError `no_duet` where that
        cannot be.
        """
        raise ProbeError(
            "no_duet", "a duet needs both models in one process, which %s cannot do" % self.spec["runtime"]
        )

    def read_sample(self, files: Any) -> Any:
        """The inputs of one sample out of its `.npy` files."""
        return load_arrays(files)

    def bind(self, inputs: Any) -> Callable[[], Any]:
        """A callable without arguments that runs one inference on `inputs`."""
        raise NotImplementedError

    def launched(self, inputs: Any, enter: Callable[[str], None]) -> Json:
        """The numbers of a whole launch, of a runtime that is a program of its own."""
        raise NotImplementedError

    def build(
        self, folder: str, timing_cache: Optional[str], on_progress: Callable[[float, str], None]
    ) -> Json:
        """Build what this device runs into an empty folder; what was told of it."""
        raise NotImplementedError

    def outputs(self, inputs: Any) -> List[Tuple[str, Any]]:
        """[(name, output)] of one inference on `inputs`, in the order of the spec's `outputs`."""
        raise NotImplementedError

    def save(self, output: Any, path: str) -> None:
        """Write one array of `outputs` as a `.npy` file."""
        import numpy as np

        np.save(path, np.ascontiguousarray(output), allow_pickle=False)

    def effective(self) -> Dict[str, str]:
        """What the runtime says that it really does: texts by name."""
        raise NotImplementedError

    def profile(self, inputs: Any, repeats: int) -> List[Json]:
        """Each layer's share of an inference, after `load` with `profiling` set; fills `profiled`.

        A layer has name, kind, mean_ns, unit ("CPU", "GPU", "NPU" where the runtime tells it, else None) and
        nodes, the ONNX nodes that are known here. What helps to find the others may be added: `outputs` and
        `inputs`, its tensors by the runtime's names; `parts`, the layers of the artifact that it computes;
        `then`, the operators fused behind the tensor that it is named after.
        """
        raise NotImplementedError

    def enter(self, phase: str) -> None:
        """Told when a phase begins; only recorded timings care."""

    # --- for the subclasses ---

    def option(self, name: str, default: Any) -> str:
        """The value of one option."""
        return str(self.spec["options"].get(name, default))

    def threads(self) -> int:
        """The number of threads, 0 for the runtime's own choice."""
        return int(self.spec["workload"]["threads"])

    def entry(self, part: str) -> str:
        """The absolute path of the artifact's file that plays `part`."""
        if part not in self.spec["entry"]:
            raise ProbeError(
                "bad_request", 'the artifact names no "%s" file for %s' % (part, self.spec["runtime"])
            )
        return str(self.spec["entry"][part])

    def blob(self, name: str) -> str:
        """The runtime's own name of an ONNX input or output."""
        return str(self.spec["blobs"].get(name, name))

    def _check_options(self) -> None:
        self.check_options(self.spec["options"])

    def check_options(self, options: Dict[str, str]) -> None:
        """ProbeError for an option or a value that the runtime does not know."""
        for name, value in options.items():
            known = self.known_options.get(name)
            if known is None or (known and value not in known):
                raise ProbeError(
                    "bad_request",
                    'the runtime %s has no option %s="%s"; it knows %s'
                    % (self.spec["runtime"], name, value, _listed(self.known_options)),
                )


def adapter(spec: Json) -> Adapter:
    """The adapter for the spec's runtime."""
    module, name = RUNTIMES[spec["runtime"]]
    kind: Type[Adapter] = getattr(import_module("." + module, __package__), name)
    return kind(spec)


PASSES_S = 20.0
LEAST_PASSES = 3
UNRECORDED = 3  # passes before the first that counts
MIDDLE = "mean of the middle half of %d inferences by total time"
Pass = Tuple[int, Dict[str, int]]  # total time and each layer's, ns


def repeated(run: Callable[[], Any], repeats: int, unrecorded: int = UNRECORDED) -> List[Any]:
    """What `run` gave: `repeats` times, or for 20 s and 3 times at least; unrecorded runs come before."""
    for _ in range(unrecorded):
        run()
    results: List[Any] = []
    begin = time.monotonic()
    while len(results) < repeats:
        results.append(run())
        if time.monotonic() - begin > PASSES_S and len(results) >= LEAST_PASSES:
            break
    return results


def middle_half(passes: List[Pass]) -> Pass:
    """Mean total and layer times of the passes in the middle half by total time.

    Means over the same passes keep the sum: no layer has time that the total lacks. The slowest and the
    fastest quarter are left out, because one interruption would weigh more than all layers.
    """
    ordered = sorted(passes, key=lambda each: each[0])
    quarter = len(ordered) // 4
    kept = ordered[quarter : len(ordered) - quarter]
    names = {name: None for _, times in kept for name in times}
    return (
        sum(total for total, _ in kept) // len(kept),
        {name: sum(times.get(name, 0) for _, times in kept) // len(kept) for name in names},
    )


def load_arrays(files: Any) -> Dict[str, Any]:
    """{input name: array} out of `.npy` files, C-contiguous."""
    import numpy as np

    return {each["name"]: np.asarray(np.load(each["path"], allow_pickle=False), order="C") for each in files}


def _listed(options: Dict[str, Tuple[str, ...]]) -> str:
    return ", ".join("%s=%s" % (name, "|".join(options[name]) or "..") for name in sorted(options)) or "none"
