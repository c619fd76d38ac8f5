"""docs/statistics.md: one part from simulation, one from a real machine; each command writes its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "statistics.md"
RECORDED = "## On a real machine"
SIMULATION, MACHINE = "simulation", "machine"
HOLDS, FAILS = "HOLDS", "DOES NOT HOLD"


def keep(part: str, lines: Sequence[str]) -> None:
    """Write one part of the page and leave the other as it is."""
    text = DOCUMENT.read_text("utf-8") if DOCUMENT.exists() else ""
    simulated, mark, recorded = text.partition(RECORDED)
    made = "\n".join(lines).strip() + "\n"
    if part == SIMULATION:
        recorded = mark + recorded
    else:
        made, recorded = simulated, made
    DOCUMENT.write_text("\n".join(filter(None, (made, recorded))), "utf-8")


def row(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def claim(holds: bool, what: str) -> str:
    """What is claimed, and whether it holds."""
    return f"{HOLDS if holds else FAILS}: {what}"
