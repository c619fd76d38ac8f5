"""Artifacts of runtimes that do not run on this computer, computed by an interpreter in a process of its own.

What such an interpreter says is "reference-verified": proven against the format's definition, not on a
device.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.convert.base import Answer, read_arrays, write_arrays
from edgebench.errors import BugError, InfrastructureError, ModelError, UserError
from edgebench.model import images
from edgebench.records import Artifact, decode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

# Runtime -> the module that is run as `python -m MODULE ARTIFACT INPUTS.npz OUTPUTS.npz`.
EVALUATORS = {"coreml": "edgebench.convert.coreml.evaluate"}


def evaluates(runtime: str) -> bool:
    """Whether artifacts of this runtime are computed by an interpreter here."""
    return runtime in EVALUATORS


def evaluate(
    artifact: Artifact,
    folder: Path,
    samples: Sequence[Mapping[str, NDArray[Any]]],
    *,
    time_s: float,
    every: bool = False,
) -> list[Arrays]:
    """What the artifact computes for each sample, by ONNX name; ModelError when the interpreter cannot.

    Samples are the ONNX model's; an image input is fed the pixels that they were made of. `every`: values
    inside of the program may be outputs, too.
    """
    pictures = {each.name: each for each in images.from_options(artifact.options)}
    with tempfile.TemporaryDirectory(prefix="edgebench-") as scratch:
        given = [Path(scratch) / f"inputs-{number}.npz" for number in range(len(samples))]
        made = [Path(scratch) / f"outputs-{number}.npz" for number in range(len(samples))]
        for path, sample in zip(given, samples, strict=True):
            fed = {
                name: pictures[name].pixels(each) if name in pictures else each
                for name, each in sample.items()
            }
            named = {artifact.blobs.get(name, name): _handed_over(each) for name, each in fed.items()}
            write_arrays(path, named)
        pairs = [str(path) for pair in zip(given, made, strict=True) for path in pair]
        _interpret(
            artifact, [str(folder / artifact.entry["package"]), *pairs, *(["every"] if every else [])], time_s
        )
        return [_read(artifact, path) for path in made]


def _interpret(artifact: Artifact, words: list[str], time_s: float) -> None:
    argv = [sys.executable, "-m", EVALUATORS[artifact.runtime], *words]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=time_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(
            f"evaluating {artifact.model} for {artifact.runtime} took more than {time_s:.0f} s",
            hint="allow it more time: EDGEBENCH_CONVERT_TIMEOUT_S; or use a smaller model",
            detail=(error.stderr or b"").decode("utf-8", "replace")[-4096:],
        ) from error
    if done.returncode != 0:
        raise _failure(artifact, done)


def _read(artifact: Artifact, path: Path) -> Arrays:
    made = read_arrays(path)
    named = {each.name: artifact.blobs.get(each.name, each.name) for each in artifact.outputs}
    return {name: made[blob] for name, blob in named.items() if blob in made}


def _handed_over(array: NDArray[Any]) -> NDArray[Any]:
    """The array as Core ML takes it: float32 or int32, of at least one axis."""
    import numpy as np

    kind = np.float32 if array.dtype.kind == "f" else np.int32
    return np.atleast_1d(array).astype(kind)


def _failure(artifact: Artifact, done: subprocess.CompletedProcess[bytes]) -> Exception:
    log = done.stderr.decode("utf-8", "replace")[-4096:]
    if done.returncode < 0 or not done.stdout.strip():
        return ModelError(
            f"the {artifact.runtime} interpreter broke on {artifact.model} (status {done.returncode})",
            hint="the artifact cannot be proven here, so it is not given out",
            detail=log,
        )
    said = decode(Answer, done.stdout.splitlines()[-1], source="the interpreter's answer")
    for kind in (ModelError, InfrastructureError, UserError):
        if said.owner == kind.owner:
            return kind(said.message, hint=said.hint or "try another runtime", detail=said.detail or log)
    return BugError(said.message, hint=said.hint, detail=said.detail or log)
