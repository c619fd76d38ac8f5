"""One fault from its beginning to the proof that nothing is left of it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edgebench.device.session import Lease, Session, open_session
from edgebench.errors import EdgebenchError
from edgebench.records import Launch
from edgebench.store import Store, sqlite_url
from tests.commands import DIGITS, QUICK
from tests.faults import inject
from tests.faults.board import Board, alive, until
from tests.faults.cases import BUNDLE, PUSHING, Case
from tests.faults.controllers import Command, Controllers
from tests.faults.inject import GARBAGE, GONE_S, Scene

LAUNCHES = 2
DEADLINE_S = 120.0
STAGE_S = 60.0
UPLOAD_BYTES = 1 << 18
UPLOAD_MBIT = 40
SIDE = 600  # pixels: inputs of 4 MiB


class Outcome(NamedTuple):
    """What came of a fault. No violations: all that must hold held."""

    case: Case
    ended: str
    violations: tuple[str, ...]
    seconds: float
    detail: str = ""


class Bench(NamedTuple):
    """What all faults share."""

    controllers: Controllers
    home: Path
    folder: Path
    wide: Path


def run_case(case: Case, board: Board, bench: Bench) -> Outcome:
    """Inject one fault and look at everything that must hold."""
    began_s = time.monotonic()
    trial = Trial(case, board, bench)
    try:
        ended = trial.run()
    except Exception as error:  # noqa: BLE001 - one fault must not take the others with it
        trial.wrong.append(f"harness: {type(error).__name__}: {error}")
        ended = "not injected"
    finally:
        board.heal()
    trial.look_afterwards()
    detail = trial.detail() if trial.wrong else ""
    return Outcome(case, ended, tuple(trial.wrong), time.monotonic() - began_s, detail)


class Trial:
    """One fault and what is wrong after it."""

    def __init__(self, case: Case, board: Board, bench: Bench) -> None:
        self.case, self.board, self.bench = case, board, bench
        self.draw = random.Random(case.seed)
        self.folder = bench.folder / f"{case.number}"
        self.wrong: list[str] = []
        self.commands: list[Command] = []
        self.pushed = board.stored()
        self.outside = board.outside()
        board.witnessed()

    def run(self) -> str:
        """How the job ended."""
        self._prepare()
        if self.case.kind.startswith("busy board"):
            return self._busy()
        if self.case.kind.startswith("two controllers"):
            return self._two()
        return self._one()

    # --- the kinds of story ---

    def _one(self) -> str:
        at_once = self.case.stage == "connect"
        command = Command(self.folder / "not started") if at_once else self._begin()
        if not at_once:
            self._until_held(command)
        scene = Scene(self.case, self.board, command, self.draw)
        marked = dict(self.board.ours())
        inject.act(scene)
        at_s = time.monotonic()
        if at_once:
            command = self._begin()
        self.board.go()
        self._watch(command, at_s, marked)
        self.wrong += [f"harness: {note}" for note in scene.notes]
        self._finish(command)
        begun = not at_once or self.case.kind != "kill listener"  # there, the first try may be refused
        if begun and self.case.kind in inject.SURVIVED and command.err.count("board: connect ") != 1:
            self.wrong.append("unaccounted: the session did not survive this")
        return self._account(command, killed=self.case.kind == "kill controller")

    def _busy(self) -> str:
        waits = self.case.kind.endswith("waited for")
        with self._held_by_another() as other:
            command = self._begin(*(("--wait", "90 s") if waits else ()))
            if waits:
                until(lambda: "board: wait in use by" in command.err, "the wait is shown", STAGE_S)
                time.sleep(self.draw.uniform(0, 2))
                other.close()
            self._finish(command)
        if waits:
            return self._account(command)
        failures = (command.document or {}).get("failures", [])
        if command.status != 75 or "run busy-7" not in str(failures) or "for at most" not in str(failures):
            self.wrong.append(f"unaccounted: a busy board gave {command.status}: {failures}")
        return "exit 75"

    def _two(self) -> str:
        first = self._begin("--wait", "100 s")
        killed = self.case.kind.endswith("killed")
        if killed:
            self._until_held(first)
        else:
            time.sleep(self.draw.uniform(0, 1.5))
        second = self._begin("--wait", "100 s")
        if killed:
            marked = dict(self.board.ours())
            inject.act(Scene(self.case, self.board, first, self.draw))
            at_s = time.monotonic()
            self.board.go()
            self._watch(first, at_s, marked)
        self._finish(first)
        self._finish(second)
        ended = [self._account(second), self._account(first, killed=killed)]
        return " and ".join(ended)

    # --- parts ---

    def _prepare(self) -> None:
        kind, stage = self.case.kind, self.case.stage
        if stage in BUNDLE:
            self.board.forget_bundles()
        if kind == "corrupted upload" and stage == "bootstrap":
            self.board.forget_probe()
        self.board.want({"upload": "", "connect": ""}.get(stage, stage) + self._times())
        if kind == "clock jumps":
            self.board.set_clock(0)
        if kind in GARBAGE:
            fifo = self.board.hold / "garbage"
            os.mkfifo(fifo)
            fifo.chmod(0o666)
            inside = "/run/lock/edgebench-faults/garbage"
            self.board.script(f'case "$BASH_EXECUTION_STRING" in *" session "*) (cat {inside}) & ;; esac\n')
        if stage == "upload":
            self.board.server.rate_limit(UPLOAD_MBIT)

    def _times(self) -> str:
        return ":2" if self.case.kind == "corrupted upload" and self.case.stage == "bootstrap" else ""

    def _begin(self, *more: str) -> Command:
        """A started run."""
        folder = self.folder / f"{len(self.commands)}"
        argv = ["run", *self._model(), "--to", "onnxruntime", *QUICK, "--json", *more]
        command = self.bench.controllers.start(folder, *argv, EDGEBENCH_INVENTORY=str(self._inventory()))
        self.commands.append(command)
        return command

    def _model(self) -> list[str]:
        if self.case.stage not in PUSHING and self.case.kind != "slow link":
            return [DIGITS]
        import numpy as np

        inputs = self.bench.folder / f"{self.case.number}-{len(self.commands)}.npz"
        values = np.random.default_rng(self.case.seed + len(self.commands)).normal(size=(1, 3, SIDE, SIDE))
        np.savez(inputs, x=values.astype(np.float32))
        return [str(self.bench.wide), "--inputs", str(inputs)]

    def _inventory(self) -> Path:
        path = self.bench.folder / f"{self.board.server.name}.yaml"
        path.write_text(self.board.inventory())
        return path

    def _until_held(self, command: Command) -> None:
        def held() -> bool:
            if self.case.stage == "upload":
                return self.board.uploading(UPLOAD_BYTES) is not None
            return self.board.is_held()

        def there() -> bool:
            return held() or command.ended.is_set()

        until(there, f"stage {self.case.stage}", STAGE_S, 0.003)
        if not held():
            raise TimeoutError(f"the command ended before stage {self.case.stage}: {command.err[-500:]}")

    @contextmanager
    def _held_by_another(self) -> Iterator[Session]:
        lease = Lease(run="busy-7", purpose="tests")
        with open_session(self.board.record(), home=self.bench.home, lease=lease) as session:
            yield session

    def _watch(self, command: Command, at_s: float, marked: dict[int, str]) -> None:
        """Heal when it is time; ten seconds after the fault, processes of a lost session must be gone."""
        heal_s = inject.heals_after_s(self.case.kind)
        if heal_s is not None and heal_s <= GONE_S:
            command.ended.wait(max(0.0, at_s + heal_s - time.monotonic()))
            time.sleep(max(0.0, at_s + heal_s - time.monotonic()))
            self.board.heal()
        if self.case.kind in inject.ENDS_SESSION:
            while alive(marked) and time.monotonic() < at_s + GONE_S:
                time.sleep(0.1)
            left = {pid: marked[pid] for pid in alive(marked)}
            if left:
                self.wrong.append(f"orphans: {left} live {GONE_S:g} s after the fault")
        if heal_s is not None and heal_s > GONE_S:
            time.sleep(max(0.0, at_s + heal_s - time.monotonic()))
            self.board.heal()
            command.send(signal.SIGCONT)

    def _finish(self, command: Command) -> None:
        if not command.wait(DEADLINE_S):
            self.wrong.append(f"hang: the command did not end within {DEADLINE_S:g} s")

    # --- accounts ---

    def _account(self, command: Command, *, killed: bool = False) -> str:
        """How the job ended, in the document or, where its controller was killed, after a resume."""
        finished = command.finished_launches()
        stored = self._launches(command.run)
        numbers = {launch.number for launch in stored}
        if missing := set(range(1, finished + 1)) - numbers:
            self.wrong.append(f"lost: launches {sorted(missing)} were finished, {sorted(numbers)} are stored")
        if killed and command.document is None:
            return self._resume(command, stored)
        return self._ended(command)

    def _resume(self, command: Command, before: list[Launch]) -> str:
        if command.run is None:
            self.wrong.append("unaccounted: the killed run had no id yet")
            return "killed"
        self.board.heal()
        again = self.bench.controllers.start(
            self.folder / "resume",
            "run",
            "--resume",
            command.run,
            "--json",
            EDGEBENCH_INVENTORY=str(self._inventory()),
        )
        self.commands.append(again)
        self._finish(again)
        if "has no open jobs" in str((again.document or {}).get("error")):
            again = self._report(command.run)  # everything was measured and stored before the kill
        if self._ended(again) != "measured":
            self.wrong.append(f"unaccounted: the resumed run ended with {again.status}")
        if [launch for launch in before if launch not in self._launches(command.run)]:
            self.wrong.append("lost: a stored launch is not there after the resume")
        return "killed, resumed, measured"

    def _report(self, run: str) -> Command:
        report = self.bench.controllers.start(self.folder / "report", "report", run, "--json")
        self.commands.append(report)
        self._finish(report)
        return report

    def _ended(self, command: Command) -> str:
        document = command.document
        if document is None or "measurements" not in document:
            self.wrong.append(f"unaccounted: exit {command.status} and no document")
            return "nothing"
        measured, failed = document["measurements"], document["failures"]
        if measured and all(each["status"] == "ok" and each["launches"] == LAUNCHES for each in measured):
            return "measured"
        if not failed:
            self.wrong.append(f"unaccounted: {measured} and no failure")
            return "nothing"
        said = failed[0]["message"]
        if self.case.kind not in inject.MAY_FAIL:
            self.wrong.append(f"unaccounted: this must end with a measurement, not with: {said}")
        if failed[0]["owner"] != "device" or not failed[0]["hint"]:
            self.wrong.append(f"unaccounted: the failure's owner is {failed[0]['owner']}: {said}")
        return "failed, named"

    def _launches(self, run: str | None) -> list[Launch]:
        if run is None:
            return []
        with Store(sqlite_url(self.bench.home / "store.sqlite")) as store:
            return [launch for each in store.measurements(run) for launch in each.launches]

    # --- afterwards ---

    def look_afterwards(self) -> None:
        """Nothing runs, nothing lies about, nothing ran twice at once, and the board takes work at once."""
        try:
            until(lambda: not self.board.ours(), "", GONE_S, 0.05)
        except TimeoutError:
            left = self.board.ours()
            self.wrong.append(f"orphans: {left} live {GONE_S:g} s after the end")
            self.board.kill(*set(left.values()))
        if new := self.board.outside() - self.outside:
            self.wrong.append(f"outside: {sorted(new)[:5]}")
        self._check_usable()
        if left_inside := self.board.left_inside():
            self.wrong.append(f"outside: left in the work folder: {left_inside[:5]}")
        _, overlaps = self.board.witnessed()
        if overlaps:
            self.wrong.append(f"double: {overlaps} launches ran beside another one")
        for command in self.commands:
            if "Traceback" in command.err or "\x1b" in command.err + command.out:
                self.wrong.append("unaccounted: a traceback or a terminal escape was printed")
        self.board.forget(self.board.stored() - self.pushed)

    def _check_usable(self) -> None:
        try:
            lease = Lease(run="check", purpose="tests")
            with open_session(self.board.record(), home=self.bench.home, lease=lease) as session:
                session.facts()
        except EdgebenchError as error:
            self.wrong.append(f"unusable: {error.message}")

    def detail(self) -> str:
        """What the commands printed."""
        return "\n".join(
            f"--- {each.folder}\n{each.err[-3000:]}\n{each.out[-2000:]}" for each in self.commands
        )
