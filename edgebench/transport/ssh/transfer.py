"""Files to and from a device, through `cat`: it is wherever a shell is, and SFTP is not.

It is also the fastest with paramiko (docs/benchmarks.md has it beside scp): no answers come while it takes
data, where each answer of SFTP costs this computer's Python a switch of threads. And it says what went wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from edgebench.errors import DeviceError
from edgebench.transport.base import (
    Bounded,
    Completed,
    Deadline,
    Sink,
    check_offset,
    cut_short,
    df_available_bytes,
    disk_full,
    ended_there,
    read_chunks,
    too_large,
    unwritable,
    wrong_offset,
)
from edgebench.transport.ssh.base import Timeouts

_DIAGNOSE_S = 20.0
_SAID = re.compile(rb"^edgebench:(\d{1,19})\s*$", re.MULTILINE)
_PIECE_BYTES = 1 << 18  # of an upload: what progress is told in
SIGNALLED = 128  # a shell's exit status for a command that a signal ended is this and the signal's number
WRONG_OFFSET = 93  # the exit status of TAKE for a file that is not as long as it was said to be

# `stat` first: some `wc` read the whole file. The mark stands apart from what a login script prints.
SIZE = """\
size=$(stat -L -c %s -- "$1" 2>/dev/null || wc -c < "$1") && echo "edgebench:$((size))"
"""

# Takes stdin as the file $1 from byte $2 on, and says its size; one command, so that little is waited for.
TAKE = f"""\
size() {{
{SIZE}}}
if [ "$2" -gt 0 ]; then
    said=$(size "$1") || exit 1
    [ "$said" = "edgebench:$2" ] || {{ echo "$said"; exit {WRONG_OFFSET}; }}
    cat >> "$1" || exit
else
    cat > "$1" || exit
fi
size "$1"
"""


class Host(Protocol):
    """What a transfer needs of the transport it belongs to."""

    @property
    def name(self) -> str:
        """What messages call the device."""

    @property
    def timeouts(self) -> Timeouts:
        """How long each step may take."""

    def execute(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        stdin: Iterator[bytes],
        stdout: Sink,
        stderr: Sink,
        what: str | None = None,
    ) -> int:
        """The exit status of a command whose output went to the sinks; `what`: how messages call it."""

    def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed:
        """What a short command left."""


class Patience(Deadline):
    """A deadline that also passes when nothing moves for a while: what is stuck need not be waited for."""

    def __init__(self, limit_s: float, stall_s: float) -> None:
        super().__init__(limit_s)
        self.stall_s = stall_s
        self._moves = Deadline(stall_s)

    def renew(self) -> None:
        """Something moved."""
        self._moves = Deadline(self.stall_s)

    @property
    def stalled(self) -> bool:
        """Whether nothing has moved for too long."""
        return self._moves.passed()

    def left_s(self) -> float:
        """Seconds left, never negative."""
        return min(super().left_s(), self._moves.left_s())

    def passed(self) -> bool:
        """Whether it is too late."""
        return super().passed() or self.stalled


class Transfers:
    """The files of one connection."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def put(
        self,
        source: Path,
        destination: str,
        *,
        offset: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Bytes moved; see `Transport.put`."""
        size_bytes = check_offset(source, offset)
        upload = _Upload(source, destination, offset, size_bytes, progress or _no_progress)
        try:
            return self._put(upload)
        except _RefusedError as error:
            raise self._explain_refusal(upload, error) from error

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """Bytes moved; see `Transport.get`."""
        partial = destination.with_name(destination.name + ".part")
        patience = self._patience(max_bytes)
        try:
            with partial.open("wb") as file:
                download = _Download(self._host.name, source, file, max_bytes, patience)
                errors = Bounded(1 << 12)
                what = f"fetching {os.path.basename(source)}"
                status = self._carry(["cat", "--", source], patience, iter(()), (download, errors), what)
            if status != 0:
                raise DeviceError(f"{self._host.name}: cannot read {source}: {_last_line(errors.value())}")
            partial.replace(destination)
        except OSError as error:
            raise unwritable(destination, error) from error
        finally:
            partial.unlink(missing_ok=True)
        return download.moved

    def _put(self, upload: _Upload) -> int:
        patience = self._patience(upload.left_bytes)
        counted = _Counted(upload, patience)
        output, errors = Bounded(1 << 16), Bounded(1 << 12)
        argv = ["sh", "-c", TAKE, "sh", upload.destination, str(upload.offset)]
        status = self._carry(argv, patience, iter(counted), (output, errors), upload.what)
        there_bytes = _said_size(output.value())
        if status == WRONG_OFFSET and there_bytes is not None:
            raise wrong_offset(self._host.name, upload.destination, upload.offset, there_bytes)
        if status < 0 or status > SIGNALLED:
            raise ended_there(self._host.name, upload.destination)
        if status != 0 or there_bytes is None:
            raise _RefusedError(_last_line(errors.value()))
        self._check_all_there(upload, counted.moved, there_bytes)
        return counted.moved

    def _patience(self, size_bytes: int) -> Patience:
        timeouts = self._host.timeouts
        return Patience(timeouts.transfer_s(size_bytes), timeouts.transfer_min_s)

    def _carry(
        self,
        argv: Sequence[str],
        patience: Patience,
        stdin: Iterator[bytes],
        sinks: tuple[Sink, Sink],
        what: str,
    ) -> int:
        """The exit status of a command that carries a file; DeviceError where nothing moves any more."""
        try:
            return self._host.execute(argv, patience, stdin, *sinks, what)
        except DeviceError as error:
            if not patience.stalled:
                raise
            raise DeviceError(
                f"{self._host.name}: {what}: nothing moved for {patience.stall_s:g} s",
                hint="the board may be overloaded, or its disk stuck; look at it, then run again",
                retryable=True,
            ) from error

    def _size_there(self, path: str) -> int:
        done = self._host.run(["sh", "-c", SIZE, "sh", path], timeout_s=_DIAGNOSE_S)
        there_bytes = _said_size(done.stdout)
        if done.status != 0 or there_bytes is None:
            raise _RefusedError(_last_line(done.stderr))
        return there_bytes

    def _check_all_there(self, upload: _Upload, moved: int, there_bytes: int) -> None:
        if there_bytes == upload.offset + moved:
            return
        if self._free_bytes(upload.folder) == 0:
            raise _RefusedError("No space left on device")
        raise cut_short(self._host.name, upload.destination, upload.offset + moved, there_bytes)

    def _explain_refusal(self, upload: _Upload, refused: _RefusedError) -> DeviceError:
        """What the device said may be in any language, so ask it for numbers."""
        try:
            there_bytes = self._size_there(upload.destination)
        except _RefusedError:
            there_bytes = upload.offset
        written = max(0, there_bytes - upload.offset)
        free_bytes = self._free_bytes(upload.folder)
        if free_bytes is not None and free_bytes < upload.left_bytes - written:
            return disk_full(
                self._host.name,
                upload.folder,
                needs_bytes=upload.left_bytes,
                has_bytes=free_bytes + written,
            )
        return DeviceError(
            f"{self._host.name}: cannot write {upload.destination}: {refused}",
            hint="give a writable folder as work_dir in the inventory",
        )

    def _free_bytes(self, folder: str) -> int | None:
        done = self._host.run(["df", "-Pk", folder], timeout_s=_DIAGNOSE_S)
        return df_available_bytes(done.stdout.decode("utf-8", "replace"))


class _RefusedError(Exception):
    """The device would not take a file; the text is what it said."""


@dataclass(frozen=True)
class _Upload:
    source: Path
    destination: str
    offset: int
    size_bytes: int
    progress: Callable[[int], None]

    @property
    def left_bytes(self) -> int:
        return self.size_bytes - self.offset

    @property
    def folder(self) -> str:
        return os.path.dirname(self.destination) or "."

    @property
    def what(self) -> str:
        return f"sending {os.path.basename(self.destination)}"


class _Counted:
    """The pieces of an upload, counted as they are taken."""

    def __init__(self, upload: _Upload, patience: Patience) -> None:
        self._upload = upload
        self._patience = patience
        self.moved = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in read_chunks(self._upload.source, self._upload.offset, _PIECE_BYTES):
            yield piece
            self._patience.renew()
            self.moved += len(piece)
            self._upload.progress(len(piece))


class _Download:
    """A sink that writes what comes and stops at a bound."""

    def __init__(self, device: str, source: str, file: BinaryIO, max_bytes: int, patience: Patience) -> None:
        self._device = device
        self._source = source
        self._file = file
        self._max_bytes = max_bytes
        self._patience = patience
        self.moved = 0

    def add(self, data: bytes) -> None:
        self._patience.renew()
        self.moved += len(data)
        if self.moved > self._max_bytes:
            raise too_large(self._device, self._source, self._max_bytes)
        try:
            self._file.write(data)
        except OSError as error:
            raise unwritable(Path(self._file.name), error) from error


def _no_progress(_moved: int) -> None:
    return


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"


def _said_size(output: bytes) -> int | None:
    """The size in the output of SIZE or TAKE, or None where it says none."""
    said = _SAID.findall(output)
    return int(said[-1]) if said else None
