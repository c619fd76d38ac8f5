"""What only ssh has: pinned keys, logins, jump hosts, and networks that fail; all on real servers."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.errors import BugError, DeviceError, EdgebenchError, UserError
from edgebench.records import Device, SshSettings, replace
from edgebench.transport.base import Credentials
from edgebench.transport.ssh import HostKey, SshTransport, Timeouts, parse_jump, scan_host_keys
from tests.fleet.netns import Fleet, FleetDevice, make_key
from tests.transport.conftest import PASSWORD, QUICK, Connect

WRONG_PIN = "SHA256:" + "A" * 43
MIB = 1 << 20


def _ssh(device: Device, **changes: object) -> Device:
    return replace(device, ssh=replace(device.ssh, **changes))


def _fails(connect: Connect, device: Device, **options: object) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        connect(device, **options)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


@pytest.fixture
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys, an agent or passwords."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SSH_AUTH_SOCK", "EDGEBENCH_SSH_PASSPHRASE", "EDGEBENCH_SSH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return tmp_path


# --- host keys ------------------------------------------------------------------------------------


def test_a_wrong_host_key_is_never_accepted(connect: Connect, board: FleetDevice, lonely: Path) -> None:
    known = "".join(f"{board.address} {key.read_text()}" for key in board.folder.glob("host_*.pub"))
    (lonely / ".ssh" / "known_hosts").write_text(known)
    error = _fails(connect, replace(board.record(), host_keys=(WRONG_PIN,)))
    assert not error.retryable
    assert WRONG_PIN in error.message
    assert all(key in error.message for key in board.fingerprints)
    assert f"edgebench devices scan {board.address}" in error.hint


def test_a_device_without_a_pinned_key_is_refused(connect: Connect, board: FleetDevice) -> None:
    error = _fails(connect, replace(board.record(), host_keys=()))
    assert "no host key is pinned" in error.message
    assert not error.retryable


@pytest.mark.parametrize("which", [0, 1, 2])
def test_any_of_the_servers_keys_can_be_the_pinned_one(
    connect: Connect, board: FleetDevice, which: int
) -> None:
    device = replace(board.record(), host_keys=(WRONG_PIN, board.fingerprints[which]))
    assert connect(device).run(["true"], timeout_s=10).status == 0


def test_a_scan_shows_every_key_and_logs_nobody_in(board: FleetDevice) -> None:
    found = scan_host_keys(board.address, board.port, timeout_s=5)
    types = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")
    assert found == tuple(map(HostKey, types, board.fingerprints))
    assert b"Accepted" not in (board.folder / "log").read_bytes().split(b"Connection closed")[-1]


def test_a_scan_of_nothing_says_so(board: FleetDevice) -> None:
    with pytest.raises(DeviceError, match=r"port 1 at .* is refused"):
        scan_host_keys(board.address, 1, timeout_s=2)


def test_a_server_with_unsafe_ciphers_only_is_refused(connect: Connect, old_board: FleetDevice) -> None:
    error = _fails(connect, old_board.record())
    assert "offers nothing that is safe to use" in error.message
    assert not error.retryable


# --- logins ---------------------------------------------------------------------------------------


def test_a_refused_login_names_user_and_keys_but_no_secret(
    connect: Connect, board: FleetDevice, lonely: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    make_key(lonely / "stranger")
    error = _fails(connect, _ssh(board.record(), key_file=str(lonely / "stranger")))
    assert f"login as {board.user} at {board.address}:{board.port} refused" in error.message
    assert str(lonely / "stranger") in error.message
    assert not error.retryable
    secret = (lonely / "stranger").read_text().splitlines()[2]
    assert secret not in _everything(error) + caplog.text


def _everything(error: BaseException | None) -> str:
    """All that an error and those behind it say."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error)]
        if isinstance(error, EdgebenchError):
            texts += [error.hint, error.detail]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def test_an_unknown_user_is_refused(connect: Connect, board: FleetDevice, lonely: Path) -> None:
    error = _fails(connect, _ssh(board.record(), user="nobody-here"))
    assert "login as nobody-here" in error.message
    assert str(board.key_file) in error.message


def test_a_login_without_any_key_says_so(connect: Connect, board: FleetDevice, lonely: Path) -> None:
    assert "tried no key (none found)" in _fails(connect, _ssh(board.record(), key_file=None)).message


def test_a_missing_key_file_is_named(connect: Connect, board: FleetDevice, lonely: Path) -> None:
    error = _fails(connect, _ssh(board.record(), key_file="~/.ssh/nowhere"))
    assert "~/.ssh/nowhere (no such file)" in error.message


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    body=st.binary(max_size=200),
    frame=st.sampled_from(["", "OPENSSH PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"]),
)
def test_a_damaged_key_file_is_named(
    connect: Connect, board: FleetDevice, lonely: Path, body: bytes, frame: str
) -> None:
    import base64

    lines = [f"-----BEGIN {frame}-----", base64.b64encode(body).decode(), f"-----END {frame}-----", ""]
    (lonely / "damaged").write_bytes("\n".join(lines).encode() if frame else body)
    error = _fails(connect, _ssh(board.record(), key_file=str(lonely / "damaged")))
    assert f"{lonely / 'damaged'} (" in error.message


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_with_a_passphrase(
    connect: Connect, board: FleetDevice, lonely: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    board.authorize(make_key(lonely / "locked", kind=kind, passphrase="open sesame"))
    device = _ssh(board.record(), key_file=str(lonely / "locked"))
    asked: list[str] = []

    def answer(path: str) -> str:
        asked.append(path)
        return "open sesame"

    assert "(encrypted, and EDGEBENCH_SSH_PASSPHRASE is not set)" in _fails(connect, device).message
    connect(device, credentials=Credentials(passphrase=answer)).close()
    assert asked == [str(lonely / "locked")]
    monkeypatch.setenv("EDGEBENCH_SSH_PASSPHRASE", "open sesame")
    connect(device, credentials=Credentials(passphrase=answer)).close()
    assert len(asked) == 1
    monkeypatch.setenv("EDGEBENCH_SSH_PASSPHRASE", "open barley")
    error = _fails(connect, device)
    assert "(wrong passphrase)" in error.message
    assert "barley" not in _everything(error)


def test_a_default_key_is_tried(connect: Connect, board: FleetDevice, lonely: Path) -> None:
    board.authorize(make_key(lonely / ".ssh" / "id_ed25519"))
    connect(_ssh(board.record(), key_file=None))


@contextmanager
def _agent(folder: Path) -> Iterator[str]:
    path = str(folder / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        while agent.poll() is None and not os.path.exists(path):
            pass
        yield path
    finally:
        agent.terminate()
        agent.wait(10)


def test_an_agents_key_is_tried(
    connect: Connect, board: FleetDevice, lonely: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _agent(lonely) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        make_key(lonely / "stranger")
        for key in (lonely / "stranger", board.key_file):
            subprocess.run(["ssh-add", "-q", str(key)], check=True, timeout=10)
        connect(_ssh(board.record(), key_file=None)).close()
        subprocess.run(["ssh-add", "-q", "-d", str(board.key_file)], check=True, timeout=10)
        error = _fails(connect, _ssh(board.record(), key_file=None))
        assert "agent key edgebench test key" in error.message


def test_a_locked_key_that_the_agent_holds_asks_nobody(
    connect: Connect, board: FleetDevice, lonely: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.authorize(make_key(lonely / "mine"))
    asked: list[str] = []
    credentials = Credentials(passphrase=asked.append)
    with _agent(lonely) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        for number in range(6):  # more than a server hears before it ends a login
            make_key(lonely / f"other{number}")
            subprocess.run(["ssh-add", "-q", str(lonely / f"other{number}")], check=True, timeout=10)
        subprocess.run(["ssh-add", "-q", str(lonely / "mine")], check=True, timeout=10)
        lock = ["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(lonely / "mine")]
        subprocess.run(lock, check=True, timeout=30)
        device = _ssh(board.record(), key_file=str(lonely / "mine"))
        connect(device, credentials=credentials).close()
        (lonely / "mine").rename(lonely / "away")  # the public part alone names the agent's key too
        connect(_ssh(device, key_file=str(lonely / "mine.pub")), credentials=credentials).close()
        assert asked == []


def test_agent_and_keys_of_the_configuration(
    connect: Connect, board: FleetDevice, lonely: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lonely / ".ssh" / "config"
    device = _ssh(board.record(), key_file=None)
    with _agent(lonely) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        subprocess.run(["ssh-add", "-q", str(board.key_file)], check=True, timeout=10)
        monkeypatch.delenv("SSH_AUTH_SOCK")
        for lines, good in (
            (f"IdentityAgent {path}", True),
            ("IdentityAgent none", False),
            (f"IdentityAgent {path}\nIdentitiesOnly yes", False),
            (f"IdentityAgent {path}\nIdentitiesOnly yes\nIdentityFile {board.key_file}.pub", True),
            (f"IdentityFile {board.key_file}", True),
        ):
            config.write_text(f"{lines}\n")
            config.chmod(0o600)
            if good:
                connect(device).close()
            else:
                assert "tried no key (none found)" in _fails(connect, device).message
        make_key(lonely / ".ssh" / "id_ed25519")
        config.write_text("IdentityFile none\n")
        assert "tried no key (none found)" in _fails(connect, device).message


def test_an_agent_that_is_gone_is_no_obstacle(
    connect: Connect, board: FleetDevice, lonely: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(lonely / "gone"))
    connect(board.record())


def test_a_password_comes_from_the_environment_or_a_callback(
    connect: Connect,
    board_without_sftp: FleetDevice,
    lonely: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if board_without_sftp.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    caplog.set_level(logging.DEBUG)
    device = _ssh(board_without_sftp.record(), key_file=None)
    asked: list[str] = []

    def answer(login: str) -> str:
        asked.append(login)
        return PASSWORD

    assert "EDGEBENCH_SSH_PASSWORD is not set" in _fails(connect, device).message
    connect(device, credentials=Credentials(password=answer)).close()
    assert asked == [f"edge@{device.address}"]
    monkeypatch.setenv("EDGEBENCH_SSH_PASSWORD", PASSWORD)
    connect(device).close()
    monkeypatch.setenv("EDGEBENCH_SSH_PASSWORD", "wrong horse")
    error = _fails(connect, device)
    assert "a password" in error.message
    for secret in (PASSWORD, "wrong horse"):
        assert secret not in _everything(error) + caplog.text + repr(device)


def test_no_password_is_asked_for_where_the_server_takes_none(
    connect: Connect, board: FleetDevice, lonely: Path
) -> None:
    asked: list[str] = []
    _fails(connect, _ssh(board.record(), key_file=None), credentials=Credentials(password=asked.append))
    assert asked == []


# --- the way there --------------------------------------------------------------------------------


def test_a_refused_port(connect: Connect, board: FleetDevice) -> None:
    error = _fails(connect, _ssh(board.record(), port=1))
    assert f"port 1 at {board.address} is refused" in error.message
    assert error.retryable


def test_a_cut_cable(connect: Connect, cuttable: FleetDevice) -> None:
    cuttable.cut()
    error = _fails(connect, cuttable.record(), timeouts=replace_timeouts(connect_s=0.5))
    assert f"{cuttable.address}:22 cannot be reached" in error.message
    assert f"ping {cuttable.address}" in error.hint
    assert error.retryable


def test_a_firewall_that_swallows_and_one_that_rejects(connect: Connect, cuttable: FleetDevice) -> None:
    cuttable.drop()
    error = _fails(connect, cuttable.record(), timeouts=replace_timeouts(connect_s=0.5))
    assert "cannot be reached (timed out)" in error.message
    cuttable.reject()
    assert "port 22" in _fails(connect, cuttable.record()).message
    cuttable.heal()
    connect(cuttable.record())


def replace_timeouts(**changes: float) -> Timeouts:
    from dataclasses import replace as dataclass_replace

    return dataclass_replace(QUICK, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["no such host", "a..b", "x" * 300])
def test_a_name_that_cannot_resolve(connect: Connect, board: FleetDevice, name: str) -> None:
    error = _fails(connect, replace(board.record(), address=name))
    assert "does not resolve" in error.message
    assert not error.retryable


@contextmanager
def _impostor(answer: bytes | None) -> Iterator[tuple[int, list[int]]]:
    """A server that greets with `answer`, or only listens (None); its port, and a mark per connection."""
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _peer = server.accept()
                except OSError:
                    return
                seen.append(1)
                if answer is None:
                    held.append(client)
                    continue
                with client:
                    client.sendall(answer)

        held: list[socket.socket] = []
        serving = threading.Thread(target=serve)
        serving.start()
        yield int(server.getsockname()[1]), seen
        server.shutdown(socket.SHUT_RDWR)
        serving.join()
        for client in held:
            client.close()


GREETINGS = [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n\xff\xff"]


@pytest.mark.parametrize("answer", GREETINGS)
def test_what_is_no_ssh_server_is_tried_three_times(
    connect: Connect, board: FleetDevice, answer: bytes
) -> None:
    with _impostor(answer) as (port, seen):
        error = _fails(connect, _ssh(replace(board.record(), address="127.0.0.1"), port=port))
    assert "no SSH server greeted" in error.message
    assert "MaxStartups" in error.hint
    assert error.retryable
    assert len(seen) == 3


def test_a_server_that_never_greets(connect: Connect, board: FleetDevice) -> None:
    device = replace(board.record(), address="127.0.0.1")
    with _impostor(None) as (port, _seen):
        error = _fails(connect, _ssh(device, port=port), timeouts=replace_timeouts(banner_s=0.5))
    assert "no SSH server greeted" in error.message


# --- jump hosts -----------------------------------------------------------------------------------


def _behind(board: FleetDevice, **changes: object) -> Device:
    """The device as seen from itself: 127.0.0.1 there is reached through its own address as a jump host."""
    jump = f"{board.user}@{board.address}:{board.port}"
    device = replace(board.record(), address="127.0.0.1")
    return _ssh(device, **{"jump": jump, "jump_host_keys": board.fingerprints, **changes})


def test_a_jump_host_is_passed_through(connect: Connect, board: FleetDevice, tmp_path: Path) -> None:
    transport = connect(_behind(board))
    peer = transport.run(["sh", "-c", "echo $SSH_CONNECTION"], timeout_s=10).stdout.decode().split()[0]
    assert peer == "127.0.0.1"
    (tmp_path / "it").write_bytes(os.urandom(2 * MIB))
    transport.put(tmp_path / "it", "it")
    transport.get("it", tmp_path / "back", max_bytes=2 * MIB)
    assert (tmp_path / "it").read_bytes() == (tmp_path / "back").read_bytes()


def test_a_jump_host_must_be_pinned_too(connect: Connect, board: FleetDevice) -> None:
    error = _fails(connect, _behind(board, jump_host_keys=()))
    assert f"jump host {board.address}" in error.message
    assert "ssh.jump_host_key" in error.hint
    error = _fails(connect, _behind(board, jump_host_keys=(WRONG_PIN,)))
    assert error.message.startswith(f"jump host {board.address} of {board.name}: wrong host key")


def test_the_device_behind_a_jump_host_is_verified(connect: Connect, board: FleetDevice) -> None:
    error = _fails(connect, replace(_behind(board), host_keys=(WRONG_PIN,)))
    assert error.message.startswith(f"{board.name}: wrong host key at 127.0.0.1")


def test_a_device_that_the_jump_host_cannot_reach(connect: Connect, board: FleetDevice) -> None:
    error = _fails(connect, _behind(board, port=1))
    assert "the jump host cannot open 127.0.0.1:1" in error.message


def test_a_cut_between_here_and_the_jump_host(
    connect: Connect, cuttable: FleetDevice, tmp_path: Path
) -> None:
    transport = connect(_behind(cuttable))
    _cut_while_sending(transport, cuttable, tmp_path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("bastion", (None, "bastion", 22)),
        ("me@bastion", ("me", "bastion", 22)),
        ("me@bastion:2222", ("me", "bastion", 2222)),
        ("me@[fd00::1]:2222", ("me", "fd00::1", 2222)),
        ("fd00::1", (None, "fd00::1", 22)),
        ("[fd00::1]", (None, "fd00::1", 22)),
    ],
)
def test_the_forms_of_a_jump_host(text: str, parts: tuple[str | None, str, int]) -> None:
    assert parse_jump(text) == parts


@pytest.mark.parametrize(
    "text", ["", "me@", "host:port", "host:0", "host:99999", "[fd00::1", "[fd00::1]x", ":22"]
)
def test_what_is_no_jump_host(text: str) -> None:
    with pytest.raises(UserError, match="no jump host"):
        parse_jump(text)


@given(st.text(max_size=40))
def test_any_text_is_a_jump_host_or_an_error(text: str) -> None:
    try:
        user, address, port = parse_jump(text)
    except UserError:
        return
    assert address
    assert 0 < port < 65536
    assert user != ""


# --- links that fail ------------------------------------------------------------------------------


def _cut_while_sending(transport: SshTransport, device: FleetDevice, folder: Path) -> DeviceError:
    source = folder / "big"
    with source.open("wb") as file:
        file.truncate(50 * MIB)
    moved = [0]

    def progress(step: int) -> None:
        moved[0] += step
        if moved[0] - step < 8 * MIB <= moved[0]:
            device.cut()

    with pytest.raises(DeviceError) as caught:
        transport.put(source, "big", progress=progress)
    assert caught.value.retryable
    return caught.value


@pytest.mark.timeout(60)
def test_a_cut_during_put_ends_in_seconds(connect: Connect, cuttable: FleetDevice, tmp_path: Path) -> None:
    transport = connect(cuttable.record())
    error = _cut_while_sending(transport, cuttable, tmp_path)
    assert "the link dropped while sending big" in error.message
    with pytest.raises(DeviceError, match="the link dropped"):
        transport.run(["true"], timeout_s=5)
    cuttable.restore()
    transport.connect()
    assert transport.run(["true"], timeout_s=10).status == 0


@pytest.mark.timeout(60)
def test_the_watchdog_ends_what_the_kernel_does_not(
    connect: Connect, cuttable: FleetDevice, tmp_path: Path
) -> None:
    timeouts = replace_timeouts(dead_link_s=600, transfer_min_s=1, transfer_bytes_per_s=100 * MIB)
    transport = connect(cuttable.record(), timeouts=timeouts)
    error = _cut_while_sending(transport, cuttable, tmp_path)
    words = "sending big took too long; the connection was closed", "sending big: nothing moved for 1 s"
    assert any(each in error.message for each in words)  # whichever of the watchdog's limits comes first


@pytest.mark.timeout(60)
def test_a_cut_without_sftp(connect: Connect, board_without_sftp: FleetDevice, tmp_path: Path) -> None:
    if board_without_sftp.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    transport = connect(board_without_sftp.record())
    assert "the link dropped" in _cut_while_sending(transport, board_without_sftp, tmp_path).message


@pytest.mark.timeout(60)
def test_a_cut_that_heals_in_time_costs_nothing(
    connect: Connect, cuttable: FleetDevice, tmp_path: Path
) -> None:
    transport = connect(cuttable.record(), timeouts=Timeouts())
    source = tmp_path / "big"
    source.write_bytes(os.urandom(20 * MIB))
    healing = threading.Timer(1.0, cuttable.restore)
    started = []

    def progress(_step: int) -> None:
        if not started:
            started.append(1)
            cuttable.cut()
            healing.start()

    assert transport.put(source, "big", progress=progress) == 20 * MIB
    healing.join()
    transport.get("big", tmp_path / "back", max_bytes=20 * MIB)
    assert source.read_bytes() == (tmp_path / "back").read_bytes()


KILL_WRITER = """\
for process in /proc/[0-9]*; do
    if [ "$(readlink "$process/fd/1")" = "$HOME/big" ]; then kill -KILL "${process#/proc/}"; fi
done
"""


@pytest.mark.timeout(60)
def test_an_upload_whose_writer_is_killed_can_pass_on_retry(
    connect: Connect, board: FleetDevice, tmp_path: Path
) -> None:
    transport, other = connect(board.record()), connect(board.record())
    source = tmp_path / "big"
    source.write_bytes(bytes(20 * MIB))
    killed: list[int] = []

    def progress(_step: int) -> None:
        if not killed:
            killed.append(other.run(["sh", "-c", KILL_WRITER], timeout_s=20).status)

    with pytest.raises(DeviceError, match=r"what wrote .*big was ended there") as caught:
        transport.put(source, "big", progress=progress)
    assert caught.value.retryable
    assert transport.put(source, "big") == 20 * MIB


def test_a_killed_connection_is_an_error_and_not_an_end(connect: Connect, board: FleetDevice) -> None:
    transport = connect(board.record())
    channel = transport.open(["cat"])
    channel.send(b"x", timeout_s=5)
    assert channel.receive(timeout_s=5) == b"x"
    board.kill_connections()
    with pytest.raises(DeviceError, match="the link dropped") as caught:
        channel.receive(timeout_s=10)
    assert caught.value.retryable
    with pytest.raises(DeviceError):
        channel.send(b"x", timeout_s=5)
    assert channel.exit_status() is None
    channel.close()
    transport.connect()
    assert transport.run(["echo", "again"], timeout_s=10).stdout == b"again\n"


def test_a_connection_killed_during_a_command(connect: Connect, board: FleetDevice) -> None:
    transport = connect(board.record())
    killing = threading.Timer(0.3, board.kill_connections)
    killing.start()
    with pytest.raises(DeviceError, match="the link dropped while running `sleep 30`"):
        transport.run(["sleep", "30"], timeout_s=20)
    killing.join()


def test_a_frozen_server_is_an_error_at_the_deadline(connect: Connect, board: FleetDevice) -> None:
    transport = connect(board.record(), timeouts=replace_timeouts(channel_s=0.7))
    channel = transport.open(["cat"])
    board.stop()
    with pytest.raises(DeviceError, match="no answer to running `true`"):
        transport.run(["true"], timeout_s=1)
    assert channel.receive(timeout_s=0.2) is None
    board.resume()
    channel.send(b"x", timeout_s=5)
    assert channel.receive(timeout_s=5) == b"x"
    channel.close()


def test_one_session_over_one_connection_is_enough(
    connect: Connect, narrow_board: FleetDevice, tmp_path: Path
) -> None:
    transport = connect(narrow_board.record())
    channel = transport.open(["cat"])
    (tmp_path / "it").write_bytes(os.urandom(MIB))
    assert transport.put(tmp_path / "it", "it") == MIB
    assert transport.get("it", tmp_path / "back", max_bytes=MIB) == MIB
    channel.send(b"x", timeout_s=5)
    assert channel.receive(timeout_s=5) == b"x"
    assert transport.run(["echo", "beside"], timeout_s=10).stdout == b"beside\n"
    assert len(transport.links) == 2
    channel.close()


def test_a_further_connection_that_died_is_made_anew(connect: Connect, narrow_board: FleetDevice) -> None:
    transport = connect(narrow_board.record())
    with closing(transport.open(["cat"])):
        assert transport.run(["echo", "1"], timeout_s=10).stdout == b"1\n"
        transport.links[1].close()
        assert transport.run(["echo", "2"], timeout_s=10).stdout == b"2\n"
        assert len(transport.links) == 2


def test_too_many_sessions_are_named(connect: Connect, narrow_board: FleetDevice) -> None:
    transport = connect(narrow_board.record())
    channels = [transport.open(["cat"]) for _ in range(4)]
    with pytest.raises(DeviceError, match="refused") as caught:
        transport.open(["cat"])
    assert "MaxSessions" in caught.value.hint
    channels[2].close()
    assert transport.run(["echo", "again"], timeout_s=10).stdout == b"again\n"


def test_many_sessions_over_one_connection(connect: Connect, board: FleetDevice) -> None:
    transport = connect(board.record())
    channels = [transport.open(["cat"]) for _ in range(50)]
    assert len(transport.links) == 1
    channels.append(transport.open(["cat"]))
    assert len(transport.links) == 2


def test_a_slow_link_only_takes_longer(connect: Connect, cuttable: FleetDevice, tmp_path: Path) -> None:
    cuttable.rate_limit(80)
    transport = connect(cuttable.record())
    (tmp_path / "it").write_bytes(os.urandom(4 * MIB))
    assert transport.put(tmp_path / "it", "it") == 4 * MIB
    assert transport.get("it", tmp_path / "back", max_bytes=4 * MIB) == 4 * MIB


# --- full disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sftp", [True, False])
def test_a_full_disk_is_named_with_numbers(
    connect: Connect,
    servers: Fleet,
    board: FleetDevice,
    board_without_sftp: FleetDevice,
    tmp_path: Path,
    sftp: bool,
) -> None:
    device = board if sftp else board_without_sftp
    if device.kind != "netns":
        pytest.skip("missing tool: network namespaces (root, iproute2)")
    device.fill_disk(leave_bytes=2 * MIB)
    (tmp_path / "it").write_bytes(os.urandom(6 * MIB))
    transport = connect(device.record())
    with pytest.raises(DeviceError) as caught:
        transport.put(tmp_path / "it", "it.part")
    assert f"disk full on {device.name}: needs 6.00 MiB, has 2.00 MiB" in caught.value.message
    assert f"edgebench devices clean {device.name}" in caught.value.hint
    assert not caught.value.retryable
    assert 0 < (device.home / "it.part").stat().st_size <= 2 * MIB
    (device.home / ".filler").unlink()
    there = (device.home / "it.part").stat().st_size
    assert transport.put(tmp_path / "it", "it.part", offset=there) == 6 * MIB - there
    assert (device.home / "it.part").read_bytes() == (tmp_path / "it").read_bytes()


# --- misuse ---------------------------------------------------------------------------------------


def test_nothing_works_before_connect_or_after_close(board: FleetDevice) -> None:
    transport = SshTransport(board.record())
    with pytest.raises(BugError, match="not connected"):
        transport.run(["true"], timeout_s=5)
    transport.close()
    with closing(transport):
        transport.connect()
    with pytest.raises(BugError, match="not connected"):
        transport.open(["true"])


def test_settings_without_a_user_log_in_as_oneself(
    connect: Connect, board: FleetDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", board.user)
    device = board.record()
    ssh = SshSettings(port=device.ssh.port, key_file=device.ssh.key_file)
    assert (
        connect(replace(device, ssh=ssh)).run(["id", "-un"], timeout_s=10).stdout.decode().strip()
        == board.user
    )
