"""What a network computes by ONNX's own definition: slow, and there where runtimes lack a kernel or err.

`python -m edgebench.model.definition` is the process that computes: a Loop may not end, numpy takes whatever
memory a shape asks for. It reads a task from stdin and writes arrays.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebench.errors import ModelError
from edgebench.model.base import nodes, real_inputs
from edgebench.records import ModelInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    Arrays = dict[str, NDArray[Any]]

MAX_MACS = 50_000_000  # it is numpy and Python loops: some seconds
MAX_BYTES = 1 << 20  # of the file and its inputs, where operations cannot be counted
MAX_S = 120.0
_CANNOT = "cannot compute the model"
MAX_MEMORY_BYTES = 8 << 30

# Operators that ONNX Runtime (seen with 1.32) computes otherwise than ONNX defines, with some attributes:
# Resize with align_corners, MaxUnpool with output_shape, the masked scores that Attention can return.
DOUBTFUL = ("Attention", "MaxUnpool", "Resize")


def is_small(info: ModelInfo, fed_bytes: int) -> bool:
    """Whether numpy computes the model on inputs of so many bytes in seconds."""
    if info.macs is not None:
        return info.macs <= MAX_MACS
    return info.size_bytes + fed_bytes <= MAX_BYTES


def is_doubtful(path: Path) -> bool:
    """Whether a checked file has an operator that ONNX Runtime is known to get wrong sometimes."""
    import onnx

    return any(node.op_type in DOUBTFUL for node in nodes(onnx.load(path, load_external_data=False).graph))


def computed(path: Path, samples: Iterable[Mapping[str, Path]], *, time_s: float = MAX_S) -> list[Arrays]:
    """As `outputs`, of samples in `.npy` files, by a process of its own: ModelError when it dies."""
    with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
        fed = [{name: str(file) for name, file in sample.items()} for sample in samples]
        task = json.dumps({"model": str(path), "samples": fed, "folder": folder})
        argv = [sys.executable, "-m", "edgebench.model.definition"]
        time_s = min(time_s, MAX_S)
        try:
            done = subprocess.run(argv, input=task.encode(), capture_output=True, timeout=time_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise _broken(f"was not done after {time_s:g} s") from error
        if done.returncode != 0:
            log = done.stderr.decode("utf-8", "replace").strip()
            last = (log.splitlines() or [f"status {done.returncode}"])[-1]
            raise _broken(f"{_CANNOT}: {last.rpartition(f'{_CANNOT}: ')[2][:300]}", log[-4096:])
        return [
            {name: np.load(Path(folder) / file, allow_pickle=False) for name, file in sample.items()}
            for sample in json.loads(done.stdout)
        ]


def _broken(what: str, detail: str = "") -> ModelError:
    return ModelError(
        f"ONNX's reference implementation {what}",
        hint="use operators and types that ONNX Runtime has",
        detail=detail,
    )


def outputs(model: ModelProto, samples: Iterable[Mapping[str, Any]]) -> list[Arrays]:
    """The outputs by name for each sample, as ONNX's reference implementation computes them.

    ModelError when it cannot: it lacks some operators and types too.
    """
    from onnx.reference import ReferenceEvaluator

    fed = {value.name for value in real_inputs(model.graph)}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            evaluator = ReferenceEvaluator(model)
            made = [
                evaluator.run(None, {name: array for name, array in sample.items() if name in fed})
                for sample in samples
            ]
    except (
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ArithmeticError,
        AssertionError,
    ) as error:
        raise _broken(f"{_CANNOT}: {str(error)[:300]}") from error
    names = [value.name for value in model.graph.output]
    return [dict(zip(names, map(np.asarray, each), strict=True)) for each in made]


def _main() -> None:
    """Compute what the task on stdin asks for; the names of the files written go to stdout, as JSON."""
    import resource

    import onnx

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = int(MAX_S) + 1  # of processor time: who started this process may be gone
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    task = json.load(sys.stdin)
    samples = [
        {name: np.load(file, allow_pickle=False) for name, file in sample.items()}
        for sample in task["samples"]
    ]
    made = outputs(onnx.load(task["model"], load_external_data=False), samples)
    json.dump([_saved(each, Path(task["folder"]), number) for number, each in enumerate(made)], sys.stdout)


def _saved(arrays: Arrays, folder: Path, sample: int) -> dict[str, str]:
    """The file of each array, by name."""
    files = {}
    for number, (name, array) in enumerate(arrays.items()):
        if array.dtype.kind not in "biufc":
            raise _broken(f'{_CANNOT}: the output "{name}" has the type {array.dtype}')
        files[name] = f"{sample}-{number}.npy"
        np.save(folder / files[name], array, allow_pickle=False)
    return files


if __name__ == "__main__":
    _main()
