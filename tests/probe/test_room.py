"""What goes when the work folder must take more: the choice alone by properties, and through a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.probe import room
from tests.probe.harness import Probe, eventually, running, sha256, spec, wheel

MIB = 1 << 20
sizes = st.dictionaries(st.integers(0, 12), st.integers(0, 1000), max_size=4)


@st.composite
def folders(draw: st.DrawFn) -> tuple[list[room.Unit], set[str]]:
    """Units that may share files (each inode has one size), and the keys of those in use."""
    size_of = {(1, inode): draw(st.integers(0, 1000)) for inode in range(8)}
    units = []
    for number in range(draw(st.integers(0, 8))):
        inodes = draw(st.sets(st.sampled_from(sorted(size_of)), max_size=4))
        used = draw(st.integers(0, 5))
        units.append(room.Unit(f"artifacts/{number}", used, {inode: size_of[inode] for inode in inodes}))
    spared = draw(st.sets(st.sampled_from([unit.key for unit in units]))) if units else set()
    return units, spared


def freed(units: list[room.Unit], gone: list[room.Unit]) -> int:
    """The room that comes free, counted the plain way: what all take less what is left takes."""
    keys = {unit.key for unit in gone}
    return room.used_bytes(units) - room.used_bytes([unit for unit in units if unit.key not in keys])


@given(folders(), st.integers(-10, 5000))
def test_what_is_chosen_is_enough_needed_and_never_in_use(
    case: tuple[list[room.Unit], set[str]], wanted: int
) -> None:
    units, spared = case
    chosen = room.choose(units, spared, wanted)
    if chosen is None:
        assert freed(units, [unit for unit in units if unit.key not in spared]) < wanted
        return
    assert not {unit.key for unit in chosen} & spared
    assert freed(units, chosen) >= wanted
    for unit in chosen:  # each of them is needed
        assert freed(units, [each for each in chosen if each is not unit]) < wanted


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 1000)), max_size=9), st.integers(1, 3000))
def test_the_least_recently_used_go_first(plain: list[tuple[int, int]], wanted: int) -> None:
    units = [
        room.Unit(f"bundles/{number}", used, {(1, number): size}) for number, (used, size) in enumerate(plain)
    ]
    chosen = room.choose(units, set(), wanted)
    if chosen is None:
        return
    kept = [unit for unit in units if unit not in chosen]
    latest = max(unit.used for unit in chosen)
    for unit in kept:
        # who was used earlier than the last one to go stays only where going would have saved nobody
        earlier = [each for each in chosen if each.used < latest]
        assert unit.used >= latest or freed(units, [*earlier, unit]) < wanted


# --- through a session ----------------------------------------------------------------------------


def made(probe: Probe, fill: bytes, size: int = MIB) -> str:
    """An artifact of one file; its digest."""
    return Path(probe.place({"model.onnx": fill * size})).name


def left(probe: Probe) -> set[str]:
    return set(os.listdir(probe.work / "artifacts"))


def reopened(open_probe: Callable[..., Probe], probe: Probe) -> Probe:
    """The next session on the same work folder, leased."""
    assert probe.end() == 0
    again = open_probe()
    again.lease()
    return again


def use(probe: Probe, artifact: str) -> None:
    """Ask for the whole folder, as a job's push does."""
    (file,) = (probe.work / "artifacts" / artifact).iterdir()
    entry = {"path": file.name, "sha256": sha256(file.read_bytes()), "size_bytes": file.stat().st_size}
    folder = {"kind": "artifacts", "digest": artifact, "files": [entry]}
    have = probe.result("have", folders=[folder])
    assert have["missing"] == []
    assert have["folders"] == {f"artifacts/{artifact}": str(probe.work / "artifacts" / artifact)}


def test_under_a_quota_the_least_recently_used_go(probe: Probe, open_probe: Callable[..., Probe]) -> None:
    old, older = made(probe, b"a"), made(probe, b"b")
    probe = reopened(open_probe, probe)
    use(probe, old)  # now the other one is the older
    probe = reopened(open_probe, probe)
    done = probe.result("room", needed_bytes=MIB, quota_bytes=2 * MIB + MIB // 2)
    assert {each["what"].split("/")[0] for each in done["removed"]} == {"artifacts", "store"}
    assert sum(each["freed_bytes"] for each in done["removed"]) >= MIB
    assert left(probe) == {old}
    assert older not in left(probe)


def test_a_clock_that_is_years_off_changes_nothing(probe: Probe, open_probe: Callable[..., Probe]) -> None:
    first = made(probe, b"a")
    probe = reopened(open_probe, probe)
    second = made(probe, b"b")
    for path in (probe.work / "artifacts" / second, probe.work / "used.json"):
        os.utime(path, (0, 0))
    os.utime(probe.work / "artifacts" / first, (4e9, 4e9))
    probe = reopened(open_probe, probe)
    probe.result("room", needed_bytes=MIB, quota_bytes=2 * MIB + MIB // 2)
    assert left(probe) == {second}


def test_what_this_session_uses_stays(probe: Probe) -> None:
    artifact = made(probe, b"a")
    error = probe.error("room", needed_bytes=MIB, quota_bytes=MIB)
    assert error["kind"] == "no_space"
    assert "over the quota: 1.0 MiB are to be pushed" in error["message"]
    assert left(probe) == {artifact}


def test_what_another_living_session_uses_stays(probe: Probe, open_probe: Callable[..., Probe]) -> None:
    artifact = made(probe, b"a")
    assert probe.end() == 0
    other = open_probe()  # without the lease: it only computes
    other.ask("infer", spec=spec("replay", str(other.work / "artifacts" / artifact)))
    probe = open_probe()
    probe.lease()
    assert probe.error("room", needed_bytes=MIB, quota_bytes=MIB)["kind"] == "no_space"
    probe.result("clean", keep=[])
    assert left(probe) == {artifact}
    other.process.kill()
    other.process.wait(10)
    eventually(lambda: not running(other.pid), "the end of the other session")
    probe.result("room", needed_bytes=MIB, quota_bytes=MIB + MIB // 2)
    assert left(probe) == set()


def test_the_quota_of_its_own_gives_way_to_what_is_in_use(probe: Probe) -> None:
    artifact = made(probe, b"a")
    assert probe.result("room", needed_bytes=MIB, quota_bytes=None)["removed"] == []
    assert probe.result("room", needed_bytes=MIB, quota_bytes=0)["removed"] == []
    assert left(probe) == {artifact}


def test_more_than_the_disk_has_is_no_space_and_removes_nothing(
    probe: Probe, open_probe: Callable[..., Probe]
) -> None:
    artifact = made(probe, b"a")
    probe = reopened(open_probe, probe)
    error = probe.error("room", needed_bytes=1 << 39, quota_bytes=None)
    assert error["kind"] == "no_space"
    assert "disk full" in error["message"]
    assert left(probe) == {artifact}


def test_engines_go_like_everything_else(probe: Probe, open_probe: Callable[..., Probe]) -> None:
    engine = probe.work / "engines" / ("e" * 64)
    engine.mkdir(parents=True)
    (engine / "model.plan").write_bytes(b"e" * MIB)
    artifact = made(probe, b"a")
    probe = reopened(open_probe, probe)
    done = probe.result("room", needed_bytes=MIB, quota_bytes=2 * MIB + MIB // 2)
    assert [each["what"] for each in done["removed"]] == [f"engines/{'e' * 64}"]
    assert left(probe) == {artifact}


def test_an_upload_that_nobody_wants_goes_and_a_wanted_one_stays(probe: Probe) -> None:
    incoming = Path(probe.result("have", files=[])["incoming"])
    for digest in ("a" * 64, "b" * 64):
        (incoming / f"{digest}.part").write_bytes(b"x" * MIB)
    probe.result("room", needed_bytes=MIB, quota_bytes=2 * MIB + MIB // 2, keep=["b" * 64])
    assert os.listdir(incoming) == [f"{'b' * 64}.part"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"leases": "x", "used": 7}', '{"leases": 1e400, "used": {}}', "\0"]
)
def test_a_damaged_note_of_uses_is_an_empty_one(
    probe: Probe, open_probe: Callable[..., Probe], text: str
) -> None:
    artifact = made(probe, b"a")
    assert probe.end() == 0
    (probe.work / "used.json").write_text(text)
    probe = open_probe()
    probe.lease()
    use(probe, artifact)
    assert json.loads((probe.work / "used.json").read_text())["used"][f"artifacts/{artifact}"] == 1


def test_a_bundle_is_removed_as_a_whole(probe: Probe, open_probe: Callable[..., Probe]) -> None:
    bundle = Path(probe.bundle(wheel({f"many/{number}.py": "x = 1\n" for number in range(300)})))
    probe = reopened(open_probe, probe)
    used = sum(path.stat().st_blocks * 512 for path in probe.work.rglob("*") if path.is_file())
    done = probe.result("room", needed_bytes=1, quota_bytes=used - MIB // 4)
    assert f"bundles/{bundle.name}" in [each["what"] for each in done["removed"]]
    assert not bundle.exists()
    assert list((probe.work / "runs").glob("*/discarded/*")) == []


def test_who_still_writes_an_upload_is_ended_by_the_next_lease(
    probe: Probe, open_probe: Callable[..., Probe]
) -> None:
    incoming = Path(probe.result("have", files=[])["incoming"])
    part = incoming / f"{'a' * 64}.part"
    writer = subprocess.Popen(
        [sys.executable, "-c", "import sys; f = open(sys.argv[1], 'ab', 0); f.write(b'x'); input()", part],
        stdin=subprocess.PIPE,
    )
    try:
        eventually(lambda: part.exists() and part.stat().st_size == 1, "a part")
        wanted = [{"sha256": "a" * 64, "size_bytes": 10}]
        assert open_probe().result("have", files=wanted)["partial"] == {"a" * 64: 1}
        assert writer.poll() is None  # who has no lease ends nobody
        assert probe.result("have", files=wanted)["partial"] == {"a" * 64: 1}
        eventually(lambda: not running(writer.pid), "its end")
    finally:
        writer.kill()
        writer.communicate()


def test_an_unleased_session_cannot_make_room(open_probe: Callable[..., Probe]) -> None:
    assert open_probe().error("room", needed_bytes=1)["kind"] == "bad_request"
