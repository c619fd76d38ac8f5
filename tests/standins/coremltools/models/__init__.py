"""A stand-in for coremltools.models, for tests."""

from pathlib import Path

from . import compute_plan, utils  # noqa: F401


class CompiledMLModel:
    def __init__(self, path, compute_units):
        from coremltools import ComputeUnit

        if not path.endswith(".mlmodelc") or not Path(path, "Manifest.json").is_file():
            raise ValueError(f"no compiled model: {path}")
        if not isinstance(compute_units, ComputeUnit):
            raise TypeError('The "compute_units" parameter must be of type: "coremltools.ComputeUnit".')
        self._path = Path(path)

    def predict(self, data):
        from edgebench.convert.coreml.interpreter import interpret

        for value in data.values():
            if value.dtype.name not in ("float32", "int32"):
                raise RuntimeError(f"Core ML takes float32 and int32, not {value.dtype}")
        return interpret(self._path, data, precision="fp16")
