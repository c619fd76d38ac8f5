"""A database url -> an engine whose tables are those of this edgebench."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from edgebench.errors import InfrastructureError, UserError
from edgebench.store.base import REVISION, VERSION_TABLE
from edgebench.units import format_bytes

_BUSY_WAIT_S = 30
_CONNECT_WAIT_S = 10
_LOCK_POLL_S = 0.02
_MIGRATIONS = Path(__file__).parent / "migrations"
# any number that other programs on the same PostgreSQL server are unlikely to lock
_POSTGRES_LOCK = 0x65646765
# Alembic keeps the migration under way in module globals
_ONE_MIGRATION = threading.Lock()

# SQLite's primary result codes -> what the user is told and what to do
_SQLITE_PROBLEMS = {
    sqlite3.SQLITE_FULL: ("has no room left on its disk", "make room, or set another home folder"),
    sqlite3.SQLITE_READONLY: ("may not be written", "check the permissions of the file and of its folder"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "check that the folder exists and may be written by you"),
    sqlite3.SQLITE_PERM: ("may not be opened", "check the permissions of the file and of its folder"),
    sqlite3.SQLITE_NOTADB: ("is no SQLite database", "name another file"),
    sqlite3.SQLITE_CORRUPT: (
        "is damaged",
        "restore it from a copy, or save what is left with `sqlite3 FILE .recover`",
    ),
    sqlite3.SQLITE_BUSY: (
        f"was kept locked by another process for {_BUSY_WAIT_S} s",
        "wait for the other edgebench to end, then try again",
    ),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", "check its disk"),
}


class Place(NamedTuple):
    """Where a database is: `name` is for messages and holds no password; `path` is None for a server."""

    url: URL
    name: str
    path: Path | None


def place(url: str) -> Place:
    """The place of `sqlite:///FILE` or `postgresql://...`; UserError for any other url."""
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        return Place(URL.create("sqlite", database=str(path)), str(path), path)
    with contextlib.suppress(ArgumentError, ValueError):
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
            parsed = parsed.set(drivername="postgresql+psycopg")
            return Place(parsed, parsed.render_as_string(hide_password=True), None)
    raise UserError(
        # not the url itself: it may hold a password
        f'a database of kind "{url.split(":")[0]}" is not known',
        hint="sqlite:///FILE or postgresql://USER@HOST/DATABASE",
    )


def open_engine(where: Place) -> Engine:
    """An engine on a database that has this edgebench's tables; they are made or brought up to date first.

    Transactions of `engine.execution_options(edgebench_write=True)` take SQLite's write lock at their start.
    InfrastructureError when the database is newer, not edgebench's, damaged, or cannot be reached.
    """
    engine = _make_engine(where)
    try:
        with database_errors(where):
            if not _is_ready(engine, where):
                with _ONE_MIGRATION, _alone(where):
                    _upgrade(engine, where)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _make_engine(where: Place) -> Engine:
    if where.path is not None:
        engine = sa.create_engine(where.url, connect_args={"timeout": _BUSY_WAIT_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        return sa.create_engine(
            where.url, pool_pre_ping=True, connect_args={"connect_timeout": _CONNECT_WAIT_S}
        )
    except ModuleNotFoundError as error:
        raise InfrastructureError(
            "PostgreSQL needs the package psycopg, which is not installed",
            hint='pip install "edgebench[postgres]"',
        ) from error


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Python's own transaction handling leaves table changes outside of transactions: `_begin_sqlite` begins
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    # one flush per launch: a power cut loses no launch that was stored
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    # a transaction that begins by reading and then writes fails at once when another has written in between
    writes = connection.get_execution_options().get("edgebench_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


# --- tables -------------------------------------------------------------------------------------


def _is_ready(engine: Engine, where: Place) -> bool:
    # an empty file is one that another process is just making: left alone until that is done
    if where.path is not None and not (where.path.is_file() and where.path.stat().st_size):
        return False
    with engine.connect() as connection:
        return _revision(connection, where) == REVISION


def _revision(connection: Connection, where: Place) -> str | None:
    """The revision of the tables, or None without tables; InfrastructureError when they are not for us."""
    names = sa.inspect(connection).get_table_names()
    if VERSION_TABLE not in names:
        if names:
            raise InfrastructureError(
                f"{where.name} holds tables of another program", hint="give edgebench a database of its own"
            )
        return None
    version = sa.table(VERSION_TABLE, sa.column("version_num", sa.Text))
    revision: str | None = connection.execute(sa.select(version.c.version_num)).scalar()
    if revision is not None and revision > REVISION:
        raise InfrastructureError(
            f"{where.name} was written by a newer edgebench (tables {revision}; this one knows {REVISION})",
            hint="upgrade edgebench: pip install --upgrade edgebench",
        )
    return revision


@contextlib.contextmanager
def _alone(where: Place) -> Iterator[None]:
    """Holds other processes off while the tables change; a server is locked in the transaction instead."""
    if where.path is None:
        yield
        return
    try:
        where.path.parent.mkdir(parents=True, exist_ok=True)
        lock = where.path.with_name(where.path.name + ".lock").open("ab")
    except OSError as error:
        raise InfrastructureError(
            f"the database {where.name} cannot be made: {error.strerror or error}",
            hint="check that the folder exists and may be written by you",
        ) from error
    with lock:
        _wait_for_lock(lock.fileno(), lock.name)
        yield


def _wait_for_lock(descriptor: int, name: str) -> None:
    give_up = time.monotonic() + _BUSY_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise InfrastructureError(
                    f"another process has held {name} for {_BUSY_WAIT_S} s", hint="end it, then try again"
                ) from None
            time.sleep(_LOCK_POLL_S)
        else:
            return


def _upgrade(engine: Engine, where: Place) -> None:
    if where.path is not None:
        _use_write_ahead_log(engine)
    with engine.execution_options(edgebench_write=True).begin() as connection:
        if where.path is None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_BUSY_WAIT_S}s'")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))
        if _revision(connection, where) != REVISION:
            _migrate(connection)


def _use_write_ahead_log(engine: Engine) -> None:
    """Readers and one writer at a time do not wait for each other; the file remembers it."""
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _migrate(connection: Connection) -> None:
    """Run every migration that the database lacks, in the connection's one transaction."""
    # Alembic takes a third of a second to import and is only needed here
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(_MIGRATIONS))

    def steps(revision: Any, _context: MigrationContext) -> Any:
        # as Alembic documents for EnvironmentContext; its commands want an ini file and an env.py
        return scripts._upgrade_revs("head", revision)

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE, render_as_batch=True)
        environment.run_migrations()


# --- errors -------------------------------------------------------------------------------------


@contextlib.contextmanager
def database_errors(where: Place) -> Iterator[None]:
    """Refusals of the database become InfrastructureErrors that say what is wrong and what to do."""
    try:
        yield
    except DBAPIError as error:
        raise _explained(error.orig, where) from error
    except sqlite3.Error as error:
        raise _explained(error, where) from error
    except SQLAlchemyError as error:
        raise InfrastructureError(
            f"the database {where.name} failed: {type(error).__name__}", detail=str(error)
        ) from error


def _explained(error: BaseException | None, where: Place) -> InfrastructureError:
    text = str(error).strip()
    if where.path is None:
        first_line = text.splitlines()[0] if text else type(error).__name__
        return InfrastructureError(
            f"the database {where.name} failed: {first_line}",
            hint="check that the server runs and that the user may use the database",
            detail=text,
        )
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is the extended code
    problem, hint = _SQLITE_PROBLEMS.get(code, (f"failed: {text}", ""))
    if code == sqlite3.SQLITE_FULL and where.path.parent.is_dir():
        problem += f": {format_bytes(shutil.disk_usage(where.path.parent).free)} free"
    return InfrastructureError(f"the database {where.name} {problem}", hint=hint, detail=text)
