"""The parts of preparing and checking up that read outside data: notes, process tables, rights."""

from __future__ import annotations

import json
import shlex
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.probe.harness import Probe, build_folder

HOLDER = {"run": "r1", "controller": "here", "user": "me", "purpose": "test"}
NOTES = (
    "",
    "{",
    "[]",
    "null",
    '{"version": 1}',
    '{"boot": "x", "changes": 3}',
    '{"boot": "x", "changes": [{"what": "fan", "before": 1, "after": "2"}]}',
    '{"boot": "x", "changes": [{"what": "power_mode", "before": "MAXN", "after": 7}]}',
    '{"boot": "x", "changes": [{"what": "governor", "before": {"../../x": "performance"}, "after": "y"}]}',
    '{"boot": "x", "changes": [{"what": "governor", "before": {"policy0": "a b"}, "after": "ondemand"}]}',
    "[" * 5000,
)


@pytest.fixture(scope="module")
def probe_modules(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The probe's package, imported from a copy: the product itself never imports it."""
    import importlib
    import sys

    folder = build_folder(tmp_path_factory.mktemp("probe") / "program")
    sys.path.insert(0, str(folder))
    try:
        names = ("checkup", "knobs")
        return {name: importlib.import_module(f"edgebench_probe.{name}") for name in names}
    finally:
        sys.path.remove(str(folder))


@pytest.mark.parametrize("note", NOTES)
def test_a_note_that_is_no_note_is_told_and_kept(
    open_probe: Callable[..., Probe], tmp_path: Path, note: str
) -> None:
    probe = open_probe()
    path = tmp_path / "work" / "prepared.json"
    path.write_text(note)
    (told,) = probe.result("lease", holder=HOLDER, seconds=60)["restored"]
    assert told["state"] == "failed"
    assert "cannot be read" in told["text"]
    assert path.read_text() == note
    assert "cannot be undone" in probe.error("prepare", wanted={"governor": "performance"})["message"]
    path.unlink()
    assert probe.result("restore") == {"restored": []}
    assert probe.end() == 0


def test_what_went_with_a_reboot_is_not_touched(open_probe: Callable[..., Probe], tmp_path: Path) -> None:
    probe = open_probe()
    change = {"what": "governor", "before": {"policy0": "ondemand"}, "after": "performance"}
    (tmp_path / "work" / "prepared.json").write_text(json.dumps({"boot": "another", "changes": [change]}))
    (told,) = probe.result("lease", holder=HOLDER, seconds=60)["restored"]
    assert (told["what"], told["state"]) == ("governor", "left")
    assert "started anew" in told["text"]
    assert not (tmp_path / "work" / "prepared.json").exists()


def test_preparing_needs_the_lease_and_sensible_wishes(open_probe: Callable[..., Probe]) -> None:
    probe = open_probe()
    assert "needs the lease" in probe.error("prepare", wanted={"governor": "performance"})["message"]
    assert "needs the lease" in probe.error("restore")["message"]
    probe.lease()
    for wanted in ({}, {"clocks": "free"}, {"power_mode": "a b"}, {"governor": "--x"}, {"governor": 3}, []):
        assert probe.error("prepare", wanted=wanted)["kind"] == "bad_request"
        if isinstance(wanted, dict):
            assert probe.ask("checkup", prepare=wanted)["ok"]  # told as a finding
    assert "no /usr/sbin/nvpmodel" in probe.error("prepare", wanted={"power_mode": "MAXN"})["message"]


def test_a_check_up_needs_no_lease_and_changes_nothing(
    open_probe: Callable[..., Probe], tmp_path: Path
) -> None:
    probe = open_probe()
    (tmp_path / "work" / "store" / "x").write_bytes(b"x" * 1000)
    before = sorted(tmp_path.rglob("*"))
    found = probe.result("checkup", prepare=None)
    assert sorted(tmp_path.rglob("*")) == before
    assert found["used_bytes"] >= 1000
    assert found["free_bytes"] > 0
    assert found["leftovers"] == found["prepared"] == []
    assert found["prepare_problem"] is None
    assert {frozenset(each) for each in found["busiest"]} <= {frozenset({"pid", "name", "cores"})}


@given(text=st.text() | st.text(string.digits + " ()R"))
def test_whatever_stands_in_a_process_s_stat(probe_modules: dict[str, object], text: str) -> None:
    parsed = probe_modules["checkup"].parse_stat(text)  # type: ignore[attr-defined]
    assert parsed is None or (isinstance(parsed[0], int) and isinstance(parsed[1], str))


def test_a_process_s_name_may_hold_anything(probe_modules: dict[str, object]) -> None:
    fields = " ".join(str(number) for number in range(3, 40))
    stat = f"42 (a) b (c)) {fields}"
    assert probe_modules["checkup"].parse_stat(stat) == (14 + 15, "a) b (c)")  # type: ignore[attr-defined]


@settings(deadline=None)
@given(
    words=st.lists(
        st.text(string.ascii_letters + string.digits + "/._-:,=\\", min_size=1), min_size=1, max_size=4
    )
)
def test_a_sudoers_line_escapes_what_sudoers_would_read(
    probe_modules: dict[str, object], words: list[str]
) -> None:
    line = probe_modules["knobs"].sudoers_line([tuple(words)])  # type: ignore[attr-defined]
    command = line.partition("NOPASSWD: ")[2]
    assert shlex.split(command, posix=True) == (words if len(words) > 1 else [*words, ""])
    bare = command
    for character in ",:=\\":
        bare = bare.replace("\\" + character, "")
    assert not set(bare) & set(",:=\\")
