"""Which tensors of an artifact are which of its ONNX network, where no names are left: by their values.

The artifact and the network compute the same sample on the controller, every tensor of each; two are the same
when they have the same shape (axes of size 1 apart) or at least as many numbers, and as far as the precision
allows the same ones in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgebench import model
from edgebench.convert.evaluate import evaluate
from edgebench.device.session import InputSet, Placed, read_samples
from edgebench.pipeline.base import MODEL_FILE, UNOPTIMISED, Prepared, Workbench
from edgebench.records import Artifact, Profile, Tensor, replace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

AT_ONCE = 128  # tensors in one computation: each becomes a file, and an array in memory
NUMBERS = 512  # of a tensor that are compared
CLOSE = 1e-5  # of the largest number: tensors that differ by less cannot be told apart
# how far the same tensor may lie apart, as a share of its largest number
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.2, "int8-dynamic": 0.2}


class Print(NamedTuple):
    """What is kept of a tensor: its shape without axes of size 1, and evenly spaced numbers of it."""

    shape: tuple[int, ...]
    numbers: Array

    @property
    def size(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)


def same_tensors(taken: Profile, prepared: Prepared, source: Artifact, bench: Workbench) -> dict[str, str]:
    """The artifact's tensors that a profile names -> those of the ONNX file `source`."""
    artifact, inputs = prepared.artifact, _one(prepared.inputs)
    names = [name for layer in taken.layers for name in layer.outputs]
    ours = dict(_artifact_prints(artifact, dict.fromkeys(names), inputs, bench))
    theirs = dict(_source_prints(source, inputs, bench))
    return matched(ours, theirs, TOLERANCES.get(artifact.precision, max(TOLERANCES.values())))


def matched(ours: Mapping[str, Print], theirs: Mapping[str, Print], tolerance: float) -> dict[str, str]:
    """Ours -> theirs, both in the order of computation.

    Several of theirs may have the same numbers (before and after a node that changes nothing here): as many
    of ours take them in order, and the last of ours takes the last of theirs.
    """
    equal: dict[tuple[str, ...], list[str]] = {}
    for name, print_ in ours.items():
        found = _nearest(print_, theirs, tolerance)
        if found:
            equal.setdefault(found, []).append(name)
    same: dict[str, str] = {}
    for found, names in equal.items():
        for place, name in enumerate(names):
            same[name] = found[-1] if place == len(names) - 1 else found[min(place, len(found) - 1)]
    return same


def _nearest(ours: Print, theirs: Mapping[str, Print], tolerance: float) -> tuple[str, ...]:
    """The tensors whose numbers are nearest, all that cannot be told apart; none where none is near.

    One of the same shape is preferred to one that has the same numbers in the same order.
    """
    alike = {name: each for name, each in theirs.items() if each.shape == ours.shape}
    as_many = {name: each for name, each in theirs.items() if each.size == ours.size}
    return _nearest_of(ours, alike, tolerance) or _nearest_of(ours, as_many, tolerance)


def _nearest_of(ours: Print, theirs: Mapping[str, Print], tolerance: float) -> tuple[str, ...]:
    import numpy as np

    scale = float(np.max(np.abs(ours.numbers), initial=0.0))
    if not np.isfinite(scale) or scale == 0.0:  # nothing but zeros is like any other such tensor
        return ()
    apart = {
        name: float(np.max(np.abs(each.numbers - ours.numbers), initial=0.0)) / scale
        for name, each in theirs.items()
    }
    least = min(apart.values(), default=tolerance + 1)
    if not least <= tolerance:
        return ()
    return tuple(name for name, distance in apart.items() if distance <= 2 * least + CLOSE)


def fingerprint(array: NDArray[np.generic]) -> Print:
    """What is kept of an array."""
    import numpy as np

    flat = np.asarray(array).reshape(-1)
    places = np.linspace(0, max(flat.size - 1, 0), min(flat.size, NUMBERS)).astype(np.int64)
    return Print(tuple(size for size in array.shape if size != 1), flat[places].astype(np.float64))


# --- computing every tensor ---------------------------------------------------------------------


def _artifact_prints(
    artifact: Artifact, names: Iterable[str], inputs: InputSet, bench: Workbench
) -> Iterator[tuple[str, Print]]:
    folder = bench.artifacts.path(artifact.digest)
    for some in _groups(names):
        wanted = _asked_for(artifact, some)
        if artifact.runtime == "coreml":
            samples = read_samples(inputs)
            (made,) = evaluate(wanted, folder, samples, time_s=bench.limits.time_s, every=True)
        else:
            kept = replace(wanted, options=wanted.options | {"light_mode": "off"})
            placed = Placed(artifact=str(folder), inputs=inputs.folder, bundle=None, moved_bytes=0)
            with bench.controller() as session:
                (made,) = session.infer(kept, placed, inputs, time_s=bench.limits.time_s)
        yield from ((name, fingerprint(made[name])) for name in some if name in made)


def _source_prints(source: Artifact, inputs: InputSet, bench: Workbench) -> Iterator[tuple[str, Print]]:
    """Every tensor that the ONNX file computes in its outermost graph."""
    path = bench.artifacts.path(source.digest) / MODEL_FILE
    names = [name for node in model.load(path).graph.node for name in node.output if name]
    for some in _groups(names):
        with bench.scratch() as folder:
            _write_with_outputs(path, folder / MODEL_FILE, some)
            wanted = replace(_asked_for(source, some), runtime="onnxruntime", options=UNOPTIMISED, blobs={})
            (made,) = bench.infer(wanted, folder, inputs)
        yield from ((name, fingerprint(made[name])) for name in some)


def _write_with_outputs(path: Path, to: Path, names: Sequence[str]) -> None:
    import onnx

    network = model.load(path)
    del network.graph.output[:]
    network.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    to.write_bytes(network.SerializeToString())


def _asked_for(artifact: Artifact, names: Sequence[str]) -> Artifact:
    """The artifact with other outputs, by the runtime's own names."""
    fed = {each.name for each in artifact.inputs}
    return replace(
        artifact,
        outputs=tuple(Tensor(name=name, dtype="", shape=()) for name in names),
        blobs={name: blob for name, blob in artifact.blobs.items() if name in fed and name not in names},
    )


def _one(inputs: InputSet) -> InputSet:
    """The first sample alone."""
    return replace(inputs, samples=inputs.samples[:1])


def _groups(names: Iterable[str]) -> Iterator[list[str]]:
    every = list(names)
    for start in range(0, len(every), AT_ONCE):
        yield every[start : start + AT_ONCE]
