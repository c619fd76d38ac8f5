"""Runs made by code in a store, as if they had been measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from edgebench.cli.paging import Against, subjects
from edgebench.cli.sources import Sources
from edgebench.records import Measurement, Profile, replace
from edgebench.report.page import render
from edgebench.store import Store, sqlite_url
from tests.report.fixtures import Example


def fill(home: Path, example: Example, profiles: Mapping[str, Profile] = MappingProxyType({})) -> str:
    """Store a run with all that belongs to it in the home's store; its id."""
    run, measurements, failures = example
    home.mkdir(parents=True, exist_ok=True)
    with Store(sqlite_url(home / "store.sqlite")) as store:
        store.add_run(run)
        jobs = [each.job for each in measurements] + [each.job for each in failures]
        store.plan_jobs(run.id, jobs)
        for each in measurements:
            name = f"{run.id}.{each.id}"
            store.add_measurement(replace(each, id=name, run=run.id))
            if each.id in profiles:
                store.add_profile(name, profiles[each.id])
        for failure in failures:
            store.add_failure(replace(failure, run=run.id))
    return run.id


def page(home: Path, run: str, against: Against) -> Path:
    """The page of a stored run, written beside the store."""
    path = home / "page.html"
    with Store(sqlite_url(home / "store.sqlite")) as store:
        path.write_text(render(subjects(run, against, Sources(store, {}))), encoding="utf-8")
    return path


def measurements(home: Path, run: str) -> list[Measurement]:
    """What is stored of a run, with all samples."""
    with Store(sqlite_url(home / "store.sqlite")) as store:
        return list(store.measurements(run))
