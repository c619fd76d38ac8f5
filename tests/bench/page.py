"""docs/benchmarks.md: the table of `make bench`, and parts of other commands; each keeps the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
# The parts behind the table, in their order on the page.
TRAINING = "## What training steps are worth"
STUDENTS = "## What a teacher is worth to a student"
PRESETS = "## int8 after qat, through every runtime's artifact"
COMBINED = "## All three combined, on this computer"
PARTS = (TRAINING, STUDENTS, PRESETS, COMBINED)


def keep(part: str, lines: Sequence[str]) -> None:
    """Write one part of the page, "" for its table, and leave the others as they are."""
    text = DOCUMENT.read_text("utf-8") if DOCUMENT.exists() else ""
    found = _apart(text)
    found[part] = "\n".join(lines).strip()
    made = [found[""], *(f"{each}\n\n{found[each]}" for each in PARTS if found.get(each))]
    DOCUMENT.write_text("\n\n".join(filter(None, made)) + "\n", "utf-8")


def _apart(text: str) -> dict[str, str]:
    """The parts of the page by their headings."""
    found: dict[str, str] = {"": ""}
    at = ""
    for line in text.splitlines():
        if line in PARTS:
            at, found[line] = line, ""
        else:
            found[at] += f"{line}\n"
    return {name: part.strip() for name, part in found.items()}
