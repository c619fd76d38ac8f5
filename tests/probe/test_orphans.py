"""Who is an orphan: processes by the token in their environment, as Linux and as macOS's ps show it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.probe import orphans
from edgebench.probe.lease import busy, duration
from tests.probe.harness import eventually, running

TOKEN = "0123456789abcdef"


def test_words_of_an_environment() -> None:
    words = ["LANG=C", f"EDGEBENCH_RUN={TOKEN}", f"TMPDIR=/home/ada/.edgebench/runs/7-{TOKEN}"]
    found = orphans.in_words(12, words)
    assert found == (12, TOKEN, f"/home/ada/.edgebench/runs/7-{TOKEN}")


@pytest.mark.parametrize(
    "words", [[], ["EDGEBENCH_RUN="], ["EDGEBENCH_RUN=abc"], ["XEDGEBENCH_RUN=" + TOKEN]]
)
def test_others_are_none_of_ours(words: list[str]) -> None:
    assert orphans.in_words(12, words) is None


@given(st.lists(st.text(max_size=60), max_size=20))
def test_any_words(words: list[str]) -> None:
    found = orphans.in_words(1, words)
    assert found is None or len(found.token) == 16


def sleeper(folder: Path, token: str) -> int:
    environ = {**os.environ, "EDGEBENCH_RUN": token, "TMPDIR": str(folder)}
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], environ)
    eventually(lambda: pid in {each.pid for each in orphans.marked()}, "it carries the token")
    return pid


def test_only_processes_of_dead_sessions_are_killed(tmp_path: Path) -> None:
    """A folder that is gone, one that nobody holds, and one whose name says that it is another session's."""
    free = tmp_path / f"7-{TOKEN}"
    free.mkdir()
    gone, unheld, other = (
        sleeper(tmp_path / f"8-{TOKEN}", TOKEN),
        sleeper(free, TOKEN),
        sleeper(tmp_path / "somewhere", TOKEN),
    )
    try:
        orphans.kill_dead_sessions("f" * 16)
        eventually(lambda: not running(gone) and not running(unheld), "they are killed")
        assert running(other)
    finally:
        orphans.kill_session(TOKEN)
    eventually(lambda: not running(other), "by its own token it is killed in any case")
    for pid in (gone, unheld, other):
        os.waitpid(pid, 0)


def test_durations() -> None:
    assert [duration(each) for each in (0.4, 59, 60, 725, 3600, 20900)] == [
        "0 s",
        "59 s",
        "1 min",
        "12 min",
        "1 h",
        "5 h 48 min",
    ]


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text() | st.floats()))
def test_any_note_gives_a_message(note: dict[str, object]) -> None:
    assert "in use" in busy({**note, "since_monotonic_s": 1.0}).message
    assert busy({"holder": note}).kind == "busy"
