"""What can be turned on a board as root: its power mode, its governor, its clocks. Each knows the way back.

Root's part goes through `sudo -n` with fixed words, never a shell string; each command keeps the lease's lock
open until it is over, so that nobody prepares a board that is still being changed.
"""

import os
import pwd
import re
import subprocess
from typing import Any, Callable, List, Optional, Sequence, Tuple

from . import check, conditions, facts
from .tree import Tree
from .wire import ProbeError

STEP_S = 30.0
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
        return facts.power_mode(self._tree)

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
        """Their limits as they were stored, also where the clocks are locked in part only."""
        if os.path.isfile(self._file):
            self._root.run(self._restore())
        now = self.state()
        if now != before:
            text = "the clocks are still %s: reboot the board to undo that" % now
            raise ProbeError("failed", text)
        return DONE, "clocks %s" % before

    def forget(self) -> None:
        """Remove the stored limits."""
        if os.path.lexists(self._file):
            os.remove(self._file)

    def _store(self) -> Command:
        return (JETSON_CLOCKS, "--store", self._file)

    def _restore(self) -> Command:
        return (JETSON_CLOCKS, "--restore", self._file)


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


def are_governors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        POLICY.match(policy) and isinstance(governor, str) and WORD.match(governor)
        for policy, governor in value.items()
    )


def _word(value: Any) -> str:
    if not isinstance(value, str) or not WORD.match(value):
        raise ProbeError("failed", "%r is no name of a setting" % value)
    return value


def _policy(name: str) -> str:
    return name.split("/")[-2]


def _place(policy: str, file: str) -> str:
    return "sys/devices/system/cpu/cpufreq/%s/%s" % (policy, file)


def _tee(policy: str) -> Command:
    return (TEE, "/" + _place(policy, "scaling_governor"))


def _impossible(what: str, why: str) -> ProbeError:
    return ProbeError("failed", "the inventory asks for %s, and %s" % (what, why))
