"""Every transport behaves alike: the same tests over the local one and over ssh, with SFTP and without."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.errors import BugError, DeviceError, InfrastructureError, UserError
from edgebench.transport.base import Channel, Transport

PYTHON = "/usr/bin/python3"
MIB = 1 << 20

ECHO = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line.upper()); sys.stdout.flush()"
BOTH = """
import sys
for i in range({mib}):
    sys.stdout.buffer.write(b"o" * 1048576)
    sys.stderr.buffer.write(b"e" * 1048576)
"""
NOISE = """
import sys
for i in range(400):
    sys.stderr.write("noise " + "x" * 10000 + "\\n")
sys.stderr.write("the end\\n")
sys.stderr.flush()
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason=f"missing tool: {PYTHON}")


# --- run ------------------------------------------------------------------------------------------


def test_a_command_leaves_status_and_both_outputs(transport: Transport) -> None:
    done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=20)
    assert done == (3, b"out\n", b"err\n")


def test_stdin_arrives_and_ends(transport: Transport) -> None:
    data = os.urandom(5 * MIB)
    done = transport.run(["sha256sum"], timeout_s=30, stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_a_command_that_does_not_read_its_stdin_still_ends(transport: Transport) -> None:
    assert transport.run(["true"], timeout_s=20, stdin=b"x" * (8 * MIB)).status == 0


def test_five_mib_on_both_streams_do_not_block(transport: Transport) -> None:
    done = transport.run([PYTHON, "-c", BOTH.format(mib=5)], timeout_s=60, max_output_bytes=8 * MIB)
    assert done.status == 0
    assert (len(done.stdout), len(done.stderr)) == (5 * MIB, 5 * MIB)


def test_output_is_cut_at_the_bound(transport: Transport) -> None:
    done = transport.run([PYTHON, "-c", BOTH.format(mib=3)], timeout_s=60, max_output_bytes=1000)
    assert done == (0, b"o" * 1000, b"e" * 1000)


def test_endless_output_ends_at_the_deadline(transport: Transport) -> None:
    with pytest.raises(DeviceError, match=r"`yes` did not end within 0\.5 s"):
        transport.run(["yes"], timeout_s=0.5, max_output_bytes=1000)
    assert transport.run(["echo", "still here"], timeout_s=20).stdout == b"still here\n"


def test_a_command_past_its_deadline_is_ended(signalled: Transport) -> None:
    script = "echo $$ > pid; exec sleep 300"
    with pytest.raises(DeviceError, match="did not end within"):
        signalled.run(["sh", "-c", script], timeout_s=0.7)
    assert _gone(signalled, 'test ! -d /proc/"$(cat pid)"')


def _gone(transport: Transport, test: str) -> bool:
    wait = f"for i in $(seq 100); do {test} && exit 0; sleep 0.05; done; exit 1"
    return transport.run(["sh", "-c", wait], timeout_s=20).status == 0


def test_a_killed_command_has_no_status(signalled: Transport) -> None:
    assert signalled.run(["sh", "-c", "kill -KILL $$"], timeout_s=20).status == -1


def test_a_child_that_keeps_the_output_open_does_not_hold_the_command(transport: Transport) -> None:
    done = transport.run(["sh", "-c", "echo early; sleep 30 & exit 0"], timeout_s=20)
    assert done == (0, b"early\n", b"")


def test_a_missing_program_is_status_127(transport: Transport) -> None:
    done = transport.run(["no-such-program-here"], timeout_s=20)
    assert done.status == 127
    assert b"no-such-program-here" in done.stderr


def test_commands_run_in_the_home(transport: Transport) -> None:
    done = transport.run(["sh", "-c", 'cd && test "$(pwd)" = "$OLDPWD" && echo same'], timeout_s=20)
    assert done.stdout == b"same\n"


def test_a_file_that_is_no_program_is_status_126(transport: Transport) -> None:
    done = transport.run(["/etc/passwd"], timeout_s=20)
    assert done.status == 126
    assert b"/etc/passwd" in done.stderr


def test_what_no_process_can_be_given_is_refused(transport: Transport) -> None:
    with pytest.raises(UserError, match="NUL"):
        transport.run(["echo", "a\0b"], timeout_s=5)
    with pytest.raises(BugError):
        transport.run([], timeout_s=5)
    with pytest.raises(BugError, match="bytes"):
        transport.run(["echo", "x" * 200_000], timeout_s=5)


SHOW = "import sys, os, json; sys.stdout.write(json.dumps([os.fsencode(a).hex() for a in sys.argv[1:]]))"


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    arguments=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
    )
)
def test_any_argument_arrives_intact(transport: Transport, arguments: list[str]) -> None:
    done = transport.run([PYTHON, "-c", SHOW, *arguments], timeout_s=30)
    assert done.status == 0, done.stderr
    assert [bytes.fromhex(text) for text in json.loads(done.stdout)] == [a.encode() for a in arguments]


@pytest.mark.parametrize(
    "argument", ["$(id)", "`id`", "'; id; '", '"', "\\", "!!", "a\nb", "-n", "*", "~", "&", "\udcff"]
)
def test_nothing_means_anything_to_a_shell(transport: Transport, argument: str) -> None:
    done = transport.run([PYTHON, "-c", SHOW, argument], timeout_s=30)
    assert json.loads(done.stdout) == [os.fsencode(argument).hex()]


# --- open -----------------------------------------------------------------------------------------


def _receive(channel: Channel, wanted: int) -> bytes:
    data = b""
    while len(data) < wanted:
        piece = channel.receive(timeout_s=20)
        assert piece, f"{len(data)} of {wanted} bytes; {channel.stderr_tail()}"
        data += piece
    return data


def _receive_all(channel: Channel) -> bytes:
    data = b""
    while piece := channel.receive(timeout_s=20):
        data += piece
    assert piece == b""
    return data


def test_a_channel_echoes_for_as_long_as_it_is_open(transport: Transport) -> None:
    channel = transport.open([PYTHON, "-u", "-c", ECHO])
    for number in range(20):
        channel.send(b"line %d\n" % number, timeout_s=20)
        assert _receive(channel, len(b"line %d\n" % number)) == b"LINE %d\n" % number
    assert channel.exit_status() is None
    channel.close()
    channel.close()
    assert channel.receive(timeout_s=1) == b""
    with pytest.raises(DeviceError, match="ended while"):
        channel.send(b"late", timeout_s=5)


def test_a_silent_channel_says_none(transport: Transport) -> None:
    channel = transport.open(["cat"])
    assert channel.receive(timeout_s=0) is None
    assert channel.receive(timeout_s=0.3) is None
    channel.close()


def test_noise_on_stderr_blocks_nothing_and_its_end_is_kept(transport: Transport) -> None:
    channel = transport.open([PYTHON, "-c", NOISE])
    assert _receive(channel, 6) == b"ready\n"
    while not channel.stderr_tail().endswith("the end\n"):
        assert channel.receive(timeout_s=0.05) is None
    assert len(channel.stderr_tail()) == 16 << 10
    channel.close()


def test_the_end_of_a_process_is_seen(transport: Transport) -> None:
    channel = transport.open(["sh", "-c", "echo last words; echo why >&2; exit 7"])
    assert _receive_all(channel) == b"last words\n"
    assert channel.exit_status() == 7
    assert channel.stderr_tail() == "why\n"
    with pytest.raises(DeviceError):
        _send_until_refused(channel)
    channel.close()


def _send_until_refused(channel: Channel) -> None:
    for _ in range(100):
        channel.send(b"x" * 1000, timeout_s=5)
        channel.receive(timeout_s=0.02)


def test_a_missing_program_is_a_channel_at_its_end(transport: Transport) -> None:
    channel = transport.open(["no-such-program-here"])
    assert _receive_all(channel) == b""
    assert channel.exit_status() == 127
    assert "no-such-program-here" in channel.stderr_tail()
    channel.close()


def test_closing_ends_the_process(transport: Transport) -> None:
    channel = transport.open(["sh", "-c", "echo $$ > pid; echo up; cat > /dev/null; echo bye > left"])
    assert _receive(channel, 3) == b"up\n"
    channel.close()
    assert _gone(transport, 'test ! -d /proc/"$(cat pid)" -a -f left')


def test_a_process_that_never_reads_is_an_error_and_ends_at_closing(signalled: Transport) -> None:
    channel = signalled.open(["sh", "-c", "echo $$ > pid; echo up; exec sleep 300"])
    assert _receive(channel, 3) == b"up\n"
    with pytest.raises(DeviceError, match="did not read its input"):
        channel.send(b"x" * (16 * MIB), timeout_s=0.5)
    channel.close()
    assert _gone(signalled, 'test ! -d /proc/"$(cat pid)"')


def test_two_channels_and_commands_share_a_connection(transport: Transport) -> None:
    first, second = transport.open(["cat"]), transport.open(["cat"])
    first.send(b"1", timeout_s=10)
    second.send(b"2", timeout_s=10)
    assert transport.run(["echo", "3"], timeout_s=10).stdout == b"3\n"
    assert (_receive(second, 1), _receive(first, 1)) == (b"2", b"1")
    first.close()
    second.close()


# --- put and get ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 32768, 5 * MIB + 17])
def test_a_file_goes_there_and_back(carrier: Transport, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "there").write_bytes(data)
    steps: list[int] = []
    assert carrier.put(tmp_path / "there", "a file", progress=steps.append) == size
    assert sum(steps) == size
    assert carrier.get("a file", tmp_path / "back", max_bytes=size) == size
    assert (tmp_path / "back").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["back", "there"]


def test_a_longer_file_is_replaced(carrier: Transport, tmp_path: Path) -> None:
    for data in (b"a long text", b"short"):
        (tmp_path / "it").write_bytes(data)
        carrier.put(tmp_path / "it", "it")
    assert carrier.run(["cat", "it"], timeout_s=10).stdout == b"short"


def test_a_transfer_is_continued_where_it_broke(carrier: Transport, tmp_path: Path) -> None:
    data = os.urandom(MIB)
    (tmp_path / "whole").write_bytes(data)
    (tmp_path / "begun").write_bytes(data[:300_001])
    carrier.put(tmp_path / "begun", "it.part")
    assert carrier.put(tmp_path / "whole", "it.part", offset=300_001) == MIB - 300_001
    done = carrier.run(["sha256sum", "it.part"], timeout_s=10)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_nothing_is_appended_at_a_wrong_offset(carrier: Transport, tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"0123456789")
    (tmp_path / "begun").write_bytes(b"0123")
    carrier.put(tmp_path / "begun", "it.part")
    with pytest.raises(DeviceError, match=r"it\.part has 4 bytes, so nothing can be appended at byte 6"):
        carrier.put(tmp_path / "whole", "it.part", offset=6)
    assert carrier.run(["cat", "it.part"], timeout_s=10).stdout == b"0123"
    with pytest.raises(BugError):
        carrier.put(tmp_path / "begun", "it.part", offset=11)


def test_a_missing_folder_is_named(carrier: Transport, tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"x")
    with pytest.raises(
        DeviceError, match=r"cannot write .*no/such/folder/it: .*([Nn]o such file|nonexistent)"
    ) as caught:
        carrier.put(tmp_path / "it", "no/such/folder/it")
    assert caught.value.hint
    assert not caught.value.retryable


def test_what_cannot_be_read_here_is_not_the_devices_fault(carrier: Transport, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="cannot read"):
        carrier.put(tmp_path / "missing", "it")
    carrier.run(["sh", "-c", "echo x > it"], timeout_s=10)
    with pytest.raises(InfrastructureError, match="cannot write"):
        carrier.get("it", tmp_path / "missing" / "it", max_bytes=10)


def test_more_than_agreed_is_not_fetched(carrier: Transport, tmp_path: Path) -> None:
    carrier.run(["sh", "-c", "head -c 100000 /dev/zero > big"], timeout_s=10)
    for source in ("big", "/dev/zero"):
        with pytest.raises(DeviceError, match=r"is larger than 97\.7 KiB"):
            carrier.get(source, tmp_path / "big", max_bytes=99_999 if source == "big" else 100_000)
    assert carrier.get("big", tmp_path / "big", max_bytes=100_000) == 100_000
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["big"]


def test_what_is_not_there_is_not_fetched(carrier: Transport, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot read .*missing: .*No such file"):
        carrier.get("missing", tmp_path / "it", max_bytes=10)
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize("name", ["-rf", "a b", "$(id)", "'", "ü", "*"])
def test_odd_file_names_are_only_names(carrier: Transport, tmp_path: Path, name: str) -> None:
    (tmp_path / "it").write_bytes(b"content")
    carrier.put(tmp_path / "it", name)
    assert carrier.get(name, tmp_path / "back", max_bytes=100) == 7


# --- the rest -------------------------------------------------------------------------------------


def test_connect_again_changes_nothing(transport: Transport) -> None:
    channel = transport.open(["cat"])
    transport.connect()
    channel.send(b"x", timeout_s=10)
    assert _receive(channel, 1) == b"x"
    channel.close()


def test_closing_twice_is_fine(transport: Transport) -> None:
    transport.open(["cat"])
    transport.close()
    transport.close()


def test_a_commands_environment_holds_no_secret(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBENCH_SSH_PASSPHRASE", "s3cret-phrase")
    monkeypatch.setenv("EDGEBENCH_SSH_PASSWORD", "s3cret-word")
    assert b"s3cret" not in transport.run(["env"], timeout_s=10).stdout


def test_a_channel_closed_in_another_thread_is_at_its_end(transport: Transport) -> None:
    for _ in range(20):
        channel = transport.open([PYTHON, "-c", "input()"])
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(channel.receive, timeout_s=10)
            channel.close()
            assert waiting.result(20) == b""
