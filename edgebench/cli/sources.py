"""What `gate` and `compare` take: a file of measurements, or a stored run by its id or its release's name.

A source gives its cells device by device, so that a large run is never in memory as a whole.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from edgebench import exchange
from edgebench.cli.setup import read_inventory, read_settings, results
from edgebench.errors import InfrastructureError, UserError
from edgebench.gates import Observed, observed
from edgebench.gates.figures import VERSION
from edgebench.records import ROLES, Job, Role, Run, prepared, replace
from edgebench.settings import Settings
from edgebench.store import KeptFigures, Store

Groups = Mapping[str, tuple[str, ...]]


class Cells(NamedTuple):
    """What was measured, by role: what is judged, what ran beside it as a baseline, and duets of the two."""

    candidates: tuple[Observed, ...]
    baselines: tuple[Observed, ...] = ()
    duets: tuple[Observed, ...] = ()


class Source(Protocol):
    """Cells by device. `run` is None of a file."""

    @property
    def name(self) -> str:
        """What was typed."""

    @property
    def run(self) -> Run | None:
        """The stored run."""

    def devices(self) -> Sequence[str]:
        """The devices that there are cells of."""

    def of(self, device: str) -> Cells:
        """The cells of one device."""


class File(NamedTuple):
    """The measurements of a file."""

    name: str
    cells: Mapping[str, Cells]
    run: Run | None = None

    def devices(self) -> Sequence[str]:
        """The devices that there are cells of."""
        return tuple(self.cells)

    def of(self, device: str) -> Cells:
        """The cells of one device."""
        return self.cells.get(device, Cells(()))


class Stored:
    """A stored run, read when it is asked for; what failed or was never measured is told with the reason."""

    def __init__(
        self, name: str, store: Store, run: Run, groups: Groups, *, with_samples: bool = False
    ) -> None:
        self.name = name
        self.run: Run | None = run
        self._id = run.id
        self._store = store
        self._groups = groups
        self._with_samples = with_samples
        self._absent: dict[str, list[Observed]] | None = None
        self._decoder = msgspec.json.Decoder(prepared(Observed))

    def devices(self) -> Sequence[str]:
        """The devices of the run's jobs."""
        return self._store.devices(self._id)

    def of(self, device: str) -> Cells:
        """The cells of one device."""
        kept = self._store.figures(self._id, device, VERSION)
        found = [self._observed(each, device) for each in _last_of_each_job(kept)]
        return by_role([*found, *self._not_measured().get(device, ())])

    def _observed(self, kept: KeptFigures, device: str) -> Observed:
        groups = self._groups.get(device, ())
        if kept.document is None or self._with_samples:
            entry = exchange.entry(self._store.measurement(kept.measurement_id), groups)
            return observed(entry, with_samples=self._with_samples)
        cell = self._figures(kept.document, kept.measurement_id)
        return replace(cell, subject=replace(cell.subject, groups=groups)) if groups else cell

    def _figures(self, document: str, measurement_id: str) -> Observed:
        try:
            found: Observed = self._decoder.decode(document)
        except msgspec.MsgspecError as error:
            raise InfrastructureError(
                f"the figures kept of measurement {measurement_id} are damaged: {error}",
                hint="bring the store back from a copy, or measure again: edgebench run",
            ) from error
        return found

    def _not_measured(self) -> dict[str, list[Observed]]:
        """By device: jobs that failed, and those that the run never came to."""
        if self._absent is None:
            self._absent = {}
            for job, reason in _absent(self._store, self._id):
                entry = exchange.absent_entry(job, reason, self._groups.get(job.device, ()))
                self._absent.setdefault(job.device, []).append(observed(entry))
        return self._absent


def _last_of_each_job(kept: Sequence[KeptFigures]) -> list[KeptFigures]:
    """A job that was measured again counts by what was measured last."""
    return list({(each.job_number, each.role): each for each in kept}.values())


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Sources]:
    """The sources that there are while this is open."""
    with results(settings) as store:
        yield Sources(store, groups_of(settings))


class Sources(NamedTuple):
    """Where cells are found by name: files, and what is stored."""

    store: Store
    groups: Groups

    def file(self, name: str) -> exchange.MeasurementFile:
        """All measurements of a file or run, with their samples."""
        path = Path(name)
        if path.suffix == ".json" or path.is_file():
            return read(path)
        return exported(self.store, self.store.run(name), self.groups)

    def named(self, name: str, *, with_samples: bool = False) -> Source:
        """The file or run of a name; UserError where neither is there."""
        path = Path(name)
        if path.suffix == ".json" or path.is_file():
            return file_source(path, with_samples=with_samples)
        return Stored(name, self.store, self.store.run(name), self.groups, with_samples=with_samples)


def file_source(path: Path, *, with_samples: bool = False) -> File:
    """The cells of a file."""
    found: dict[str, list[Observed]] = {}
    for entry in read(path).measurements:
        found.setdefault(entry.device, []).append(observed(entry, with_samples=with_samples))
    return File(str(path), {device: by_role(cells) for device, cells in found.items()})


def by_role(found: Iterable[Observed]) -> Cells:
    """Cells, each in its place."""
    roles: dict[Role, list[Observed]] = {"candidate": [], "baseline": [], "duet": []}
    for each in found:
        roles[each.role].append(each)
    return Cells(tuple(roles["candidate"]), tuple(roles["baseline"]), tuple(roles["duet"]))


def cells(name: str, settings: Settings | None = None) -> list[Observed]:
    """The cells of a file or run that are judged, those that failed with the reason."""
    path = Path(name)
    if path.suffix == ".json":  # needs neither settings nor a store
        source: Source = file_source(path)
        return [cell for device in source.devices() for cell in source.of(device).candidates]
    with opened(settings or read_settings()) as sources:
        source = sources.named(name)
        return [cell for device in source.devices() for cell in source.of(device).candidates]


def read(path: Path) -> exchange.MeasurementFile:
    """The measurements in a file."""
    return exchange.parse(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of measurements; UserError where there is none, or it is too large."""
    try:
        with path.open("rb") as file:
            data = file.read(exchange.MAX_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}",
            hint="give a file of `edgebench export`, or the name of a run",
        ) from error
    return data


def _absent(store: Store, run_id: str) -> Iterator[tuple[Job, str]]:
    """The jobs of a run without a measurement, each with the reason: failed, or never come to."""
    for failure in store.failures(run_id):
        yield failure.job, failure.message
    for left in store.open_jobs(run_id):
        if left.measurement_id is None:
            yield left.job, "the run ended before it"


def exported(store: Store, run: Run, groups: Groups) -> exchange.MeasurementFile:
    """The last measurement of every job with its samples, what was measured beside it, and what was not."""
    import edgebench

    absent = list(_absent(store, run.id))
    without = {job for job, _ in absent}
    found = [each for each in store.measurements(run.id, ROLES) if each.job not in without]
    last = {(each.job, each.role): each for each in found}
    entries = [exchange.entry(each, groups.get(each.job.device, ())) for each in last.values()]
    entries += [exchange.absent_entry(job, why, groups.get(job.device, ())) for job, why in absent]
    return exchange.MeasurementFile(
        schema=exchange.SCHEMA,
        measurements=tuple(entries),
        edgebench=edgebench.__version__,
        run=run.id,
        created_utc=run.created_utc,
    )


def groups_of(settings: Settings) -> Groups:
    """The groups of every device in the inventory."""
    return {device.name: device.groups for device in read_inventory(settings).devices}


def check_not_empty(found: Sequence[object], name: str) -> None:
    """UserError where a file or run holds nothing to judge."""
    if not found:
        raise UserError(f"{name} holds no measurements", hint="edgebench report shows what a run measured")


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No search for cycles while many records are made that have none: it takes a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
