"""ONNX Runtime's profile (JSON, an event a line): kernel times of each inference, and what kernels compute.

The file is read line by line, each line bounded. Kernels inside of a branch or loop are part of the node that
holds them, whose time contains theirs.
"""

import json
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

MAX_LINE_BYTES = 1 << 20
KERNEL = "_kernel_time"
RUN = "model_run"
LAYOUT_DOMAIN = "com.microsoft.nchwc"  # convolutions in blocks of channels, named after what they compute
LAYOUT_SUFFIX = "_nchwc"
SUM_INPUTS = 4  # such a convolution with a fourth input adds it
UNITS = {"CPU": "CPU", "CUDA": "GPU", "Tensorrt": "GPU", "ROCM": "GPU", "DML": "GPU"}

Pass = Tuple[int, Dict[str, int]]


def events(lines: Iterable[bytes]) -> Iterator[Dict[str, Any]]:
    """The events of a profile; lines that hold none (brackets, a torn end) are passed over."""
    for line in lines:
        text = line.strip().lstrip(b"[").rstrip(b",]").strip()
        if not text or len(text) > MAX_LINE_BYTES:
            continue
        try:
            event = json.loads(text.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and _is_time(event.get("ts")) and _is_time(event.get("dur")):
            yield event


def bounded_lines(file: Any) -> Iterator[bytes]:
    """The lines of a binary file; what is too long for an event is cut, which makes it none."""
    return iter(lambda: file.readline(MAX_LINE_BYTES + 2), b"")


class Kernels:
    """What a profile tells: `passes`, one an inference, and of each kernel its operator and provider."""

    def __init__(self, found: Iterable[Dict[str, Any]]) -> None:
        self.operators: Dict[str, str] = {}
        self.providers: Dict[str, str] = {}
        self.passes: List[Pass] = []
        runs: List[Tuple[int, int]] = []
        timed: List[Tuple[int, int, str, str]] = []
        for event in found:
            name, begin, spent = str(event.get("name", "")), event["ts"], event["dur"]
            if event.get("cat") == "Session" and name == RUN:
                runs.append((begin, begin + spent))
            elif event.get("cat") == "Node" and name.endswith(KERNEL):
                key = name[: -len(KERNEL)]
                timed.append((begin, begin + spent, key, str(event.get("tid"))))
                self._describe(key, event.get("args"))
        outer = sorted(_outermost(timed))
        for begin, end in sorted(runs):
            self.passes.append((1000 * (end - begin), _within(outer, begin, end)))

    def _describe(self, key: str, args: Any) -> None:
        if isinstance(args, dict):
            self.operators.setdefault(key, str(args.get("op_name", "")))
            self.providers.setdefault(key, str(args.get("provider", "")))

    def unit(self, key: str) -> Optional[str]:
        """CPU or GPU, by the kernel's provider; None where that does not say."""
        return UNITS.get(self.providers.get(key, "").replace("ExecutionProvider", ""))


def _outermost(timed: List[Tuple[int, int, str, str]]) -> Iterator[Tuple[int, int, str]]:
    """The kernels that lie in no other one's time on their thread.

    ONNX Runtime writes an event when the kernel is done, so what a kernel holds is written before it: two
    events of the same times are two kernels of less than a microsecond unless the later one is longer.
    """
    by_thread: Dict[str, List[Tuple[int, int, str]]] = {}
    for begin, end, key, thread in timed:
        held = by_thread.setdefault(thread, [])
        while held and held[-1][0] >= begin and held[-1][1] <= end and end > held[-1][1]:
            held.pop()
        held.append((begin, end, key))
    for held in by_thread.values():
        for each in held:
            yield each


def _within(outer: List[Tuple[int, int, str]], begin: int, end: int) -> Dict[str, int]:
    times: Dict[str, int] = {}
    for start, stop, key in outer:
        if begin <= start and stop <= end:
            times[key] = times.get(key, 0) + 1000 * (stop - start)
    return times


def tensors(node: Dict[str, Any]) -> Dict[str, List[str]]:
    """`inputs`, `outputs` and `then` of an optimised node, by the names of the model before optimisation.

    In the layout of blocks of channels tensors have new names; the kernel is called after the one that it
    computes in the original layout, and what was fused behind that is told by its inputs and attributes.
    """
    inputs, outputs = list(node["inputs"]), list(node["outputs"])
    if node["domain"] != LAYOUT_DOMAIN or LAYOUT_SUFFIX not in node["name"]:
        return {"inputs": inputs, "outputs": outputs, "then": []}
    then = ["Add"] if node["op_type"] == "Conv" and len(inputs) >= SUM_INPUTS else []
    activation = node["texts"].get("activation")
    original = node["name"].rpartition(LAYOUT_SUFFIX)[0]
    return {
        "inputs": inputs,
        "outputs": [original] + outputs,
        "then": then + ([activation] if activation else []),
    }


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
