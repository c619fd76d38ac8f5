"""No limit, baseline or comparison stands on what an emulator measured."""

from __future__ import annotations

from edgebench.exchange import EMULATED, entry
from edgebench.gates import observed
from edgebench.records import replace
from tests.report import fixtures


def test_the_launches_of_an_emulator_are_valid_nowhere() -> None:
    measured = fixtures.measurement()
    emulated = replace(measured, facts=replace(measured.facts, emulated=True))
    assert all(launch.valid for launch in entry(measured).launches)
    made = entry(emulated)
    assert made.environment["emulated"] == "yes"
    assert {(launch.valid, launch.invalid_reason) for launch in made.launches} == {(False, EMULATED)}
    cell = observed(made)
    assert cell.launches == ()
    assert (cell.invalid, cell.invalid_reason) == (len(measured.launches), EMULATED)
    assert cell.artifact_bytes == measured.artifact.size_bytes  # sizes and outputs are the board's
