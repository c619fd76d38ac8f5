"""Networks in ncnn: computing samples, having every blob of a computation, and keeping some.

Every `extract` is checked, and every Mat owns its data: ncnn.Mat(array) ignores strides and does not keep the
array alive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import BugError, ModelError

Array = NDArray[Any]
Sample = Mapping[str, Array]  # blob name -> values, without the batch axis where ncnn wants none

KEPT_BYTES = 256 << 20  # blobs that a Memory keeps
HINT = "use onnxruntime or openvino for int8, or ncnn with fp32 or fp16"


class Settings(NamedTuple):
    """How ncnn computes."""

    winograd: bool = True
    winograd43: bool = True


class Net:
    """A network loaded in ncnn. Float arithmetic is float32; all blobs of a run can be had."""

    def __init__(self, param: Path, weights: Path, settings: Settings = Settings()) -> None:  # noqa: B008
        import ncnn

        self._ncnn = ncnn
        self._net = ncnn.Net()
        options = self._net.opt
        options.lightmode = False  # else blobs are gone once they are used
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_packed = options.use_bf16_storage = False
        options.use_winograd_convolution = settings.winograd
        options.use_winograd43_convolution = settings.winograd43
        options.num_threads = 1
        for path, read in ((param, self._net.load_param), (weights, self._net.load_model)):
            if read(str(path)) != 0:
                raise ModelError(f"ncnn does not load the {path.name} that edgebench wrote", hint=HINT)

    def run(self, sample: Sample) -> Run:
        """The computation for one sample; nothing is computed before its blobs are asked for."""
        return self.alone({name: self._mat(values) for name, values in sample.items()})

    def alone(self, mats: Mapping[str, Any]) -> Run:
        """The computation with some blobs given as Mats: what follows from them alone."""
        extractor = self._net.create_extractor()
        for name, mat in mats.items():
            if extractor.input(name, mat) != 0:
                raise ModelError(f'ncnn has no blob "{name}" to give values to', hint=HINT)
        return Run(extractor, mats)

    def _mat(self, values: Array) -> Any:
        held = np.ascontiguousarray(values, np.float32 if values.dtype.kind == "f" else np.int32)
        return self._ncnn.Mat(held if held.ndim else held.reshape(1)).clone()


class Run:
    """One computation. It keeps its Mats: the extractor does not. Without an extractor it has no others."""

    def __init__(self, extractor: Any, held: Mapping[str, Any]) -> None:
        self._extractor = extractor
        self._held = held

    def mat(self, blob: str) -> Any:
        """The Mat of a blob; ModelError when ncnn cannot compute it."""
        if blob in self._held:
            return self._held[blob]
        if self._extractor is None:
            raise BugError(f'the blob "{blob}" was not kept')
        status, mat = self._extractor.extract(blob)
        if status != 0 or mat.empty():
            raise ModelError(f'ncnn could not compute the blob "{blob}" (status {status})', hint=HINT)
        return mat

    def values(self, blob: str) -> Array:
        """The values of a blob, not a copy; errors as `mat`."""
        return np.asarray(self.mat(blob))

    def only(self, blobs: Mapping[str, str]) -> Run:
        """The computation with these blobs alone: name -> the blob that it is a copy of, or itself."""
        mats = {source: self.mat(source) for source in dict.fromkeys(blobs.values())}
        return Run(None, mats | {blob: mats[source] for blob, source in blobs.items()})

    def size_bytes(self) -> int:
        """What the held Mats take."""
        return sum(
            mat.total() * mat.elemsize for mat in {id(mat): mat for mat in self._held.values()}.values()
        )


class Runs(Protocol):
    """A network that computes samples."""

    def run(self, sample: Sample) -> Run:
        """The computation for one sample."""


class Memory:
    """A network that keeps the `blobs` of some samples as long as there is room: asked again, they are there.

    `blobs`: name -> the blob that it is a copy of, or itself.
    """

    def __init__(
        self, net: Runs, samples: Iterable[Sample], blobs: Mapping[str, str], room_bytes: int = KEPT_BYTES
    ) -> None:
        self._net = net
        self._wanted = {id(sample): sample for sample in samples}  # holds them: no other may get their id
        self._blobs = blobs
        self._room_bytes = room_bytes
        self._runs: dict[int, Run] = {}
        self._lock = Lock()

    def run(self, sample: Sample) -> Run:
        """The computation for one sample."""
        key = id(sample)
        if key in self._runs:
            return self._runs[key]
        run = self._net.run(sample)
        if key not in self._wanted:
            return run
        kept = run.only(self._blobs)
        with self._lock:
            if kept.size_bytes() > self._room_bytes:
                return run
            self._room_bytes -= kept.size_bytes()
            self._runs[key] = kept
        return kept
