"""A pytest fixture that judges measurements by budgets: a failed limit is a failed test with its numbers.

Found by pytest through its entry point; nothing else of edgebench is imported until the fixture is used.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgebench.gates import Gate, Observed

OPTION = "--edgebench-inconclusive"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option for what is inconclusive."""
    group = parser.getgroup("edgebench")
    group.addoption(
        OPTION, choices=("skip", "fail"), default="skip", help="what an inconclusive edgebench budget does"
    )


class Budget:
    """What the fixture gives: a call judges one file."""

    def __init__(self, inconclusive: str) -> None:
        self._inconclusive = inconclusive

    def __call__(
        self,
        measurements: str | Path,
        *,
        budgets: str | Path = "budgets.yaml",
        baseline: str | Path | None = None,
        model: str = "*",
        device: str = "*",
    ) -> Gate:
        """The gate where every limit is kept; else the test fails, or is skipped where it is undecided.

        `model` and `device` choose cells of the file, with `*` and `?`.
        """
        from edgebench import budgets as budget_files
        from edgebench.gates import gate

        rules = budget_files.parse(Path(budgets).read_text("utf-8"), str(budgets))
        cells = [
            cell
            for cell in _cells(measurements)
            if fnmatchcase(cell.subject.model, model) and fnmatchcase(cell.subject.device, device)
        ]
        before = [] if baseline is None else _cells(baseline)
        judged = gate(cells, rules, before, today=datetime.now(UTC).date())
        if judged.verdict == "pass":
            return judged
        told = _told(judged)
        if judged.exit_code == 3 and self._inconclusive == "skip":
            pytest.skip(told)
        pytest.fail(told, pytrace=False)


def _cells(path: str | Path) -> list[Observed]:
    from edgebench import exchange
    from edgebench.gates import observed

    file = exchange.parse(Path(path).read_bytes(), str(path))
    return [observed(each, with_samples=True) for each in file.measurements]


def _told(judged: Gate) -> str:
    from edgebench.gates import label

    lines = [f"edgebench gate: {judged.verdict}"]
    lines += [
        f"{each.word}: {label(each.subject)}: {each.metric}: {each.reason}"
        for each in judged.cells
        if each.word != "pass"
    ]
    return "\n".join(lines if judged.cells else [*lines, "no budget limits any chosen cell"])


@pytest.fixture
def edgebench_budget(request: pytest.FixtureRequest) -> Budget:
    """Judges a file of measurements by a budgets file: see docs/ci.md."""
    return Budget(str(request.config.getoption(OPTION)))
