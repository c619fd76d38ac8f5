"""`edgebench import`: measurements that were made elsewhere become a stored run."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import Any, NamedTuple

import click

import edgebench
from edgebench import exchange, importing
from edgebench.cli.output import emit_json, json_option, note
from edgebench.cli.setup import read_settings, results
from edgebench.cli.sources import read_bytes
from edgebench.errors import UserError
from edgebench.gates import observed
from edgebench.gates.figures import VERSION
from edgebench.records import Failure, Job, Measurement, Run, encode, to_json
from edgebench.store import Store, new_run_id

KEY = "imported"  # in a run's plan


class Contents(NamedTuple):
    """What a file comes to: a run and its cells."""

    run: Run
    measurements: list[Measurement]
    failures: list[Failure]


@click.command("import")
@click.argument("file", type=click.Path(), metavar="FILE.json")
@json_option
def import_(file: str, as_json: bool) -> None:
    """Store the measurements of FILE as a run, to be reported, compared, released and gated like any other.

    What the file does not tell stays unknown. The form is in docs/measurements.md; a file is stored once.
    """
    data = read_bytes(Path(file))
    parsed = exchange.parse(data, file)
    if not parsed.measurements:
        raise UserError(f"{file} holds no measurements", hint="docs/measurements.md shows the smallest file")
    digest = importing.digest(data)
    with results(read_settings()) as store:
        known = _stored_before(digest, store)
        contents = None if known else _contents(parsed, file, digest)
        if contents is not None:
            _store(contents, store)
    run = known or (contents.run.id if contents else "")
    if as_json:
        emit_json({"schema": 1, "run": run, "measurements": len(parsed.measurements), "new": not known})
        return
    if known:
        note(f"{file} is stored already")
    click.echo(f"run {run}: {len(parsed.measurements)} measurements of {file}")
    note(f"  next: edgebench report {run}, edgebench gate {run}, edgebench release create NAME --from {run}")


def _stored_before(digest: str, store: Store) -> str | None:
    """The run that the same bytes made before."""
    for each in store.runs(limit=100_000):
        told = each.plan.get(KEY)
        if isinstance(told, dict) and told.get("sha256") == digest:
            return each.id
    return None


def _contents(parsed: exchange.MeasurementFile, file: str, digest: str) -> Contents:
    now = datetime.now(UTC)
    run_id = new_run_id(now, SystemRandom())
    found = importing.imported(parsed.measurements, run_id)
    failed = importing.absent(parsed.measurements, run_id)
    jobs = _jobs(found, failed)
    told: dict[str, Any] = {"file": Path(file).name, "sha256": digest, "edgebench": parsed.edgebench}
    run = Run(
        id=run_id,
        created_utc=now.isoformat(timespec="seconds"),
        status="done",
        plan={KEY: told | {"run": parsed.run}, "jobs": [to_json(job) for job in jobs]},
        edgebench_version=edgebench.__version__,
        controller=platform.node() or "unknown",
    )
    return Contents(run, found, failed)


def _store(contents: Contents, store: Store) -> None:
    store.add_run(contents.run)
    store.plan_jobs(contents.run.id, _jobs(contents.measurements, contents.failures))
    for each in contents.measurements:
        store.add_measurement(each)
        store.keep_figures(each.id, VERSION, encode(observed(exchange.entry(each))).decode())
    for failure in contents.failures:
        store.add_failure(failure)


def _jobs(measurements: list[Measurement], failures: list[Failure]) -> list[Job]:
    return list(dict.fromkeys([*(each.job for each in measurements), *(each.job for each in failures)]))
