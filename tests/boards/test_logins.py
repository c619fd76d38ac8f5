"""Logins and shells as they are found: every one is used, or refused in words that say what to do."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.commands import DIGITS, MAIN, QUICK, Answer, Cli, wait_until
from tests.fleet.boards import WORK, assert_clean, entry, login_script, write_inventory
from tests.fleet.fixtures import running_fleet
from tests.fleet.netns import HOME, INSIDE, Fleet, FleetDevice, Spec, make_key

pytestmark = pytest.mark.fleet

RUN = ("run", DIGITS, "--to", "onnxruntime", *QUICK)
BUSYBOX = Path("/bin/busybox")
PASSWORD = "Tr0ub4dor & $(horse) 'ü'"
PASSPHRASE = 'open `sesame` "ö"'
PROGRAMS = f"{INSIDE}/programs"
CLOCK = f"{INSIDE}/clock"


@pytest.fixture(scope="module")
def odd() -> Iterator[Fleet]:
    """Servers of which each is odd in its own way."""
    specs = [
        Spec(options=(f"SetEnv PATH={PROGRAMS} LANG=tr_TR.UTF-8 LC_ALL=de_DE.UTF-8",)),
        Spec(home_mib=64, options=("ForceCommand echo Only backups here",)),
        Spec(options=("MaxSessions 1", "Banner /etc/passwd", "SetEnv LC_ALL=C.UTF-8 LANG=tr_TR.UTF-8")),
        Spec(password=PASSWORD),
        Spec(options=(f"SetEnv PYTHONPATH={CLOCK}",)),
    ]
    with running_fleet(specs) as running:
        if running.kind != "netns":
            pytest.skip("missing tool: network namespaces (root, iproute2)")
        yield running


def inside(device: FleetDevice, *argv: str) -> None:
    """Run a command in the device's mounts and processes, as root."""
    enter = ["nsenter", "-m", "-p", "-t", device.root.parts[2]]
    subprocess.run([*enter, *argv], check=True, capture_output=True, timeout=60)


@contextmanager
def mounted(device: FleetDevice, options: str) -> Iterator[None]:
    """A device whose home is mounted with an option, until the end."""
    if device.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    inside(device, "mount", "-o", f"remount,{options}", HOME)
    try:
        yield
    finally:
        inside(device, "mount", "-o", "remount,rw,exec", HOME)


def set_shell(device: FleetDevice, shell: str) -> None:
    """Give the login another shell; the file is mounted into the device, so it is written in place."""
    path = device.folder / "passwd"
    lines = [
        ":".join([*line.split(":")[:-1], shell]) if line.startswith("edge:") else line
        for line in path.read_text().splitlines()
    ]
    with path.open("r+") as file:
        file.write("\n".join(lines) + "\n")
        file.truncate()


def measured(cli: Cli, *entries: str) -> None:
    write_inventory(cli, *entries)
    document = cli.json(*RUN)
    assert document["failures"] == []
    assert document["counts"]["ok"] == len(entries)


def failure(cli: Cli, *entries: str) -> dict[str, str]:
    write_inventory(cli, *entries)
    (found,) = cli.json(*RUN, code=4)["failures"]
    assert found["owner"] == "device"
    assert found["hint"]
    return found  # type: ignore[no-any-return]


# --- shells and userlands ------------------------------------------------------------------------


def test_busybox_as_login_shell_and_all_there_is(cli: Cli, odd: Fleet) -> None:
    """And in the environment a language that the device does not have."""
    if not BUSYBOX.exists():
        pytest.skip("missing tool: busybox (Debian package busybox)")
    board = odd.devices[0]
    inside(board, "mkdir", "-p", PROGRAMS)
    inside(board, str(BUSYBOX), "--install", "-s", PROGRAMS)
    inside(board, "ln", "-sf", "/usr/bin/python3", f"{PROGRAMS}/python3")
    set_shell(board, f"{PROGRAMS}/ash")
    measured(cli, entry("board", board))
    assert_clean(board)
    assert "board: clean" in cli("devices", "clean", "board").out
    assert not (board.home / WORK).exists()


def test_one_session_a_banner_and_a_language_that_is_not_there(cli: Cli, odd: Fleet) -> None:
    board = odd.devices[2]
    measured(cli, entry("board", board))
    assert_clean(board)
    assert "ok" in cli("devices", "doctor", "board").out


def test_a_forced_command_is_named(cli: Cli, odd: Fleet) -> None:
    found = failure(cli, entry("board", odd.devices[1]))
    assert 'something else, which answers "Only backups here"' in found["message"]
    assert "ForceCommand" in found["hint"]
    assert "ForceCommand" in cli.json("devices", "clean", "board", code=4)["problems"]["board"]


def test_a_login_that_may_not_log_in_is_named(cli: Cli, board: FleetDevice) -> None:
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    set_shell(board, "/usr/sbin/nologin")
    try:
        found = failure(cli, entry("board", board))
    finally:
        set_shell(board, "/bin/bash")
    assert "not available" in found["message"]
    assert "nologin" in found["hint"]


# --- file systems --------------------------------------------------------------------------------


def test_a_home_that_is_read_only_is_named_and_another_folder_helps(cli: Cli, board: FleetDevice) -> None:
    write_inventory(cli, entry("board", board))
    cli("devices", "clean", "board")
    with mounted(board, "ro"):
        found = failure(cli, entry("board", board))
        assert "the work folder .edgebench cannot be used: Read-only file system" in found["message"]
        assert "work_dir" in found["hint"]
        measured(cli, entry("board", board, work_dir="/tmp/edgebench-work"))
        cli("devices", "clean", "board")
        assert not (board.root / "tmp" / "edgebench-work").exists()


def test_a_home_that_runs_nothing_is_named_and_another_folder_helps(cli: Cli, board: FleetDevice) -> None:
    """Nothing of ours is executed there, but a runtime's libraries are mapped as code."""
    write_inventory(cli, entry("board", board))
    cli("devices", "clean", "board")
    with mounted(board, "noexec"):
        looked = cli("devices", "doctor", "board", code=1).out  # the probe itself runs
        assert "mounted noexec" in looked.replace("\n", " ")
        found = failure(cli, entry("board", board))
        assert "noexec" in found["message"]
        assert "work_dir" in found["hint"]
        measured(cli, entry("board", board, work_dir="/tmp/edgebench-work"))
        cli("devices", "clean", "board")
    cli("devices", "clean", "board")


def test_a_device_without_proc(cli: Cli, board: FleetDevice) -> None:
    if board.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    first = board.root.parts[2]
    enter = ["nsenter", "-m", "-p", "-t", first]
    subprocess.run([*enter, "mount", "-t", "tmpfs", "tmpfs", "/proc"], check=True, timeout=30)
    try:
        measured(cli, entry("board", board))
        (measurement,) = cli.json("report")["measurements"]
        assert measurement["status"] == "ok"
    finally:
        subprocess.run([*enter, "umount", "/proc"], check=True, timeout=30)
    assert_clean(board)


# --- clocks --------------------------------------------------------------------------------------

WRONG_CLOCK = """\
import time
_real = time.time
time.time = lambda: _real() + ({years} * 365 * 86400)
"""


@pytest.mark.parametrize("years", [-50, 60])
def test_a_clock_that_is_years_off_changes_nothing(cli: Cli, odd: Fleet, years: int) -> None:
    board = odd.devices[4]
    inside(board, "mkdir", "-p", CLOCK)
    (board.root / CLOCK[1:] / "sitecustomize.py").write_text(WRONG_CLOCK.format(years=years))
    measured(cli, entry("board", board))
    assert_clean(board)


# --- secrets -------------------------------------------------------------------------------------


@pytest.fixture
def locked(cli: Cli, odd: Fleet) -> str:
    """An inventory entry of a board that takes a locked key."""
    board = odd.devices[3]
    board.authorize(make_key(cli.folder / "locked", passphrase=PASSPHRASE))
    return entry("board", board, ssh_key_file=str(cli.folder / "locked"))


def by_password(board: FleetDevice) -> str:
    return "\n".join(line for line in entry("board", board).splitlines()).replace(
        f", key_file: {board.key_file}", ""
    )


def test_secrets_of_the_environment_show_up_nowhere(
    cli: Cli, odd: Fleet, locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = odd.devices[3]
    monkeypatch.setenv("EDGEBENCH_SSH_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("EDGEBENCH_SSH_PASSWORD", PASSWORD)
    for written in (locked, by_password(board)):
        write_inventory(cli, written)
        process = cli.start(*RUN, "--json")
        seen = watch(board, lambda ended=process: ended.poll() is not None)  # type: ignore[misc]
        out, err = process.communicate(timeout=60)
        assert json.loads(out)["counts"]["ok"] == 1
        assert_nowhere(cli, board, out + err + seen)
    for variable in ("EDGEBENCH_SSH_PASSPHRASE", "EDGEBENCH_SSH_PASSWORD"):
        monkeypatch.setenv(variable, "wr0ng " + PASSWORD)
    for written in (locked, by_password(board)):
        write_inventory(cli, written)
        answer = cli(*RUN, code=4)
        assert "refused" in answer.out + answer.err
        assert_nowhere(cli, board, answer.out + answer.err)


def watch(board: FleetDevice, done: Callable[[], bool]) -> str:
    """What `ps` shows of all processes, and the environment of those of the device, until it is done."""
    seen: set[bytes] = set()
    while not done():
        for pid in [int(name) for name in os.listdir("/proc") if name.isdecimal()]:
            command = read(pid, "cmdline")
            if not command.startswith(b"ssh-keygen\0"):  # tests beside this one make locked keys
                seen.add(command)
        seen.update(read(pid, "environ") for pid in board.pids())
        time.sleep(0.02)
    return b"\n".join(seen).decode("utf-8", "replace")


def read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def assert_nowhere(cli: Cli, board: FleetDevice, text: str) -> None:
    """No secret in a text, in edgebench's home, in the folder and home of the user, or on the board."""
    secrets = [PASSWORD, PASSPHRASE, *PASSWORD.split()[:1], PASSPHRASE.split()[1]]
    for secret in secrets:
        assert secret not in text
    for folder in (cli.home, cli.folder, Path.home(), board.home):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 32 << 20:
                data = path.read_bytes()
                assert not any(secret.encode() in data for secret in secrets), path


class Terminal:
    """A command at a terminal of its own: what it shows, and keys."""

    def __init__(self, *arguments: str) -> None:
        self.shown = ""
        self._master, slave = pty.openpty()
        self._slave = slave
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=slave,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def wait_for(self, text: str) -> None:
        wait_until(lambda: self._look() and text in self.shown, f"{text!r} at the terminal")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def finish(self) -> Answer:
        wait_until(lambda: self._look() and self.process.poll() is not None, "the end of the command", 90)
        out, _ = self.process.communicate(timeout=30)
        self._look()
        return Answer(self.process.returncode, out, self.shown)

    def _look(self) -> bool:
        while select.select([self._master], [], [], 0)[0]:
            self.shown += os.read(self._master, 4096).decode("utf-8", "replace")
        return True

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Starts commands at terminals, and ends them after the test."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Terminal:
            started = Terminal(*arguments)
            stack.callback(started.close)
            return started

        yield start


def test_a_passphrase_is_asked_for_once_and_typed_unseen(
    cli: Cli, odd: Fleet, locked: str, terminal: Callable[..., Terminal]
) -> None:
    board = odd.devices[3]
    write_inventory(cli, locked, locked.replace("  board:", "  again:"))
    at = terminal(*RUN, "--wait", "60 s", "--json")
    at.wait_for(f"Passphrase of the key {cli.folder}/locked: ")
    assert not at.echoes()
    at.type("wrong\r")
    at.wait_for("\n")
    wait_until(lambda: (at._look(), at.shown.count("Passphrase of"))[1] == 2, "another question")
    at.type("nonsense\x15x\x7f" + PASSPHRASE + "ü\x7f\r")
    seen = watch(board, lambda: at._look() and at.process.poll() is not None)
    answer = at.finish()
    assert answer.code == 0, answer.err
    assert answer.document["counts"]["ok"] == 2
    assert answer.err.count("Passphrase of") == 2
    assert at.echoes()
    assert_nowhere(cli, board, answer.out + answer.err + seen)


def test_a_password_is_asked_for(cli: Cli, odd: Fleet, terminal: Callable[..., Terminal]) -> None:
    board = odd.devices[3]
    write_inventory(cli, by_password(board))
    at = terminal("devices", "doctor", "board", "--json")
    at.wait_for(f"Password of {board.user}@{board.address}: ")
    at.type(PASSWORD + "\r")
    answer = at.finish()
    assert answer.code == 0, answer.err
    assert_nowhere(cli, board, answer.out + answer.err)


def test_a_scan_sends_no_password_to_who_may_be_anybody(
    cli: Cli, odd: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = odd.devices[3]
    monkeypatch.setenv("EDGEBENCH_SSH_PASSWORD", PASSWORD)
    scan = ("devices", "scan", board.address, "--user", board.user)
    document = cli.json(*scan)
    assert document["facts"] is None
    assert "no password (the host key is not confirmed)" in document["problem"]
    (Path.home() / ".ssh").mkdir(mode=0o700)
    public = (board.folder / "host_ed25519.pub").read_text()
    (Path.home() / ".ssh" / "known_hosts").write_text(f"{board.address} {public}")
    assert cli.json(*scan)["facts"]["os"] == "linux"
    assert f"{board.fingerprints[0]} (as in your known_hosts)" in cli(*scan).out


def test_ctrl_c_at_a_question_ends_the_command_and_the_terminal_speaks_again(
    cli: Cli, odd: Fleet, locked: str, terminal: Callable[..., Terminal]
) -> None:
    write_inventory(cli, locked)
    at = terminal(*RUN)
    at.wait_for("Passphrase of")
    at.type("half\x03")
    answer = at.finish()
    assert answer.code == 130
    assert at.echoes()
    assert "half" not in answer.out + answer.err


def test_nobody_is_asked_where_nobody_is(cli: Cli, odd: Fleet, locked: str) -> None:
    write_inventory(cli, locked)
    process = cli.start("devices", "doctor", "board")
    out, err = process.communicate(timeout=60)
    assert "Passphrase" not in out + err
    assert "EDGEBENCH_SSH_PASSPHRASE is not set" in out


# --- as people have it ---------------------------------------------------------------------------


def test_an_alias_of_the_ssh_configuration_is_scanned_shown_and_measured(
    cli: Cli, board: FleetDevice
) -> None:
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text("Include lab.conf\n")
    (folder / "lab.conf").write_text(
        f"Host bench\n  HostName {board.address}\n  User {board.user}\n  Port {board.port}\n"
        f"  IdentityFile {board.key_file}\n"
    )
    for path in folder.iterdir():
        path.chmod(0o600)
    document = cli.json("devices", "scan", "bench")
    assert document["facts"]["os"] == "linux"
    assert "address: bench" in document["entry"]
    (cli.folder / "inventory.yaml").write_text(f"version: 1\ndevices:\n{document['entry']}\n")
    shown = {row["key"]: row for row in cli.json("devices", "show", "bench")["values"]}
    assert (shown["ssh.hostname"]["value"], shown["ssh.hostname"]["origin"]) == (
        board.address,
        "~/.ssh/lab.conf:2",
    )
    assert shown["ssh.user"]["origin"] == "~/.ssh/lab.conf:3"
    assert shown["ssh.key_file"]["value"] == str(board.key_file)
    assert cli.json(*RUN)["counts"]["ok"] == 1

    write_inventory(cli, "  bench: {target: linux-x86_64, address: bench}")
    assert (
        "no host key is pinned" in failure(cli, "  bench: {target: linux-x86_64, address: bench}")["message"]
    )
    shown_as = board.address if board.port == 22 else f"[{board.address}]:{board.port}"
    public = (board.folder / "host_ed25519.pub").read_text()
    (folder / "known_hosts").write_text(f"# mine\n@cert-authority *.example {public}{shown_as} {public}")
    before = (folder / "known_hosts").read_bytes()
    assert cli.json(*RUN)["counts"]["ok"] == 1
    assert (folder / "known_hosts").read_bytes() == before
    rows = {row["key"]: row for row in cli.json("devices", "show", "bench")["values"]}
    assert board.fingerprints[0] in rows["host_key"]["value"]
    assert "~/.ssh/known_hosts:3" in rows["host_key"]["origin"]


HOSTILE = [
    "$(touch MARK)",
    "`touch MARK`",
    "; touch MARK;",
    "-oProxyCommand=touch MARK",
    "a' ; touch MARK '",
    "|touch MARK",
    "\n touch MARK",
]


@pytest.mark.parametrize(
    "key", ["address", "ssh_user", "ssh_key_file", "ssh_jump", "work_dir", "ssh_config", "name", "host_key"]
)
def test_hostile_values_reach_no_shell(cli: Cli, board: FleetDevice, key: str) -> None:
    """Neither here, where the configuration hands names to a shell, nor on the device."""
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text('Match exec "true %n %h %r"\n  Compression no\n')
    (folder / "config").chmod(0o600)
    mark = cli.folder / "mark"
    for text in HOSTILE:
        value = json.dumps(text.replace("MARK", str(mark)))
        changes = {key: value} if key != "name" else {}
        write_inventory(cli, entry(value if key == "name" else "board", board, **changes))
        for command in (
            ("devices", "show", "board"),
            ("devices", "doctor", "all"),
            ("devices", "clean", "all"),
        ):
            answer = cli(*command, code=None)
            assert answer.code in (0, 1, 2, 4)
        assert not mark.exists()
        assert not (board.root / str(mark)[1:]).exists() or board.kind != "netns"
        assert not (board.home / "mark").exists()


def test_a_login_that_talks_on_stderr_is_no_obstacle(cli: Cli, board: FleetDevice) -> None:
    with login_script(board, "echo chatty >&2; printf '\\033[31m' >&2\n"):
        measured(cli, entry("board", board))
