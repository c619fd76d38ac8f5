"""The command line for tests: called in this process where that is enough, else started as a process.

A conftest takes `from tests.commands import cli, fresh_cli, shared_home`. Both run in an empty folder, with a
HOME of their own and none of the caller's EDGEBENCH_* variables; `cli` shares its EDGEBENCH_HOME with other
tests (conversions are kept there), `fresh_cli` has an empty one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

import edgebench
from edgebench.cli.main import run
from edgebench.records import Launch
from edgebench.store import Store, sqlite_url

DEMO = Path(edgebench.__file__).parent / "demo"
DIGITS = str(DEMO / "digits.onnx")
QUICK = ("--launches", "2", "--min-samples", "20", "--min-duration", "10 ms", "--threads", "1")
LONG = (
    "run",
    DIGITS,
    "--to",
    "onnxruntime",
    "--threads",
    "1",
    "--min-samples",
    "20",
    "--min-duration",
    "0.5 s",
)
DEADLINE_S = 90.0
MAIN = "from edgebench.cli.main import main; main()"
SCHEMA = Path(__file__).parents[1] / "docs" / "run.schema.json"


class Answer(NamedTuple):
    """What one command left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


class Cli:
    """Calls commands in this process, or starts them."""

    def __init__(self, home: Path, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.folder = folder
        self._capture = capture
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, *arguments: object, code: int | None = 0) -> Answer:
        """Run a command; its exit code must be `code` (None: whatever it is)."""
        self._capture.readouterr()
        status = run([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        answer = Answer(status, out, err)
        assert code is None or status == code, f"exit {status}, not {code}\n{_short(out)}\n{err}"
        assert "Traceback" not in err
        return answer

    def json(self, *arguments: object, code: int | None = 0) -> Any:
        """The document of a command with --json."""
        return self(*arguments, "--json", code=code).document

    def fails(self, code: int, owner: str, *arguments: object) -> str:
        """The message and hint of a command that must fail so, said the same way in words and in JSON."""
        plain = self(*arguments, code=code)
        assert f"error ({owner}): " in plain.err
        assert plain.out == ""
        error = self.json(*arguments, code=code)["error"]
        assert (error["owner"], error["exit_code"]) == (owner, code)
        assert error["hint"], error
        assert f"error ({owner}): {error['message']}\n  next: {error['hint']}\n" in plain.err
        return f"{error['message']}\n{error['hint']}"

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start a command as a process of its own; it is killed after the test."""
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-c", MAIN, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return self.started[-1]

    def leftovers(self) -> list[str]:
        """What lies about in the home that no finished command should leave."""
        half = [path for path in self.home.rglob("*") if path.name.endswith(".part")]
        for folder in (
            self.home / "tmp",
            self.home / "artifacts" / "tmp",
            self.home / "artifacts" / "incoming",
        ):
            half += list(folder.glob("*"))
        return [str(path.relative_to(self.home)) for path in half]


def _short(out: str) -> str:
    """What a failed test shows of a command's stdout: of a run's document its failures alone."""
    try:
        return str(json.loads(out)["failures"])
    except (ValueError, KeyError, TypeError):
        return out


def finish(process: subprocess.Popen[str]) -> Answer:
    """What a started command left, once it has ended."""
    out, err = process.communicate(timeout=DEADLINE_S)
    return Answer(process.returncode, out, err)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """The stderr of a started command up to the line that holds `text`."""
    assert process.stderr
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came, but: {seen}")


def started_run(seen: str) -> str:
    """The id of the run that a started command announced."""
    return next(line for line in seen.splitlines() if line.startswith("run ")).split()[1].rstrip(":")


def stored(cli: Cli, run: str) -> list[Launch]:
    """All launches of a run in the store."""
    with Store(sqlite_url(cli.home / "store.sqlite")) as store:
        return [launch for each in store.measurements(run) for launch in each.launches]


def wait_until(true: Any, what: str, seconds: float = 30.0) -> None:
    """Return as soon as `true()` is; a failed test after `seconds`."""
    end_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end_s, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def follows_schema(document: Any) -> None:
    """The document of a run is as docs/run.schema.json says."""
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)


def _cli(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    monkeypatch.setenv("PIP_CACHE_DIR", os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip")))
    for name in [name for name in os.environ if name.startswith("EDGEBENCH_")]:
        if name not in ("EDGEBENCH_NO_SKIPS", "EDGEBENCH_TEST_CACHE"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    folder, user_home = tmp_path / "here", tmp_path / "user"
    folder.mkdir()
    user_home.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(user_home))
    monkeypatch.setenv("EDGEBENCH_HOME", str(home))
    monkeypatch.setenv("EDGEBENCH_LEASE", "folder")  # several workers measure on this computer at once
    monkeypatch.setenv("EDGEBENCH_HEALTH_CHECK", "off")  # and slow each other down, beyond any band
    made = Cli(home, folder, capsys)
    yield made
    for process in made.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One EDGEBENCH_HOME for all tests of this worker."""
    return tmp_path_factory.mktemp("edgebench-home")


@pytest.fixture
def cli(
    shared_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Cli]:
    """Commands that share a home with other tests."""
    yield from _cli(shared_home, tmp_path, monkeypatch, capsys)


@pytest.fixture
def fresh_cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """Commands with an empty home."""
    yield from _cli(tmp_path / "home", tmp_path, monkeypatch, capsys)
