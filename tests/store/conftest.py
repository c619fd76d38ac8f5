"""Stores to test: SQLite, and PostgreSQL where its programs are installed (a private server, no network)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgebench.store import Store, sqlite_url


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    on_path = shutil.which("postgres")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).parent
    pytest.skip("missing tool: PostgreSQL (apt-get install postgresql)")


def _as_somebody() -> list[str]:
    """How to run a program as a user that is not root, which PostgreSQL insists on."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("missing tool: setpriv (apt-get install util-linux)")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[Path]:
    """The socket folder of a private PostgreSQL server that listens nowhere else."""
    pytest.importorskip("psycopg", reason='missing tool: psycopg (pip install "edgebench[postgres]")')
    programs, somebody = _postgres_programs(), _as_somebody()
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="edgebench-pg-") as name:  # a socket's path is short
        folder = Path(name)
        if somebody:
            os.chown(folder, 65534, 65534)
        data = str(folder / "data")
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": name}
        initdb = [str(programs / "initdb"), "-D", data, "-U", "edgebench", "-A", "trust", "-E", "UTF8", "-N"]
        subprocess.run([*somebody, *initdb], env=environment, cwd=name, check=True, capture_output=True)
        control = [*somebody, str(programs / "pg_ctl"), "-D", data, "-w", "-t", "60"]
        options = f"-k {name} -c listen_addresses='' -c fsync=off -c max_connections=50"
        start = [*control, "-l", str(folder / "log"), "-o", options, "start"]
        subprocess.run(start, env=environment, cwd=name, check=True, stdout=subprocess.DEVNULL)
        try:
            yield folder
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, env=environment, cwd=name, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def postgres_url(postgres_socket: Path) -> str:
    """A fresh, empty database."""
    name = f"t{uuid.uuid4().hex}"
    server = sa.create_engine(
        f"postgresql+psycopg://edgebench@/postgres?host={postgres_socket}", isolation_level="AUTOCOMMIT"
    )
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    server.dispose()
    return f"postgresql://edgebench@/{name}?host={postgres_socket}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The url of a database that is not there yet (SQLite) or empty (PostgreSQL)."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "home" / "edgebench.db")
    made: str = request.getfixturevalue("postgres_url")
    return made


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "edgebench.db"
