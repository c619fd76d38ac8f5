"""What `gate` and `compare` take: a file of measurements or the name of a stored run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edgebench import exchange
from edgebench.cli.setup import read_inventory, read_settings, results
from edgebench.errors import UserError
from edgebench.gates import Observed, observed
from edgebench.records import ROLES, Role, Run
from edgebench.settings import Settings
from edgebench.store import Store


def cells(name: str, settings: Settings | None = None, *, with_samples: bool = False) -> list[Observed]:
    """The cells of a file or run that are judged, those that failed with the reason."""
    return list(all_cells(name, settings, with_samples=with_samples).candidates)


def all_cells(name: str, settings: Settings | None = None, *, with_samples: bool = False) -> Cells:
    """The cells of a file or run by role; UserError where neither is there."""
    return cells_of(measured(name, settings), with_samples=with_samples)


def measured(name: str, settings: Settings | None = None) -> exchange.MeasurementFile:
    """The measurements of a file or run with their samples; UserError where neither is there."""
    path = Path(name)
    if path.suffix == ".json" or path.is_file():
        return read(path)
    settings = settings or read_settings()
    with results(settings) as store:
        return exported(store, store.run(name), _groups(settings))


def cells_of(file: exchange.MeasurementFile, *, with_samples: bool = False) -> Cells:
    """The cells of measurements by role."""
    return by_role(observed(each, with_samples=with_samples) for each in file.measurements)


def read(path: Path) -> exchange.MeasurementFile:
    """The measurements in a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}",
            hint="give a file of `edgebench export`, or the name of a run",
        ) from error
    return exchange.parse(data, str(path))


def exported(store: Store, run: Run, groups: Mapping[str, tuple[str, ...]]) -> exchange.MeasurementFile:
    """All measurements of a stored run with their samples, what was measured beside them, and what failed."""
    import edgebench

    found, failed = store.measurements(run.id, ROLES), store.failures(run.id)
    entries = [exchange.entry(each, groups.get(each.job.device, ())) for each in found]
    entries += [exchange.failed_entry(each, groups.get(each.job.device, ())) for each in failed]
    return exchange.MeasurementFile(
        schema=exchange.SCHEMA,
        measurements=tuple(entries),
        edgebench=edgebench.__version__,
        run=run.id,
        created_utc=run.created_utc,
    )


class Cells(NamedTuple):
    """What was measured, by role: what is judged, what ran beside it as a baseline, and duets of the two."""

    candidates: tuple[Observed, ...]
    baselines: tuple[Observed, ...] = ()
    duets: tuple[Observed, ...] = ()


def by_role(found: Iterable[Observed]) -> Cells:
    """Cells, each in its place."""
    roles: dict[Role, list[Observed]] = {"candidate": [], "baseline": [], "duet": []}
    for each in found:
        roles[each.role].append(each)
    return Cells(tuple(roles["candidate"]), tuple(roles["baseline"]), tuple(roles["duet"]))


def stored_cells(
    store: Store, run: Run, groups: Mapping[str, tuple[str, ...]], *, with_samples: bool = False
) -> Cells:
    """The cells of a stored run, those that failed with the reason."""
    return cells_of(exported(store, run, groups), with_samples=with_samples)


def _groups(settings: Settings) -> dict[str, tuple[str, ...]]:
    return {device.name: device.groups for device in read_inventory(settings).devices}


def groups_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The groups of every device in the inventory."""
    return _groups(settings)


def check_not_empty(found: Sequence[Observed], name: str) -> None:
    """UserError where a file or run holds nothing to judge."""
    if not found:
        raise UserError(f"{name} holds no measurements", hint="edgebench report shows what a run measured")
