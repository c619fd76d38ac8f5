"""What was planned, measured and failed, kept in a database: SQLite by default, PostgreSQL for teams.

What a method has stored when it returns is there after a crash. Threads and processes may use one database at
the same time, each process through a `Store` of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from edgebench.errors import BugError, UserError, did_you_mean
from edgebench.records import (
    Accuracy,
    Artifact,
    Facts,
    Failure,
    HealthCheck,
    Job,
    Judgement,
    Launch,
    Measurement,
    NoiseFloor,
    Profile,
    Release,
    Role,
    Run,
    decode_exact,
    replace,
)
from edgebench.releases import LATEST_PASSED, latest_passed, named
from edgebench.store import base
from edgebench.store.opening import database_errors, open_engine, place
from edgebench.store.rows import (
    Blob,
    Row,
    artifact_row,
    blob_rows,
    failure_row,
    health_check_row,
    job_digest,
    job_row,
    judgement_row,
    launch_record,
    launch_row,
    measurement_row,
    noise_floor_row,
    plain,
    profile_row,
    release_row,
    run_row,
)

RunStatus = Literal["running", "done", "interrupted"]
MeasurementStatus = Literal["ok", "partial", "invalid"]

# without the letters and digits that are read for one another
_RUN_ID_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def new_run_id(now: datetime, random: Random) -> str:
    """A run id such as `20261123-224455-k3f9`: sorted by time (UTC), short enough to type."""
    suffix = "".join(random.choices(_RUN_ID_ALPHABET, k=4))
    return f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{suffix}"


def sqlite_url(file: Path) -> str:
    """The database url of a file."""
    return f"sqlite:///{file}"


class OpenJob(NamedTuple):
    """A planned job that `run --resume` has to do; `launches` of `measurement_id` are stored already."""

    job: Job
    measurement_id: str | None
    launches: int


class KeptFigures(NamedTuple):
    """A measurement's place in its run, and what was derived of it; None: nothing of that version."""

    measurement_id: str
    job_number: int
    role: Role
    document: str | None


class StoredFigures(NamedTuple):
    """What was derived of one measurement of any run; None: nothing of that version.

    `number` grows in the order of beginning.
    """

    number: int
    run: str
    created_utc: str
    measurement_id: str
    job_number: int
    document: str | None


class Store:
    """Runs with their jobs, measurements and failures in one database, which is made when it is not there.

    `url` is `sqlite:///FILE` or `postgresql://...`. InfrastructureError when the database cannot be used,
    here and in every method; BugError for calls in the wrong order.
    """

    def __init__(self, url: str) -> None:
        self._place = place(url)
        self._engine = open_engine(self._place)
        self._is_closed = False

    def close(self) -> None:
        """Close the connections; the store cannot be used afterwards."""
        self._is_closed = True
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- runs -----------------------------------------------------------------------------------

    def add_run(self, run: Run) -> None:
        """Store a new run; BugError when there is one of that id."""
        with self._writing() as connection:
            if _number(connection, base.run, run.id) is not None:
                raise BugError(f"run {run.id} is stored already")
            connection.execute(sa.insert(base.run).values(run_row(run)))

    def set_run_status(self, run_id: str, status: RunStatus, stopped: str = "") -> None:
        """Change the status of a run; `stopped` says why jobs were left that could have been run."""
        with self._writing() as connection:
            number = _run_number(connection, run_id)
            where = base.run.c.number == number
            document = connection.execute(sa.select(base.run.c.document).where(where)).scalar_one()
            run = decode_exact(Run, document, source=f"run {run_id}")
            changed = replace(run, status=status, stopped=stopped)
            connection.execute(sa.update(base.run).where(where).values(run_row(changed)))

    def runs(self, limit: int = 50) -> tuple[Run, ...]:
        """The runs added last, newest first."""
        newest = sa.select(base.run.c.id, base.run.c.document).order_by(base.run.c.number.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(newest).all()
        return tuple(decode_exact(Run, row.document, source=f"run {row.id}") for row in rows)

    def run(self, name: str = "latest") -> Run:
        """The run of an id, of the beginning of just one id, of a release, or the one added last.

        UserError where there is none.
        """
        known = self.releases()
        if name == LATEST_PASSED:
            return self.run(latest_passed(known).run)
        if any(each.name == name for each in known):
            return self.run(named(name, known).run)
        if name == "latest":
            newest = self.runs(1)
            if not newest:
                raise UserError("there is no run yet", hint="`edgebench run MODEL` makes one")
            return newest[0]
        like = base.run.c.id.startswith(name, autoescape=True)
        found = sa.select(base.run.c.id, base.run.c.document).where(like).order_by(base.run.c.number.desc())
        with self._reading() as connection:
            rows = connection.execute(found).all() if name else []
        exact = [row for row in rows if row.id == name] or rows
        if len(exact) == 1:
            return decode_exact(Run, exact[0].document, source=f"run {exact[0].id}")
        if exact:
            listed = ", ".join(row.id for row in exact[:10])
            raise UserError(f'{len(exact)} runs begin with "{name}"', hint=f"type more of one: {listed}")
        near = [*(each.name for each in known), *(each.id for each in self.runs(20))]
        hint = did_you_mean(name, near) if near else "`edgebench run MODEL` makes one"
        raise UserError(f'there is no run "{name}"', hint=hint)

    # --- jobs -----------------------------------------------------------------------------------

    def plan_jobs(self, run_id: str, jobs: Iterable[Job]) -> None:
        """Store the cells of a run, in their order; one that is stored already stays as it is."""
        with self._writing() as connection:
            number = _run_number(connection, run_id)
            for job in jobs:
                _plan(connection, number, job)

    def open_jobs(self, run_id: str, device: str | None = None) -> tuple[OpenJob, ...]:
        """Planned jobs with neither a finished measurement nor a failure, in the order of the plan.

        Those of one device where it is named: a large fleet asks for each board that it opens.

        Of several measurements that were begun for a job, the one with most launches is named.
        """
        count = sa.func.count(base.launch.c.number)
        unfinished = (base.measurement.c.job_number == base.job.c.number) & (
            base.measurement.c.status == "partial"
        )
        unfinished &= base.measurement.c.role == "candidate"
        begun = (
            sa.select(base.job.c.number, base.job.c.document, base.measurement.c.id, count.label("launches"))
            .select_from(base.job.outerjoin(base.measurement, unfinished).outerjoin(base.launch))
            .where(base.job.c.state == "planned")
            .group_by(base.job.c.number, base.job.c.document, base.measurement.c.id)
            .order_by(base.job.c.number, count)
        )
        if device is not None:
            begun = begun.where(base.job.c.device == device)
        with self._reading() as connection:
            number = _run_number(connection, run_id)
            rows = connection.execute(begun.where(base.job.c.run_number == number)).all()
        best = {row.number: row for row in rows}
        return tuple(
            OpenJob(
                decode_exact(Job, row.document, source=f"a job of run {run_id}"), row.id, int(row.launches)
            )
            for row in best.values()
        )

    def reopen_jobs(self, run_id: str, *, but: str) -> int:
        """How many jobs are open again: those that failed (not at the stage `but`) or ended invalid.

        What was stored of them stays; their failures are not told any more by `failures`.
        """
        refused = sa.select(base.failure.c.job_number).where(base.failure.c.stage == but)
        newest = (
            sa.select(sa.func.max(base.measurement.c.number))
            .where(base.measurement.c.role == "candidate")
            .group_by(base.measurement.c.job_number)
            .subquery()
        )
        invalid = sa.select(base.measurement.c.job_number).where(
            base.measurement.c.number.in_(sa.select(newest.c[0])), base.measurement.c.status == "invalid"
        )
        failed = (base.job.c.state == "failed") & base.job.c.number.not_in(refused)
        spoilt = (base.job.c.state == "measured") & base.job.c.number.in_(invalid)
        with self._writing() as connection:
            number = _run_number(connection, run_id)
            chosen = sa.update(base.job).where(base.job.c.run_number == number, failed | spoilt)
            return connection.execute(chosen.values(state="planned")).rowcount

    # --- measurements ---------------------------------------------------------------------------

    def begin_measurement(self, measurement: Measurement) -> None:
        """Store a measurement that has no launches yet; it is partial until `finish_measurement`."""
        if measurement.launches:
            raise BugError(f"measurement {measurement.id} has launches before it begins")
        with self._writing() as connection:
            if _number(connection, base.measurement, measurement.id) is not None:
                raise BugError(f"measurement {measurement.id} is stored already")
            run_number = _run_number(connection, measurement.run)
            row = measurement_row(replace(measurement, status="partial"))
            row["run_number"] = run_number
            row["job_number"] = _plan(connection, run_number, measurement.job)
            _insert_new(connection, base.artifact, artifact_row(measurement.artifact))
            connection.execute(sa.insert(base.measurement).values(row))

    def add_launch(self, measurement_id: str, launch: Launch) -> None:
        """Store a launch with its samples, at once and whole; negative or huge times are a BugError."""
        blobs, row = blob_rows(launch), launch_row(launch)
        with self._writing() as connection:
            found = _measurement_row(connection, measurement_id)
            if found.status != "partial":
                raise BugError(f"measurement {measurement_id} is finished, so it takes no more launches")
            row["measurement_number"] = found.number
            if connection.execute(_same_launch(row)).first() is not None:
                raise BugError(f"launch {launch.number} of {measurement_id} is stored already")
            inserted = sa.insert(base.launch).values(row).returning(base.launch.c.number)
            number = connection.execute(inserted).scalar_one()
            connection.execute(
                sa.insert(base.sample_blob), [blob | {"launch_number": number} for blob in blobs]
            )

    def add_measurement(self, measurement: Measurement) -> None:
        """Store a measurement that was made elsewhere, whole: with its launches and its status."""
        launches = [(launch_row(each), blob_rows(each)) for each in measurement.launches]
        with self._writing() as connection:
            run_number = _run_number(connection, measurement.run)
            job_number = _plan(connection, run_number, measurement.job)
            row = measurement_row(measurement) | {"run_number": run_number, "job_number": job_number}
            _insert_new(connection, base.artifact, artifact_row(measurement.artifact))
            inserted = sa.insert(base.measurement).values(row).returning(base.measurement.c.number)
            number = connection.execute(inserted).scalar_one()
            for launch, blobs in launches:
                launch["measurement_number"] = number
                kept = sa.insert(base.launch).values(launch).returning(base.launch.c.number)
                place = {"launch_number": connection.execute(kept).scalar_one()}
                connection.execute(sa.insert(base.sample_blob), [blob | place for blob in blobs])
            if measurement.role == "candidate":
                _set_state(connection, job_number, "measured")

    def finish_measurement(
        self,
        measurement_id: str,
        status: MeasurementStatus,
        warnings: tuple[str, ...] = (),
        accuracy: Accuracy | None = None,
    ) -> None:
        """Set status and all warnings of a measurement; "partial" leaves its job open for `run --resume`.

        `accuracy`: where it was measured after the launches; None leaves what is there.
        """
        with self._writing() as connection:
            found = _measurement_row(connection, measurement_id)
            stored = decode_exact(Measurement, found.document, source=f"measurement {measurement_id}")
            known = accuracy or stored.accuracy
            finished = measurement_row(replace(stored, status=status, warnings=warnings, accuracy=known))
            measurement = base.measurement
            connection.execute(
                sa.update(measurement).where(measurement.c.number == found.number).values(finished)
            )
            if status != "partial" and stored.role == "candidate":
                _set_state(connection, found.job_number, "measured")

    def measurement(self, measurement_id: str) -> Measurement:
        """One measurement with its launches as they were added."""
        with self._reading() as connection:
            _measurement_row(connection, measurement_id)
            return _measurements(connection, base.measurement.c.id == measurement_id)[0]

    def measurements(self, run_id: str, roles: Sequence[Role] = ("candidate",)) -> tuple[Measurement, ...]:
        """All measurements of a run in the order of its jobs, each with its launches as they were added.

        What a gate measured beside them has other roles.
        """
        with self._reading() as connection:
            of_run = base.measurement.c.run_number == _run_number(connection, run_id)
            return _measurements(connection, of_run & base.measurement.c.role.in_(roles))

    def each_measurement(self, run_id: str) -> Iterator[Measurement]:
        """The candidates of a run in the order of its jobs, read a few at a time: for runs of any size."""
        table = base.measurement.c
        with self._reading() as connection:
            of_run = (table.run_number == _run_number(connection, run_id)) & (table.role == "candidate")
            chosen = sa.select(table.number).where(of_run).order_by(table.job_number, table.number)
            numbers = connection.execute(chosen).scalars().all()
        for at in range(0, len(numbers), _READ_TOGETHER):
            with self._reading() as connection:
                together = _measurements(connection, table.number.in_(numbers[at : at + _READ_TOGETHER]))
            yield from together

    def beside(self, run_id: str, measurement_id: str, role: Role) -> Measurement | None:
        """The last measurement of that role that was begun beside a candidate, or None."""
        found = [each for each in self.measurements(run_id, (role,)) if each.beside == measurement_id]
        return found[-1] if found else None

    def keep_figures(self, measurement_id: str, version: int, document: str) -> None:
        """Keep what was derived of a measurement, in the place of what was kept before."""
        with self._writing() as connection:
            number = _measurement_row(connection, measurement_id).number
            same = base.figures.c.measurement_number == number
            connection.execute(sa.delete(base.figures).where(same))
            row = {"measurement_number": number, "version": version, "document": document}
            connection.execute(sa.insert(base.figures).values(row))

    def figures(self, run_id: str, device: str, version: int) -> tuple[KeptFigures, ...]:
        """What was derived of a run's measurements on a device, in the order of jobs and of beginning.

        What a failed job left half measured is no result.
        """
        current = (base.figures.c.measurement_number == base.measurement.c.number) & (
            base.figures.c.version == version
        )
        chosen = sa.select(
            base.measurement.c.id,
            base.measurement.c.job_number,
            base.measurement.c.role,
            base.figures.c.document,
            base.measurement.c.number,
        ).select_from(base.measurement.join(base.job).outerjoin(base.figures, current))
        with self._reading() as connection:
            number = _run_number(connection, run_id)
            here = (base.job.c.run_number == number) & (base.job.c.device == plain(device))
            here &= base.job.c.state != "failed"
            rows = connection.execute(chosen.where(here)).all()
        # sorted here: the database would carry all documents through its sorting
        return tuple(KeptFigures(*row[:4]) for row in sorted(rows, key=lambda row: (row[1], row[4])))

    def all_figures(self, version: int, run_id: str | None = None, **names: str) -> Iterator[StoredFigures]:
        """What was derived of every finished candidate of all runs, or of one, in no order.

        A database that sorts carries all documents through it. `names`: of the jobs that are asked for
        (device, model, variant, runtime, precision). Rows are read as they are taken; what a failed job left
        half measured is no result.
        """
        current = (base.figures.c.measurement_number == base.measurement.c.number) & (
            base.figures.c.version == version
        )
        joined = base.measurement.join(base.job, base.job.c.number == base.measurement.c.job_number)
        chosen = (
            sa.select(
                base.measurement.c.number,
                base.run.c.id,
                base.run.c.created_utc,
                base.measurement.c.id,
                base.measurement.c.job_number,
                base.figures.c.document,
            )
            .select_from(
                joined.join(base.run, base.run.c.number == base.job.c.run_number).outerjoin(
                    base.figures, current
                )
            )
            .where(base.measurement.c.role == "candidate", base.job.c.state == "measured")
        )
        for column, value in names.items():
            chosen = chosen.where(base.job.c[column] == plain(value))
        with self._reading() as connection:
            if run_id is not None:
                chosen = chosen.where(base.job.c.run_number == _run_number(connection, run_id))
            for row in connection.execution_options(yield_per=2000).execute(chosen):
                yield StoredFigures(*row)

    def devices(self, run_id: str) -> tuple[str, ...]:
        """The devices of a run's jobs, in the order of the plan."""
        first = sa.func.min(base.job.c.number)
        chosen = sa.select(base.job.c.device).group_by(base.job.c.device).order_by(first)
        with self._reading() as connection:
            number = _run_number(connection, run_id)
            return tuple(connection.execute(chosen.where(base.job.c.run_number == number)).scalars())

    def has_role(self, run_id: str, role: Role) -> bool:
        """Whether a run has a measurement of that role."""
        with self._reading() as connection:
            number = _run_number(connection, run_id)
            of_run = (base.measurement.c.run_number == number) & (base.measurement.c.role == role)
            return (
                connection.execute(sa.select(base.measurement.c.number).where(of_run).limit(1)).first()
                is not None
            )

    def jobs(self, run_id: str) -> tuple[Job, ...]:
        """The jobs of a run, in the order of the plan."""
        chosen = sa.select(base.job.c.document).order_by(base.job.c.number)
        with self._reading() as connection:
            number = _run_number(connection, run_id)
            rows = connection.execute(chosen.where(base.job.c.run_number == number)).scalars().all()
        return tuple(decode_exact(Job, text, source=f"a job of run {run_id}") for text in rows)

    def count_jobs(self, run_id: str) -> int:
        """How many jobs a run has."""
        with self._reading() as connection:
            of_run = base.job.c.run_number == _run_number(connection, run_id)
            found: int = connection.execute(sa.select(sa.func.count()).where(of_run)).scalar_one()
            return found

    def measured_before(self, job: Job, limit: int = 3) -> tuple[Measurement, ...]:
        """The last measurements, in any run, of a job whose launches were the same; newest first."""
        columns = {name: plain(getattr(job, name)) for name in _CELL}
        same = sa.and_(*(base.job.c[name] == value for name, value in columns.items()))
        newest = (
            sa.select(base.measurement.c.id, base.job.c.document)
            .select_from(base.measurement.join(base.job))
            .where(same, base.measurement.c.status == "ok", base.measurement.c.role == "candidate")
            .order_by(base.measurement.c.number.desc())
            .limit(10 * limit)
        )
        with self._reading() as connection:
            found = connection.execute(newest).all()
            ids = [
                row.id
                for row in found
                if _launch_alike(decode_exact(Job, row.document, source=f"the job of {row.id}"), job)
            ][:limit]
            return tuple(_measurements(connection, base.measurement.c.id == each)[0] for each in ids)

    def last_facts(self, device: str) -> Facts | None:
        """What the last measurement saw of a device; None where there is none."""
        newest = (
            sa.select(base.measurement.c.id, base.measurement.c.document)
            .select_from(base.measurement.join(base.job))
            .where(base.job.c.device == plain(device))
            .order_by(base.measurement.c.number.desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(newest).first()
        if row is None:
            return None
        return decode_exact(Measurement, row.document, source=f"measurement {row.id}").facts

    # --- profiles -------------------------------------------------------------------------------

    def add_profile(self, measurement_id: str, profile: Profile) -> None:
        """Store where the time of a measurement goes; a later one takes the place of an earlier."""
        row = profile_row(profile)
        with self._writing() as connection:
            number = _measurement_row(connection, measurement_id).number
            connection.execute(sa.insert(base.profile).values(row | {"measurement_number": number}))

    def profiles(self, run_id: str) -> dict[str, Profile]:
        """The last profile of each measurement of a run that has one, by the measurement's id."""
        chosen = (
            sa.select(base.measurement.c.id, base.profile.c.document)
            .select_from(base.profile.join(base.measurement))
            .order_by(base.profile.c.number)
        )
        with self._reading() as connection:
            number = _run_number(connection, run_id)
            rows = connection.execute(chosen.where(base.measurement.c.run_number == number)).all()
        last = {row.id: row.document for row in rows}
        return {
            measurement_id: decode_exact(Profile, text, source=f"the profile of measurement {measurement_id}")
            for measurement_id, text in last.items()
        }

    # --- failures -------------------------------------------------------------------------------

    def add_failure(self, failure: Failure) -> None:
        """Store why a job has no measurement; the job is not open any more."""
        with self._writing() as connection:
            run_number = _run_number(connection, failure.run)
            job_number = _plan(connection, run_number, failure.job)
            numbers = {"run_number": run_number, "job_number": job_number}
            connection.execute(sa.insert(base.failure).values(failure_row(failure) | numbers))
            _set_state(connection, job_number, "failed")

    def failures(self, run_id: str) -> tuple[Failure, ...]:
        """The last failure of each job of a run that failed, in the order of the jobs."""
        failure = base.failure.c
        last = sa.select(sa.func.max(failure.number)).group_by(failure.job_number)
        ordered = (
            sa.select(failure.document)
            .select_from(base.failure.join(base.job))
            .where(base.job.c.state == "failed", failure.number.in_(last))
            .order_by(failure.job_number, failure.number)
        )
        with self._reading() as connection:
            number = _run_number(connection, run_id)
            documents = connection.execute(ordered.where(failure.run_number == number)).scalars().all()
        return tuple(decode_exact(Failure, text, source=f"a failure of run {run_id}") for text in documents)

    # --- devices --------------------------------------------------------------------------------

    def add_health_check(self, check: HealthCheck) -> None:
        """Store a check of a device."""
        with self._writing() as connection:
            connection.execute(sa.insert(base.health_check).values(health_check_row(check)))

    def health_checks(self, device: str, limit: int = 50) -> tuple[HealthCheck, ...]:
        """The last checks of a device in all runs, newest first."""
        check = base.health_check.c
        newest = sa.select(check.document).where(check.device == plain(device))
        with self._reading() as connection:
            found = connection.execute(newest.order_by(check.number.desc()).limit(limit)).scalars().all()
        return tuple(decode_exact(HealthCheck, text, source=f"a health check of {device}") for text in found)

    def add_noise_floor(self, floor: NoiseFloor) -> None:
        """Store what a device showed where nothing differed."""
        with self._writing() as connection:
            connection.execute(sa.insert(base.noise_floor).values(noise_floor_row(floor)))

    def noise_floors(self, device: str | None = None, limit: int = 1000) -> tuple[NoiseFloor, ...]:
        """The last noise floors of a device, or of all, newest first."""
        floor = base.noise_floor.c
        newest = sa.select(floor.document).order_by(floor.number.desc()).limit(limit)
        if device is not None:
            newest = newest.where(floor.device == plain(device))
        with self._reading() as connection:
            found = connection.execute(newest).scalars().all()
        return tuple(decode_exact(NoiseFloor, text, source="a noise floor") for text in found)

    # --- releases -------------------------------------------------------------------------------

    def add_judgement(self, judgement: Judgement) -> None:
        """Store what a gate said of a run."""
        with self._writing() as connection:
            number = _run_number(connection, judgement.run)
            row = judgement_row(judgement) | {"run_number": number}
            connection.execute(sa.insert(base.judgement).values(row))

    def judgement(self, run_id: str) -> Judgement | None:
        """What the last gate said of a run, or None."""
        made = base.judgement.c
        with self._reading() as connection:
            number = _run_number(connection, run_id)
            last = sa.select(made.document).where(made.run_number == number).order_by(made.number.desc())
            text = connection.execute(last.limit(1)).scalar()
        return None if text is None else decode_exact(Judgement, text, source=f"a judgement of run {run_id}")

    def add_release(self, release: Release) -> None:
        """Store a new release; UserError where the name is taken."""
        with self._writing() as connection:
            number = _run_number(connection, release.run)
            same = sa.select(base.release.c.number).where(base.release.c.name == release.name)
            if connection.execute(same).first() is not None:
                raise UserError(
                    f'there is a release "{release.name}" already',
                    hint="edgebench release list; choose another name",
                )
            connection.execute(sa.insert(base.release).values(release_row(release) | {"run_number": number}))

    def change_release(self, release: Release) -> None:
        """Store a release in the place of the one of its name."""
        with self._writing() as connection:
            where = base.release.c.name == release.name
            if (
                connection.execute(sa.update(base.release).where(where).values(release_row(release))).rowcount
                != 1
            ):
                raise BugError(f"there is no release {release.name}")

    def releases(self) -> tuple[Release, ...]:
        """All releases, newest first."""
        newest = sa.select(base.release.c.document).order_by(base.release.c.number.desc())
        with self._reading() as connection:
            found = connection.execute(newest).scalars().all()
        return tuple(decode_exact(Release, text, source="a release") for text in found)

    # --- artifacts ------------------------------------------------------------------------------

    def artifacts(self) -> tuple[Artifact, ...]:
        """Every artifact that a measurement was begun with, by digest."""
        artifact = base.artifact.c
        with self._reading() as connection:
            rows = connection.execute(
                sa.select(artifact.digest, artifact.document).order_by(artifact.digest)
            ).all()
        return tuple(decode_exact(Artifact, row.document, source=f"artifact {row.digest}") for row in rows)

    # --- transactions ---------------------------------------------------------------------------

    def _reading(self) -> contextlib.AbstractContextManager[Connection]:
        return self._transaction(writes=False)

    def _writing(self) -> contextlib.AbstractContextManager[Connection]:
        return self._transaction(writes=True)

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        if self._is_closed:
            raise BugError(f"the store {self._place.name} is closed")
        engine = self._engine.execution_options(edgebench_write=writes)
        with database_errors(self._place), engine.begin() as connection:
            yield connection


# --- inside one transaction ---------------------------------------------------------------------


_READ_TOGETHER = 20
_CELL = ("device", "model", "variant", "runtime", "precision")


def _launch_alike(one: Job, other: Job) -> bool:
    """Whether one launch of each takes the same time, as far as that was asked for."""
    workloads = [replace(job.workload, launches=1, max_invalid=0, precision=0.0) for job in (one, other)]
    return workloads[0] == workloads[1]


def _number(connection: Connection, table: sa.Table, record_id: str) -> int | None:
    found: int | None = connection.execute(sa.select(table.c.number).where(table.c.id == record_id)).scalar()
    return found


def _run_number(connection: Connection, run_id: str) -> int:
    number = _number(connection, base.run, run_id)
    if number is None:
        raise UserError(f'there is no run "{run_id}"', hint="`edgebench report` names the latest")
    return number


def _plan(connection: Connection, run_number: int, job: Job) -> int:
    """The number of a job, which is stored if it is not yet."""
    row = job_row(job) | {"run_number": run_number, "state": "planned"}
    _insert_new(connection, base.job, row)
    same = (base.job.c.run_number == run_number) & (base.job.c.digest == job_digest(job))
    number: int = connection.execute(sa.select(base.job.c.number).where(same)).scalar_one()
    return number


def _set_state(connection: Connection, job_number: int, state: Literal["measured", "failed"]) -> None:
    connection.execute(sa.update(base.job).where(base.job.c.number == job_number).values(state=state))


def _insert_new(connection: Connection, table: sa.Table, row: Row) -> None:
    """Insert a row unless one with its unique columns is there."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    connection.execute(dialect.insert(table).values(row).on_conflict_do_nothing())


def _same_launch(row: Row) -> sa.Select[Any]:
    names = ("measurement_number", "session", "ordinal")
    return sa.select(base.launch.c.number).where(*(base.launch.c[name] == row[name] for name in names))


def _measurement_row(connection: Connection, measurement_id: str) -> sa.Row[Any]:
    found = connection.execute(
        sa.select(base.measurement).where(base.measurement.c.id == measurement_id)
    ).first()
    if found is None:
        raise BugError(f"there is no measurement {measurement_id}")
    return found


def _measurements(connection: Connection, which: sa.ColumnElement[bool]) -> tuple[Measurement, ...]:
    measurement = base.measurement.c
    ordered = sa.select(measurement.number, measurement.id, measurement.document).where(which)
    rows = connection.execute(ordered.order_by(measurement.job_number, measurement.number)).all()
    launches = _launches(connection, which)
    return tuple(
        replace(
            decode_exact(Measurement, row.document, source=f"measurement {row.id}"),
            launches=tuple(launches.get(row.number, ())),
        )
        for row in rows
    )


def _launches(connection: Connection, which: sa.ColumnElement[bool]) -> dict[int, list[Launch]]:
    """Measurement number -> its launches, in the order in which they were added."""
    launch = base.launch.c
    chosen = (
        sa.select(
            launch.number, launch.measurement_number, launch.ordinal, launch.document, base.measurement.c.id
        )
        .select_from(base.launch.join(base.measurement))
        .where(which)
        .order_by(launch.number)
    )
    rows = connection.execute(chosen).all()
    blobs = _blobs(connection, which)
    launches: dict[int, list[Launch]] = {}
    for row in rows:
        source = f"launch {row.ordinal} of measurement {row.id}"
        record = launch_record(row.document, blobs.get(row.number, {}), source=source)
        launches.setdefault(row.measurement_number, []).append(record)
    return launches


def _blobs(connection: Connection, which: sa.ColumnElement[bool]) -> dict[int, dict[str, Blob]]:
    """Launch number -> its blobs by kind."""
    chosen = (
        sa.select(base.sample_blob)
        .select_from(base.sample_blob.join(base.launch).join(base.measurement))
        .where(which)
    )
    blobs: dict[int, dict[str, Blob]] = {}
    for row in connection.execute(chosen):
        blob = Blob(
            dtype=row.dtype, codec=row.codec, count=row._mapping["count"], sha256=row.sha256, data=row.data
        )
        blobs.setdefault(row.launch_number, {})[row.kind] = blob
    return blobs
