"""Real OpenSSH servers with own addresses, for tests, benchmarks and demos; no boards needed.

Each device is an sshd in network, mount, pid and uts namespaces of its own, at 10.77.N.2, with a user `edge`
whose home is a tmpfs of a chosen size, own host keys, and own /tmp, /run and /dev/shm. Its programs,
`/usr/bin/python3` among them, are this computer's. The user exists only inside (its passwd file is mounted
over), so nothing on this computer changes but what `Fleet.close` removes: per device a namespace, a veth pair
and a route.

Safety: before a link exists, a blackhole route for its subnet does, so that no packet can leave this computer
when the link is gone; links are cut on the device's side only; and a fleet does not start unless the kernel
says that the address is reached through the veth. The number N is held by a file lock while the fleet lives:
fleets of several processes never meet, and what bears a number that nobody holds was left by a crash and is
removed.

Where namespaces are not allowed, the same servers run on 127.0.0.1 with ports of their own (`kind` is
"loopback"): they share this computer's file system, and their links cannot be cut.

From the command line, until stdin ends:

    python -m tests.fleet.netns up --count 2 --inventory inventory.yaml
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from edgebench.records import Device, SshSettings

Kind = Literal["netns", "loopback"]

PREFIX = "ebfleet"
SUBNET = "10.77"
NUMBERS = range(1, 250)
USER = "edge"
USER_ID = 20077
HOME = f"/home/{USER}"
INSIDE = "/run/edgebench"  # where a device finds its server's files
START_S = 20.0
STEP_S = 30.0

SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
)


class MissingTool(Exception):  # it is a condition, asked for by name
    """A program of this computer that the fleet needs is not installed; the text names it and its package."""


@dataclass(frozen=True)
class Spec:
    """What one server is like."""

    home_mib: int = 2048
    sftp: bool = True
    host_key_types: tuple[str, ...] = ("ed25519", "ecdsa")
    options: tuple[str, ...] = ()  # lines for sshd_config
    password: str = ""  # empty: only keys log in


class FleetDevice:
    """One running server, its pinned keys, and the faults it can be given."""

    def __init__(self, number: int, folder: Path, key_file: Path, spec: Spec, kind: Kind) -> None:
        self.number = number
        self.name = f"{PREFIX}{number}"
        self.kind: Kind = kind
        self.spec = spec
        self.key_file = key_file
        self.folder = folder
        self.address = f"{SUBNET}.{number}.2" if kind == "netns" else "127.0.0.1"
        self.port = 22 if kind == "netns" else _free_port()
        self.user = USER if kind == "netns" else getpass.getuser()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped: list[int] = []
        self._network_faults = False

    # --- what it is ---

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The host keys as an inventory pins them, the Ed25519 one first."""
        return tuple(_fingerprint(self.folder / f"host_{kind}.pub") for kind in self.spec.host_key_types)

    def record(self, name: str | None = None) -> Device:
        """The device as edgebench knows it."""
        return Device(
            name=name or self.name,
            target="linux-x86_64",
            transport="ssh",
            address=self.address,
            host_keys=self.fingerprints,
            ssh=SshSettings(user=self.user, port=self.port, key_file=str(self.key_file)),
        )

    @property
    def root(self) -> Path:
        """The device's file system, seen from here."""
        return Path(f"/proc/{self._first_pid()}/root") if self.kind == "netns" else Path("/")

    @property
    def home(self) -> Path:
        """The login's home, seen from here."""
        return self.root / HOME[1:] if self.kind == "netns" else self.folder / "home"

    def authorize(self, public_key: str) -> None:
        """Let another key log in."""
        place = self.root / INSIDE[1:] if self.kind == "netns" else self.folder
        with (place / "authorized_keys").open("a") as file:
            file.write(public_key.strip() + "\n")

    # --- faults ---

    def cut(self) -> None:
        """Pull the cable: what is sent is lost, and nobody says so."""
        self._need_namespace()
        self._network_faults = True
        _sh("ip", "-n", self.name, "link", "set", "eth0", "down")

    def restore(self) -> None:
        """Plug it in again."""
        self._need_namespace()
        _sh("ip", "-n", self.name, "link", "set", "eth0", "up")

    def drop(self) -> None:
        """A firewall swallows whatever comes for the server."""
        self._filter("drop")

    def reject(self) -> None:
        """Nobody listens at the port (TCP reset)."""
        self._filter("reject", "with", "tcp", "reset")

    def rate_limit(self, mbit_per_s: int) -> None:
        """A slow link, in both directions."""
        self._need_namespace()
        self._network_faults = True
        limit = ("root", "tbf", "rate", f"{mbit_per_s}mbit", "burst", "64kb", "latency", "400ms")
        _sh("tc", "qdisc", "replace", "dev", f"{self.name}h", *limit)
        self._inside("tc", "qdisc", "replace", "dev", "eth0", *limit)

    def fill_disk(self, *, leave_bytes: int = 0) -> None:
        """Leave so much room in the home."""
        self._need_namespace()
        stat = os.statvfs(self.home)
        size_bytes = max(0, stat.f_bavail * stat.f_frsize - leave_bytes)
        with (self.home / ".filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size_bytes))

    def kill_connections(self) -> None:
        """End the server's side of all connections, as a crash would."""
        for pid in self._connection_pids():
            _kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Freeze the server's side of all connections: the link lives, nobody answers."""
        self._stopped = self._connection_pids()
        for pid in self._stopped:
            _kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `stop`."""
        for pid in self._stopped:
            _kill(pid, signal.SIGCONT)
        self._stopped = []

    def heal(self) -> None:
        """Undo every fault; the home keeps its files."""
        self.resume()
        if self._network_faults:
            self._network_faults = False
            self.restore()
            self._try("nft", "delete", "table", "inet", PREFIX)
            self._try("tc", "qdisc", "del", "dev", "eth0", "root")
            _try("tc", "qdisc", "del", "dev", f"{self.name}h", "root")
        (self.home / ".filler").unlink(missing_ok=True)

    def pids(self) -> list[int]:
        """Every process of the device, as this computer numbers them."""
        if self._process is None:
            return []
        if self.kind == "netns":
            found = subprocess.run(
                ["ip", "netns", "pids", self.name], capture_output=True, timeout=STEP_S, check=False
            )
            return [int(pid) for pid in found.stdout.split()]
        return _descendants(self._process.pid)

    def _connection_pids(self) -> list[int]:
        return [pid for pid in self.pids() if _is_connection(pid)]

    def _filter(self, *verdict: str) -> None:
        self._need_namespace()
        self._network_faults = True
        self._try("nft", "delete", "table", "inet", PREFIX)
        chain = f"add chain inet {PREFIX} i {{ type filter hook input priority 0; }}"
        rule = f"add rule inet {PREFIX} i tcp dport {self.port} {' '.join(verdict)}"
        self._inside("nft", f"add table inet {PREFIX}; {chain}; {rule}")

    def _inside(self, *argv: str) -> None:
        _sh("ip", "netns", "exec", self.name, *argv)

    def _try(self, *argv: str) -> None:
        _try("ip", "netns", "exec", self.name, *argv)

    def _need_namespace(self) -> None:
        if self.kind != "netns":
            raise MissingTool("network namespaces (root, iproute2)")

    # --- life ---

    def start(self, authorized: str) -> None:
        """Make keys and namespaces, run the server, wait until it greets."""
        self.folder.mkdir(mode=0o755)
        for kind in self.spec.host_key_types:
            make_key(self.folder / f"host_{kind}", kind=kind)
        (self.folder / "authorized_keys").write_text(authorized)
        (self.folder / "sshd_config").write_text("\n".join(self._sshd_config()) + "\n")
        if self.kind == "netns":
            self._make_network()
            self._run_in_namespace()
        else:
            (self.folder / "home").mkdir()
            self._run(["sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")])
        self._wait_until_greeted()

    def _sshd_config(self) -> list[str]:
        at = INSIDE if self.kind == "netns" else str(self.folder)
        lines = [
            *self.spec.options,  # of each keyword the first line counts
            f"Port {self.port}",
            f"ListenAddress {'0.0.0.0' if self.kind == 'netns' else '127.0.0.1'}",
            *(f"HostKey {at}/host_{kind}" for kind in self.spec.host_key_types),
            f"AuthorizedKeysFile {at}/authorized_keys",
            "PidFile none",
            "UsePAM no",
            f"PasswordAuthentication {'yes' if self.spec.password else 'no'}",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "StrictModes no",
            "LogLevel VERBOSE",
            "UseDNS no",
            "MaxStartups 50",
            "MaxSessions 50",
        ]
        if self.spec.sftp:
            lines.append(f"Subsystem sftp {_sftp_server()}")
        if self.kind == "loopback":
            lines.append(
                f"ForceCommand export HOME='{at}/home' && cd '{at}/home' && eval \"$SSH_ORIGINAL_COMMAND\""
            )
        return lines

    def _make_network(self) -> None:
        name, net = self.name, f"{SUBNET}.{self.number}"
        _sh("ip", "route", "replace", "blackhole", f"{net}.0/30", "metric", "4096")
        _sh("ip", "netns", "add", name)
        _sh(
            "ip",
            "link",
            "add",
            f"{name}h",
            "mtu",
            "1500",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "mtu",
            "1500",
            "netns",
            name,
        )
        _sh("ip", "addr", "add", f"{net}.1/30", "dev", f"{name}h")
        _sh("ip", "link", "set", f"{name}h", "up")
        _sh("ip", "-n", name, "addr", "add", f"{net}.2/30", "dev", "eth0")
        _sh("ip", "-n", name, "link", "set", "eth0", "up")
        _sh("ip", "-n", name, "link", "set", "lo", "up")
        route = _sh("ip", "route", "get", self.address)
        if f"dev {name}h" not in route:
            raise RuntimeError(f"{self.address} is not reached through {name}h but: {route}")

    def _run_in_namespace(self) -> None:
        (self.folder / "passwd").write_text(
            Path("/etc/passwd").read_text() + f"{USER}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash\n"
        )
        (self.folder / "group").write_text(Path("/etc/group").read_text() + f"{USER}:x:{USER_ID}:\n")
        hashed = _hash(self.spec.password) if self.spec.password else "*"
        (self.folder / "shadow").write_text(f"sshd:*:19000::::::\n{USER}:{hashed}:19000:0:99999:7:::\n")
        (self.folder / "start").write_text(self._start_script())
        unshare = ("unshare", "-m", "-u", "-p", "-f", "--kill-child", "--propagation", "private")
        script = ("sh", str(self.folder / "start"), str(self.folder), self.name, f"{self.spec.home_mib}m")
        self._run(["ip", "netns", "exec", self.name, *unshare, *script, _find("sshd")])

    def _start_script(self) -> str:
        """What runs first inside the namespaces and becomes the server; other kinds of devices change it."""
        return START

    def _run(self, argv: Sequence[str]) -> None:
        """Start a process that ends with this one, whatever happens to this one."""
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", _find(argv[0]), *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _first_pid(self) -> int:
        """The device's process 1: the only child of `unshare`."""
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def _wait_until_greeted(self) -> None:
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((self.address, self.port), 1.0) as probe,
            ):
                probe.settimeout(1.0)
                if probe.recv(4) == b"SSH-":
                    return
            if self._process is not None and self._process.poll() is not None:
                break
            time.sleep(0.02)
        log = (self.folder / "log").read_text(errors="replace")
        raise RuntimeError(f"{self.name}: no SSH server at {self.address}:{self.port}\n{log[-2000:]}")

    def close(self) -> None:
        """End the device's processes and remove its network; never raises for what is gone already."""
        if self._process is not None:
            for pid in [*self.pids(), self._process.pid]:
                _kill(pid, signal.SIGKILL)
            self._process.wait(STEP_S)
            self._process = None
        if self.kind == "netns":
            remove_network(self.number)


START = f"""set -e
folder=$1 name=$2 home_size=$3 sshd=$4
hostname "$name"
mount -t proc proc /proc
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/group" /etc/group
mount --bind "$folder/shadow" /etc/shadow
mount -t tmpfs -o mode=755 tmpfs /home
mkdir {HOME}
mount -t tmpfs -o "size=$home_size,uid={USER_ID},gid={USER_ID},mode=755" tmpfs {HOME}
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd {INSIDE}
mkdir -m 1777 /run/lock
cp "$folder"/host_* "$folder/authorized_keys" "$folder/sshd_config" {INSIDE}
chmod 600 {INSIDE}/host_*
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
cd /
exec "$sshd" -D -e -f {INSIDE}/sshd_config
"""


class Fleet:
    """Running servers, one for each spec; a context manager that removes everything at the end."""

    def __init__(self, specs: Sequence[Spec], *, kind: Kind | None = None) -> None:
        if not specs:
            raise ValueError("a fleet of no devices")
        self.kind: Kind = kind or available_kind()
        self.devices: list[FleetDevice] = []
        self._specs = specs
        self._locks: list[IO[str]] = []
        self._folder: Path | None = None

    def __enter__(self) -> Fleet:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def key_file(self) -> Path:
        """The private key that logs in at every device: made for this fleet, readable by its owner only."""
        if self._folder is None:
            raise RuntimeError("the fleet does not run")
        return self._folder / "keys" / "id_ed25519"

    def inventory(self) -> str:
        """An inventory.yaml with all devices and their pinned keys."""
        lines = ["version: 1", "defaults:", f"  ssh: {{key_file: {self.key_file}}}", "devices:"]
        for number, device in enumerate(self.devices, 1):
            lines += [
                f"  board-{number:02d}:",
                "    target: linux-x86_64",
                f"    address: {device.address}",
                f'    host_key: "{device.fingerprints[0]}"',
                f"    ssh: {{user: {device.user}, port: {device.port}}}",
            ]
        return "\n".join(lines) + "\n"

    def _start(self) -> None:
        for program in ("sshd", "ssh-keygen", "setpriv"):
            _find(program)
        remove_stale()
        numbers = [self._take_number() for _spec in self._specs]
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{numbers[0]}-"))
        self._folder.chmod(0o711)  # the servers' login user reads its authorized_keys below it
        self.key_file.parent.mkdir(mode=0o700)
        authorized = make_key(self.key_file)
        if self.kind == "loopback":
            _make_privilege_folder()
        for number, spec in zip(numbers, self._specs, strict=True):
            device = self._device(number, self._folder / str(number), spec)
            self.devices.append(device)
            device.start(authorized)

    def _device(self, number: int, folder: Path, spec: Spec) -> FleetDevice:
        return FleetDevice(number, folder, self.key_file, spec, self.kind)

    def _take_number(self) -> int:
        for number in NUMBERS:
            lock = lock_number(number)
            if lock is not None:
                self._locks.append(lock)
                return number
        raise RuntimeError(f"all {len(NUMBERS)} numbers are taken by other fleets")

    def close(self) -> None:
        """Remove everything the fleet made."""
        for device in self.devices:
            device.close()
        self.devices = []
        for lock in self._locks:
            lock.close()
        self._locks = []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def available_kind() -> Kind:
    """ "netns" where this process may make namespaces, else "loopback"."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return "loopback"
    name = f"{PREFIX}-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, timeout=STEP_S, check=False)
    if made.returncode != 0:
        return "loopback"
    _try("ip", "netns", "del", name)
    mounts = subprocess.run(
        [
            "unshare",
            "-n",
            "-m",
            "-u",
            "-p",
            "-f",
            "--propagation",
            "private",
            "ip",
            "link",
            "add",
            "a0",
            "type",
            "veth",
        ],
        capture_output=True,
        timeout=STEP_S,
        check=False,
    )
    return "netns" if mounts.returncode == 0 else "loopback"


def remove_stale() -> None:
    """Remove folders and networks that bear a number nobody holds: left by a process that was killed."""
    folders: dict[int, list[Path]] = {number: [] for number in _numbers_of_namespaces()}
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}-[0-9]*-*"):
        if folder.owner() == getpass.getuser():
            folders.setdefault(int(folder.name.split("-")[1]), []).append(folder)
    for number, left in folders.items():
        lock = lock_number(number)
        if lock is None:
            continue
        with lock:
            remove_network(number)
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)


def _numbers_of_namespaces() -> list[int]:
    if shutil.which("ip") is None:
        return []
    listed = subprocess.run(
        ["ip", "netns", "list"], capture_output=True, text=True, timeout=STEP_S, check=False
    )
    names = [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]
    digits = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    return [int(number) for number in digits if number.isdecimal()]


def remove_network(number: int) -> None:
    """Remove a device's namespace, its end of the cable, and, last, the blackhole route."""
    if os.geteuid() != 0:
        return
    name = f"{PREFIX}{number}"
    _try("ip", "netns", "del", name)
    _try("ip", "link", "del", f"{name}h")
    _try("ip", "route", "del", "blackhole", f"{SUBNET}.{number}.0/30", "metric", "4096")


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> str:
    """The public key's line of a new key pair at `path` (mode 600)."""
    bits = ("-b", "2048") if kind == "rsa" else ()
    _sh(
        "ssh-keygen",
        "-q",
        "-t",
        kind,
        *bits,
        "-a",
        "1",
        "-N",
        passphrase,
        "-C",
        "edgebench test key",
        "-f",
        str(path),
    )
    path.chmod(0o600)
    return Path(f"{path}.pub").read_text()


def _hash(password: str) -> str:
    done = subprocess.run(
        [_find("openssl"), "passwd", "-6", "-stdin"],
        input=password,
        capture_output=True,
        text=True,
        timeout=STEP_S,
        check=True,
    )
    return done.stdout.strip()


def _fingerprint(public_key: Path) -> str:
    return _sh("ssh-keygen", "-l", "-E", "sha256", "-f", str(public_key)).split()[1]


def lock_number(number: int) -> IO[str] | None:
    """The number's lock, or None where a living fleet holds it; the kernel frees it when its holder dies."""
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}-locks-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = (folder / str(number)).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _make_privilege_folder() -> None:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)


def _find(program: str) -> str:
    packages = {"sshd": "openssh-server", "ssh-keygen": "openssh-client", "setpriv": "util-linux"}
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"))
    found = shutil.which(program, path=path)
    if found is None:
        raise MissingTool(f"{program} (Debian package {packages.get(program, program)})")
    return found


def _sftp_server() -> str:
    for path in SFTP_SERVERS:
        if os.access(path, os.X_OK):
            return path
    raise MissingTool("sftp-server (Debian package openssh-sftp-server)")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _is_connection(pid: int) -> bool:
    """Whether a process is the server's side of one connection (and not its listener, nor a command)."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return False
    return line.startswith((b"sshd:", b"sshd-session:", b"sshd-auth:")) and b"listener" not in line


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in children] + [
        more for child in children for more in _descendants(int(child))
    ]


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _sh(*argv: str) -> str:
    done = subprocess.run(
        [_find(argv[0]), *argv[1:]], capture_output=True, text=True, timeout=STEP_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _try(*argv: str) -> None:
    subprocess.run([_find(argv[0]), *argv[1:]], capture_output=True, timeout=STEP_S, check=False)


# --- the command line ----------------------------------------------------------------------------


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, end)
    yield


def main() -> int:
    """Run a fleet until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.netns", description=main.__doc__)
    parser.add_argument("command", choices=["up"])
    parser.add_argument("--count", type=int, default=2, help="how many servers (default 2)")
    parser.add_argument("--home-mib", type=int, default=2048, help="size of each home (default 2048)")
    parser.add_argument("--inventory", type=Path, required=True, help="the inventory.yaml to write")
    options = parser.parse_args()
    with _ended_by_signals():
        try:
            with Fleet([Spec(home_mib=options.home_mib)] * options.count) as fleet:
                options.inventory.write_text(fleet.inventory())
                print(
                    f"{len(fleet.devices)} servers ({fleet.kind}) are up; end stdin to stop them", flush=True
                )
                sys.stdin.read()
        except MissingTool as missing:
            print(f"missing tool: {missing}", file=sys.stderr)
            return 2
        finally:
            options.inventory.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
