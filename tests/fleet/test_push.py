"""Pushing to real SSH servers: only what is missing travels, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from edgebench.convert.run import Limits
from edgebench.device.push import unpacked_bytes
from edgebench.device.session import InputSet, Lease, Placed, Session, open_session
from edgebench.errors import DeviceError
from edgebench.pipeline import Cell, Workbench, prepare
from edgebench.records import Artifact, ArtifactFile, Device, replace
from tests.commands import DIGITS, QUICK, Cli
from tests.fleet.boards import WORK, entry, write_inventory
from tests.fleet.counting import counted
from tests.fleet.fixtures import running_fleet
from tests.fleet.netns import FleetDevice, Spec
from tests.fleet.relay import Relay, Weather

pytestmark = pytest.mark.fleet

SIZE = 12_000_000
MIB = 1 << 20


class Load(NamedTuple):
    """Something to push, and how sessions for it are opened."""

    home: Path
    artifact: Artifact
    folder: Path
    inputs: InputSet

    @property
    def digest(self) -> str:
        """The sha256 of its one file."""
        return self.artifact.files[0].sha256

    def opened(self, device: Device) -> Session:
        return open_session(device, home=self.home, lease=Lease(run="push", purpose="test"))

    def place(
        self, session: Session, progress: Callable[[int, int], None] = lambda _moved, _total: None
    ) -> Placed:
        return session.place(self.artifact, self.folder, self.inputs, session.facts(), progress)


def load(plain: Load, folder: Path, content: bytes) -> Load:
    """The same with another file, which no device has."""
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    entry = ArtifactFile(path="model.onnx", sha256=digest, size_bytes=len(content))
    return plain._replace(artifact=replace(plain.artifact, digest=digest, files=(entry,)), folder=folder)


@pytest.fixture(scope="module")
def plain(shared_home: Path) -> Load:
    bench = Workbench(shared_home, limits=Limits())
    prepared = prepare(Cell(model_path=DIGITS, runtime="onnxruntime", precision="fp32"), bench)
    bench.close()
    folder = bench.artifacts.path(prepared.artifact.digest)
    return Load(shared_home, prepared.artifact, folder, prepared.inputs)


@pytest.fixture
def cargo(plain: Load, tmp_path: Path) -> Load:
    """12 MB that no device has."""
    return load(plain, tmp_path / "large", os.urandom(SIZE))


@pytest.fixture
def board(board: FleetDevice, plain: Load) -> FleetDevice:
    """The board, with the runtime on it already, whichever test comes first."""
    with plain.opened(board.record()) as session:
        plain.place(session)
    return board


def work(board: FleetDevice) -> Path:
    return board.home / WORK


def part(board: FleetDevice, cargo: Load) -> Path:
    return work(board) / "incoming" / f"{cargo.digest}.part"


def taken(board: FleetDevice) -> int:
    """The room that the work folder takes; a file with two names counts once."""
    statuses = [path.stat() for path in work(board).rglob("*") if path.is_file()]
    return sum({status.st_ino: status.st_blocks * 512 for status in statuses}.values())


def cut_while_pushing(board: FleetDevice, cargo: Load, after_bytes: int = SIZE // 3) -> None:
    """Push, and lose the connection on the way."""

    def cut(moved: int, _total: int) -> None:
        if moved > after_bytes:
            board.kill_connections()

    with cargo.opened(board.record()) as session, pytest.raises(DeviceError) as caught:
        cargo.place(session, cut)
    assert caught.value.retryable


def test_an_unchanged_job_is_one_request_and_no_byte(board: FleetDevice, cargo: Load) -> None:
    with counted() as counts, cargo.opened(board.record()) as session:
        facts = session.facts()
        first = session.place(cargo.artifact, cargo.folder, cargo.inputs, facts)
        assert first.moved_bytes >= SIZE
        counts.clear()
        again = session.place(cargo.artifact, cargo.folder, cargo.inputs, facts)
        assert counts == {"request": 1}
        assert again == replace(first, moved_bytes=0)
    with counted() as counts, cargo.opened(board.record()) as session:
        facts = session.facts()
        counts.clear()
        assert session.place(cargo.artifact, cargo.folder, cargo.inputs, facts).moved_bytes == 0
        assert counts == {"request": 1}


def test_a_lost_store_does_not_matter_to_what_is_assembled(board: FleetDevice, cargo: Load) -> None:
    with cargo.opened(board.record()) as session:
        first = cargo.place(session)
        for path in (work(board) / "store").iterdir():
            path.unlink()
        assert cargo.place(session) == replace(first, moved_bytes=0)


def test_a_new_session_continues_what_a_cut_left(board: FleetDevice, cargo: Load) -> None:
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    cut_while_pushing(board, cargo)
    arrived = part(board, cargo).stat().st_size
    assert 0 < arrived < SIZE
    with counted() as counts, cargo.opened(board.record()) as session:
        placed = cargo.place(session)
        assert placed.moved_bytes <= SIZE - arrived
        assert counts["put"] == 1
    stored = work(board) / "store" / cargo.digest
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == cargo.digest
    assert not part(board, cargo).exists()


def test_two_controllers_push_the_same_one_after_the_other(
    board: FleetDevice, cargo: Load, tmp_path: Path
) -> None:
    """Each with a home of its own; the second continues what the first began, then both find it there."""
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    second = cargo._replace(home=tmp_path / "second")
    (second.home).mkdir()
    (second.home / "bundles").symlink_to(cargo.home / "bundles")
    cut_while_pushing(board, cargo)
    with second.opened(board.record()) as session:
        assert 0 < second.place(session).moved_bytes < SIZE
    for each in (cargo, second):
        with each.opened(board.record()) as session:
            assert each.place(session).moved_bytes == 0


def test_a_byte_that_flipped_is_found_and_the_file_sent_again(board: FleetDevice, cargo: Load) -> None:
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    cut_while_pushing(board, cargo)
    with part(board, cargo).open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    with counted() as counts, cargo.opened(board.record()) as session:
        placed = cargo.place(session)
        assert counts["put"] == 2
        assert placed.moved_bytes > SIZE
    stored = work(board) / "store" / cargo.digest
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == cargo.digest


def test_what_never_arrives_intact_is_an_error_after_the_second_time(board: FleetDevice, cargo: Load) -> None:
    path = cargo.folder / "model.onnx"
    path.write_bytes(b"\0" + path.read_bytes()[1:])  # not what its digest says, so it is damaged there
    with counted() as counts, cargo.opened(board.record()) as session:
        with pytest.raises(DeviceError, match="arrived damaged"):
            cargo.place(session)
        assert counts["put"] == 2
    assert not part(board, cargo).exists()
    assert not (work(board) / "store" / cargo.digest).exists()


def test_progress_ends_at_what_had_to_travel(board: FleetDevice, cargo: Load) -> None:
    seen: list[tuple[int, int]] = []
    with cargo.opened(board.record()) as session:
        placed = cargo.place(session, lambda moved, total: seen.append((moved, total)))
    assert [moved for moved, _ in seen] == sorted(moved for moved, _ in seen)
    assert {total for _, total in seen} == {placed.moved_bytes}
    assert seen[-1][0] == placed.moved_bytes
    assert len(seen) > 10


def test_a_quota_makes_the_least_recently_used_go_and_says_so(plain: Load, tmp_path: Path) -> None:
    with running_fleet([Spec()]) as fleet:
        board = fleet.devices[0]
        with plain.opened(board.record()) as session:
            plain.place(session)
        for path in (work(board) / "store").iterdir():
            if path.stat().st_nlink == 1:
                path.unlink()  # wheels, which are unpacked: they would go first
        base = taken(board)
        loads = [load(plain, tmp_path / str(number), os.urandom(8 * MIB)) for number in range(3)]
        device = replace(board.record(), work_quota_bytes=base + 18 * MIB)
        for each in loads[:2]:
            with each.opened(device) as session:
                assert each.place(session).removed == ()
        with loads[2].opened(device) as session:
            removed = loads[2].place(session).removed
        assert f"artifacts/{loads[0].digest}" in {each.what for each in removed}
        assert sum(each.freed_bytes for each in removed) >= 8 * MIB
        there = set(os.listdir(work(board) / "artifacts"))
        assert {loads[1].digest, loads[2].digest} <= there
        assert loads[0].digest not in there


def test_a_run_says_what_had_to_go(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("small", board))
    cli("run", DIGITS, "--to", "onnxruntime", *QUICK, code=None)
    (work(board) / "incoming" / f"{'a' * 64}.part").write_bytes(bytes(MIB))
    used = taken(board)
    write_inventory(cli, entry("small", board, work_quota=f"{used - MIB // 2} B"))
    answer = cli("run", DIGITS, "--to", "onnxruntime", "--precision", "fp16", *QUICK, code=None)
    assert "small: made room (1.00 MiB): removed incoming aaaaaaaaaaaa, used least recently" in answer.err
    assert not list((work(board) / "incoming").iterdir())


def test_a_quota_too_small_for_the_job_is_named(board: FleetDevice, cargo: Load) -> None:
    device = replace(board.record(), work_quota_bytes=MIB)
    with cargo.opened(device) as session, pytest.raises(DeviceError) as caught:
        cargo.place(session)
    assert "over the quota" in caught.value.message
    assert "work_quota" in caught.value.hint


def test_a_wheel_that_is_none_is_this_computers_fault(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"no zip")
    with pytest.raises(Exception, match="cannot be read") as caught:
        unpacked_bytes(tmp_path / "x.whl")
    assert getattr(caught.value, "owner", "") == "infrastructure"


# --- far away -------------------------------------------------------------------------------------


@pytest.fixture
def far(board: FleetDevice) -> Iterator[Relay]:
    """The board at 20 ms of round trip."""
    if board.kind != "netns" or not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("missing tool: network namespaces (root, iproute2) and /dev/net/tun")
    with Relay(board, Weather(delay_ms=10.0)) as relay:
        yield relay


def test_a_push_through_loss_arrives(far: Relay, cargo: Load) -> None:
    with cargo.opened(far.record()) as session:
        far.change(Weather(delay_ms=10.0, loss=0.01))
        assert cargo.place(session).moved_bytes >= SIZE


def test_a_link_that_comes_back_costs_only_time(far: Relay, cargo: Load) -> None:
    cut = iter((True,))

    def blink(moved: int, _total: int) -> None:
        if moved > SIZE // 4 and next(cut, False):
            far.cut()
            time.sleep(0.3)  # what the kernel still sends is lost
            far.heal()

    with cargo.opened(far.record()) as session:
        assert cargo.place(session, blink).moved_bytes >= SIZE
