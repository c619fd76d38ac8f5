"""Where a converted model departs: the first layer whose value the runtime computes differently.

The model is cut after a layer, converted and proven like a whole one; halving the layers finds the first that
does not hold. It works for every runtime, since it needs nothing but conversion and parity.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgebench import model
from edgebench.artifacts import ArtifactStore
from edgebench.errors import ModelError, ParityError
from edgebench.fleet.plan import own_precision
from edgebench.model.cut import Layer, cut, layers
from edgebench.pipeline import CONTROLLER, Cell, Step, Workbench, prepare
from edgebench.records import replace

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_TRIES = 40  # halving needs 12 for 4,000 layers; the rest is for layers that cannot be cut after


class Departure(NamedTuple):
    """What bisection found. `layer` None: every layer that could be tried holds.

    `reason` is parity's at that layer, `before` the last layer that holds, `untried` those where the model
    cut there could not be converted.
    """

    layer: Layer | None
    reason: str
    before: Layer | None
    tried: int
    untried: tuple[Layer, ...]


def first_departure(cell: Cell, bench: Workbench) -> Departure:
    """The first layer of the cell's model that departs on the controller; the model is taken as it is."""
    with bench.scratch() as folder:
        model.prepare(
            Path(cell.model_path),
            shapes=dict(cell.shapes),
            batch=cell.batch,
            cut_nms=cell.cut_nms,
            constants=dict(cell.constants),
            out=folder / "whole.onnx",
        )
        canonical = model.load(folder / "whole.onnx")
        found = layers(canonical)
        store = ArtifactStore(folder / "artifacts")  # cut models are of no use to anybody later
        aside = Workbench(bench.home, limits=bench.limits, announce=bench.announce, artifacts=store)
        try:
            return halve(found, lambda layer: _reason(cut(canonical, layer.value), layer, cell, aside))
        finally:
            aside.close()


def halve(found: list[Layer], reason: Callable[[Layer], str | None]) -> Departure:
    """Halving between the last layer known to hold and the first known to depart.

    `reason` says why a layer departs ("" when it holds, None when it cannot be tried).
    """
    low, high = -1, len(found)
    why, tried, untried = "", 0, set[int]()
    while high - low > 1 and tried < MAX_TRIES:
        middle = _nearest_tryable(low, high, untried)
        if middle is None:
            break
        tried += 1
        said = reason(found[middle])
        if said is None:
            untried.add(middle)
        elif said:
            high, why = middle, said
        else:
            low = middle
    return Departure(
        layer=found[high] if high < len(found) else None,
        reason=why,
        before=found[low] if low >= 0 else None,
        tried=tried,
        untried=tuple(found[number] for number in sorted(untried)),
    )


def _nearest_tryable(low: int, high: int, untried: set[int]) -> int | None:
    """The number nearest to the middle of the open interval that was not given up yet."""
    middle = (low + high) / 2
    left = [number for number in range(low + 1, high) if number not in untried]
    return min(left, key=lambda number: abs(number - middle)) if left else None


def _reason(made: ModelProto, layer: Layer, cell: Cell, bench: Workbench) -> str | None:
    """Why the model cut after the layer departs: "" when it does not, None when it cannot be made."""
    bench.announce(Step("bisect", CONTROLLER, f"{layer.operator} {layer.node}"))
    with bench.scratch() as folder:
        path = folder / f"{Path(cell.model_path).stem}.onnx"
        path.write_bytes(made.SerializeToString())
        try:
            precision = _precision(cell, path)
            afresh = {"model_path": str(path), "shapes": (), "constants": (), "cut_nms": False}
            prepare(replace(cell, **afresh, precision=precision, as_is=True), bench)
        except ParityError as error:
            return error.message
        except ModelError:
            return None
    return ""


def _precision(cell: Cell, path: Path) -> str:
    """The cell's precision; that of the cut where a quantized model was cut before its first such layer."""
    return own_precision(model.inspect(path)) if cell.precision.startswith("int8") else cell.precision
