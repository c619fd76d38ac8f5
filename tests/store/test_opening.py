"""Opening databases: fresh, old, newer, foreign, damaged, closed, full; and by many at once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from edgebench.errors import InfrastructureError, UserError
from edgebench.store import Store, base, migrations, sqlite_url
from edgebench.store.opening import place
from tests.disks import small_disk
from tests.store.records import RUN, job, launch, measurement, run, take_gates_away

__all__ = ["small_disk"]


def engine_of(url: str) -> sa.Engine:
    path = place(url).path
    if path is not None:
        path.parent.mkdir(exist_ok=True)
    return sa.create_engine(place(url).url)


# --- tables -------------------------------------------------------------------------------------


def test_migrations_make_exactly_the_tables_of_base(url: str) -> None:
    Store(url).close()
    engine = engine_of(url)
    with engine.connect() as connection:
        options = {"version_table": base.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, base.metadata) == []
        assert context.get_current_revision() == base.REVISION
    engine.dispose()
    assert ScriptDirectory(str(migrations.__path__[0])).get_current_head() == base.REVISION


def test_sqlite_waits_checks_and_logs_ahead(file: Path) -> None:
    with Store(sqlite_url(file)) as store:
        store.add_run(run())
        with sqlite3.connect(file) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()
        with store._engine.connect() as connection:
            for pragma, value in (("foreign_keys", 1), ("synchronous", 2), ("busy_timeout", 30_000)):
                assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


def test_a_database_opens_again_without_alembic(url: str) -> None:
    with Store(url) as store:
        store.add_run(run())
    code = (
        "import sys; from edgebench.store import Store; s = Store(sys.argv[1]); print(s.run().id);"
        "assert not [m for m in sys.modules if m.startswith('alembic')]"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{RUN}\n"), done.stderr


def test_an_empty_file_becomes_a_database(file: Path) -> None:
    file.parent.mkdir()
    file.touch()
    with Store(sqlite_url(file)) as store:
        store.add_run(run())


def test_an_older_database_is_brought_up_to_date(url: str) -> None:
    engine = engine_of(url)
    with engine.begin() as connection:  # from before the first tables
        connection.exec_driver_sql(f"CREATE TABLE {base.VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)")
    with Store(url) as store:
        store.add_run(run())
    with engine.connect() as connection:
        revision = connection.exec_driver_sql(f"SELECT version_num FROM {base.VERSION_TABLE}").scalar()
        assert revision == base.REVISION
    engine.dispose()


def test_a_migration_that_fails_changes_nothing(url: str) -> None:
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {base.VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("CREATE TABLE failure (stands_in_the_way INTEGER)")
    with pytest.raises(InfrastructureError, match="already exists"):
        Store(url)
    with engine.connect() as connection:
        assert sorted(sa.inspect(connection).get_table_names()) == [base.VERSION_TABLE, "failure"]
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE failure")
    engine.dispose()
    with Store(url) as store:
        store.add_run(run())


def test_a_newer_database_is_not_touched(url: str) -> None:
    Store(url).close()
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {base.VERSION_TABLE} SET version_num = '0999'")
    engine.dispose()
    with pytest.raises(InfrastructureError, match=r"newer edgebench \(tables 0999") as caught:
        Store(url)
    assert "upgrade edgebench" in caught.value.hint


def test_tables_of_another_program_are_not_touched(url: str) -> None:
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE recipes (name TEXT)")
    engine.dispose()
    with pytest.raises(InfrastructureError, match="tables of another program"):
        Store(url)


OPEN = """
import sys
from edgebench.store import Store
print("ready", flush=True)
sys.stdin.readline()
with Store(sys.argv[1]) as store:
    print(store.runs())
"""


def test_many_open_a_fresh_database_at_once(url: str) -> None:
    command = [sys.executable, "-c", OPEN, url]
    crowd = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in crowd:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(Store, [url] * 4))
    assert [process.communicate(timeout=60)[0] for process in crowd] == ["()\n"] * 4
    assert [process.returncode for process in crowd] == [0] * 4
    for store in stores:
        store.close()


# --- bad databases ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["", "edgebench.db", "sqlite:///", "mysql://joe:secret@db/x", "http://x", "sqlite+aiosqlite:///x"]
)
def test_an_unknown_kind_of_database_is_told(url: str) -> None:
    with pytest.raises(UserError, match="is not known") as caught:
        Store(url)
    assert "secret" not in str(caught.value)
    assert "postgresql://" in caught.value.hint


def test_a_file_that_is_no_database(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"this is a text, and a long one: " * 100)
    with pytest.raises(InfrastructureError, match="is no SQLite database"):
        Store(sqlite_url(file))
    assert file.read_bytes().startswith(b"this is a text")


def test_a_truncated_database(file: Path) -> None:
    with Store(sqlite_url(file)) as store:
        store.add_run(run())
        store.begin_measurement(measurement())
        for number in range(20):
            store.add_launch("m1", launch(number, tuple(range(number, 4000))))
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(InfrastructureError, match="is damaged") as caught, Store(sqlite_url(file)) as store:
        store.measurements(RUN)
    assert "restore" in caught.value.hint


def test_a_folder_in_the_place_of_the_file(file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(InfrastructureError, match="cannot be opened"):
        Store(sqlite_url(file))


def test_a_file_in_the_place_of_the_folder(file: Path) -> None:
    file.parent.write_bytes(b"")
    with pytest.raises(InfrastructureError, match="cannot be made"):
        Store(sqlite_url(file))


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "what?.db", "a#b.db", "ünï.db"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    with Store(sqlite_url(tmp_path / name)) as store:
        store.add_run(run())
    assert (tmp_path / name).exists()


def test_a_full_disk_loses_only_the_launch_in_flight(small_disk: Path) -> None:
    samples = tuple((number * 2654435761) % 2**32 for number in range(8000))  # does not compress: 32 kB
    with Store(sqlite_url(small_disk / "edgebench.db")) as store:
        store.add_run(run())
        store.plan_jobs(RUN, [job()])
        store.begin_measurement(measurement())
        stored = 0
        with pytest.raises(InfrastructureError, match=r"no room left on its disk: .* free"):  # noqa: PT012
            for number in range(100):
                store.add_launch("m1", launch(number, samples))
                stored += 1
        assert 0 < stored < 100
        assert store.open_jobs(RUN) == ((job(), "m1", stored),)
        assert store.measurement("m1").launches == tuple(launch(number, samples) for number in range(stored))


def test_a_read_only_disk(small_disk: Path) -> None:
    url = sqlite_url(small_disk / "edgebench.db")
    with Store(url) as store:
        store.add_run(run())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with (
        pytest.raises(InfrastructureError, match=r"may not be written|cannot be opened") as caught,
        Store(url) as store,
    ):
        store.add_run(run("another"))
    assert "permissions" in caught.value.hint or "may be written" in caught.value.hint
    with pytest.raises(InfrastructureError, match="cannot be made"):
        Store(sqlite_url(small_disk / "new.db"))


def test_a_server_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="missing tool: psycopg")
    with pytest.raises(InfrastructureError, match="failed: ") as caught:
        Store(f"postgresql://joe:secret@/x?host={tmp_path}")
    error = caught.value
    assert "secret" not in error.message + error.hint + error.detail
    assert "server runs" in error.hint


def test_launches_of_the_first_tables_keep_their_figures(url: str) -> None:
    """A store from before load and first inference could be unknown."""
    scripts = ScriptDirectory(str(migrations.__path__[0])).walk_revisions()
    before = next(each.down_revision for each in scripts if each.path.endswith("unknown_load_times.py"))
    with Store(url) as store:
        store.add_run(run())
        store.plan_jobs(RUN, [job()])
        store.begin_measurement(measurement())
        store.add_launch("m1", launch(0))
        stored = store.measurement("m1")
    engine = engine_of(url)
    with engine.begin() as connection:
        take_gates_away(connection)
        for name in ("load_ns", "first_inference_ns"):
            connection.exec_driver_sql(f"ALTER TABLE launch ADD COLUMN old_{name} BIGINT NOT NULL DEFAULT 0")
            connection.exec_driver_sql(f"UPDATE launch SET old_{name} = {name}")
            connection.exec_driver_sql(f"ALTER TABLE launch DROP COLUMN {name}")
            connection.exec_driver_sql(f"ALTER TABLE launch RENAME COLUMN old_{name} TO {name}")
        connection.exec_driver_sql(f"UPDATE {base.VERSION_TABLE} SET version_num = '{before}'")
    engine.dispose()
    with Store(url) as store:
        assert store.measurement("m1") == stored
        store.add_launch("m1", launch(99, load_ns=None, first_inference_ns=None))
    engine = engine_of(url)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT ordinal, load_ns, first_inference_ns FROM launch").all()
    engine.dispose()
    assert sorted(map(tuple, rows)) == [(0, 20_000_000, 900_000), (99, None, None)]
