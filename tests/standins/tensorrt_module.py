"""A stand-in for TensorRT's Python package, for tests: its engines answer with three thirds of their input.

Bindings are told by number up to 9 (TensorRT 8) and by name from 10 on. It takes addresses like the original,
so a stand-in libcudart must have made them.
"""

from __future__ import annotations

import ctypes
import os

__version__ = os.environ.get("STANDIN_TENSORRT", "10.3.0") + ".30"


class Logger:
    """Says nothing."""

    ERROR = 1

    def __init__(self, level: int) -> None:
        self.level = level


def init_libnvinfer_plugins(logger: Logger, namespace: str) -> bool:
    """There are none."""
    return isinstance(logger, Logger) and namespace == ""


class Runtime:
    """Takes engines of the stand-in trtexec alone."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> _Engine | None:
        """The engine, or None."""
        if not content.startswith(b"stand-in engine"):
            return None
        return _Numbered() if __version__.startswith("8.") else _Named()


class _Engine:
    device_memory_size = 4096

    def create_execution_context(self) -> _Context:
        return _Context()


class _Numbered(_Engine):
    num_bindings = 2

    def get_binding_name(self, number: int) -> str:
        return ("x", "y")[number]


class _Named(_Engine):
    num_io_tensors = 2

    def get_tensor_name(self, number: int) -> str:
        return ("x", "y")[number]


class _Context:
    def execute_v2(self, addresses: list[int]) -> bool:
        given, wanted = (ctypes.cast(address, ctypes.POINTER(ctypes.c_float)) for address in addresses)
        for place in range(3):
            wanted[place] = given[place] / 3
        return True
