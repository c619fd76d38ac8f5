"""One test board under faults: its processes by role, its stages, its files, and everything undone again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from edgebench.records import Device, replace
from tests.fleet.netns import INSIDE, USER_ID, FleetDevice

WORK = ".edgebench"
NAME = "board"
PORT = 2222
HOLD = Path("run/lock/edgebench-faults")
START_S = 20.0
STEP_S = 30.0


class Board:
    """A server in namespaces; a second listener beside its first one can be killed and started again."""

    def __init__(self, server: FleetDevice) -> None:
        self.server = server
        self.home = server.home
        self.root = server.root
        self._listener: subprocess.Popen[bytes] | None = None
        self._stopped: list[int] = []
        self._big = 0
        self._hold = self.root / HOLD
        self._install()
        self.start_listener()

    # --- what it is ---

    def record(self) -> Device:
        """The board as edgebench knows it."""
        plain = self.server.record(NAME)
        return replace(plain, ssh=replace(plain.ssh, port=PORT))

    def inventory(self) -> str:
        """An inventory with this board alone."""
        server = self.server
        return (
            f"version: 1\ndevices:\n  {NAME}:\n    target: linux-x86_64\n    address: {server.address}\n"
            f'    host_key: "{server.fingerprints[0]}"\n'
            f"    ssh: {{user: {server.user}, port: {PORT}, key_file: {server.key_file}}}\n"
        )

    def _install(self) -> None:
        version = subprocess.run(
            ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
            timeout=STEP_S,
        ).stdout.strip()
        folder = self.home / ".local" / "lib" / f"python{version}" / "site-packages"
        folder.mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name("on_board.py"), folder / "usercustomize.py")
        (self.home / ".hushlogin").touch()
        for path in [self.home / ".local", *(self.home / ".local").rglob("*"), self.home / ".hushlogin"]:
            os.chown(path, USER_ID, USER_ID)
        self._hold.mkdir()
        self._hold.chmod(0o777)

    # --- stages ---

    def want(self, stage: str) -> None:
        """The next process that reaches this stage (`name:times`) waits there."""
        for path in self._hold.iterdir():
            if path.name not in ("log", "witness"):
                path.unlink()
        (self._hold / "want").write_text(stage)

    def is_held(self) -> bool:
        """Whether a process waits at the wanted stage."""
        return (self._hold / "reached").exists()

    def go(self) -> None:
        """Let whoever waits go on; nobody waits again."""
        (self._hold / "go").touch()

    def set_clock(self, offset_s: float) -> None:
        """Let the wall clock of the board's Python be off from now on."""
        (self._hold / "clock").write_text(f"{offset_s}")

    def witnessed(self) -> tuple[int, int]:
        """(launch processes seen, those that ran beside another one), since the last call."""
        log = self._hold / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return len(lines), sum("OVERLAPS" in line for line in lines)

    def script(self, text: str) -> None:
        """What the login shell runs before each command; "" for nothing."""
        path = self.home / ".bashrc"
        path.write_text(text) if text else path.unlink(missing_ok=True)

    @property
    def hold(self) -> Path:
        """The folder of stages as it is seen from here."""
        return self._hold

    # --- processes ---

    def ours(self) -> dict[int, str]:
        """Every process on the board that is edgebench's: pid -> what it is."""
        return {pid: role for pid in self.server.pids() if (role := _role(pid)) is not None}

    def of(self, *roles: str) -> list[int]:
        """The processes of some roles: session, guard, launch, helper, bootstrap, connection, listener."""
        found = [pid for pid, role in self.ours().items() if role in roles]
        if "connection" in roles:
            found += [pid for pid in self.server.pids() if _is_sshd(pid, listener=False)]
        if "listener" in roles:
            found += [pid for pid in self.server.pids() if _is_sshd(pid, listener=True) and _parent(pid) != 0]
        return [pid for pid in found if pid != self._first]

    @property
    def _first(self) -> int:
        return int(self.root.parts[2])

    def kill(self, *roles: str) -> int:
        """SIGKILL; how many there were."""
        return self._send(self.of(*roles), signal.SIGKILL)

    def kill_everything(self) -> int:
        """What a crash of the board's userland leaves: nothing but its first process."""
        pids = [pid for pid in self.server.pids() if pid not in (self._first, *self._ancestors())]
        return self._send(pids, signal.SIGKILL)

    def _ancestors(self) -> list[int]:
        return [_parent(self._first)]

    def stop(self, *roles: str) -> int:
        """SIGSTOP; how many there were."""
        pids = self.of(*roles)
        self._stopped += pids
        return self._send(pids, signal.SIGSTOP)

    @staticmethod
    def _send(pids: Iterable[int], number: signal.Signals) -> int:
        count = 0
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                count += 1
        return count

    def reset_connections(self) -> None:
        """Both ends of every connection get a TCP reset."""
        self._inside("ss", "-K", "sport", "=", f":{PORT}")

    def start_listener(self) -> None:
        """The SSH server that the controllers reach, started (again)."""
        if self._listener is not None:
            if self.of("listener"):
                return
            self._listener.kill()
            self._listener.wait(STEP_S)
        config = f"{INSIDE}/sshd_config"
        argv = ["nsenter", "-t", str(self._first), "-m", "-u", "-n", "-p"]
        self._listener = subprocess.Popen(
            [*argv, "/usr/sbin/sshd", "-D", "-e", "-f", config, "-p", str(PORT)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: bool(self.of("listener")) and self._greets(), "the listener", START_S)

    def _greets(self) -> bool:
        import socket

        try:
            with socket.create_connection((self.server.address, PORT), 1.0) as link:
                link.settimeout(1.0)
                return link.recv(4) == b"SSH-"
        except OSError:
            return False

    def drop(self) -> None:
        """A firewall swallows what comes for the server."""
        self._filter("drop")

    def reject(self) -> None:
        """Every packet for the server is answered with a reset."""
        self._filter("reject with tcp reset")

    def _filter(self, verdict: str) -> None:
        self._inside(
            "nft",
            "add table inet ebfaults; add chain inet ebfaults i { type filter hook input priority 0; }; "
            f"add rule inet ebfaults i tcp dport {PORT} {verdict}",
        )

    def _inside(self, *argv: str) -> None:
        subprocess.run(
            ["ip", "netns", "exec", self.server.name, *argv], capture_output=True, timeout=STEP_S, check=False
        )

    # --- undoing ---

    def heal(self) -> None:
        """Undo every fault but the clock's."""
        self.go()
        self._send(self._stopped, signal.SIGCONT)
        self._stopped = []
        self._inside("nft", "delete", "table", "inet", "ebfaults")
        self.server.restore()
        self._inside("tc", "qdisc", "del", "dev", "eth0", "root")
        subprocess.run(
            ["tc", "qdisc", "del", "dev", f"{self.server.name}h", "root"],
            capture_output=True,
            timeout=STEP_S,
            check=False,
        )
        (self.home / ".filler").unlink(missing_ok=True)
        self.script("")
        self.start_listener()

    def close(self) -> None:
        """End the second listener; the rest goes with its fleet."""
        if self._listener is not None:
            self.kill("listener")
            self._listener.wait(STEP_S)

    # --- files ---

    def outside(self) -> set[str]:
        """Every file of the board's user outside the work folder, and all temporary ones."""
        found = set()
        for place in (self.home, self.root / "tmp", self.root / "dev" / "shm"):
            for folder, folders, names in os.walk(place):
                if Path(folder) == self.home and WORK in folders:
                    folders.remove(WORK)
                found |= {f"{folder}/{name}" for name in (*names, *folders)}
        return {path for path in found if not path.endswith(("/.filler", "/.bashrc"))}

    def left_inside(self) -> list[str]:
        """What lies in the work folder that no ended session may leave."""
        work = self.home / WORK
        left = [str(path.relative_to(work)) for path in (work / "runs").glob("*")]
        left += [path.name for path in work.glob("lease.json*")]
        return left + [path.name for path in (work / "incoming").glob("*") if path.suffix != ".part"]

    def stored(self) -> set[Path]:
        """What was pushed so far."""
        work = self.home / WORK
        return {path for part in ("incoming", "store", "artifacts") for path in (work / part).glob("*")}

    def forget(self, pushed: set[Path]) -> None:
        """Remove what was pushed, so that the board never fills up over hundreds of faults."""
        for path in pushed:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def forget_bundles(self) -> None:
        """The runtime has to be unpacked again."""
        for path in (self.home / WORK / "bundles").glob("*"):
            shutil.rmtree(path)

    def forget_probe(self) -> None:
        """The probe has to be carried again."""
        for path in (self.home / WORK / "probe").glob("*"):
            path.unlink()

    def uploading(self, least_bytes: int) -> Path | None:
        """The upload of which so many bytes have arrived."""
        for path in (self.home / WORK / "incoming").glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size >= least_bytes:
                    return path
        return None


def _role(pid: int) -> str | None:
    words = _words(pid)
    if not words:
        return None
    at = next((number for number, word in enumerate(words) if word.endswith(".pyz")), None)
    if at is None:
        if any("edgebench:" in word for word in words) and "-c" in words:
            return "bootstrap"
        return "helper" if b"EDGEBENCH_RUN=" in _bytes(pid, "environ") else None
    if words[0].endswith(("bash", "sh")) or len(words) <= at + 1:
        return None
    program = words[at + 1]
    return program if program != "session" or _words(_parent(pid)) == words else "guard"


def _is_sshd(pid: int, *, listener: bool) -> bool:
    line = " ".join(_words(pid))
    named = line.startswith(("sshd:", "sshd-session:", "sshd-auth:"))
    if not named and not line.startswith("/usr/sbin/sshd"):
        return False
    is_listener = "listener" in line or line.startswith("/usr/sbin/sshd -D")
    return is_listener == listener


def _words(pid: int) -> list[str]:
    return _bytes(pid, "cmdline").decode("utf-8", "replace").split("\0")[:-1]


def _bytes(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _parent(pid: int) -> int:
    """The parent's pid; 0 where there is none, or it cannot be seen from here."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def alive(pids: Iterable[int]) -> list[int]:
    """Those that still run; zombies do not."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def until(holds: Callable[[], object], what: str, seconds: float, pause_s: float = 0.01) -> None:
    """Return as soon as something holds; TimeoutError after `seconds`."""
    end_s = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end_s:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(pause_s)
