"""Core ML on a Mac, through coremltools. Apple's framework exists nowhere else."""

import os
import shutil
import tempfile
from functools import partial
from hashlib import sha256
from typing import Any, Callable, Dict, List, Optional, Tuple

from ..wire import Json, ProbeError
from .base import MIDDLE, Adapter, Pass, middle_half, repeated

MACOS = "Darwin"
UNITS = {
    "MLCPUComputeDevice": "CPU",
    "MLGPUComputeDevice": "GPU",
    "MLNeuralEngineComputeDevice": "NPU",
}
IMAGE, FLEXIBLE = "image.", "flexible."  # options of the artifact that tell of inputs
PLAN_SINCE = "compute plans need macOS 14.4 or newer"


class CoreMl(Adapter):
    """entry: package (a folder, .mlpackage). blobs: ONNX names to Core ML's.

    options: compute_units all|cpu_only|cpu_and_gpu|cpu_and_ne: what Core ML may use. What it does use it
    decides itself; `profile` asks it.
    """

    known_options = {
        "compute_units": ("all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"),
        "minimum_target": (),
    }

    def import_runtime(self) -> str:
        """Import coremltools; its version."""
        system = os.uname().sysname
        if system != MACOS:
            raise ProbeError(
                "runtime_missing", "Core ML is a part of macOS, and this device runs %s" % system
            )
        import coremltools
        import numpy as np

        self._ct = coremltools
        self._np = np
        return str(coremltools.__version__)

    def share_with(self, _other: Any) -> None:
        """Nothing to do: Core ML's threads are the system's, and no model has workers of its own."""

    def load(self) -> None:
        """Load the compiled package; the first process of a session compiles it."""
        self._compiled = self._compile(self.entry("package"))
        self._model = self._ct.models.CompiledMLModel(self._compiled, self._units())

    def bind(self, inputs: Any) -> Callable[[], Any]:
        """`predict` with its inputs converted beforehand."""
        return partial(self._model.predict, self._feeds(inputs))

    def outputs(self, inputs: Any) -> List[Tuple[str, Any]]:
        """Named arrays of one prediction."""
        made = self._model.predict(self._feeds(inputs))
        missing = [name for name in self.spec["outputs"] if self.blob(name) not in made]
        if missing:
            raise ProbeError(
                "inference",
                "the model has no output %s; it has %s" % (self.blob(missing[0]), ", ".join(sorted(made))),
            )
        return [(name, self._np.asarray(made[self.blob(name)])) for name in self.spec["outputs"]]

    def effective(self) -> Dict[str, str]:
        """The compute units that Core ML was allowed."""
        return {"compute_units": self.option("compute_units", "all")}

    def profile(self, inputs: Any, repeats: int) -> List[Json]:
        """The operations of Core ML's compute plan: where each is to run, and its share of the predict time.

        Core ML times no operation. Its plan has a weight for each, so these times are estimates.
        """
        passes = repeated(partial(self._timed, self._feeds(inputs)), repeats)
        total_ns, _ = middle_half(passes)
        method = "Core ML's compute plan: each operation's expected share of the predict time; " + MIDDLE
        self.profiled.update(
            method=method % len(passes), estimated=True, total_ns=total_ns, repeats=len(passes)
        )
        plan = self._plan()
        function = plan.model_structure.program.functions["main"]
        layers = [self._layer(plan, each, total_ns) for each in function.block.operations]
        return [layer for layer in layers if layer is not None]

    def _plan(self) -> Any:
        from coremltools.models.compute_plan import MLComputePlan

        try:
            plan = MLComputePlan.load_from_path(self._compiled, self._units())
        except Exception as error:  # noqa: BLE001 - coremltools raises plain Exception for older systems
            raise ProbeError("inference", "%s: %s" % (PLAN_SINCE, error)) from error
        if plan is None or plan.model_structure.program is None:
            raise ProbeError("inference", PLAN_SINCE)
        return plan

    def _layer(self, plan: Any, operation: Any, total_ns: int) -> Optional[Json]:
        """One operation; None for constants, which cost nothing and run nowhere."""
        kind = operation.operator_name.rpartition(".")[2]
        if kind == "const":
            return None
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        outputs = [each.name for each in operation.outputs]
        return {
            "name": outputs[0] if outputs else kind,
            "kind": kind,
            "mean_ns": int(total_ns * max(0.0, min(1.0, cost.weight))) if cost is not None else 0,
            "unit": None if usage is None else UNITS.get(type(usage.preferred_compute_device).__name__),
            "nodes": [],
            "inputs": [
                binding.name
                for argument in operation.inputs.values()
                for binding in argument.bindings
                if binding.name
            ],
            "outputs": outputs,
        }

    def _timed(self, feeds: Dict[str, Any]) -> Pass:
        start = self.clock.tick()
        self._model.predict(feeds)
        return int(self.clock.to_ns(self.clock.tick() - start)), {}

    def _compile(self, package: str) -> str:
        """The compiled model's folder, made once: the folder for temporary files is the session's."""
        name = "coreml-%s" % sha256(package.encode("utf-8")).hexdigest()[:16]
        final = os.path.join(tempfile.gettempdir(), name)
        if not os.path.isdir(final):
            part = tempfile.mkdtemp(prefix="coreml-part-")
            try:
                self._ct.models.utils.compile_model(package, os.path.join(part, "model.mlmodelc"))
                os.rename(part, final)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return os.path.join(final, "model.mlmodelc")

    def _units(self) -> Any:
        return getattr(self._ct.ComputeUnit, self.option("compute_units", "all").upper())

    def _feeds(self, inputs: Any) -> Dict[str, Any]:
        """Inputs as Core ML takes them: float32 or int32, at least one axis."""
        kinds = {"f": self._np.float32}
        return {
            self.blob(name): self._np.atleast_1d(array).astype(
                kinds.get(array.dtype.kind, self._np.int32), order="C"
            )
            for name, array in inputs.items()
        }

    def _check_options(self) -> None:
        """Open sizes need nothing here; pictures are refused, since samples are arrays."""
        pictures = [name[len(IMAGE) :] for name in self.spec["options"] if name.startswith(IMAGE)]
        if pictures:
            raise ProbeError(
                "bad_request",
                "the input %s takes pictures, which the probe does not feed: convert without --image"
                % pictures[0],
            )
        every = self.spec["options"]
        self.check_options({name: each for name, each in every.items() if not name.startswith(FLEXIBLE)})
