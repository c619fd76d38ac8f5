"""`edgebench run`: the whole path for every cell models x runtimes x precisions x devices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from edgebench import model
from edgebench.cli import gating, verdicts
from edgebench.cli.foretell import foretell
from edgebench.cli.output import emit_json, json_option, note, warn
from edgebench.cli.progress import Progress
from edgebench.cli.setup import (
    calibration_option,
    constant_option,
    cut_nms_option,
    dataset_options,
    inputs_option,
    inventory_option,
    ort_format_option,
    precisions_of,
    read_inventory,
    read_settings,
    read_targets,
    results,
    runtimes_of,
    shape_option,
    with_options,
    workbench,
)
from edgebench.cli.showing import build_report, render
from edgebench.comparison import LOOKS
from edgebench.documents import read_text
from edgebench.errors import (
    EXIT_BUG,
    EXIT_BUSY,
    EXIT_ERROR,
    EXIT_NOTHING_DONE,
    EXIT_OK,
    EXIT_USAGE,
    Interrupted,
    NothingDone,
    UserError,
    did_you_mean,
)
from edgebench.fleet import plan as plans
from edgebench.fleet import start as starts
from edgebench.fleet.base import Options
from edgebench.fleet.engine import Engine
from edgebench.fleet.gating import gate_of, rivals
from edgebench.fleet.plan import Expansion, Plan, PlannedModel, WorkloadChanges
from edgebench.fleet.recipes import with_variants
from edgebench.gates import Gate
from edgebench.gates.document import document as gate_document
from edgebench.inventory import Inventory, select
from edgebench.pipeline import Mode
from edgebench.records import REFUSED, Target, replace
from edgebench.report.base import Report
from edgebench.report.document import document
from edgebench.settings import Settings
from edgebench.store import Store
from edgebench.units import parse_percent, parse_time_ns


class Wish(NamedTuple):
    """What a run is asked for besides its plan. `health_check` None: devices that are not this computer."""

    wait_s: float = 0.0
    skip_unsupported: bool = False
    as_json: bool = False
    fail_fast: bool = False
    retry_failed: bool = False
    health_check: bool | None = None
    dry_run: bool = False


class Given(NamedTuple):
    """What the flags say of the models named beside them."""

    shapes: Sequence[str]
    constants: Sequence[str]
    inputs: str | None
    calibration: str | None
    accuracy: dict[str, str | bool]  # fields of PlannedModel


class Outcome(NamedTuple):
    """How a run ended."""

    report: Report
    exit_code: int


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1, type=click.Path())
@click.option("--to", "runtimes", metavar="RUNTIME[,...]", help="Default: all that a device's target offers.")
@click.option(
    "--precision",
    "precisions",
    metavar="P[,...]|PERCENT",
    multiple=True,
    help="fp32, fp16, int8, int8-dynamic, as-is (the default). "
    "A percentage, such as 1%: launches until the 95 % interval of p50 is no wider than that to each side.",
)
@click.option(
    "--on", "selector", metavar="SELECTOR", help="all, NAME, group:G, tag:K=V, target:T; default: all."
)
@click.option(
    "--plan", "plan_file", type=click.Path(), metavar="FILE", help="A plan.yaml in place of MODEL and flags."
)
@click.option("--resume", metavar="RUN", help="Continue an interrupted run at its next launch.")
@click.option(
    "--retry-failed", is_flag=True, help="With --resume: again the jobs that failed or ended invalid, too."
)
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done and how long it takes; touch no device."
)
@click.option("--fail-fast", is_flag=True, help="Begin no further job after the first failure.")
@inventory_option
@shape_option
@constant_option
@cut_nms_option
@inputs_option
@calibration_option
@with_options(dataset_options)
@click.option("--recipe", type=click.Path(), metavar="FILE", help="Measure its variants of MODEL, too.")
@click.option("--only", multiple=True, metavar="NAME", help="With --recipe: this variant; may be repeated.")
@ort_format_option
@click.option("--compute-units", metavar="UNITS", help="coreml: all, cpu_only, cpu_and_gpu or cpu_and_ne.")
@click.option("--launches", type=int, help="Fresh processes per job: the statistical unit.")
@click.option("--threads", type=int, help="Threads of the runtime; 0: its own choice.")
@click.option("--batch", type=int, help="Batch size of models whose batch is open.")
@click.option("--min-samples", type=int, help="Samples per launch at least.")
@click.option("--min-duration", metavar="TIME", help='Time per launch at least, such as "2 s".')
@click.option("--cooldown", metavar="TIME", help="Pause before each further launch.")
@click.option(
    "--wait", metavar="TIME", help='Wait that long for a busy device, such as "10 min"; default: do not.'
)
@click.option("--max-invalid", type=int, metavar="N", help="Invalid launches that are repeated in each job.")
@click.option(
    "--health-check/--no-health-check",
    default=None,
    help="Check a device by a known tiny model first; default: all but this computer.",
)
@click.option(
    "--gate",
    "gate_file",
    type=click.Path(),
    metavar="FILE",
    help="Launch candidate and baseline side by side until these budgets are decided (docs/gates.md).",
)
@click.option(
    "--baseline",
    metavar="RUN|RELEASE|FILE.onnx",
    help="With --gate: what `regress` limits compare with; default: the budgets file's.",
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "separate", "duet"]),
    default="auto",
    show_default=True,
    help="With --gate: a process for each launch, or both models in one where those are too noisy.",
)
@click.option("--profile", is_flag=True, help="Where the time goes, too: layers, in a launch of its own.")
@click.option("--skip-unsupported", is_flag=True, help="Leave out cells that a target does not offer.")
@json_option
def run(
    models: tuple[str, ...],
    runtimes: str | None,
    precisions: tuple[str, ...],
    selector: str | None,
    plan_file: str | None,
    resume: str | None,
    retry_failed: bool,
    dry_run: bool,
    fail_fast: bool,
    inventory: str | None,
    shapes: tuple[str, ...],
    cut_nms: bool,
    constants: tuple[str, ...],
    inputs: str | None,
    calibration: str | None,
    dataset: str | None,
    preprocess: str | None,
    labels_key: str | None,
    metric: str | None,
    output: str | None,
    accuracy_on_device: bool,
    recipe: str | None,
    only: tuple[str, ...],
    ort_format: str,
    compute_units: str | None,
    launches: int | None,
    threads: int | None,
    batch: int | None,
    min_samples: int | None,
    min_duration: str | None,
    cooldown: str | None,
    wait: str | None,
    max_invalid: int | None,
    health_check: bool | None,
    gate_file: str | None,
    baseline: str | None,
    mode: Mode,
    profile: bool,
    skip_unsupported: bool,
    as_json: bool,
) -> int:
    """Convert, prove, push and measure every MODEL x RUNTIME x precision x device; then show the table."""
    settings = read_settings(inventory)
    wish = Wish(
        _seconds(wait) or 0.0, skip_unsupported, as_json, fail_fast, retry_failed, health_check, dry_run
    )
    asked = gating.Asked(gate_file, baseline, mode)
    names, width = _precisions(precisions)
    if gate_file is not None and (launches is not None or width is not None):
        given = "--launches" if width is None else "--precision PERCENT"
        message = f"--gate says itself how many launches it needs, and so does {given}"
        raise UserError(message, hint="leave one of them out")
    if retry_failed and resume is None:
        raise UserError("--retry-failed needs a run", hint="edgebench run --resume RUN --retry-failed")
    said = {"dataset": dataset, "preprocess": preprocess, "labels_key": labels_key}
    accuracy = _accuracy(said | {"metric": metric, "output": output}, accuracy_on_device)
    if recipe is not None and (resume or plan_file):
        hint = "a plan names it for each model: {path: ..., recipe: FILE}"
        raise UserError(f"--recipe beside --{'resume' if resume else 'plan'}", hint=hint)
    if accuracy and (resume or plan_file):
        raise UserError(
            f"{_flag(accuracy)} beside --{'resume' if resume else 'plan'}",
            hint="a plan names them for each model: {path: ..., dataset: FILE.npz, metric: top1}",
        )
    if resume is not None:
        _refuse_beside("--resume", models, plan_file)
        if gate_file is not None or baseline is not None:
            message = "--resume goes on with the gate that the run was begun with"
            raise UserError(message, hint="leave out --gate and --baseline")
        if dry_run:
            return _foretell_rest(resume, settings, wish)
        return resume_run(resume, settings, wish).exit_code
    if plan_file is not None:
        _refuse_beside("--plan", models, None)
        plan = plans.parse(read_text(Path(plan_file)), plan_file)
        plan = plan if selector is None else replace(plan, on=selector)
        plan = replace(plan, profile=plan.profile or profile)
    else:
        workload = WorkloadChanges(
            launches=launches,
            threads=threads,
            batch=batch,
            min_samples=min_samples,
            min_duration_s=_seconds(min_duration),
            cooldown_s=_seconds(cooldown),
            max_invalid=max_invalid,
            precision=width,
        )
        planned = _models(models, Given(shapes, constants, inputs, calibration, accuracy))
        chosen = _without_nms(planned) if cut_nms else planned
        plan = Plan(
            models=tuple(
                replace(
                    each, ort_format=ort_format, compute_units=compute_units, recipe=recipe, variants=only
                )
                for each in chosen
            ),
            runtimes=runtimes_of(runtimes),
            precisions=names or (plans.AS_IS,),
            on=selector or "all",
            workload=workload,
            profile=profile,
        )
    if gate_file is not None:
        plan = replace(plan, workload=replace(plan.workload, launches=LOOKS[0], precision=0.0))
    if dry_run:
        return _foretell(plan, settings, wish)
    return new_run(plan, settings, wish, asked).exit_code


def _precisions(given: Sequence[str]) -> tuple[tuple[str, ...], float | None]:
    """The precisions that were named, and the share of p50 that its interval is to keep to; None: none."""
    names: tuple[str, ...] = ()
    width: float | None = None
    for text in given:
        if text.strip().endswith("%"):
            width = parse_percent(text.strip())
            if not 0 < width < 1:
                raise UserError(f"--precision {text} cannot be meant", hint="for example --precision 1%")
        else:
            names += precisions_of(text)
    return names, width


def _accuracy(given: Mapping[str, str | None], on_device: bool) -> dict[str, str | bool]:
    """What the flags say of accuracy, by the plan's keys; nothing for those left out."""
    said: dict[str, str | bool] = {key: value for key, value in given.items() if value is not None}
    said |= {"accuracy_on_device": True} if on_device else {}
    if said and given["dataset"] is None:
        raise UserError(f"{_flag(said)} without labelled samples", hint="--dataset FILE.npz names them")
    return said


def _flag(accuracy: dict[str, str | bool]) -> str:
    return "--" + next(iter(accuracy)).replace("_", "-")


def _refuse_beside(option: str, models: Sequence[str], plan_file: str | None) -> None:
    if models or plan_file:
        raise UserError(
            f"{option} takes neither MODEL nor another plan", hint=f"edgebench run {option} ... alone"
        )


def _models(models: Sequence[str], given: Given) -> tuple[PlannedModel, ...]:
    if not models:
        raise UserError("no model was named", hint="edgebench run MODEL.onnx --to ncnn, or --plan plan.yaml")
    fixed = dict(model.parse_shape(shape) for shape in given.shapes)
    settled = dict(model.parse_constant(each) for each in given.constants)
    known = {path: _names_and_sizes(path) for path in models}
    for name in (*fixed, *settled):
        if not any(name in names for names in known.values()):
            every = sorted(set().union(*known.values()))
            raise UserError(f'no model has an input or open size "{name}"', hint=did_you_mean(name, every))
    return tuple(
        PlannedModel(
            path=path,
            inputs=given.inputs,
            calibration=given.calibration,
            shapes={name: shape for name, shape in fixed.items() if name in known[path]},
            constants={name: number for name, number in settled.items() if name in known[path]},
            **given.accuracy,  # type: ignore[arg-type]
        )
        for path in models
    )


def _names_and_sizes(path: str) -> set[str]:
    """What --shape may name: the inputs of a model, and their open sizes that have names."""
    inputs = model.inspect(Path(path)).inputs
    return {each.name for each in inputs} | {
        size for each in inputs for size in each.shape if isinstance(size, str)
    }


def _without_nms(models: tuple[PlannedModel, ...]) -> tuple[PlannedModel, ...]:
    """The same models, cut where they have a NonMaxSuppression; UserError when none has."""
    made = tuple(
        replace(each, cut_nms="NonMaxSuppression" in model.inspect(Path(each.path)).operators)
        for each in models
    )
    if not any(each.cut_nms for each in made):
        raise UserError("--cut-nms: no model has a NonMaxSuppression", hint="leave out --cut-nms")
    return made


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    plain = re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*", text)
    return float(text) if plain else parse_time_ns(text) / 1e9


# --- running ------------------------------------------------------------------------------------


class Expanded(NamedTuple):
    """A plan with all its cells, and what it is about."""

    plan: Plan
    expansion: Expansion
    fleet: Inventory
    targets: dict[str, Target]


NO_GATE = gating.Asked(None, None, "auto")


def new_run(plan: Plan, settings: Settings, wish: Wish, asked: gating.Asked = NO_GATE) -> Outcome:
    """Run a plan from its beginning and show the result."""
    plan, expansion, fleet, targets = _expanded(plan, settings, wish)
    with results(settings) as store:
        started = starts.start(plan, expansion, targets, store, gating.planned(asked, store))
        return _execute(started, fleet, targets, store, settings, wish)


def _expanded(plan: Plan, settings: Settings, wish: Wish) -> Expanded:
    """Every cell of the plan on the devices that it picks; those in quarantine are said and left out."""
    plans.check(plan)
    plan = _with_variants(plan, settings)
    fleet, targets = read_inventory(settings), read_targets(settings)
    picked = select(fleet, plan.on)
    for device in picked.quarantined:
        warn(f"{device.name} is in quarantine and left out: {device.quarantine}")
    if not picked.devices:
        raise NothingDone(
            f'every device that "{plan.on}" picks is in quarantine', hint="edgebench devices list"
        )
    infos = {each.path: model.inspect(Path(each.path)) for each in plan.models}
    with results(settings) as store:
        vnni = starts.known_vnni(picked.devices, store)
    expansion = plans.expand(plan, picked.devices, targets, infos, vnni)
    if wish.skip_unsupported:
        expansion = _without_refused(expansion)
    return Expanded(plan, expansion, fleet, targets)


def _with_variants(plan: Plan, settings: Settings) -> Plan:
    """The plan with the variants of its recipes in place of them."""
    if all(each.recipe is None for each in plan.models):
        return plan
    with Progress({}) as progress, workbench(settings, progress) as bench:
        return with_variants(plan, bench)


def _foretell(plan: Plan, settings: Settings, wish: Wish) -> int:
    """Say what a new run of the plan would do."""
    plan, expansion, fleet, targets = _expanded(plan, settings, wish)
    assignments = [starts.assignment(each, targets) for each in expansion.jobs]
    devices = {device.name: device for device in fleet.devices}
    with results(settings) as store:
        return foretell(assignments, expansion.refused, devices, settings, store, as_json=wish.as_json)


def _foretell_rest(name: str, settings: Settings, wish: Wish) -> int:
    """Say what resuming a run would do."""
    if wish.retry_failed:
        raise UserError(
            "--dry-run with --retry-failed: opening jobs again changes the run",
            hint="edgebench report RUN shows what failed; leave one of the two out",
        )
    fleet, targets = read_inventory(settings), read_targets(settings)
    devices = {device.name: device for device in fleet.devices}
    with results(settings) as store:
        started = starts.left(name, fleet, targets, store)
        return foretell(started.assignments, (), devices, settings, store, as_json=wish.as_json)


def _without_refused(expansion: Expansion) -> Expansion:
    """The cells that their targets offer; what is left out is said. NothingDone when none remains."""
    if not expansion.refused:
        return expansion
    reasons = "; ".join(dict.fromkeys(each.reason for each in expansion.refused))
    if not expansion.jobs:
        raise NothingDone(
            f"no job is left: {reasons}",
            hint=expansion.refused[0].hint,
        )
    note(
        f"left out {len(expansion.refused)} of {len(expansion.refused) + len(expansion.jobs)} jobs: {reasons}"
    )
    return expansion._replace(refused=())


def resume_run(name: str, settings: Settings, wish: Wish) -> Outcome:
    """Continue an interrupted run and show the result."""
    fleet, targets = read_inventory(settings), read_targets(settings)
    with results(settings) as store:
        started = starts.resume(name, fleet, targets, store, retry_failed=wish.retry_failed)
        return _execute(started, fleet, targets, store, settings, wish)


def _execute(
    started: starts.Started,
    fleet: Inventory,
    targets: dict[str, Target],
    store: Store,
    settings: Settings,
    wish: Wish,
) -> Outcome:
    run_id, gate = started.run.id, gate_of(started.run)
    ruling = None if gate is None else gating.ruling_of(gate, settings, len(store.jobs(run_id)))
    _say_workload(started)
    devices = {device.name: device for device in fleet.devices}
    try:
        with (
            Progress(starts.planned_launches(started.assignments)) as progress,
            workbench(settings, progress) as bench,
        ):
            profile = starts.wants_profile(started.run)
            checked = _health_check(wish, settings)
            options = Options(settings.jobs, wish.wait_s, wish.fail_fast, checked, profile, ruling)
            engine = Engine(run_id, bench, store, options)
            before = rivals(gate, [each.job for each in started.assignments], store)
            engine.execute(started.assignments, devices, targets, before)
    except (KeyboardInterrupt, Interrupted):
        store.set_run_status(run_id, "interrupted")
        note(
            f"run {run_id} was interrupted; what was measured is kept\n"
            f"  next: edgebench run --resume {run_id}"
        )
        raise
    except BaseException:
        store.set_run_status(run_id, "interrupted")
        raise
    store.set_run_status(run_id, "interrupted" if engine.halted else "done", engine.halted)
    built = build_report(store, run_id)
    judged = None if ruling is None else gating.judged(started.run, store, settings, ruling)
    show(built, judged, as_json=wish.as_json)
    code = exit_code(built, wish)
    return Outcome(built, code if judged is None else gating.worse(code, judged.exit_code))


def _health_check(wish: Wish, settings: Settings) -> bool | None:
    """Whether devices are checked by a known tiny model; None: all but this computer."""
    if wish.health_check is not None:
        return wish.health_check
    return {"boards": None, "all": True, "off": False}[settings.health_check]


def _say_workload(started: starts.Started) -> None:
    workloads = {each.job.workload for each in started.assignments}
    note(f"run {started.run.id}: {len(started.assignments)} jobs")
    for each in workloads:
        note(
            f"workload: {each.launches} launches, each at least {each.min_samples} samples and "
            f"{each.min_duration_s:g} s, warm-up until stable (at least {each.warmup_samples}), "
            f"threads {each.threads or 'as the runtime chooses'}, batch {each.batch}, "
            f"cool-down {each.cooldown_s:g} s"
        )


def show(built: Report, judged: Gate | None, *, as_json: bool) -> None:
    """The result of a run on stdout, and the verdict where there was a gate."""
    if as_json:
        emit_json(document(built) | ({} if judged is None else {"gate": gate_document(judged)}))
        return
    import sys

    click.echo(render(built, "terminal", colour=sys.stdout.isatty()))
    if judged is not None:
        click.echo()
        verdicts.print_gate(judged)


def exit_code(built: Report, wish: Wish) -> int:
    """0 when every planned job was measured; else the worst: bug, device or conversion error, busy."""
    counted = [each for each in built.failures if not (wish.skip_unsupported and each.stage == REFUSED)]
    codes = {failure.exit_code for failure in counted}
    if EXIT_BUG in codes:
        return EXIT_BUG
    if codes == {EXIT_BUSY} or codes == {EXIT_USAGE}:
        return codes.pop()
    if codes or built.missing or any(row.status != "ok" for row in built.rows):
        return EXIT_ERROR
    return EXIT_OK if built.rows else EXIT_NOTHING_DONE
