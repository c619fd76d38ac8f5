"""The network -> an ONNX file with an open batch, without the exporter's notes, proven equal to it."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from edgebench.compress.base import quiet
from edgebench.compress.training.base import Given, Module, TrainSettings
from edgebench.errors import ModelError
from edgebench.records import ModelInfo

NEW_EXPORTER = 18  # its lowest opset: asked for a lower one it writes 18 all the same
LARGEST_ERROR = 1e-3  # of the largest output


def write(
    module: Module,
    given: Given,
    settings: TrainSettings,
    *,
    variant: str,
    lineage: Sequence[dict[str, Any]],
    out: Path,
) -> ModelInfo:
    """What was written to `out`; ModelError when it cannot be exported, or computes otherwise then."""
    from edgebench import model

    module = module.to("cpu").eval()
    with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
        path = Path(folder) / "exported.onnx"
        _export(module, given, settings.opset, path)
        _prove(module, given, path)
        proto = model.load(path)
    name = settings.name or given.name.partition(":")[2]
    return model.write(proto, out, name=name, variant=variant, steps=list(lineage))


def _export(module: Module, given: Given, opset: int, path: Path) -> None:
    import torch

    new = opset >= NEW_EXPORTER
    if new:
        batch = torch.export.Dim("batch")
        how: dict[str, Any] = {"dynamo": True, "dynamic_shapes": tuple({0: batch} for _ in given.inputs)}
    else:
        names = (*given.inputs, *given.outputs)
        how = {"dynamo": False, "dynamic_axes": {name: {0: "batch"} for name in names}}
    try:
        with _silent():
            torch.onnx.export(
                module,
                given.example,
                str(path),
                input_names=list(given.inputs),
                output_names=list(given.outputs),
                opset_version=opset,
                external_data=False,
                verbose=False,
                **how,
            )
    except Exception as error:
        raise ModelError(
            f"{given.name}: PyTorch cannot export the network to ONNX: {_first_line(error)}",
            hint="opset 17 takes PyTorch's older exporter"
            if new
            else "opset 18 takes PyTorch's newer exporter",
            detail=str(error)[-4000:],
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter says nothing: it prints its steps, warns of its successor and logs what it tries."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _prove(module: Module, given: Given, path: Path) -> None:
    """ModelError where the file computes something else for the example, or has another batch in it."""
    import numpy as np
    import onnxruntime
    import torch

    with torch.no_grad():
        made = module(*given.example)
    wanted = [made] if isinstance(made, torch.Tensor) else list(made)
    with quiet():
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feed = {name: each.numpy() for name, each in zip(given.inputs, given.example, strict=True)}
        found = session.run(list(given.outputs), feed)
        session.run(list(given.outputs), {name: each[:1] for name, each in feed.items()})
    for name, one, other in zip(given.outputs, wanted, found, strict=True):
        largest = max(1.0, float(one.abs().max()))
        apart = float(np.abs(one.numpy() - other).max()) if one.shape == other.shape else float("inf")
        if not apart <= LARGEST_ERROR * largest:
            raise ModelError(
                f"{given.name}: the exported network departs by {apart:g} in {name} (at most {largest:g})",
                hint="a forward() that branches on values is exported with one branch only",
            )
