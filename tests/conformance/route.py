"""edgebench's own path from a case to a verdict, in one process: no worker, no session, so it is quick.

    model.prepare -> choose form -> written out for the runtime -> convert -> parity -> outputs

It uses the pipeline's own functions. Only the doors to other processes are replaced: the converter is called
here, and inference runs here through the probe's adapters. A crash ends this process; the pool sees that and
asks for the case again with `isolated`, where converter and inference have their own processes as always.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgebench import model
from edgebench.artifacts import ArtifactStore
from edgebench.convert import evaluate as evaluation
from edgebench.convert.base import Place, Request, Way, converter, read_arrays, write_arrays
from edgebench.convert.evaluate import evaluates
from edgebench.convert.run import Conversion, Limits
from edgebench.device.session import InputSet, save_inputs
from edgebench.errors import BugError, EdgebenchError, ModelError
from edgebench.model import definition
from edgebench.parity import align
from edgebench.pipeline import Cell, Workbench, base, preparing
from edgebench.probe.runtimes.base import adapter
from edgebench.probe.wire import ProbeError
from edgebench.records import Artifact, replace
from tests.conformance.cases import Case, read

RTOL, ATOL = 1e-3, 1e-5  # passed, for the cases' own outputs
# Some cases expect 0 beside values in the hundreds (DFT, STFT): 1e-5 is then below a step of the float type.
# So the absolute tolerance is never less than this many steps of the largest expected value.
NOISE_STEPS = {"float64": 4 * 2.0**-23, "float32": 4 * 2.0**-23, "float16": 2.0**-10}
TOOL_LIMIT_S = 50.0


class Outcome(msgspec.Struct, frozen=True):
    """What became of one case in one runtime: passed, refused, wrong or crashed."""

    case: str
    operator: str
    form: str
    runtime: str
    verdict: str
    reason: str = ""
    seconds: float = 0.0


class QuickBench(Workbench):
    """A workbench whose inference runs in this process."""

    def infer(self, artifact: Artifact, folder: Path, inputs: InputSet) -> base.Samples:
        """What an artifact computes, sample by sample."""
        if evaluates(artifact.runtime):
            return super().infer(artifact, folder, inputs)
        spec = {
            "runtime": artifact.runtime,
            "entry": {part: str(folder / path) for part, path in artifact.entry.items()},
            "options": artifact.options,
            "blobs": artifact.blobs,
            "outputs": [tensor.name for tensor in artifact.outputs],
            "workload": {"threads": 1},
        }
        try:
            runtime = adapter(spec)
            runtime.import_runtime()
            runtime.load()
            return [dict(runtime.outputs(_feed(sample, inputs))) for sample in inputs.samples]
        except ProbeError as error:
            raise ModelError(str(error)) from error
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            # the runtimes' own errors: the probe reports them as the model's, too
            raise ModelError(f"{type(error).__name__}: {str(error)[:400]}", detail=str(error)) from error


def _interpreted(artifact: Artifact, words: list[str], time_s: float) -> None:
    """The interpreter of Core ML packages in this process, with the same files."""
    from edgebench.convert.coreml.interpreter import interpret

    package, *files = map(Path, words)
    for given, made in zip(files[::2], files[1::2], strict=True):
        write_arrays(made, interpret(package, read_arrays(given)))


def _defined(path: Path, samples: list[dict[str, Path]], *, time_s: float) -> list[dict[str, Any]]:
    """ONNX's definition in this process: the pool ends it when it takes too long."""
    fed = [{name: np.load(file, allow_pickle=False) for name, file in sample.items()} for sample in samples]
    return definition.outputs(model.load(path), fed)


def _feed(sample: Any, inputs: InputSet) -> dict[str, Any]:
    return {name: np.asarray(np.load(Path(inputs.folder) / path), order="C") for name, path in sample}


class Route:
    """Cases through edgebench, one after the other; `home` has pnnx and gets scratch files."""

    def __init__(self, home: Path, *, isolated: bool) -> None:
        self._isolated = isolated
        self._home = home
        limits = Limits(time_s=TOOL_LIMIT_S, memory_bytes=8 << 30)
        kind = Workbench if isolated else QuickBench
        self._bench = kind(home, limits=limits)
        if not isolated:
            preparing.convert_variant = quick_convert
            evaluation._interpret = _interpreted
            definition.computed = _defined

    def close(self) -> None:
        """End the controller's session."""
        self._bench.close()

    def judge(self, case: Case, runtime: str) -> Outcome:
        """The verdict; never raises for anything the case does."""
        started = time.monotonic()
        try:
            verdict, reason = self._through(case, runtime)
        except BugError as error:
            verdict, reason = "crashed", f"{error.message} {error.detail[-600:]}"
        except EdgebenchError as error:
            verdict, reason = "refused", f"{type(error).__name__}: {error.message}"
        except Exception as error:  # noqa: BLE001 - what edgebench should have turned into its own error
            verdict, reason = "crashed", _trace(error)
        return Outcome(
            case=case.name,
            operator=case.operator,
            form=case.form,
            runtime=runtime,
            verdict=verdict,
            reason=reason[:1500],
            seconds=round(time.monotonic() - started, 3),
        )

    def forget(self) -> None:
        """Remove what earlier cases left in the store."""
        for name in ("artifacts", "inputs", "tmp"):
            shutil.rmtree(self._home / name, ignore_errors=True)
        self._bench.artifacts = ArtifactStore(self._home / "artifacts")
        self._bench._references.clear()

    def _through(self, case: Case, runtime: str) -> tuple[str, str]:
        inputs, expected = read(case)
        bench = self._bench
        with bench.scratch() as folder:
            cell = self._cell(case, runtime, _plain(inputs), folder)
            info, canonical = preparing.canonical_form(cell, bench)
            form = preparing.choose_form(cell, info, bench)
            variant = preparing.make_variant(cell, form, canonical, bench)
            own = save_inputs([_fitted(inputs, info)], bench.home)
            proof = preparing.Proof(info, own, "the case's")
            prepared = preparing.first_proven(cell, form.ways, variant, proof, bench)
            self._prove_generated(info, variant, prepared.conversion)
            artifact = prepared.artifact
            outputs = bench.infer(artifact, bench.artifacts.path(artifact.digest), own)[0]
        if runtime == "ncnn":  # its Mats have no axes of one that would be fixed
            outputs = {name: _with_axes(array, expected.get(name)) for name, array in outputs.items()}
        reason = differs(expected, outputs)
        return ("wrong", reason) if reason else ("passed", "")

    def _cell(self, case: Case, runtime: str, inputs: dict[str, Any], folder: Path) -> Cell:
        np.savez(folder / "inputs.npz", **inputs)
        shapes = tuple((name, array.shape) for name, array in inputs.items() if array.ndim)
        return Cell(
            model_path=str(case.folder / "model.onnx"),
            runtime=runtime,
            precision=_precision(case),
            as_is=True,
            name=case.name,
            shapes=shapes,
            inputs=str(folder / "inputs.npz"),
        )

    def _prove_generated(self, info: Any, variant: Artifact, conversion: Conversion) -> None:
        """Parity on generated inputs too, where the reference is finite on them."""
        inputs = save_inputs([model.random_inputs(info, base.GENERATED_SEED)], self._bench.home)
        try:
            reference = self._bench.reference(variant, inputs)
        except ModelError:
            return
        if all(
            np.isfinite(array).all() for array in reference.samples[0].values() if array.dtype.kind == "f"
        ):
            preparing.prove(info, variant, conversion, inputs, "generated", self._bench)


def quick_convert(cell: Cell, way: Way, source: Artifact, bench: Workbench) -> Conversion:
    """`preparing.convert_variant` without the worker process."""
    maker = converter(cell.runtime, bench.home)
    info = preparing.info_of(source, bench)
    refusal = maker.refuse(info, cell.precision)
    if refusal is not None:
        raise ModelError(refusal.reason, hint=refusal.hint)
    request = Request(
        model_path=str(bench.artifacts.path(source.digest) / base.MODEL_FILE),
        info=info,
        precision=cell.precision,
        options=maker.forms[cell.precision].options | way.options,
    )
    with bench.scratch() as folder:
        (folder / "out").mkdir()
        (folder / "work").mkdir()
        with _tool(maker.command(request, folder / "work"), folder / "work") as tool:
            place = Place(folder / "out", folder / "work", tool, time.perf_counter())
            produced = maker.convert(request, place)
        draft = replace(
            source,
            digest="",
            key=f"{source.key}-{cell.runtime}-{way.options}",
            runtime=cell.runtime,
            precision=cell.precision,
            files=(),
            entry=produced.entry,
            blobs=produced.blobs,
            options=produced.options,
            notes=produced.notes,
        )
        return Conversion(bench.artifacts.put(folder / "out", draft), cached=False)


@contextlib.contextmanager
def _tool(command: tuple[str, ...], work: Path) -> Iterator[subprocess.Popen[bytes] | None]:
    """The converter's outside tool with a time limit."""
    if not command:
        yield None
        return
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=work
    )
    timer = threading.Timer(TOOL_LIMIT_S, process.kill)
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs as users may give them: no NaN, no infinities. Parity sees the case's own."""
    return {
        name: np.nan_to_num(array, nan=1.0, posinf=1.0, neginf=-1.0) if array.dtype.kind == "f" else array
        for name, array in inputs.items()
    }


def _fitted(inputs: dict[str, Any], info: Any) -> dict[str, Any]:
    return {tensor.name: np.asarray(inputs[tensor.name], tensor.dtype) for tensor in info.inputs}


def _with_axes(array: Any, expected: Any) -> Any:
    aligned = None if expected is None else align(np.asarray(array), expected.shape)
    return array if aligned is None else aligned


def _precision(case: Case) -> str:
    """What `edgebench convert` without --precision would take the file as."""
    kind = model.inspect(case.folder / "model.onnx").precision
    return {"int8-qdq": "int8", "mixed": "fp16"}.get(kind, kind)


def differs(expected: dict[str, Any], outputs: dict[str, Any]) -> str:
    """Why the outputs are not the expected ones, or "".

    Rank 0 may come back as one element, int64 as int32.
    """
    for name, wanted in expected.items():
        if name not in outputs:
            return f'no output "{name}"'
        got = np.asarray(outputs[name])
        if got.shape != wanted.shape and not (wanted.ndim == 0 and got.size == 1):
            return f'"{name}" has shape {got.shape}, expected {wanted.shape}'
        got = got.reshape(wanted.shape)
        if wanted.dtype.kind in "biu":
            close = got.astype(np.float64) == wanted.astype(np.float64)
        else:
            finite = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
            noise = NOISE_STEPS[wanted.dtype.name] * float(finite.max(initial=0.0))
            close = np.isclose(
                got.astype(np.float64),
                wanted.astype(np.float64),
                rtol=RTOL,
                atol=max(ATOL, noise),
                equal_nan=True,
            )
        if not np.all(close):
            worst = np.flatnonzero(~np.ravel(close))[0]
            return (
                f'"{name}": {np.count_nonzero(~close)} of {wanted.size} values differ, the first is '
                f"{np.ravel(got)[worst]} where {np.ravel(wanted)[worst]} is expected"
            )
    return ""


def _trace(error: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(error))[-1400:]


def threads_of_one() -> None:
    """Two cores are shared: every library computes on one."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
