"""known_hosts: what OpenSSH wrote is found again, line by line, and no line is believed too much."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.errors import DeviceError, UserError
from edgebench.records import Device, SshSettings, replace
from edgebench.transport.ssh import route_to
from edgebench.transport.ssh.known_hosts import Found, look_up, names_of, parse_line, public_key, revoked_by
from tests.fleet.netns import FleetDevice, make_key
from tests.transport.conftest import Connect

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
ANOTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINGGJHQm3jOIq5jUe8CKtCTsiqEQMoKSiuQt4ZQ7gsxT"
SHA256 = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
SECURITY_KEY = (
    "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIKsa2EdFXG6MYTfCPLuuUBHl8LvTqN4P"
    "fBhUR3jLHP7BAAAABHNzaDo="
)


def found(
    tmp_path: Path, text: str, address: str = "board", port: int = 22, alias: str | None = None
) -> Found:
    file = tmp_path / "known_hosts"
    file.write_text(text)
    return look_up([str(file), str(tmp_path / "absent")], names_of(address, port, alias))


def count(tmp_path: Path, text: str, *about: object) -> int:
    return len(found(tmp_path, text, *about).trusted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("patterns", "address", "port", "known"),
    [
        ("board", "board", 22, True),
        ("board", "BOARD", 22, True),
        ("Board", "board", 22, True),
        ("other,board,10.0.0.1", "10.0.0.1", 22, True),
        ("board", "board2", 22, False),
        ("*.lab", "pi.lab", 22, True),
        ("*.lab", "pi.lab", 2222, True),
        ("p?.lab", "pi.lab", 22, True),
        ("*.lab,!pi.lab", "pi.lab", 22, False),
        ("!pi.lab", "x.lab", 22, False),
        ("[board]:2222", "board", 2222, True),
        ("[board]:2222", "board", 22, False),
        ("board", "board", 2222, True),
        ("[*.lab]:2222", "pi.lab", 2222, True),
        ("[fd00::1]:2222", "fd00::1", 2222, True),
    ],
)
def test_names(tmp_path: Path, patterns: str, address: str, port: int, known: bool) -> None:
    assert count(tmp_path, f"{patterns} {ED25519}\n", address, port) == known


def test_the_line_with_the_port_counts_before_the_one_without(tmp_path: Path) -> None:
    text = f"board {ANOTHER}\n[board]:2222 {ED25519}\n"
    (line,) = found(tmp_path, text, "board", 2222).trusted
    assert (line.key.fingerprint, line.where) == (SHA256, f"{tmp_path}/known_hosts:2")


def test_an_alias_is_the_only_name(tmp_path: Path) -> None:
    text = f"board {ANOTHER}\nTheBoard {ED25519}\n"
    (line,) = found(tmp_path, text, "board", 2222, "theboard").trusted
    assert line.key.fingerprint == SHA256


@pytest.mark.parametrize("name", ["board", "10.0.0.1", "[board]:2222"])
def test_hashed_names_as_openssh_writes_them(tmp_path: Path, name: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(f"{name} {ED25519}\nother {ANOTHER}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True, timeout=30)
    text = file.read_text()
    assert name not in text
    address, _, port = name.strip("[").partition("]:")
    (line,) = found(tmp_path, text, address, int(port or 22)).trusted
    assert line.key.fingerprint == SHA256
    assert count(tmp_path, text, "stranger") == 0


def test_marked_lines_are_told_apart_and_break_nothing(tmp_path: Path) -> None:
    text = f"""\
# a comment
@cert-authority *.lab {ANOTHER} the lab
@revoked * {ANOTHER}
@unknown * {ED25519}
garbage
pi.lab ssh-ed25519 not-base64
pi.lab ssh-rsa {ED25519.split()[1]}
pi.lab {ED25519} root@pi
|1|bad|hash {ED25519}
\x00\xff
pi.lab 1024 35 1234567890
"""
    of_pi = found(tmp_path, text, "pi.lab")
    assert [line.key.fingerprint for line in of_pi.trusted] == [SHA256]
    assert len(of_pi.authorities) == len(of_pi.revoked) == 1


def test_a_revocation_list_is_read_and_a_binary_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "revoked").write_text(f"# lost boards\n{ED25519}\nnonsense\n")
    assert revoked_by(str(tmp_path / "revoked")) == (SHA256,)
    assert revoked_by(None) == ()
    (tmp_path / "krl").write_bytes(b"SSHKRL\n\x00...")
    for name in ("krl", "absent"):
        with pytest.raises(UserError, match="cannot be read"):
            revoked_by(str(tmp_path / name))


@given(st.text(max_size=120), st.text(max_size=20))
def test_any_line_is_understood_or_skipped(line: str, name: str) -> None:
    known = parse_line(line, "here:1")
    assert known is None or public_key(known.key.type, line.split()[-1]) or line.split()


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_any_file_is_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("known") / "hosts"
    file.write_bytes(data + f"\nboard {ED25519}\n".encode())
    assert SHA256 in [line.key.fingerprint for line in look_up([str(file)], ["board"]).trusted]


# --- on real servers ------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose ssh folder nobody but the user writes; edgebench must leave it as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    folder = tmp_path / ".ssh"
    folder.mkdir(mode=0o700)
    yield folder
    assert {path.name for path in folder.iterdir()} <= {"known_hosts", "config", "more_hosts"}


def unpinned(board: FleetDevice) -> Device:
    return replace(board.record(), host_keys=())


def lines(board: FleetDevice, name: str | None = None) -> list[str]:
    shown = name or (board.address if board.port == 22 else f"[{board.address}]:{board.port}")
    keys = [board.folder / f"host_{kind}.pub" for kind in board.spec.host_key_types]
    return [f"{shown} {key.read_text().strip()}" for key in keys]


def know(home: Path, *text: str) -> bytes:
    (home / "known_hosts").write_text("\n".join(text) + "\n")
    return (home / "known_hosts").read_bytes()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_board_is_known_by_any_of_its_keys(
    connect: Connect, board: FleetDevice, home: Path, which: int
) -> None:
    before = know(home, f"@cert-authority * {ANOTHER}", "garbage", lines(board)[which])
    assert connect(unpinned(board)).run(["true"], timeout_s=10).status == 0
    assert (home / "known_hosts").read_bytes() == before


def refused(connect: Connect, device: Device) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        connect(device)
    assert not caught.value.retryable
    assert caught.value.hint
    return caught.value


def test_an_unknown_board_is_refused_before_anything_is_sent(
    connect: Connect, board: FleetDevice, home: Path
) -> None:
    before = know(home, f"other {ED25519}")
    connections = (board.folder / "log").read_bytes().count(b"Connection from")
    error = refused(connect, unpinned(board))
    assert f"no host key is pinned for {board.address}, and ~/.ssh/known_hosts" in error.message
    assert f"edgebench devices scan {board.address}" in error.hint
    assert (board.folder / "log").read_bytes().count(b"Connection from") == connections
    assert (home / "known_hosts").read_bytes() == before


def test_a_board_that_shows_another_key_is_refused(connect: Connect, board: FleetDevice, home: Path) -> None:
    know(home, lines(board)[0].replace(lines(board)[0].split()[2], ED25519.split()[1]))
    error = refused(connect, unpinned(board))
    assert f"wrong host key at {board.address}" in error.message
    assert f"~/.ssh/known_hosts:1 has {SHA256} (ssh-ed25519)" in error.message
    assert all(key in error.message for key in board.fingerprints)


def test_a_revoked_key_is_refused(connect: Connect, board: FleetDevice, home: Path) -> None:
    revoked = "@revoked * " + lines(board)[0].split(" ", 1)[1]
    know(home, lines(board)[0], revoked)
    error = refused(connect, unpinned(board))
    assert f"no host key is pinned for {board.address}, and ~/.ssh/known_hosts:2 revokes it" in error.message
    know(home, lines(board)[1].replace(lines(board)[1].split()[2], other_ecdsa(home.parent)), revoked)
    error = refused(connect, unpinned(board))
    assert (
        f"the host key at {board.address}:{board.port} is revoked: {board.fingerprints[0]}" in error.message
    )
    know(home, *lines(board), revoked)  # its other keys may still prove it
    assert connect(unpinned(board)).run(["true"], timeout_s=10).status == 0
    # A pin in the inventory is stronger, and the only one then.
    assert connect(board.record()).run(["true"], timeout_s=10).status == 0


def other_ecdsa(folder: Path) -> str:
    return make_key(folder / "other", kind="ecdsa").split()[1]


def test_a_certificate_authority_alone_is_not_enough(
    connect: Connect, board: FleetDevice, home: Path
) -> None:
    know(home, f"@cert-authority * {ANOTHER}")
    error = refused(connect, unpinned(board))
    assert "by a certificate authority only: edgebench cannot check host certificates" in error.message


def test_a_key_of_a_type_that_is_not_usable_is_named(
    connect: Connect, board: FleetDevice, home: Path
) -> None:
    know(home, f"{board.address},[{board.address}]:{board.port} {SECURITY_KEY}")
    assert "by a key of type sk-ssh-ed25519@openssh.com only" in refused(connect, unpinned(board)).message


def test_a_wrong_pin_is_not_mended_by_known_hosts(connect: Connect, board: FleetDevice, home: Path) -> None:
    know(home, *lines(board))
    error = refused(connect, replace(board.record(), host_keys=(SHA256,)))
    assert f"pinned {SHA256}" in error.message


def test_files_and_alias_of_the_configuration(connect: Connect, board: FleetDevice, home: Path) -> None:
    (home / "more_hosts").write_text("\n".join(lines(board, "the-board")) + "\n")
    config = home / "config"
    config.write_text(
        f"Host lab-*\n  HostName {board.address}\n  Port {board.port}\n  User {board.user}\n"
        f"  IdentityFile {board.key_file}\n  UserKnownHostsFile {home}/more_hosts\n  HostKeyAlias the-board\n"
    )
    config.chmod(0o600)
    device = replace(board.record(), address="lab-1", host_keys=(), ssh=SshSettings())
    assert connect(device).run(["id", "-un"], timeout_s=10).stdout.decode().strip() == board.user
    off = replace(device, ssh=SshSettings(config="none", user=board.user))
    assert "no host key is pinned for lab-1" in refused(connect, off).message


def test_a_jump_host_is_known_in_the_same_two_ways(connect: Connect, board: FleetDevice, home: Path) -> None:
    jump = f"{board.user}@{board.address}:{board.port}"
    ssh = replace(board.record().ssh, jump=jump)
    behind = replace(board.record(), address="127.0.0.1", ssh=ssh)
    assert f"jump host {board.address}" in refused(connect, behind).message
    know(home, *lines(board))
    assert connect(behind).run(["true"], timeout_s=10).status == 0
    assert f"jump host {board.address} of {board.name}: wrong host key" in (
        refused(connect, replace(behind, ssh=replace(ssh, jump_host_keys=(SHA256,)))).message
    )


def test_the_types_of_known_keys_are_asked_for_first(board: FleetDevice, home: Path) -> None:
    know(home, lines(board)[2])
    (login,) = route_to(unpinned(board))
    assert login.trusted.types == ("ssh-rsa",)
