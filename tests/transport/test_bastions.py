"""Jump hosts: one connection for all behind it, counted, made anew when it died, and never stormed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgebench.errors import DeviceError, UserError
from edgebench.records import Device, SshSettings, replace
from edgebench.transport.ssh import SshTransport, route_to, scan_device
from edgebench.transport.ssh.bastions import BASTIONS, GATES, MAX_USERS, Gates
from tests.commands import wait_until
from tests.fleet.netns import FleetDevice
from tests.transport.conftest import QUICK, Connect
from tests.transport.test_ssh import WRONG_PIN, replace_timeouts


def behind(board: FleetDevice, **changes: object) -> Device:
    """The device as seen from itself: 127.0.0.1 there is reached through its own address as a jump host."""
    jump = f"{board.user}@{board.address}:{board.port}"
    ssh = {"jump": jump, "jump_host_keys": board.fingerprints, **changes}
    return replace(board.record(), address="127.0.0.1", ssh=replace(board.record().ssh, **ssh))


@pytest.fixture
def bastion(cuttable: FleetDevice) -> FleetDevice:
    """A server to jump through, whose log tells who came from where."""
    return cuttable


def logins(board: FleetDevice, source: str) -> int:
    """How often somebody logged in from an address."""
    lines = (board.folder / "log").read_text(errors="replace").splitlines()
    return sum("Accepted publickey" in line and f" from {source} " in line for line in lines)


class Count:
    """Logins at the jump host itself since this was made."""

    def __init__(self, board: FleetDevice) -> None:
        self._board = board
        self._controller = board.address.removesuffix(".2") + ".1"
        self._before = logins(board, self._controller)

    def __call__(self) -> int:
        return logins(self._board, self._controller) - self._before


def together(count: int, act: Callable[[int], object]) -> list[object]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


def test_eight_devices_share_one_connection(connect: Connect, bastion: FleetDevice) -> None:
    came = Count(bastion)
    transports = together(8, lambda _n: connect(behind(bastion)))
    assert came() == 1
    outputs = together(8, lambda n: transports[n].run(["echo", str(n)], timeout_s=20).stdout)  # type: ignore[attr-defined]
    assert outputs == [b"%d\n" % n for n in range(8)]


def test_more_than_ten_get_a_further_one(connect: Connect, bastion: FleetDevice) -> None:
    came = Count(bastion)
    transports = [connect(behind(bastion)) for _ in range(MAX_USERS + 2)]
    assert came() == 2
    assert all(each.run(["true"], timeout_s=20).status == 0 for each in transports)


def test_the_last_one_closes_it(connect: Connect, bastion: FleetDevice) -> None:
    came = Count(bastion)
    first, second = connect(behind(bastion)), connect(behind(bastion))
    first.close()
    first.close()
    assert second.run(["echo", "here"], timeout_s=10).stdout == b"here\n"
    second.close()
    wait_until(lambda: not connections(bastion), "the end of all connections")
    assert BASTIONS.open_links() == 0
    connect(behind(bastion)).close()
    assert came() == 2


def connections(board: FleetDevice) -> list[int]:
    return [pid for pid in board.pids() if b"sshd: edge" in command_of(pid)]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_dead_one_is_made_anew(connect: Connect, bastion: FleetDevice) -> None:
    transport = connect(behind(bastion))
    bastion.kill_connections()
    with pytest.raises(DeviceError, match="the link dropped"):
        transport.run(["true"], timeout_s=10)
    transport.connect()
    assert transport.run(["echo", "again"], timeout_s=10).stdout == b"again\n"


@pytest.mark.timeout(60)
def test_one_that_answers_no_more_is_given_up_for_all(connect: Connect, bastion: FleetDevice) -> None:
    held = connect(behind(bastion))
    bastion.stop()
    started_s = time.monotonic()
    # Nobody knows yet that it hangs: the first to open a channel asks, closes it, and makes another one.
    anew = connect(behind(bastion), timeouts=replace_timeouts(connect_s=0.5, banner_s=0.5))
    assert anew.run(["true"], timeout_s=10).status == 0
    assert time.monotonic() - started_s < 15
    assert not held.links[0].settled_alive()
    with pytest.raises(DeviceError, match="the link dropped"):
        held.run(["true"], timeout_s=5)


def fails(connect: Connect, device: Device, **timeouts: float) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        connect(device, timeouts=replace_timeouts(**timeouts) if timeouts else QUICK)
    return caught.value


def test_a_device_that_is_away_leaves_the_others_alone(connect: Connect, bastion: FleetDevice) -> None:
    came = Count(bastion)
    good = connect(behind(bastion))
    assert "the jump host cannot open 127.0.0.1:1" in fails(connect, behind(bastion, port=1)).message
    wrong = replace(behind(bastion), host_keys=(WRONG_PIN,))
    assert "wrong host key at 127.0.0.1" in fails(connect, wrong).message
    assert "refused" in fails(connect, behind(bastion, user="nobody-here", jump=jump_of(bastion))).message
    assert good.run(["true"], timeout_s=10).status == 0
    assert came() == 1
    good.close()
    assert BASTIONS.open_links() == 0


def jump_of(board: FleetDevice) -> str:
    return f"{board.user}@{board.address}:{board.port}"


def test_who_pins_another_key_shares_nothing(connect: Connect, bastion: FleetDevice) -> None:
    came = Count(bastion)
    connect(behind(bastion))
    error = fails(connect, behind(bastion, jump_host_keys=(WRONG_PIN,)))
    assert error.message.startswith(f"jump host {bastion.address} of {bastion.name}: wrong host key")
    connect(behind(bastion, jump_host_keys=bastion.fingerprints[:1]))
    assert came() == 2


def test_a_chain_of_jumps(connect: Connect, bastion: FleetDevice) -> None:
    came = Count(bastion)
    inner = f"{bastion.user}@127.0.0.1:{bastion.port}"
    device = behind(bastion, jump=f"{jump_of(bastion)},{inner}")
    names = [login.name for login in route_to(device)]
    assert names == [
        f"jump host {bastion.address} of {bastion.name}",
        f"jump host 127.0.0.1 of {bastion.name}",
        bastion.name,
    ]
    first, second = connect(device), connect(behind(bastion))
    assert first.run(["echo", "far"], timeout_s=10).stdout == b"far\n"
    first.close()
    assert second.run(["echo", "near"], timeout_s=10).stdout == b"near\n"
    assert came() == 1
    second.close()
    assert BASTIONS.open_links() == 0


def test_those_who_wait_for_a_jump_host_that_is_away_get_its_error(bastion: FleetDevice) -> None:
    bastion.drop()
    started_s = time.monotonic()

    def attempt(number: int) -> str:
        transport = SshTransport(
            replace(behind(bastion), name=f"d{number}"), timeouts=replace_timeouts(connect_s=0.5)
        )
        with pytest.raises(DeviceError) as caught:
            transport.connect()
        return caught.value.message

    messages = together(20, attempt)
    assert time.monotonic() - started_s < 20
    wanted = [
        f"jump host {bastion.address} of d{n}: {bastion.address}:22 cannot be reached (timed out)"
        for n in range(20)
    ]
    assert messages == wanted


def test_no_more_than_eight_knock_at_a_time(servers: object) -> None:
    gates, lock, inside, most = Gates(8), threading.Lock(), [0], [0]

    def knock(_number: int) -> None:
        with gates.passing("gate", "d"):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            with lock:
                inside[0] -= 1

    together(32, knock)
    assert most[0] == 8
    with ExitStack() as stack:
        for key in range(20):
            stack.enter_context(gates.passing(key, "d"))
    assert gates.known() == GATES.known() == 0


def test_thirty_at_once_are_let_in_by_a_server_that_drops_crowds(
    connect: Connect, narrow_board: FleetDevice
) -> None:
    transports = together(30, lambda _n: connect(narrow_board.record()))
    assert len(transports) == 30
    assert "drop connection" not in (narrow_board.folder / "log").read_text(errors="replace")


def test_a_jump_host_that_may_not_forward_is_named(connect: Connect, narrow_board: FleetDevice) -> None:
    error = fails(connect, behind(narrow_board))
    assert "the jump host cannot open 127.0.0.1:22" in error.message
    assert "AllowTcpForwarding" in error.hint


def test_a_scan_behind_a_jump_host(bastion: FleetDevice) -> None:
    unknown = replace(behind(bastion), host_keys=())
    assert [key.fingerprint for key in scan_device(unknown, timeouts=QUICK)] == list(bastion.fingerprints)
    with pytest.raises(DeviceError, match="no host key is pinned"):
        scan_device(replace(unknown, ssh=replace(unknown.ssh, jump_host_keys=())), timeouts=QUICK)
    assert BASTIONS.open_links() == 0


# --- from the configuration -----------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return tmp_path / ".ssh"


def configure(home: Path, text: str) -> None:
    (home / "config").write_text(text)
    (home / "config").chmod(0o600)


def test_proxy_jump_of_the_configuration(connect: Connect, bastion: FleetDevice, home: Path) -> None:
    keys = (bastion.folder / "host_ed25519.pub").read_text().strip()
    (home / "known_hosts").write_text(f"127.0.0.1 {keys}\n{bastion.address} {keys}\n")
    login = f"User {bastion.user}\n  IdentityFile {bastion.key_file}\n"
    configure(
        home,
        f"Host board\n  HostName 127.0.0.1\n  ProxyJump gate\n  {login}"
        f"Host gate\n  HostName {bastion.address}\n  {login}",
    )
    device = Device(name="d", target="linux-x86_64", transport="ssh", address="board")
    peer = connect(device).run(["sh", "-c", "echo $SSH_CONNECTION"], timeout_s=10).stdout.decode().split()
    assert peer[0] == "127.0.0.1"
    direct = route_to(replace(device, ssh=SshSettings(jump="none")))
    assert [stop.address for stop in direct] == ["127.0.0.1"]


def test_the_inventory_wins_over_the_configuration(home: Path) -> None:
    pin = ("SHA256:" + "B" * 43,)
    configure(
        home,
        "Host *\n  User other\n  Port 9\n  ProxyJump away\n  IdentityFile /other\n  HostName x.example\n",
    )
    ssh = SshSettings(user="me", port=2, key_file="/mine", jump="none")
    device = Device(name="d", target="t", transport="ssh", address="board", host_keys=pin, ssh=ssh)
    (login,) = route_to(device)
    assert (login.user, login.port, login.key_files, login.address) == ("me", 2, ("/mine",), "x.example")
    (login,) = route_to(replace(device, ssh=replace(ssh, config="none", user=None, port=None)))
    assert (login.address, login.port) == ("board", 22)


def test_jumps_in_a_circle_are_named(home: Path) -> None:
    configure(home, "Host *\n  ProxyJump gate\n")
    device = Device(name="d", target="t", transport="ssh", address="board", host_keys=("SHA256:" + "B" * 43,))
    with pytest.raises(UserError, match="goes in a circle: gate -> gate") as caught:
        route_to(device)
    assert "ProxyJump none" in caught.value.hint


@pytest.mark.parametrize(
    "command", ["ssh -W %h:%p me@gate", "ssh me@gate -W %h:%p", "/usr/bin/ssh -q -W [%h]:%p me@gate"]
)
def test_a_proxy_command_that_only_jumps_is_a_jump(home: Path, command: str) -> None:
    configure(home, f"Host board\n  ProxyCommand {command}\n")
    pin = ("SHA256:" + "B" * 43,)
    ssh = SshSettings(jump_host_keys=pin)
    device = Device(name="d", target="t", transport="ssh", address="board", host_keys=pin, ssh=ssh)
    assert next((stop.user, stop.address) for stop in route_to(device)) == ("me", "gate")


def test_another_proxy_command_is_not_run(home: Path) -> None:
    configure(home, f"Host board\n  ProxyCommand touch {home}/mark %h\n")
    device = Device(name="d", target="t", transport="ssh", address="board", host_keys=("SHA256:" + "B" * 43,))
    with pytest.raises(UserError, match="ProxyCommand, which edgebench does not run"):
        SshTransport(device).connect()
    assert not (home / "mark").exists()
