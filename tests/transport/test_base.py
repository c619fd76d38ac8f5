"""The pure parts of the transports: quoting, bounds, deadlines, and reading `df`."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.records import Device, replace
from edgebench.transport.base import Bounded, Tail, command_line, df_available_bytes, named
from edgebench.transport.connect import open_transport

HEAD = "Filesystem     1024-blocks  Used Available Capacity Mounted on\n"
GNU = HEAD + "tmpfs              2097152    12   2097140       1% /home/edge\n"
BUSYBOX = HEAD + "/dev/root              7579192 2148944 5030252  30% /\n"
MACOS = HEAD + "/dev/disk3s1s1   482797652 9553296      4567    71%    /\n"
SPACED = HEAD + "//nas/my share 100 40 60 40% /mnt/my share\n"
OVERDRAWN = HEAD + "/dev/x 100 104 -4 105% /\n"


@pytest.mark.parametrize(
    ("text", "kib"), [(GNU, 2097140), (BUSYBOX, 5030252), (MACOS, 4567), (SPACED, 60), (OVERDRAWN, 0)]
)
def test_free_space_is_read_from_df(text: str, kib: int) -> None:
    assert df_available_bytes(text) == kib * 1024


@pytest.mark.parametrize("text", ["", "df: no such folder\n", GNU.splitlines()[0]])
def test_what_df_does_not_say_is_unknown(text: str) -> None:
    assert df_available_bytes(text) is None


@given(st.text())
def test_any_text_is_free_space_or_unknown(text: str) -> None:
    found = df_available_bytes(text)
    assert found is None or found >= 0


ARGUMENTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(ARGUMENTS, min_size=1).filter(lambda a: bool(a[0])))
def test_a_command_line_is_split_again_as_it_was(argv: list[str]) -> None:
    assert shlex.split(command_line(argv)) == argv


def test_half_a_character_is_refused() -> None:
    with pytest.raises(UserError, match="half a character"):
        command_line(["echo", "\ud800"])


@given(st.lists(st.text(), min_size=1))
def test_a_command_is_named_on_one_short_line(argv: list[str]) -> None:
    text = named(argv)
    assert text.isprintable()
    assert len(text) <= 65


@given(st.lists(st.binary(max_size=50)), st.integers(0, 100))
def test_a_bounded_stream_keeps_its_beginning(pieces: list[bytes], bound: int) -> None:
    kept = Bounded(bound)
    for piece in pieces:
        kept.add(piece)
    assert kept.value() == b"".join(pieces)[:bound]


@given(st.lists(st.binary(max_size=9000), max_size=10))
def test_a_tail_keeps_the_end(pieces: list[bytes]) -> None:
    tail = Tail()
    for piece in pieces:
        tail.add(piece)
    assert tail.text() == b"".join(pieces)[-(16 << 10) :].decode("utf-8", "replace")


def test_each_device_gets_its_transport() -> None:
    local = Device(name="here", target="linux-x86_64", transport="local")
    assert type(open_transport(local)).__name__ == "LocalTransport"
    assert type(open_transport(replace(local, transport="ssh"))).__name__ == "SshTransport"
    with pytest.raises(UserError, match='no transport "shh"') as caught:
        open_transport(replace(local, transport="shh"))
    assert caught.value.hint == 'did you mean "ssh"?'
