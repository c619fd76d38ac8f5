"""What the inventory may ask of a board for a measurement (power mode, governor, clocks), and the way back.

Every change is written to DIR/prepared.json, with the state before it, before it is made. Whoever ends the
session, or takes the next lease after a crash, undoes what is written there, in reverse order. What somebody
else changed meanwhile is left as it is. Undoing twice does no harm: the note is rewritten once, at the end.
"""

import json
import os
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from . import check
from .knobs import (
    FAILED,
    LEFT,
    LOCKED,
    STEP_S,
    WORD,
    Clocks,
    Command,
    Governor,
    PowerMode,
    Root,
    are_governors,
    not_allowed,
)
from .tree import Tree
from .wire import Json, ProbeError

NOTE, CLOCKS_FILE = "prepared.json", "jetson_clocks.conf"
VERSION = 1
MAX_NOTE_BYTES = 64 << 10
ENDING_S = 2 * STEP_S
KNOBS = (PowerMode.name, Governor.name, Clocks.name)  # in this order: a power mode moves the clocks' limits
GOES_WITH_THE_BOOT = (Governor.name, Clocks.name)


class Preparation:
    """The board's preparation: applied, written down, undone; undone from any thread."""

    def __init__(self, work: str, locks: Callable[[], Sequence[int]]) -> None:
        self._note = os.path.join(work, NOTE)
        tree, self._root = Tree(), Root(locks)
        clocks_file = os.path.join(work, CLOCKS_FILE)
        knobs = (
            PowerMode(tree, self._root),
            Governor(tree, self._root),
            Clocks(tree, self._root, clocks_file),
        )
        self._knobs: Dict[str, Any] = {knob.name: knob for knob in knobs}
        self._guard = threading.RLock()
        self._leaving = False

    @property
    def pending(self) -> bool:
        """Whether something waits to be undone."""
        return os.path.lexists(self._note)

    def apply(self, wanted: Json) -> List[Json]:
        """[{what, before, after}] of what was asked for; all of it, or ProbeError and nothing."""
        with self._guard:
            self._undo_earlier()
            asked = [(self._knobs[name], value) for name, value in _checked(wanted)]
            missing = self.lacking(wanted)
            if missing:
                raise not_allowed(missing)
            try:
                return [self._turn(knob, value) for knob, value in asked]
            except BaseException:
                self.restore()
                raise

    def lacking(self, wanted: Json) -> List[Command]:
        """Root's commands that this login may not run; ProbeError where the board cannot do what is asked."""
        commands: List[Command] = []
        for name, value in _checked(wanted):
            knob = self._knobs[name]
            commands += [] if _has(knob, value) else knob.plan(value)
        return self._root.missing(list(dict.fromkeys(commands)))

    def restore(self) -> List[Json]:
        """[{what, state, text}] of what was undone, left, or failed; what failed stays written down."""
        with self._guard:
            if not self.pending:
                return []
            note = self._read()
            if note is None:
                text = (
                    "%s cannot be read: look at the board's power mode and clocks, then remove it"
                    % self._note
                )
                return [{"what": "preparation", "state": FAILED, "text": text}]
            done, left = [], []
            for change in reversed(note["changes"]):
                done.append(self._undo(change, note["boot"] == boot()))
                left += [change] if done[-1]["state"] == FAILED else []
            self._write(dict(note, changes=left[::-1]))
            if not left:
                self._knobs[Clocks.name].forget()
            return done

    def leave(self) -> List[Json]:
        """Undo everything at the end of the session; nothing is prepared afterwards."""
        self._leaving = True
        if not self._guard.acquire(timeout=ENDING_S):
            return [{"what": "preparation", "state": FAILED, "text": "it is still being changed"}]
        try:
            return self.restore()
        finally:
            self._guard.release()

    def described(self) -> List[Json]:
        """[{what, before, after}] of what waits to be undone."""
        note = self._read() if self.pending else None
        return [_plain(change) for change in note["changes"]] if note else []

    # --- one change ---

    def _turn(self, knob: Any, value: str) -> Json:
        before = knob.state()
        change = {"what": knob.name, "before": before, "after": value}
        if _has(knob, value):
            return _plain(change)
        if self._leaving:
            raise ProbeError("ending", "the session is ending")
        if hasattr(knob, "save"):
            knob.save()
        note = self._read() or {"version": VERSION, "boot": boot(), "changes": []}
        note["changes"].append(change)
        self._write(note)
        knob.change(value)
        return _plain(change)

    def _undo(self, change: Json, same_boot: bool) -> Json:
        knob = self._knobs[change["what"]]
        try:
            if not same_boot and knob.name in GOES_WITH_THE_BOOT:
                state, text = LEFT, "the board was started anew since, which undid it"
            else:
                state, text = knob.undo(change["before"], change["after"])
        except (ProbeError, OSError) as error:
            state, text = FAILED, getattr(error, "message", str(error))
        return {"what": knob.name, "state": state, "text": text}

    def _undo_earlier(self) -> None:
        failed = [each["text"] for each in self.restore() if each["state"] == FAILED]
        if failed:
            raise ProbeError(
                "failed", "what an earlier session prepared cannot be undone: %s" % "; ".join(failed)
            )

    # --- the note ---

    def _read(self) -> Optional[Json]:
        try:
            with open(self._note) as file:
                note = json.loads(file.read(MAX_NOTE_BYTES))
            for change in note["changes"]:
                if change["what"] not in self._knobs or not isinstance(change["after"], str):
                    return None
                if change["what"] == Governor.name and not are_governors(change["before"]):
                    return None
            return {"version": VERSION, "boot": str(note["boot"]), "changes": list(note["changes"])}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _write(self, note: Json) -> None:
        if not note["changes"]:
            os.remove(self._note)
        elif note != self._read():
            part = self._note + ".part"
            with open(part, "w") as file:
                file.write(json.dumps(note))
                file.flush()
                os.fsync(file.fileno())
            os.rename(part, self._note)
        folder = os.open(os.path.dirname(self._note), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        except OSError:  # some file systems cannot
            pass
        finally:
            os.close(folder)


def boot() -> str:
    """What tells one boot from the next; "" where the kernel does not say."""
    return Tree().text("proc/sys/kernel/random/boot_id", 64) or ""


def _checked(wanted: Json) -> List[Tuple[str, str]]:
    """(knob, value) in the order in which they are turned."""
    found = [(knob, check.text(wanted, knob, None, 64)) for knob in KNOBS]
    asked = [(name, value) for name, value in found if value is not None]
    if not asked:
        raise check.bad("nothing to prepare: power_mode, governor or clocks is wanted")
    for name, value in asked:
        if not WORD.match(value) or (name == Clocks.name and value != LOCKED):
            raise check.bad('"%s" cannot be "%s"' % (name, value))
    return asked


def _has(knob: Any, value: str) -> bool:
    state = knob.state()
    return set(state.values()) == {value} if isinstance(state, dict) else state == value


def _plain(change: Json) -> Json:
    before = change["before"]
    shown = ",".join(sorted({str(each) for each in before.values()})) if isinstance(before, dict) else before
    return {"what": change["what"], "before": shown, "after": change["after"]}
