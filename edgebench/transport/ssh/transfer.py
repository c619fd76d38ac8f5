"""Files to and from a device: by SFTP, or through `cat` where there is no SFTP server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

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
    read_chunks,
    too_large,
    unwritable,
    wrong_offset,
)
from edgebench.transport.ssh.base import Link, Timeouts

if TYPE_CHECKING:
    import paramiko

_DIAGNOSE_S = 20.0


class Host(Protocol):
    """What a transfer needs of the transport it belongs to."""

    @property
    def name(self) -> str:
        """What messages call the device."""

    @property
    def timeouts(self) -> Timeouts:
        """How long each step may take."""

    def operation(self, what: str, limit_s: float) -> AbstractContextManager[Link]:
        """The link, watched until the operation ends; every error comes out as a DeviceError."""

    def execute(
        self, argv: Sequence[str], deadline: Deadline, stdin: Iterator[bytes], stdout: Sink, stderr: Sink
    ) -> int:
        """The exit status of a command whose output went to the sinks."""

    def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed:
        """What a short command left."""


class Transfers:
    """The files of one connection."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sftp: paramiko.SFTPClient | None = None
        self._sftp_refused = False

    def forget(self) -> None:
        """The connection is gone, and its SFTP session with it."""
        self._sftp, self._sftp_refused = None, False

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
        sftp = self._sftp_client()
        try:
            if sftp is None:
                return self._put_by_cat(upload)
            return self._put_by_sftp(sftp, upload)
        except _RefusedError as error:
            raise self._explain_refusal(upload, error) from error

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """Bytes moved; see `Transport.get`. Through `cat`: it is faster than SFTP and always there."""
        partial = destination.with_name(destination.name + ".part")
        try:
            with partial.open("wb") as file:
                download = _Download(self._host.name, source, file, max_bytes)
                errors = Bounded(1 << 12)
                deadline = Deadline(self._host.timeouts.transfer_s(max_bytes))
                status = self._host.execute(["cat", "--", source], deadline, iter(()), download, errors)
            if status != 0:
                raise DeviceError(f"{self._host.name}: cannot read {source}: {_last_line(errors.value())}")
            partial.replace(destination)
        except OSError as error:
            raise unwritable(destination, error) from error
        finally:
            partial.unlink(missing_ok=True)
        return download.moved

    def _sftp_client(self) -> paramiko.SFTPClient | None:
        """The SFTP session of this connection, opened once; None where the device has no SFTP server."""
        if self._sftp is None and not self._sftp_refused:
            with self._host.operation("starting SFTP", self._host.timeouts.channel_s) as link:
                self._sftp = self._open_sftp(link)
                self._sftp_refused = self._sftp is None
        return self._sftp

    def _open_sftp(self, link: Link) -> paramiko.SFTPClient | None:
        import paramiko

        channel = link.transport.open_session(timeout=self._host.timeouts.channel_s)
        try:
            channel.invoke_subsystem("sftp")
            return paramiko.SFTPClient(channel)
        except (paramiko.SSHException, paramiko.SFTPError, EOFError):
            channel.close()
            if not link.settled_alive():
                raise
            return None

    def _put_by_sftp(self, sftp: paramiko.SFTPClient, upload: _Upload) -> int:
        with self._host.operation(upload.what, self._host.timeouts.transfer_s(upload.left_bytes)) as link:
            try:
                return self._write(sftp, upload)
            except OSError as error:
                self._drop_sftp(link)
                if not link.settled_alive():
                    raise
                raise _RefusedError(error.strerror or str(error)) from error
            except BaseException:
                self._drop_sftp(link)
                raise

    def _write(self, sftp: paramiko.SFTPClient, upload: _Upload) -> int:
        if upload.offset:
            self._check_there(upload, sftp.stat(upload.destination).st_size or 0)
        moved = 0
        file = sftp.open(upload.destination, "r+b" if upload.offset else "wb")
        try:
            file.seek(upload.offset)
            file.set_pipelined(True)
            for piece in read_chunks(upload.source, upload.offset):
                file.write(piece)
                moved += len(piece)
                upload.progress(len(piece))
        finally:
            file.set_pipelined(False)  # closing must not wait for answers that may never come
            file.close()
        self._check_all_there(upload, moved, sftp.stat(upload.destination).st_size or 0)
        return moved

    def _drop_sftp(self, link: Link) -> None:
        """Forget an SFTP session in which answers may still be on their way."""
        sftp, self._sftp = self._sftp, None
        if sftp is not None and link.alive:
            sftp.close()

    def _put_by_cat(self, upload: _Upload) -> int:
        if upload.offset:
            self._check_there(upload, self._size_there(upload.destination))
        script = 'cat >> "$1"' if upload.offset else 'cat > "$1"'
        counted = _Counted(upload)
        errors = Bounded(1 << 12)
        deadline = Deadline(self._host.timeouts.transfer_s(upload.left_bytes))
        status = self._host.execute(
            ["sh", "-c", script, "sh", upload.destination], deadline, iter(counted), Bounded(0), errors
        )
        if status != 0:
            raise _RefusedError(_last_line(errors.value()))
        self._check_all_there(upload, counted.moved, self._size_there(upload.destination))
        return counted.moved

    def _size_there(self, path: str) -> int:
        done = self._host.run(["sh", "-c", 'wc -c < "$1"', "sh", path], timeout_s=_DIAGNOSE_S)
        text = done.stdout.decode("ascii", "replace").strip()
        if done.status != 0 or not text.isdecimal():
            raise _RefusedError(_last_line(done.stderr))
        return int(text)

    def _check_there(self, upload: _Upload, there_bytes: int) -> None:
        if there_bytes != upload.offset:
            raise wrong_offset(self._host.name, upload.destination, upload.offset, there_bytes)

    def _check_all_there(self, upload: _Upload, moved: int, there_bytes: int) -> None:
        if there_bytes == upload.offset + moved:
            return
        if self._free_bytes(upload.folder) == 0:
            raise _RefusedError("No space left on device")
        raise cut_short(self._host.name, upload.destination, upload.offset + moved, there_bytes)

    def _explain_refusal(self, upload: _Upload, refused: _RefusedError) -> DeviceError:
        """SFTP names neither a full disk nor anything else, so ask the device what is wrong."""
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

    def __init__(self, upload: _Upload) -> None:
        self._upload = upload
        self.moved = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in read_chunks(self._upload.source, self._upload.offset):
            yield piece
            self.moved += len(piece)
            self._upload.progress(len(piece))


class _Download:
    """A sink that writes what comes and stops at a bound."""

    def __init__(self, device: str, source: str, file: BinaryIO, max_bytes: int) -> None:
        self._device = device
        self._source = source
        self._file = file
        self._max_bytes = max_bytes
        self.moved = 0

    def add(self, data: bytes) -> None:
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
