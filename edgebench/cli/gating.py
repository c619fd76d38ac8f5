"""What `edgebench run --gate` adds to a run: its plan before, and the judging of what was stored after."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from edgebench import budgets as budget_files
from edgebench import model
from edgebench.cli.judging import answered, keep, question
from edgebench.cli.output import warn
from edgebench.cli.sources import Sources, groups_of
from edgebench.documents import read_text
from edgebench.errors import UserError
from edgebench.fleet.gating import GatePlan, gate_of, ruling
from edgebench.gates import Gate
from edgebench.pipeline import Mode, Ruling
from edgebench.records import Run, replace
from edgebench.releases import LATEST_PASSED
from edgebench.settings import Settings
from edgebench.store import Store

# of several exit codes the first that occurs: bug, usage, fail, error, busy, inconclusive, nothing, fine
WORST_FIRST = (70, 2, 1, 4, 75, 3, 5, 0)


class Asked(NamedTuple):
    """The flags of a gate: a budgets file, the name of a baseline or an ONNX file, how both are measured."""

    budgets_file: str | None
    baseline: str | None
    mode: Mode


def planned(asked: Asked, store: Store) -> GatePlan | None:
    """The gate of a new run, its budgets and its baseline read; None where none was asked for."""
    if asked.budgets_file is None:
        if asked.baseline is not None:
            raise UserError("--baseline needs budgets", hint="edgebench run MODEL --gate budgets.yaml")
        return None
    text = read_text(Path(asked.budgets_file))
    rules = budget_files.parse(text, asked.budgets_file)
    plan = GatePlan(
        budgets=text,
        source=asked.budgets_file,
        mode=asked.mode,
        baseline=asked.baseline or rules.baseline or "",
        stored=rules.baseline_is_stored,
    )
    if plan.baseline.endswith(".onnx"):
        model.inspect(Path(plan.baseline))
        return replace(plan, baseline_model=plan.baseline)
    return replace(plan, baseline_run=_baseline_run(plan.baseline, store))


def _baseline_run(name: str, store: Store) -> str:
    """The id of the run of a baseline, "" without one: the first release has nothing to be compared with."""
    if not name:
        return ""
    try:
        return store.run(name).id
    except UserError as error:
        if name != LATEST_PASSED:
            raise
        warn(error.message)
        return ""


def ruling_of(plan: GatePlan, settings: Settings, cells: int) -> Ruling:
    """How a run of so many jobs decides."""
    return ruling(plan, groups_of(settings), datetime.now(UTC).date(), cells)


def judged(run: Run, store: Store, settings: Settings, ruling: Ruling) -> Gate:
    """The verdict on a run from what is stored, which is stored too."""
    sources = Sources(store, groups_of(settings))
    asked = question(run.id, _baseline_to_read(run, store), ruling.budgets, sources)
    made = answered(asked, store)
    keep(made, asked, store)
    return made


def _baseline_to_read(run: Run, store: Store) -> str | None:
    """The baseline's run where nothing was measured beside this one; None: what was."""
    plan = gate_of(run)
    if plan is None or not plan.baseline_run or store.has_role(run.id, "baseline"):
        return None
    return plan.baseline_run


def worse(one: int, other: int) -> int:
    """The worse of two exit codes."""
    return min((one, other), key=WORST_FIRST.index)
