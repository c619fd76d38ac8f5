"""Recorded timings instead of a runtime: no SDK, no waiting. For tests of everything around a measurement.

The artifact's file is one JSON object: `import_ns`, `load_ns`, `first_ns` (ns), `warmup_ns`, `samples_ns`
(lists, used again from the start when they end), `outputs` ({ONNX name: .npy file of the artifact}, or a
list of such, one a sample), `version` and `effective`; `layers` and `profiled` for a profile. Its clock moves
by these times and by nothing else; two recordings that play in turns have one clock.
"""

import json
import os
import shutil
from typing import Any, Callable, Dict, List, Tuple

from ..wire import Json, ProbeError
from .base import Adapter

MAX_BYTES = 16 << 20
VERSION = "recorded"


class RecordedClock:
    """A clock that stands still until it is moved."""

    typecode = "q"
    ticks_per_s = 1000000000

    def __init__(self) -> None:
        self.now_ns = 0

    def tick(self) -> int:
        """The present time, ns."""
        return self.now_ns

    @staticmethod
    def to_ns(ticks: Any) -> int:
        """The same number: ticks are nanoseconds."""
        return int(ticks)


class Replay(Adapter):
    """entry: model (.json)."""

    def __init__(self, spec: Json) -> None:
        Adapter.__init__(self, spec)
        self.clock = RecordedClock()
        self._samples_seen = 0
        self._times: Dict[str, List[int]] = {}

    def import_runtime(self) -> str:
        """Read the recording; its version."""
        if "outputs" not in self.spec:  # only the version is asked for
            return VERSION
        try:
            with open(self.entry("model")) as file:
                self._record = json.loads(file.read(MAX_BYTES))
            self._times = {
                "warmup": _times(self._record, "warmup_ns"),
                "samples": _times(self._record, "samples_ns"),
            }
            self._times["first"] = [int(self._record["first_ns"])]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProbeError("model_load", "%s is no recording: %r" % (self.entry("model"), error)) from error
        self.clock.now_ns += int(self._record.get("import_ns", 0))
        return str(self._record.get("version", VERSION))

    def share_with(self, other: Any) -> None:
        """One clock for both recordings: the time of one passes for the other."""
        self.clock.now_ns += other.clock.now_ns
        other.clock = self.clock

    def load(self) -> None:
        """Let the recorded load time pass."""
        self.clock.now_ns += int(self._record["load_ns"])

    def read_sample(self, files: Any) -> Any:
        """Nothing: recorded outputs need no inputs."""
        return files

    def bind(self, _inputs: Any) -> Callable[[], Any]:
        """A callable that lets the next recorded time pass."""
        return self._pass_one

    def enter(self, phase: str) -> None:
        """Go on with the times recorded for `phase`."""
        if phase in self._times:
            self._queue = self._times[phase]
            self._position = 0

    def _pass_one(self) -> None:
        self.clock.now_ns += self._queue[self._position % len(self._queue)]
        self._position += 1

    def outputs(self, _inputs: Any) -> List[Tuple[str, Any]]:
        """The recorded file of each output of the next sample."""
        recorded = self._record.get("outputs", {})
        if isinstance(recorded, list):
            recorded = recorded[self._samples_seen % len(recorded)]
        self._samples_seen += 1
        folder = os.path.dirname(self.entry("model"))
        missing = [name for name in self.spec["outputs"] if name not in recorded]
        if missing:
            raise ProbeError("inference", "no output %s was recorded" % missing[0])
        return [(name, os.path.join(folder, recorded[name])) for name in self.spec["outputs"]]

    def profile(self, _inputs: Any, _repeats: int) -> List[Json]:
        """The recorded layers."""
        if not isinstance(self._record.get("layers"), list):
            raise ProbeError("inference", "no layers were recorded")
        self.profiled.update(self._record.get("profiled", {}))
        return list(self._record["layers"])

    def save(self, output: Any, path: str) -> None:
        """Copy the recorded file."""
        shutil.copyfile(output, path)

    def effective(self) -> Dict[str, str]:
        """What the recording says."""
        return {str(key): str(value) for key, value in self._record.get("effective", {}).items()}


def _times(record: Json, key: str) -> List[int]:
    values = [int(value) for value in record[key]]
    if not values or min(values) < 1:
        raise ValueError("%s must hold positive times" % key)
    return values
