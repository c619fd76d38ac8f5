"""What each kind of fault does to a board and its controller, and how it is undone."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults.board import Board
from tests.faults.cases import Case
from tests.faults.controllers import Command

GONE_S = 10.0  # after this no process of a session may be left whose controller is gone
ENDLESS_BYTES = 4 << 20
YEARS_S = 10 * 365.25 * 86400.0


@dataclass
class Scene:
    """One fault while it happens."""

    case: Case
    board: Board
    command: Command
    draw: random.Random
    notes: list[str] = field(default_factory=list)


Act = Callable[[Scene], None]


def act(scene: Scene) -> None:
    """Let the fault happen, now."""
    ACTS[scene.case.kind](scene)


def heals_after_s(kind: str) -> float | None:
    """When a fault is undone, counted from its beginning; None: once the command has ended."""
    return HEALS.get(kind, 0.0)


def _cut(scene: Scene) -> None:
    scene.board.server.cut()


def _drop(scene: Scene) -> None:
    scene.board.drop()


def _reject(scene: Scene) -> None:
    scene.board.reject()


def _reset(scene: Scene) -> None:
    scene.board.reset_connections()


def _slow(scene: Scene) -> None:
    scene.board.server.rate_limit(scene.draw.choice((4, 8)))


def _kill(*roles: str) -> Act:
    def kill(scene: Scene) -> None:
        if not scene.board.kill(*roles):
            scene.notes.append(f"there was no {' and no '.join(roles)}")

    return kill


def _stop(*roles: str) -> Act:
    def stop(scene: Scene) -> None:
        if not scene.board.stop(*roles):
            scene.notes.append(f"there was no {' and no '.join(roles)}")

    return stop


def _kill_controller(scene: Scene) -> None:
    scene.command.send(signal.SIGKILL)
    scene.command.ended.wait(5)


def _stop_controller(scene: Scene) -> None:
    scene.command.send(signal.SIGSTOP)


def _kill_everything(scene: Scene) -> None:
    scene.board.kill_everything()


def _fill(scene: Scene) -> None:
    leave_bytes = scene.draw.choice((0, 4096, 100_000))
    end_s = time.monotonic() + 5.0
    while True:
        try:
            scene.board.server.fill_disk(leave_bytes=leave_bytes)
            return
        except OSError:  # an upload took some of the room meanwhile
            if time.monotonic() > end_s:
                raise


def _corrupt(scene: Scene) -> None:
    """Another byte in the middle, and sometimes a file cut short."""
    folder = scene.board.home / ".edgebench" / ("probe" if scene.case.stage == "bootstrap" else "incoming")
    parts = sorted(folder.glob("*.part"), key=lambda path: path.stat().st_mtime)
    if not parts:
        scene.notes.append("there was no upload")
        return
    size = parts[-1].stat().st_size
    with parts[-1].open("r+b") as file:
        if scene.draw.random() < 0.5:
            file.truncate(size // 2)
            return
        file.seek(size // 2)
        byte = file.read(1)
        file.seek(size // 2)
        file.write(bytes([byte[0] ^ 0x55]))


def _jump(scene: Scene) -> None:
    scene.board.set_clock(scene.draw.choice((YEARS_S, -YEARS_S, 3600.0, -3600.0, 8 * YEARS_S)))


def _say(data: bytes) -> Act:
    def say(scene: Scene) -> None:
        scene.board.script("")
        fifo = scene.board.hold / "garbage"
        try:
            descriptor = os.open(fifo, os.O_WRONLY)
        except OSError:
            scene.notes.append("nobody took the garbage")
            return
        os.set_blocking(descriptor, False)
        view, end_s = memoryview(data), time.monotonic() + 3.0
        while view and time.monotonic() < end_s:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # the connection has ended
                break
        os.close(descriptor)
        fifo.unlink()

    return say


def _nothing(_scene: Scene) -> None:
    return


GARBAGE: dict[str, bytes] = {
    "garbage line": b"Segmentation fault (core dumped)\n",
    "endless garbage": b"spam and eggs\n" * (ENDLESS_BYTES // 14),
    "half a message": b'{"id": 5, "ok": tr',
    "terminal escapes": b"\x1b]0;owned\x07\x1b[2J\n",
}
ACTS: dict[str, Act] = {
    "cut": _cut,
    "outage of 2 s": _cut,
    "silent drop": _drop,
    "reset": _reset,
    "reject": _reject,
    "slow link": _slow,
    "kill controller": _kill_controller,
    "kill session": _kill("session"),
    "kill guard": _kill("guard"),
    "kill session and guard": _kill("session", "guard"),
    "kill launch": _kill("launch"),
    "kill connection": _kill("connection"),
    "kill listener": _kill("listener"),
    "kill everything": _kill_everything,
    "stop controller": _stop_controller,
    "stop session": _stop("session"),
    "stop guard": _stop("guard"),
    "stop launch": _stop("launch"),
    "stop connection": _stop("connection"),
    "stop listener": _stop("listener"),
    "full disk": _fill,
    "corrupted upload": _corrupt,
    "clock jumps": _jump,
    **{kind: _say(data) for kind, data in GARBAGE.items()},
    "busy board": _nothing,
    "busy board, waited for": _nothing,
    "two controllers": _nothing,
    "two controllers, one killed": _kill_controller,
}
HEALS: dict[str, float | None] = {
    "cut": GONE_S + 0.5,
    "outage of 2 s": 2.0,
    "silent drop": GONE_S + 0.5,
    "reject": GONE_S + 0.5,
    "slow link": None,
    "kill listener": 2.0,
    "kill everything": 1.0,
    "kill connection": 0.0,
    "stop controller": GONE_S + 0.5,
    "stop session": GONE_S + 0.5,
    "stop guard": None,
    "stop launch": None,
    "stop connection": GONE_S + 0.5,
    "stop listener": 5.0,
    "full disk": None,
    "clock jumps": None,
}
ENDS_SESSION = (
    "cut",
    "silent drop",
    "reset",
    "reject",
    "kill controller",
    "kill session",
    "kill guard",
    "kill session and guard",
    "kill connection",
    "kill everything",
    "stop controller",
    "stop session",
    "stop connection",
    "two controllers, one killed",
)
SURVIVED = ("outage of 2 s", "slow link", "kill listener", "stop guard", "clock jumps")  # by the same session
# Everything else ends with a measurement, at the second attempt.
# Whether the attempts reach over a port that is refused for long, or a crashed board, is a matter of luck.
MAY_FAIL = ("full disk", "reject", "kill everything", *GARBAGE)
