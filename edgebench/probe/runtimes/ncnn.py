"""ncnn on the CPU."""

from typing import Any, Callable, Dict, List, Tuple

from ..wire import Json, ProbeError
from .base import MIDDLE, Adapter, Pass, middle_half, repeated

FP16_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
BF16_OPTIONS = ("use_bf16_packed", "use_bf16_storage")  # the first is missing in older releases


MAX_PARAM_BYTES = 64 << 20
AS_COMPUTED = 1  # `extract` gives the blob in the layout that the layer computed it in


class Ncnn(Adapter):
    """entry: param and bin. blobs: ONNX names to ncnn's (in0, out0).

    options: fp16 on|off, winograd43 on|off, batch_axis drop|keep. With "drop" (the default) inputs lose a
    leading axis of 1 and outputs get it back; with "keep" they are fed as they are. The converter knows.
    light_mode on|off: "off" keeps every blob, so that any may be an output.
    """

    known_options = {
        "fp16": ("on", "off"),
        "winograd43": ("on", "off"),
        "batch_axis": ("drop", "keep"),
        "light_mode": ("on", "off"),
    }

    def import_runtime(self) -> str:
        """Import ncnn; its version."""
        import ncnn
        import numpy as np

        self._ncnn = ncnn
        self._np = np
        return str(ncnn.__version__)

    def share_with(self, _other: Any) -> None:
        """Nothing to do: OpenMP's threads are the process's, and both nets ask for the same number."""

    def load(self) -> None:
        """Load the two files; options come first, because loading already converts weights."""
        self._net = self._ncnn.Net()
        self._set_options(self._net.opt)
        for part, read in (("param", self._net.load_param), ("bin", self._net.load_model)):
            status = read(self.entry(part))
            if status != 0:
                raise ProbeError("model_load", "ncnn does not load the %s file (status %d)" % (part, status))

    def _set_options(self, options: Any) -> None:
        if self.profiling or self.option("light_mode", "on") == "off":
            options.lightmode = False
        fp16 = self.option("fp16", "off") == "on"
        for name in FP16_OPTIONS:
            setattr(options, name, fp16)
        for name in BF16_OPTIONS:
            if hasattr(options, name):
                setattr(options, name, False)
        if self.option("winograd43", "on") == "off":
            options.use_winograd43_convolution = False
        if self.threads():
            options.num_threads = self.threads()

    def bind(self, inputs: Any) -> Callable[[], Any]:
        """One extractor an inference: inputs in, every output out; the Mats are made outside the loop."""
        mats = self._mats(inputs)
        names = [self.blob(name) for name in self.spec["outputs"]]
        create = self._net.create_extractor

        def run() -> None:
            extractor = create()
            for name, mat in mats:
                extractor.input(name, mat)
            for name in names:
                if extractor.extract(name)[0]:
                    raise ProbeError("inference", "ncnn could not compute the output %s" % name)

        return run

    def outputs(self, inputs: Any) -> List[Tuple[str, Any]]:
        """Named arrays of one inference, with a leading axis of 1."""
        extractor = self._net.create_extractor()
        for name, mat in self._mats(inputs):
            if extractor.input(name, mat):
                raise ProbeError("inference", "ncnn has no input %s" % name)
        return [(name, self._extract(extractor, self.blob(name))) for name in self.spec["outputs"]]

    def _extract(self, extractor: Any, name: str) -> Any:
        status, mat = extractor.extract(name)
        array = self._np.array(mat) if status == 0 else None
        if array is None or array.size == 0:
            raise ProbeError("inference", "ncnn could not compute the output %s (status %d)" % (name, status))
        return array.reshape((1,) + array.shape) if self._drops_batch() else array

    def profile(self, inputs: Any, repeats: int) -> List[Json]:
        """What each layer adds when the blobs are extracted in the order of the param file.

        ncnn's wheels have no times of layers. With light mode off every blob is kept, so that the next one
        costs its own layer alone; a layer that would work in place copies its input first.
        """
        layers = [each for each in self._layers() if each["outputs"]]
        passes = repeated(lambda: self._cumulative(inputs, layers), repeats)
        total_ns, times = middle_half(passes)
        method = (
            "timed extraction of each layer's blob in turn, differences of the cumulative times, light mode "
            "off (layers that work in place copy first); " + MIDDLE % len(passes)
        )
        self.profiled.update(method=method, total_ns=total_ns, repeats=len(passes))
        return [dict(each, mean_ns=times[each["name"]]) for each in layers]

    def _cumulative(self, inputs: Any, layers: List[Json]) -> Pass:
        mats, tick, marks = self._mats(inputs), self.clock.tick, []
        begin = tick()
        extractor = self._net.create_extractor()
        for name, mat in mats:
            extractor.input(name, mat)
        for layer in layers:
            start = tick()
            status = extractor.extract(layer["outputs"][0], AS_COMPUTED)[0]
            marks.append(tick() - start)
            if status:
                raise ProbeError("inference", "ncnn could not compute the layer %s" % layer["name"])
        total = tick() - begin
        to_ns = self.clock.to_ns
        return to_ns(total), {each["name"]: to_ns(mark) for each, mark in zip(layers, marks)}

    def _layers(self) -> List[Json]:
        """All layers but the inputs, out of the param file; names that occur twice are told apart."""
        layers: List[Json] = []
        seen: Dict[str, int] = {}
        with open(self.entry("param"), encoding="utf-8", errors="replace") as file:
            for line in file.read(MAX_PARAM_BYTES).splitlines()[2:]:
                words = line.split()
                if len(words) < 4 or words[0] == "Input":
                    continue
                first, ends = 4, (int(words[2]), int(words[3]))
                seen[words[1]] = seen.get(words[1], 0) + 1
                name = words[1] if seen[words[1]] == 1 else "%s#%d" % (words[1], seen[words[1]])
                layers.append(
                    {
                        "name": name,
                        "kind": words[0],
                        "unit": "CPU",
                        "nodes": [],
                        "inputs": words[first : first + ends[0]],
                        "outputs": words[first + ends[0] : first + sum(ends)],
                    }
                )
        return layers

    def effective(self) -> Dict[str, str]:
        """Threads, and the precision of float arithmetic and storage."""
        options = self._net.opt
        return {
            "threads": str(options.num_threads),
            "precision": "fp16" if options.use_fp16_storage else "fp32",
            "winograd43": "on" if options.use_winograd43_convolution else "off",
        }

    def _drops_batch(self) -> bool:
        return self.option("batch_axis", "drop") == "drop"

    def _mats(self, inputs: Any) -> List[Tuple[str, Any]]:
        return [(self.blob(name), self._mat(name, array)) for name, array in inputs.items()]

    def _mat(self, name: str, array: Any) -> Any:
        """A Mat that owns its data: ncnn.Mat(array) neither respects strides nor keeps the array alive."""
        if self._drops_batch():
            if array.ndim < 1 or array.shape[0] != 1:
                raise ProbeError(
                    "inference", "ncnn takes batch 1; the input %s has shape %s" % (name, array.shape)
                )
            array = array[0]
        kind = self._np.float32 if array.dtype.kind == "f" else self._np.int32
        held = self._np.ascontiguousarray(array, dtype=kind)
        if held.ndim == 0:
            held = held.reshape(1)
        return self._ncnn.Mat(held).clone()
