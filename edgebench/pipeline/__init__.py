"""One job, top to bottom. `prepare` needs no device, `measure` needs one; both read as a table of contents.

prepare   inspect -> canonical form -> compress -> convert -> parity on the controller
measure   push -> parity on the device -> launches, each stored at once
decide    the same, candidate and baseline side by side, until every budget is decided
"""

from edgebench.pipeline.base import (
    BUILT_ON_DEVICE,
    CONTROLLER,
    Announce,
    Cell,
    Labelled,
    Prepared,
    Step,
    Workbench,
    silent,
    title,
)
from edgebench.pipeline.deciding import Mode, Rival, Ruling, Trial, decide, side_by_side
from edgebench.pipeline.examining import examine, health_cell, not_passed
from edgebench.pipeline.foreseeing import foreseen
from edgebench.pipeline.measuring import Site, measure, open_device, tally
from edgebench.pipeline.preparing import prepare, verify_artifact

__all__ = [
    "BUILT_ON_DEVICE",
    "CONTROLLER",
    "Announce",
    "Cell",
    "Labelled",
    "Mode",
    "Prepared",
    "Rival",
    "Ruling",
    "Site",
    "Step",
    "Trial",
    "Workbench",
    "decide",
    "examine",
    "foreseen",
    "health_cell",
    "measure",
    "not_passed",
    "open_device",
    "prepare",
    "side_by_side",
    "silent",
    "tally",
    "title",
    "verify_artifact",
]
