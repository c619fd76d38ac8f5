"""What the inventory may ask of a board for a measurement (power mode, governor, clocks), and the way back.

Every change is written to DIR/prepared.json, with the state before it, before it is made. Whoever ends the
session, or takes the next lease after a crash, undoes what is written there, in reverse order. What somebody
else changed meanwhile is left as it is.

Root's part goes through `sudo -n` with fixed words, never a shell string; each command keeps the lease's lock
open until it is over, so that nobody prepares a board that is still being changed.
"""

import json
import os
import pwd
import re
import subprocess
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from . import check, conditions, jetson
from .tree import Tree, run_tool
from .wire import Json, ProbeError

NOTE, CLOCKS_FILE = "prepared.json", "jetson_clocks.conf"
VERSION = 1
MAX_NOTE_BYTES = 64 << 10
STEP_S = 30.0
ENDING_S = 2 * STEP_S
NVPMODEL, JETSON_CLOCKS = "/usr/sbin/nvpmodel", "/usr/bin/jetson_clocks"
SUDO, TEE, SHELL = "/usr/bin/sudo", "/usr/bin/tee", "/bin/sh"
POLICIES = "sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
POLICY = re.compile(r"policy[0-9]{1,4}\Z")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
MODES = re.compile(r"<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=(\S+)\s*>")
GPUS = ("gv11b", "gp10b", "ga10b", "gb10b", "gpu")
LOCKED = "locked"
SUDOERS = re.compile(r"([,:=\\])")  # what sudoers(5) wants escaped in a command's words
DONE, LEFT, FAILED = "restored", "left", "failed"

Command = Tuple[str, ...]


class Root:
    """Runs commands as root: itself, or through sudo without a password."""

    def __init__(self, locks: Callable[[], Sequence[int]]) -> None:
        self._locks = locks

    def missing(self, commands: Sequence[Command]) -> List[Command]:
        """The commands that this login may not run as root."""
        if os.geteuid() == 0:
            return []
        if not os.access(SUDO, os.X_OK):
            return list(commands)
        return [each for each in commands if self._call((SUDO, "-n", "-l", "--") + each)[0] != 0]

    def run(self, command: Command, text: str = "") -> str:
        """What the command said; ProbeError when it fails."""
        argv = command if os.geteuid() == 0 else (SUDO, "-n", "--") + command
        status, said = self._call(argv, text)
        if status != 0:
            raise ProbeError(
                "failed", "%s ended with status %d: %s" % (" ".join(command), status, said[-300:]), said
            )
        return said

    def _call(self, argv: Command, text: str = "") -> Tuple[int, str]:
        """(status, output). A shell stays beside the command: sudo closes the lock, the shell keeps it."""
        try:
            process = subprocess.Popen(
                (SHELL, "-c", '"$@"; exit $?', "sh") + tuple(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
                start_new_session=True,
                pass_fds=tuple(self._locks()),
            )
            output, _ = process.communicate(text.encode("ascii"), timeout=STEP_S)
        except subprocess.TimeoutExpired:
            raise ProbeError("failed", "%s was not done after %d s" % (" ".join(argv), STEP_S)) from None
        except OSError as error:
            raise ProbeError("failed", "%s did not start: %s" % (argv[0], error)) from None
        return process.returncode, output[-check.MAX_TEXT :].decode("utf-8", "replace").strip()


class PowerMode:
    """The Jetson's power mode, by name: the numbers differ from board to board."""

    name = "power_mode"

    def __init__(self, tree: Tree, root: Root) -> None:
        self._tree, self._root = tree, root

    def state(self) -> Any:
        """The mode's name, or None."""
        return jetson.power_mode(self._tree, run_tool)

    def plan(self, wanted: str) -> List[Command]:
        """Root's commands there and back; ProbeError where the board cannot do it."""
        if not os.access(NVPMODEL, os.X_OK):
            raise _impossible('power mode "%s"' % wanted, "there is no %s here" % NVPMODEL)
        before = self.state()
        if before is None:
            raise _impossible(
                'power mode "%s"' % wanted, "its present mode cannot be read, so it could not be restored"
            )
        return [self._command(wanted), self._command(before)]

    def change(self, wanted: str) -> None:
        """Set the mode; ProbeError where the board does not follow."""
        said = self._root.run(self._command(wanted))
        now = self.state()
        if now != wanted:
            why = (
                "it asks for a reboot"
                if "reboot" in said.lower()
                else "it says: %s" % (said[-200:] or "nothing")
            )
            raise ProbeError(
                "failed",
                'power mode "%s" was asked for, the board stays in "%s": %s' % (wanted, now, why),
                said,
            )

    def undo(self, before: Any, after: Any) -> Tuple[str, str]:
        """Back to the mode before."""
        now = self.state()
        if now == before:
            return DONE, "power mode %s" % before
        if now != after:
            return LEFT, "somebody set power mode %s since" % now
        self.change(_word(before))
        return DONE, "power mode %s" % before

    def _command(self, name: str) -> Command:
        found = {mode: number for number, mode in MODES.findall(self._tree.text("etc/nvpmodel.conf") or "")}
        if name not in found:
            known = ", ".join(sorted(found)) or "none in /etc/nvpmodel.conf"
            raise _impossible('power mode "%s"' % name, "the board has: %s" % known)
        return (NVPMODEL, "-m", found[name])


class Governor:
    """The frequency governor of every cluster."""

    name = "governor"

    def __init__(self, tree: Tree, root: Root) -> None:
        self._tree, self._root = tree, root

    def state(self) -> Any:
        """{"policy0": "ondemand"}, or None where there is none."""
        return {_policy(name): self._tree.text(name) for name in self._tree.names(POLICIES)} or None

    def plan(self, wanted: str) -> List[Command]:
        """Root's commands; ProbeError where the board cannot do it."""
        now = self.state()
        if now is None:
            raise _impossible('governor "%s"' % wanted, "the kernel shows no frequency governor")
        for policy in now:
            known = self._tree.text(_place(policy, "scaling_available_governors"))
            if known is not None and wanted not in known.split():
                raise _impossible('governor "%s"' % wanted, "%s has: %s" % (policy, known))
        return [_tee(policy) for policy in now]

    def change(self, wanted: str) -> None:
        """Set every cluster's governor."""
        for policy in self.state() or {}:
            self._set(policy, wanted)

    def undo(self, before: Any, after: Any) -> Tuple[str, str]:
        """Each cluster back to its own, where it still has ours."""
        now, left = self.state() or {}, []
        for policy, old in sorted(before.items()):
            if now.get(policy) == old:
                continue
            if now.get(policy) != after:
                left.append("%s is %s since" % (policy, now.get(policy)))
                continue
            self._set(policy, _word(old))
        if left:
            return LEFT, "somebody set the governor: " + ", ".join(left)
        return DONE, "governor " + ", ".join(sorted(set(before.values())))

    def _set(self, policy: str, value: str) -> None:
        self._root.run(_tee(policy), value + "\n")
        now = self._tree.text(_place(policy, "scaling_governor"))
        if now != value:
            raise ProbeError(
                "failed", 'governor "%s" was written for %s, the kernel keeps "%s"' % (value, policy, now)
            )


class Clocks:
    """Clocks at their highest, by jetson_clocks, which stores and restores them itself."""

    name = "clocks"

    def __init__(self, tree: Tree, root: Root, file: str) -> None:
        self._tree, self._root, self._file = tree, root, file

    def state(self) -> Any:
        """ "locked", "free", or None where nothing tells."""
        return {True: LOCKED, False: "free", None: None}[clocks_locked(self._tree)]

    def plan(self, _wanted: str) -> List[Command]:
        """Root's commands; ProbeError where the board cannot do it."""
        if not os.access(JETSON_CLOCKS, os.X_OK):
            raise _impossible(
                "locked clocks", "there is no %s here; a governor can be asked for" % JETSON_CLOCKS
            )
        return [self._store(), (JETSON_CLOCKS,), self._restore()]

    def save(self) -> None:
        """The clocks' present limits in the file that --restore takes."""
        if os.path.lexists(self._file):  # it asks before it overwrites
            os.remove(self._file)
        self._root.run(self._store())
        if not os.path.isfile(self._file):
            raise ProbeError("failed", "jetson_clocks --store left no file %s" % self._file)

    def change(self, _wanted: str) -> None:
        """Lock them."""
        self._root.run((JETSON_CLOCKS,))
        if self.state() == "free":
            raise ProbeError("failed", "jetson_clocks ended well, and the clocks still move")

    def undo(self, before: Any, _after: Any) -> Tuple[str, str]:
        """Their limits as they were stored."""
        if not os.path.isfile(self._file):
            raise ProbeError(
                "failed", "the stored clocks %s are gone: reboot the board to unlock them" % self._file
            )
        self._root.run(self._restore())
        if self.state() != before:
            raise ProbeError(
                "failed", "jetson_clocks --restore ended well, and the clocks are still %s" % self.state()
            )
        self.forget()
        return DONE, "clocks %s" % before

    def forget(self) -> None:
        """Remove the stored limits."""
        if os.path.lexists(self._file):
            os.remove(self._file)

    def _store(self) -> Command:
        return (JETSON_CLOCKS, "--store", self._file)

    def _restore(self) -> Command:
        return (JETSON_CLOCKS, "--restore", self._file)


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
            done = []
            for change in reversed(note["changes"]):
                done.append(self._undo(change, note["boot"] == boot()))
                if done[-1]["state"] != FAILED:
                    note["changes"].remove(change)
                    self._write(note)
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
            raise ProbeError("failed", "the session is ending")
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
                if hasattr(knob, "forget"):
                    knob.forget()
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
                if change["what"] == Governor.name and not _are_governors(change["before"]):
                    return None
            return {"version": VERSION, "boot": str(note["boot"]), "changes": list(note["changes"])}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _write(self, note: Json) -> None:
        if not note["changes"]:
            os.remove(self._note)
        else:
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


def clocks_locked(tree: Tree) -> Optional[bool]:
    """Whether every cluster's and GPU's lowest clock is its highest; None where none is shown."""
    ranges = list(
        zip(conditions.clocks(tree, "scaling_min_freq"), conditions.clocks(tree, "scaling_max_freq"))
    )
    for name in tree.names("sys/class/devfreq/*/device/of_node/name"):
        if tree.text(name) in GPUS:
            folder = name[: -len("device/of_node/name")]
            low, high = tree.number(folder + "min_freq"), tree.number(folder + "max_freq")
            ranges += [] if low is None or high is None else [(low, high)]
    return all(low == high for low, high in ranges) if ranges else None


def boot() -> str:
    """What tells one boot from the next; "" where the kernel does not say."""
    return Tree().text("proc/sys/kernel/random/boot_id", 64) or ""


def not_allowed(commands: Sequence[Command]) -> ProbeError:
    """The error for missing rights; its detail is the line that grants them."""
    text = "preparing the board needs root, and this login may not run: %s" % "; ".join(
        " ".join(each) for each in commands
    )
    return ProbeError("not_allowed", text, sudoers_line(commands))


def sudoers_line(commands: Sequence[Command]) -> str:
    """The line for sudoers(5) that lets this login run exactly these commands."""
    words = []
    for command in commands:
        escaped = [SUDOERS.sub(r"\\\1", word) for word in command]
        words.append(" ".join(escaped) if len(escaped) > 1 else escaped[0] + ' ""')
    return "%s ALL=(root) NOPASSWD: %s" % (pwd.getpwuid(os.getuid()).pw_name, ", ".join(words))


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


def _are_governors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        POLICY.match(policy) and isinstance(governor, str) and WORD.match(governor)
        for policy, governor in value.items()
    )


def _word(value: Any) -> str:
    if not isinstance(value, str) or not WORD.match(value):
        raise ProbeError("failed", "%s holds something strange: %r" % (NOTE, value))
    return value


def _policy(name: str) -> str:
    return name.split("/")[-2]


def _place(policy: str, file: str) -> str:
    return "sys/devices/system/cpu/cpufreq/%s/%s" % (policy, file)


def _tee(policy: str) -> Command:
    return (TEE, "/" + _place(policy, "scaling_governor"))


def _impossible(what: str, why: str) -> ProbeError:
    return ProbeError("failed", "the inventory asks for %s, and %s" % (what, why))
