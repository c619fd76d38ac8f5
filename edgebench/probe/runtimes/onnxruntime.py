"""ONNX Runtime on the CPU."""

import os
import shutil
import tempfile
from functools import partial
from typing import Any, Callable, Dict, List, Tuple

from .. import onnxfile, ortprofile
from ..wire import Json, ProbeError
from .base import MIDDLE, Adapter, middle_half, repeated

LEVELS = {"all": "ORT_ENABLE_ALL", "off": "ORT_DISABLE_ALL"}
ERRORS_ONLY = 3  # warnings about unknown processors say nothing of the model
PROVIDER = "CPUExecutionProvider"
MAX_WRITTEN_BYTES = 1900 << 20  # ONNX Runtime writes no ONNX file of 2 GiB and more


class OnnxRuntime(Adapter):
    """entry: model (.onnx, or .ort). options: graph_optimization all|off, format onnx|optimized|ort.

    "optimized" is an ONNX file whose nodes were fused beforehand: it is loaded like any other.
    """

    known_options = {"graph_optimization": ("all", "off"), "format": ("onnx", "optimized", "ort")}

    _shares_threads = False

    def import_runtime(self) -> str:
        """Import onnxruntime; its version."""
        import numpy as np  # noqa: F401 - onnxruntime's own import hides why numpy does not load
        import onnxruntime

        self._ort = onnxruntime
        onnxruntime.set_default_logger_severity(ERRORS_ONLY)
        return str(onnxruntime.__version__)

    def share_with(self, other: Any) -> None:
        """One pool of threads for both sessions, made before the first of them."""
        try:
            resize, options = self._ort.set_global_thread_pool_sizes, self._ort.SessionOptions()
            options.use_per_session_threads = False
        except AttributeError:
            raise ProbeError(
                "no_duet",
                "a duet needs an onnxruntime whose sessions can share one pool of threads "
                "(set_global_thread_pool_sizes), and %s cannot" % self._ort.__version__,
            ) from None
        resize(self.threads(), 1)
        for each in (self, other):
            each._shares_threads = True

    def load(self) -> None:
        """Create the session."""
        options = self._ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        level = LEVELS[self.option("graph_optimization", "all")]
        options.graph_optimization_level = getattr(self._ort.GraphOptimizationLevel, level)
        if self._format() == "ort":
            options.add_session_config_entry("session.load_model_format", "ORT")
        if self._shares_threads:
            options.use_per_session_threads = False  # the number of threads is the pool's
        elif self.threads():
            options.intra_op_num_threads = self.threads()
            options.inter_op_num_threads = 1
        if self.profiling:
            self._write_profile(options)
        self._session = self._ort.InferenceSession(self.entry("model"), options, providers=[PROVIDER])
        known = [output.name for output in self._session.get_outputs()]
        missing = [name for name in self._names() if name not in known]
        if missing:
            raise ProbeError(
                "model_load", "the model has no output %s; it has %s" % (missing[0], ", ".join(known))
            )

    def bind(self, inputs: Any) -> Callable[[], Any]:
        """`session.run` with its arguments: nothing of ours stands between the clock and it."""
        return partial(self._session.run, self._names(), self._feeds(inputs))

    def outputs(self, inputs: Any) -> List[Tuple[str, Any]]:
        """Named arrays of one inference."""
        values = self._session.run(self._names(), self._feeds(inputs))
        return list(zip(self.spec["outputs"], values))

    def profile(self, inputs: Any, repeats: int) -> List[Json]:
        """The kernels with the times of ONNX Runtime's own profiler, in the order of the optimised graph."""
        try:
            done = len(repeated(self.bind(inputs), repeats))
            with open(self._session.end_profiling(), "rb") as file:
                kernels = ortprofile.Kernels(ortprofile.events(ortprofile.bounded_lines(file)))
            known = self._optimised()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        if len(kernels.passes) < done:
            raise ProbeError(
                "inference",
                "ONNX Runtime's profile holds %d of %d inferences: it ends after a million events"
                % (len(kernels.passes), done),
            )
        total_ns, times = middle_half(kernels.passes[-done:])
        method = "ONNX Runtime's profiler (steps of 1 us); " + MIDDLE % done
        self.profiled.update(method=method, total_ns=total_ns, repeats=done)
        return [
            dict(
                known.get(name, {}),
                name=name,
                kind=kernels.operators.get(name, ""),
                mean_ns=mean_ns,
                unit=kernels.unit(name),
                nodes=[],
            )
            for name, mean_ns in times.items()
        ]

    def _write_profile(self, options: Any) -> None:
        """Let the session write its profile and its optimised graph, below the run folder (TMPDIR)."""
        self._folder = tempfile.mkdtemp(prefix="profile-")
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(self._folder, "ort")
        if self._format() != "ort" and os.path.getsize(self.entry("model")) <= MAX_WRITTEN_BYTES:
            options.optimized_model_filepath = self._graph()

    def _optimised(self) -> Dict[str, Dict[str, List[str]]]:
        """Each kernel's tensors; empty where ONNX Runtime wrote no optimised graph."""
        if not os.path.isfile(self._graph()):
            return {}
        return {node["name"]: ortprofile.tensors(node) for node in onnxfile.nodes(self._graph())}

    def _graph(self) -> str:
        return os.path.join(self._folder, "optimised.onnx")

    def effective(self) -> Dict[str, str]:
        """Provider, threads and graph optimization."""
        own = self._session.get_session_options().intra_op_num_threads
        threads = self.threads() if self._shares_threads else own
        return {
            "provider": self._session.get_providers()[0],
            "threads": str(threads) if threads else "auto",
            "graph_optimization": self.option("graph_optimization", "all"),
            "format": self._format(),
        }

    def _format(self) -> str:
        return self.option("format", "onnx")

    def _names(self) -> List[str]:
        return [self.blob(name) for name in self.spec["outputs"]]

    def _feeds(self, inputs: Any) -> Dict[str, Any]:
        return {self.blob(name): array for name, array in inputs.items()}
