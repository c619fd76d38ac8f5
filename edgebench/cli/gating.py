"""What `edgebench run --gate` adds to a run: its plan before, and the judging of what was stored after."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from edgebench import budgets as budget_files
from edgebench import model
from edgebench.cli.setup import read_inventory
from edgebench.cli.sources import stored_cells
from edgebench.documents import read_text
from edgebench.errors import UserError
from edgebench.fleet.gating import GatePlan, ruling
from edgebench.gates import Gate, needs_samples
from edgebench.gates import gate as judge
from edgebench.gates.document import document
from edgebench.pipeline import Mode, Ruling
from edgebench.records import Judgement, Run
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
    name = asked.baseline or rules.baseline or ""
    if name.endswith(".onnx"):
        model.inspect(Path(name))
        return GatePlan(
            budgets=text, source=asked.budgets_file, mode=asked.mode, baseline=name, baseline_model=name
        )
    run = "" if not name else store.run(name).id
    return GatePlan(budgets=text, source=asked.budgets_file, mode=asked.mode, baseline=name, baseline_run=run)


def ruling_of(plan: GatePlan, settings: Settings) -> Ruling:
    """How the run decides."""
    groups = {device.name: device.groups for device in read_inventory(settings).devices}
    return ruling(plan, groups, datetime.now(UTC).date())


def judged(run: Run, plan: GatePlan, store: Store, settings: Settings) -> Gate:
    """The verdict on a run from what is stored, which is stored too."""
    rules = ruling_of(plan, settings)
    found = stored_cells(store, run, rules.groups, with_samples=needs_samples(rules.budgets))
    before = found.baselines
    if not before and plan.baseline_run:
        before = stored_cells(store, store.run(plan.baseline_run), rules.groups).candidates
    made = judge(found.candidates, rules.budgets, before, today=rules.today, duets=found.duets)
    store.add_judgement(
        Judgement(
            run=run.id,
            judged_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            verdict=made.verdict,
            exit_code=made.exit_code,
            baseline=plan.baseline,
            budgets=plan.source,
            gate=document(made),
        )
    )
    return made


def worse(one: int, other: int) -> int:
    """The worse of two exit codes."""
    return min((one, other), key=WORST_FIRST.index)
