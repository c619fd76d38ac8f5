"""Checkpoints: a folder for each step, named by all that leads to it; weights and plain JSON, no pickle.

`epoch.pt` is replaced after each epoch, so an interrupted step goes on with the next one. `done.pt` and
`done.json` are what a finished step left: another recipe that begins with the same steps takes them from
there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from edgebench.compress.training.base import Change, Given, Network
from edgebench.compress.training.structure import rebuilt
from edgebench.errors import InfrastructureError
from edgebench.units import format_bytes

EPOCH, DONE, TOLD = "epoch.pt", "done.pt", "done.json"


class Kept(NamedTuple):
    """What a finished step left: the network, and its entry of the lineage."""

    network: Network
    entry: dict[str, Any]


def key(*parts: object) -> str:
    """The name of a step's folder: it follows from all that the step's result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all.

    Through memory: PyTorch's own writer keeps a file open that it could not write, and its room with it.
    """
    import torch

    made = io.BytesIO()
    torch.save(state, made)
    _whole(path, lambda part: part.write_bytes(made.getbuffer()))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let a file be written beside its place, then put it there; InfrastructureError where that fails."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        told = f"{str(error).splitlines()[0][:200]}{_free(path.parent)}"
        raise InfrastructureError(
            f"cannot write the checkpoint {path}: {told}",
            hint="free some disk, or name another folder; the steps that are done stay done",
        ) from error


def _free(folder: Path) -> str:
    """How much of a folder's disk is free; "" where nobody can tell."""
    try:
        return f"; {format_bytes(shutil.disk_usage(folder).free)} of its disk are free"
    except OSError:
        return ""


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, None where there is nothing; a damaged file is an InfrastructureError."""
    import torch

    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InfrastructureError(
            f"the checkpoint {path} cannot be read: {str(error).splitlines()[0][:200]}",
            hint=f"rm -r {path.parent}, and the step is done again",
        ) from error
    return found


def finish(folder: Path, network: Network, entry: dict[str, Any]) -> None:
    """Keep what a step made; its epochs are not needed any more."""
    save(folder / DONE, {"module": network.module.state_dict(), "masks": network.masks})
    told = json.dumps({"changes": network.changes, "entry": entry}, sort_keys=True)
    _whole(folder / TOLD, lambda part: part.write_text(told, encoding="utf-8"))
    (folder / EPOCH).unlink(missing_ok=True)


def kept(folder: Path, given: Given, seed: int) -> Kept | None:
    """What an earlier run of the same step made; None where it was not finished."""
    if not (folder / TOLD).is_file():
        return None
    state = load(folder / DONE)
    if state is None:
        return None
    try:
        told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
        changes: tuple[Change, ...] = tuple(told["changes"])
        module = rebuilt(given, changes, seed)
        module.load_state_dict(state["module"])
        return Kept(Network(module, changes, state["masks"]), told["entry"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InfrastructureError(
            f"the checkpoint in {folder} does not fit: {str(error).splitlines()[0][:200]}",
            hint=f"rm -r {folder}, and the step is done again",
        ) from error
