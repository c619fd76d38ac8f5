"""OpenVINO on the CPU. Its precision is set: by default it runs fp32 models in bf16 where the CPU can."""

from typing import Any, Callable, Dict, List, Tuple, cast

from ..wire import ProbeError
from .base import Adapter


class OpenVino(Adapter):
    """entry: model (.xml with its .bin beside it, or .onnx). options: inference_precision f32|bf16|f16."""

    known_options = {"inference_precision": ("f32", "bf16", "f16")}

    def import_runtime(self) -> str:
        """Import openvino; its version."""
        import numpy as np  # noqa: F401 - so that a missing numpy is named
        import openvino

        self._ov = openvino
        return str(openvino.__version__).split("-")[0]

    def load(self) -> None:
        """Read and compile the model."""
        settings: Dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.option("inference_precision", "f32"),
        }
        if self.threads():
            settings["INFERENCE_NUM_THREADS"] = self.threads()
        core = self._ov.Core()
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
