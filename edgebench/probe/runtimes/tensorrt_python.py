"""TensorRT's own Python package, where the device's python3 has it: exact output bytes, GPU memory.

JetPack installs it for the system's python3 only. CUDA is reached through ctypes.
"""

from typing import Any, Dict, List, Optional, Tuple

from .. import npy
from ..clock import tick, to_ns
from ..cuda import Cuda, CudaError
from ..npy import Array
from ..wire import Json, ProbeError


def opened(engine: str, plan: Json) -> Tuple[Optional["PythonEngine"], str]:
    """The loaded engine, or None and the reason why this Python cannot run it."""
    try:
        import tensorrt
    except Exception as error:  # noqa: BLE001 - a broken package may raise anything; trtexec does without it
        return None, "import tensorrt fails: %s" % (str(error).splitlines() or [type(error).__name__])[0]
    found = ".".join(str(getattr(tensorrt, "__version__", "")).split(".")[:3])
    if found != plan["tensorrt"]:
        return None, "the Python package is of TensorRT %s" % (found or "?")
    try:
        cuda = Cuda.open()
    except CudaError as error:
        return None, "libcudart: %s" % error
    try:
        return PythonEngine(tensorrt, cuda, engine, plan), ""
    except (CudaError, ProbeError) as error:
        return None, "%s" % error


class PythonEngine:
    """A deserialized engine with its buffers. 8.x knows bindings by number, 10 and later tensors by name."""

    def __init__(self, tensorrt: Any, cuda: Cuda, engine: str, plan: Json) -> None:
        self._cuda = cuda
        self._plan = plan
        self._first_ns: Optional[int] = None
        free_before, _ = cuda.memory()
        started = tick()
        self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        if hasattr(tensorrt, "init_libnvinfer_plugins"):
            tensorrt.init_libnvinfer_plugins(self._logger, "")
        self._runtime = tensorrt.Runtime(self._logger)
        with open(engine, "rb") as file:
            self._engine = self._runtime.deserialize_cuda_engine(file.read())
        if self._engine is None:
            raise ProbeError("model_load", "TensorRT does not deserialize the engine")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise ProbeError("model_load", "TensorRT makes no execution context: is the GPU's memory full?")
        self._buffers = {each["name"]: cuda.allocate(_bytes(each)) for each in self._bindings()}
        self._load_ns = to_ns(tick() - started)
        free_after, _ = cuda.memory()
        self._taken = None if free_before is None or free_after is None else free_before - free_after

    def run(self, arrays: List[Array]) -> Dict[str, Array]:
        """{output name: array} of one inference, in the model's own types."""
        addresses = [self._buffers[name] for name in self._names()]
        started = tick()
        try:
            for binding, value in zip(self._plan["inputs"], arrays):
                self._cuda.upload(self._buffers[binding["name"]], value.data)
            if not self._context.execute_v2(addresses):
                raise ProbeError("inference", "TensorRT's execute_v2 failed")
            self._cuda.synchronize()
            found = [self._download(each) for each in self._plan["outputs"]]
            if self._first_ns is None:
                self._first_ns = to_ns(tick() - started)
            wanted = zip(self._plan["outputs"], found)
            return {each["name"]: npy.converted(value, each["dtype"]) for each, value in wanted}
        except (CudaError, ValueError) as error:
            raise ProbeError("inference", "%s" % error) from None

    def figures(self) -> Dict[str, str]:
        """As texts: GPU memory that loading took and that a context needs; times of load and first inference.

        The first inference is that of a request: with the copies to the GPU and back.
        """
        told = {
            "gpu_memory_bytes": self._taken,
            "context_bytes": self._context_bytes(),
            "load_ns": self._load_ns,
            "first_inference_ns": self._first_ns,
        }
        return {name: str(value) for name, value in told.items() if value is not None}

    def _context_bytes(self) -> Optional[int]:
        for name in ("device_memory_size_v2", "device_memory_size"):
            value = getattr(self._engine, name, None)
            if isinstance(value, int):
                return value
        return None

    def _bindings(self) -> List[Json]:
        return list(self._plan["inputs"]) + list(self._plan["outputs"])

    def _names(self) -> List[str]:
        """The engine's inputs and outputs in its own order; ProbeError where the plan lacks one."""
        engine = self._engine
        if hasattr(engine, "num_io_tensors"):
            names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        else:
            names = [engine.get_binding_name(number) for number in range(engine.num_bindings)]
        unknown = [name for name in names if name not in self._buffers]
        if unknown:
            raise ProbeError("model_load", 'the engine has "%s", which plan.json does not name' % unknown[0])
        return names

    def _download(self, binding: Json) -> Array:
        data = self._cuda.download(self._buffers[binding["name"]], _bytes(binding))
        return Array(binding["binding_dtype"], list(binding["shape"]), data)


def _bytes(binding: Json) -> int:
    return npy.count(binding["shape"]) * npy.size_of(binding["binding_dtype"])
