"""CUDA's runtime library through ctypes: no pycuda, no numpy. Every call has its argument types."""

import ctypes
import glob
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_void_p
from typing import Any, Optional, Tuple

SONAMES = ("libcudart.so.10.2", "libcudart.so.11.0", "libcudart.so.12", "libcudart.so.13", "libcudart.so")
PATTERNS = (
    "/usr/local/cuda/lib64/libcudart.so*",
    "/usr/local/cuda-*/targets/*/lib/libcudart.so.*",  # JetPack 4
)
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
CALLS = {
    "cudaMalloc": [POINTER(c_void_p), c_size_t],
    "cudaFree": [c_void_p],
    "cudaMemcpy": [c_void_p, c_void_p, c_size_t, c_int],
    "cudaMemGetInfo": [POINTER(c_size_t), POINTER(c_size_t)],
    "cudaDeviceSynchronize": [],
}


class CudaError(Exception):
    """A call that CUDA refused, or a library that is not there."""


class Cuda:
    """One loaded libcudart. `open` finds it."""

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, arguments in CALLS.items():
            call = getattr(library, name)
            call.argtypes, call.restype = arguments, c_int
        library.cudaGetErrorString.argtypes = [c_int]
        library.cudaGetErrorString.restype = c_char_p

    @classmethod
    def open(cls) -> "Cuda":
        """The first libcudart that loads, with its context made; CudaError says why there is none."""
        last = "no libcudart was found"
        for name in SONAMES + tuple(path for pattern in PATTERNS for path in sorted(glob.glob(pattern))):
            try:
                found = cls(ctypes.CDLL(name))
            except OSError as error:
                last = last if "cannot open shared object" in str(error) else str(error)
                continue
            except AttributeError as error:
                last = "%s is no libcudart: %s" % (name, error)
                continue
            found.call("cudaFree", None)  # makes the context
            return found
        raise CudaError(last)

    def call(self, name: str, *arguments: Any) -> None:
        """Call; CudaError with CUDA's own words."""
        status = getattr(self._library, name)(*arguments)
        if status:
            text = self._library.cudaGetErrorString(status) or b"unknown error"
            raise CudaError("%s: %s (%d)" % (name, text.decode("ascii", "replace"), status))

    def allocate(self, size: int) -> int:
        """The address of so many bytes on the GPU."""
        address = c_void_p()
        self.call("cudaMalloc", ctypes.byref(address), max(1, size))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """Give memory back."""
        self.call("cudaFree", c_void_p(address))

    def upload(self, address: int, data: bytes) -> None:
        """Copy bytes to the GPU."""
        self.call("cudaMemcpy", c_void_p(address), ctypes.c_char_p(data), len(data), HOST_TO_DEVICE)

    def download(self, address: int, size: int) -> bytes:
        """Copy bytes from the GPU."""
        buffer = ctypes.create_string_buffer(max(1, size))
        self.call("cudaMemcpy", ctypes.cast(buffer, c_void_p), c_void_p(address), size, DEVICE_TO_HOST)
        return buffer.raw[:size]

    def synchronize(self) -> None:
        """Wait for everything that was started."""
        self.call("cudaDeviceSynchronize")

    def memory(self) -> Tuple[Optional[int], Optional[int]]:
        """(free, total) bytes as CUDA counts them; only differences mean something on a Jetson."""
        free, total = c_size_t(), c_size_t()
        try:
            self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        except CudaError:
            return None, None
        return int(free.value), int(total.value)
