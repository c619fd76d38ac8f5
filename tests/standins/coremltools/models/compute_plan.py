"""A stand-in for coremltools.models.compute_plan, for tests: convolutions run on the Neural Engine."""

import os
from pathlib import Path
from types import SimpleNamespace


class MLCPUComputeDevice:
    pass


class MLNeuralEngineComputeDevice:
    pass


class MLComputePlan:
    def __init__(self, block):
        operations = [_operation(each) for each in block.operations]
        function = SimpleNamespace(block=SimpleNamespace(operations=operations))
        program = SimpleNamespace(functions={"main": function})
        self.model_structure = SimpleNamespace(program=program)
        self._running = sum(1 for each in operations if each.operator_name != "const")

    @classmethod
    def load_from_path(cls, path, compute_units):
        if os.environ.get("COREML_STANDIN") == "old":
            raise Exception("MLComputePlan is not supported.")
        from edgebench.convert.coreml.interpreter.package import load

        return cls(load(Path(path)).block)

    def get_compute_device_usage_for_mlprogram_operation(self, operation):
        if operation.operator_name == "const":
            return None
        engine = operation.operator_name.endswith("conv")
        device = MLNeuralEngineComputeDevice() if engine else MLCPUComputeDevice()
        return SimpleNamespace(preferred_compute_device=device, supported_compute_devices=[device])

    def get_estimated_cost_for_mlprogram_operation(self, operation):
        return None if operation.operator_name == "const" else SimpleNamespace(weight=1 / self._running)


def _operation(message):
    name = message.type if message.type == "const" else f"ios17.{message.type}"
    inputs = {
        key: SimpleNamespace(bindings=[SimpleNamespace(name=each.name or None) for each in value.arguments])
        for key, value in message.inputs.items()
    }
    return SimpleNamespace(operator_name=name, inputs=inputs, outputs=list(message.outputs), blocks=[])
