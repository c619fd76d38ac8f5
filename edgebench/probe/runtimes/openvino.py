"""OpenVINO on the CPU. Its precision is set: by default it runs fp32 models in bf16 where the CPU can."""

from typing import Any, Callable, Dict, List, Tuple, cast

from ..wire import Json, ProbeError
from .base import UNRECORDED, Adapter, repeated

NO_LAYERS = ("Input", "Const", "Output")


class OpenVino(Adapter):
    """entry: model (.xml with its .bin beside it, or .onnx). options: inference_precision f32|bf16|f16."""

    known_options = {"inference_precision": ("f32", "bf16", "f16")}

    _core: Any = None

    def import_runtime(self) -> str:
        """Import openvino; its version."""
        import numpy as np  # noqa: F401 - so that a missing numpy is named
        import openvino

        self._ov = openvino
        return str(openvino.__version__).split("-")[0]

    def share_with(self, other: Any) -> None:
        """One Core for both. Each model has threads of its own, which sleep while it waits for its turn."""
        self._core = other._core = self._ov.Core()

    def load(self) -> None:
        """Read and compile the model."""
        settings: Dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.option("inference_precision", "f32"),
        }
        if self.threads():
            settings["INFERENCE_NUM_THREADS"] = self.threads()
        if self.profiling:
            settings["PERF_COUNT"] = True
        core = self._core or self._ov.Core()
        self._compiled = core.compile_model(core.read_model(self.entry("model")), "CPU", settings)
        self._inputs = _by_name(self._compiled.inputs)
        self._outputs = _by_name(self._compiled.outputs)
        for name in self.spec["outputs"]:
            self._port(self._outputs, name, "output")

    def bind(self, inputs: Any) -> Callable[[], Any]:
        """The request's own `infer`, its inputs set once."""
        request = self._request(inputs)
        return cast(Callable[[], Any], request.infer)

    def outputs(self, inputs: Any) -> List[Tuple[str, Any]]:
        """Named arrays of one inference."""
        request = self._request(inputs)
        request.infer()
        ports = [(name, self._port(self._outputs, name, "output")) for name in self.spec["outputs"]]
        return [(name, request.get_tensor(port).data.copy()) for name, port in ports]

    def profile(self, inputs: Any, repeats: int) -> List[Json]:
        """The layers of the compiled model with OpenVINO's counters; `parts`: those of the artifact.

        Layers that take no time stay in the list, so that what they compute is accounted for.
        """
        request = self._request(inputs)
        for _ in range(UNRECORDED):
            request.infer()
        before = _counters(request)
        totals = repeated(lambda: self._timed(request), repeats, unrecorded=0)
        times = _between(before, UNRECORDED, _counters(request), UNRECORDED + len(totals))
        method = "OpenVINO's performance counters (averages in steps of 1 us); mean of %d inferences"
        self.profiled.update(
            method=method % len(totals), total_ns=sum(totals) // len(totals), repeats=len(totals)
        )
        return [
            _layer(op, times[op.get_friendly_name()])
            for op in self._compiled.get_runtime_model().get_ordered_ops()
            if op.get_friendly_name() in times and _told(op, "layerType") not in NO_LAYERS
        ]

    def _timed(self, request: Any) -> int:
        start = self.clock.tick()
        request.infer()
        return int(self.clock.to_ns(self.clock.tick() - start))

    def effective(self) -> Dict[str, str]:
        """Precision, threads and streams, read back from the compiled model."""
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        return {
            "precision": precision.get_type_name() if hasattr(precision, "get_type_name") else str(precision),
            "threads": str(self._compiled.get_property("INFERENCE_NUM_THREADS")),
            "device": "CPU",
        }

    def _request(self, inputs: Any) -> Any:
        request = self._compiled.create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(self._port(self._inputs, name, "input"), self._ov.Tensor(array))
        return request

    def _port(self, ports: Dict[str, Any], name: str, what: str) -> Any:
        wanted = self.blob(name)
        if wanted not in ports:
            known = ", ".join(sorted(ports))
            raise ProbeError("model_load", "the model has no %s %s; it has %s" % (what, wanted, known))
        return ports[wanted]


def _by_name(ports: Any) -> Dict[str, Any]:
    return {name: port for port in ports for name in port.names}


def _layer(op: Any, mean_ns: int) -> Json:
    parts = [name for name in _told(op, "originalLayersNames").split(",") if name]
    return {
        "name": op.get_friendly_name(),
        "kind": _told(op, "layerType"),
        "mean_ns": mean_ns,
        "unit": "CPU",
        "nodes": [],
        "parts": parts,
    }


def _told(op: Any, key: str) -> str:
    info = op.get_rt_info()
    value = info[key] if key in info else ""  # noqa: SIM401 - OpenVINO's map has no `get`
    return str(value.astype(str) if hasattr(value, "astype") else value)


def _counters(request: Any) -> Dict[str, int]:
    """Each layer's time, ns: OpenVINO's average over all inferences since the model was compiled."""
    return {each.node_name: _ns(each.real_time) for each in request.get_profiling_info()}


def _between(before: Dict[str, int], first: int, after: Dict[str, int], last: int) -> Dict[str, int]:
    """The averages of the inferences from `first` to `last` alone: the very first one takes far longer."""
    return {
        name: max(0, last * mean - first * before.get(name, 0)) // (last - first)
        for name, mean in after.items()
    }


def _ns(time: Any) -> int:
    return int((time.days * 86400 + time.seconds) * 1000000 + time.microseconds) * 1000
