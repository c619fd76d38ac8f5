"""What preparing a cell would do, by the artifact store alone: nothing is computed, converted or written."""

from __future__ import annotations

from edgebench.convert.base import Form, converter
from edgebench.convert.run import cache_key
from edgebench.pipeline.base import Cell, Workbench
from edgebench.pipeline.preparing import (
    calibration_of,
    canonical_key,
    choose_form,
    info_of,
    variant_key,
    wanted_of,
    written_out_key,
)
from edgebench.records import Artifact


def foreseen(cell: Cell, bench: Workbench) -> Artifact | None:
    """The artifact that preparing would take from the store; None where something has to be made first.

    EdgebenchError where it is known already that the cell cannot be prepared, or a tool for it is missing.
    """
    canonical = bench.artifacts.lookup(canonical_key(cell))
    if canonical is None:
        return None
    form = choose_form(cell, info_of(canonical, bench), bench)
    variant = bench.artifacts.lookup(variant_key(cell, form, canonical)) if form.steps else canonical
    return None if variant is None else _converted(cell, form, variant, bench)


def _converted(cell: Cell, form: Form, variant: Artifact, bench: Workbench) -> Artifact | None:
    """The artifact of the first way that has one."""
    maker = converter(cell.runtime, bench.home)
    versions = maker.tool_versions()
    for way in form.ways:
        source = variant
        if way.natively is not None:
            source = bench.artifacts.lookup(written_out_key(way.natively, variant)) or variant
        wanted = wanted_of(cell, way, source, calibration_of(cell, source, bench))
        found = bench.artifacts.lookup(cache_key(wanted, maker, versions))
        if found is not None:
            return found
    return None
