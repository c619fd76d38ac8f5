"""`edgebench run --dry-run`: what a run would do, as a table or JSON. No device is touched, no run stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from edgebench.cli.output import emit_json, print_table
from edgebench.cli.setup import workbench
from edgebench.errors import EXIT_ERROR, EXIT_OK
from edgebench.fleet.base import Assignment
from edgebench.fleet.dry import DryJob, DryRun, look_ahead
from edgebench.fleet.plan import Refused
from edgebench.pipeline import title
from edgebench.records import Device, to_json
from edgebench.settings import Settings
from edgebench.store import Store
from edgebench.units import format_bytes, format_duration

UNKNOWN_BEFORE = "beside it inputs and runtime wheels; what a device has of them: unknown until connected"


def foretell(
    assignments: Sequence[Assignment],
    refused: Sequence[Refused],
    devices: Mapping[str, Device],
    settings: Settings,
    store: Store,
    *,
    as_json: bool,
) -> int:
    """Show what these assignments would do; the exit code is 4 where some are known to end in a failure."""
    with workbench(settings) as bench:
        dry = look_ahead(assignments, devices, settings.jobs, bench, store)
    if as_json:
        emit_json(_document(dry, refused))
    else:
        _show(dry, refused, devices)
    doomed = bool(refused) or any(each.problem for each in dry.jobs)
    return EXIT_ERROR if doomed else EXIT_OK


def _document(dry: DryRun, refused: Sequence[Refused]) -> dict[str, Any]:
    return {
        "schema": 1,
        "jobs": [to_json(each) for each in dry.jobs],
        "refused": [to_json(each) for each in refused],
        "seconds": dry.seconds,
        "unknown_until_connected": ["bytes that a device has already", "runtime wheels"],
    }


def _show(dry: DryRun, refused: Sequence[Refused], devices: Mapping[str, Device]) -> None:
    rows = [_row(each) for each in dry.jobs]
    rows += [(each.job.device, title(each.job), "refused", "", each.reason) for each in refused]
    print_table(["device", "job", "artifact", "to push of it", "time on the device"], rows)
    names = {each.job.device for each in dry.jobs}
    guess = "about" if all(each.measured_before for each in dry.jobs) else "at least"
    click.echo(
        f"{_count(len(dry.jobs), 'job')} on {_count(len(names), 'device')}, {len(refused)} refused: {guess} "
        f"{format_duration(dry.seconds)} of measuring, beside converting, connecting and pushing"
    )
    if any(devices[name].transport != "local" for name in names):
        click.echo(UNKNOWN_BEFORE)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _row(dry: DryJob) -> tuple[str, ...]:
    push = "unknown until converted" if dry.push_bytes is None else f"at most {format_bytes(dry.push_bytes)}"
    made = "is there" if dry.is_converted else "to be converted"
    built = ", built on the device" if dry.is_built_on_device else ""
    source = "as last time" if dry.measured_before else "by its workload"
    guess = "about" if dry.measured_before else "at least"
    time = f"{guess} {format_duration(dry.seconds)} ({source})"
    if dry.problem:
        return dry.job.device, title(dry.job), "would fail", "", dry.problem
    return dry.job.device, title(dry.job), made + built, push, time
