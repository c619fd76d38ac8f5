"""`edgebench aa`: one artifact measured against itself. What differs then is the board's noise."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click

from edgebench import exchange, model
from edgebench.cli.output import emit_json, json_option, note, print_table
from edgebench.cli.progress import Progress
from edgebench.cli.setup import (
    inventory_option,
    read_inventory,
    read_settings,
    read_targets,
    results,
    runtimes_of,
    workbench,
)
from edgebench.errors import EXIT_ERROR, EXIT_OK, NothingDone, UserError
from edgebench.fleet import plan as plans
from edgebench.fleet import start as starts
from edgebench.fleet.base import Options
from edgebench.fleet.engine import Engine
from edgebench.fleet.plan import Plan, PlannedModel, WorkloadChanges
from edgebench.gates import observed
from edgebench.gates.floors import Floor, of_duet, of_pairs
from edgebench.inventory import select
from edgebench.pipeline import Trial
from edgebench.records import ROLES, Failure, Measurement, NoiseFloor, to_json
from edgebench.settings import Settings
from edgebench.store import Store
from edgebench.units import parse_time_ns, significant

DEFAULT_MODEL = Path(__file__).parents[1] / "demo" / "digits.onnx"
LEAST_PAIRS = 10
OWN_CHECK = False  # a health check would only say beforehand what this measures


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1, type=click.Path())
@click.option(
    "--on", "selector", required=True, metavar="SELECTOR", help="Which devices: all, NAME, group:G ..."
)
@click.option("--to", "runtimes", metavar="RUNTIME[,...]", help="Default: all that a device's target offers.")
@click.option("--pairs", type=int, default=20, show_default=True, help="Pairs of launches, or duets.")
@click.option(
    "--mode",
    type=click.Choice(["separate", "duet"]),
    default="separate",
    show_default=True,
    help="A process for each launch, or both copies in one.",
)
@click.option("--threads", type=int, help="Threads of the runtime; 0: its own choice.")
@click.option("--min-samples", type=int, help="Samples per launch at least.")
@click.option("--wait", metavar="TIME", help='Wait that long for a busy device, such as "10 min".')
@click.option("--history", is_flag=True, help="Show what was found before; measure nothing.")
@inventory_option
@json_option
def aa(
    models: tuple[str, ...],
    selector: str,
    runtimes: str | None,
    pairs: int,
    mode: Literal["separate", "duet"],
    threads: int | None,
    min_samples: int | None,
    wait: str | None,
    history: bool,
    inventory: str | None,
    as_json: bool,
) -> int:
    """Measure each MODEL against itself on every device, and keep what the devices differ by.

    The gate then refuses limits finer than a board can resolve, and knows how far two sessions lie apart
    (five of them are the least). Without MODEL a small network of edgebench's own is used; yours tell more.
    """
    settings = read_settings(inventory)
    if not LEAST_PAIRS <= pairs <= 1000:
        raise UserError(f"--pairs {pairs} cannot be meant", hint=f"from {LEAST_PAIRS} to 1000; 20 are usual")
    if history:
        return _show_history(selector, settings, as_json=as_json)
    plan = Plan(
        models=tuple(PlannedModel(path=path) for path in models or (str(DEFAULT_MODEL),)),
        runtimes=runtimes_of(runtimes),
        on=selector,
        workload=WorkloadChanges(launches=pairs, threads=threads, min_samples=min_samples),
    )
    wait_s = 0.0 if wait is None else parse_time_ns(wait) / 1e9
    with results(settings) as store:
        found, failures = _measured(plan, Trial(pairs, mode), wait_s, settings, store)
    _show(found, failures, as_json=as_json)
    return EXIT_OK if found and not failures else EXIT_ERROR


def _measured(
    plan: Plan, trial: Trial, wait_s: float, settings: Settings, store: Store
) -> tuple[list[NoiseFloor], tuple[Failure, ...]]:
    """The noise floors of all devices, stored, and what could not be measured."""
    plans.check(plan)
    fleet, targets = read_inventory(settings), read_targets(settings)
    picked = select(fleet, plan.on)
    if not picked.devices:
        raise NothingDone(
            f'every device that "{plan.on}" picks is in quarantine', hint="edgebench devices list"
        )
    infos = {each.path: model.inspect(Path(each.path)) for each in plan.models}
    vnni = starts.known_vnni(picked.devices, store)
    expansion = plans.expand(plan, picked.devices, targets, infos, vnni)
    started = starts.start(plan, expansion, targets, store)
    run = started.run.id
    note(f"run {run}: {len(started.assignments)} artifacts, each against itself")
    planned = {name: 2 * count for name, count in starts.planned_launches(started.assignments).items()}
    options = Options(settings.jobs, wait_s, health=OWN_CHECK, trial=trial)
    try:
        with Progress(planned) as progress, workbench(settings, progress) as bench:
            devices = {device.name: device for device in fleet.devices}
            Engine(run, bench, store, options).execute(started.assignments, devices, targets)
    except BaseException:
        store.set_run_status(run, "interrupted")
        raise
    store.set_run_status(run, "done")
    floors = list(_floors(store.measurements(run, ROLES), trial))
    for floor in floors:
        store.add_noise_floor(floor)
    return floors, store.failures(run)


def _floors(measurements: Sequence[Measurement], trial: Trial) -> Iterator[NoiseFloor]:
    """What each candidate and its copy show; nothing where too few launches are valid."""
    for candidate in (each for each in measurements if each.role == "candidate"):
        role = "duet" if trial.mode == "duet" else "baseline"
        copies = [each for each in measurements if each.beside == candidate.id and each.role == role]
        if not copies:
            continue
        copy = observed(exchange.entry(copies[-1]))
        found = of_duet(copy) if role == "duet" else of_pairs(observed(exchange.entry(candidate)), copy)
        if found is not None and found.pairs >= LEAST_PAIRS:
            yield _record(found, candidate, copies[-1], trial)


def _record(floor: Floor, candidate: Measurement, copy: Measurement, trial: Trial) -> NoiseFloor:
    facts, job = candidate.facts, candidate.job
    return NoiseFloor(
        id=secrets.token_hex(8),
        run=candidate.run,
        device=job.device,
        target=job.target,
        measured_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        model=job.model,
        artifact_digest=candidate.artifact.digest,
        runtime=job.runtime,
        runtime_version=", ".join(dict.fromkeys(each.runtime_version for each in copy.launches)),
        board=facts.board or facts.cpu,
        kernel=facts.kernel,
        power_mode=facts.power_mode,
        design=trial.mode,
        **to_json(floor),
    )


# --- showing --------------------------------------------------------------------------------------


def _show_history(selector: str, settings: Settings, *, as_json: bool) -> int:
    names = [device.name for device in select(read_inventory(settings), selector).devices]
    with results(settings) as store:
        found = [floor for name in names for floor in store.noise_floors(name)]
    if not found:
        raise NothingDone(f"{', '.join(names)}: no A/A was measured", hint=f"edgebench aa --on {selector}")
    _show(found, (), as_json=as_json)
    return EXIT_OK


def _show(floors: Sequence[NoiseFloor], failures: Sequence[Failure], *, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "schema": 1,
                "floors": [to_json(each) for each in floors],
                "failures": [to_json(each) for each in failures],
            }
        )
        return
    columns = ["device", "artifact", "pairs", "launches ±", "pairs ±", "finds from", "false alarms", "when"]
    print_table(columns, [_row(each) for each in floors], right=(2, 3, 4, 5, 6))
    for each in failures:
        note(f"{each.job.device}: {each.message}\n  next: {each.hint}")
    if floors:
        note(
            "  ±: standard deviation; finds from: the smallest slowdown that 20 pairs find in 80 % of cases\n"
            "  false alarms: how often the gate's rule (nominal 5 %) calls one when labels are drawn"
        )


def _row(floor: NoiseFloor) -> tuple[str, ...]:
    duet = " (duet)" if floor.design == "duet" else ""
    return (
        floor.device,
        f"{floor.model} on {floor.runtime} {floor.runtime_version}{duet}",
        str(floor.pairs),
        _percent(floor.launch_sd),
        _percent(floor.pair_sd),
        f"+{_percent(floor.least_effect)}",
        _percent(floor.false_alarms),
        floor.measured_utc[:16].replace("T", " "),
    )


def _percent(share: float) -> str:
    return f"{significant(100 * share, 2)} %"
