"""A device behind OpenSSH (or another SSH 2 server), through paramiko.

Host keys are pinned: a server is talked to only when the SHA256 fingerprint of its key is in the inventory.
No known_hosts file is read or written, and nothing is ever accepted on first use.

No wait is without an end. paramiko's own time-outs do not cover a write into a dead link, so every operation
also runs under a watchdog that closes the socket, and the kernel is told to give up on unacknowledged bytes
(TCP_USER_TIMEOUT, Linux).

Failures are `DeviceError`; those that may pass by themselves are `retryable`: unreachable, refused port,
closed before the greeting, time-outs, a dropped link. Never retryable: wrong or unpinned host key, refused
login, a name that does not resolve, a full disk. Secrets (passphrases, passwords, keys) appear in no message.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgebench.errors import BugError, DeviceError, UserError
from edgebench.records import Device
from edgebench.transport.base import (
    CHUNK_BYTES,
    Bounded,
    Channel,
    Completed,
    Credentials,
    Deadline,
    check_offset,
    command_line,
    cut_short,
    df_available_bytes,
    disk_full,
    named,
    read_chunks,
    too_large,
    unwritable,
    wrong_offset,
)
from edgebench.transport.ssh.auth import authenticate
from edgebench.transport.ssh.base import SLACK_S, HostKey, Link, Login, Timeouts
from edgebench.transport.ssh.channel import SLICE_S, Exchange, Sink, SshChannel, send_signal
from edgebench.transport.ssh.reach import scan_host_keys, verified_link

if TYPE_CHECKING:
    import paramiko

__all__ = ["HostKey", "SshTransport", "Timeouts", "parse_jump", "scan_host_keys"]

CONNECT_ATTEMPTS = 3
CONNECT_PATIENCE_S = 20.0  # no further attempt after this: a board that hangs is told in seconds

_DIAGNOSE_S = 20.0
_PLAIN = re.compile(r"(?P<address>[^\s:\[\]]+)(:(?P<port>[0-9]{1,5}))?")
_BRACKETED = re.compile(r"\[(?P<address>[^\s\[\]]+)\](:(?P<port>[0-9]{1,5}))?")
_IPV6 = re.compile(r"(?P<address>[0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*:[0-9A-Fa-f.:%\w]*)(?P<port>)")


class SshTransport:
    """One login at one device: `connect` first. `timeouts` can be given for very slow devices."""

    def __init__(
        self, device: Device, *, credentials: Credentials | None = None, timeouts: Timeouts | None = None
    ) -> None:
        self._device = device
        self._credentials = credentials or Credentials()
        self._timeouts = timeouts or Timeouts()
        self._link: Link | None = None
        self._sftp: paramiko.SFTPClient | None = None
        self._sftp_refused = False

    def connect(self) -> None:
        """Log in, unless that is done; up to three attempts where another one may help."""
        if self._link is not None and self._link.alive:
            return
        self.close()
        route = route_to(self._device)
        patience = Deadline(CONNECT_PATIENCE_S)
        for attempt in range(1, CONNECT_ATTEMPTS + 1):
            try:
                self._link = _log_in(route, self._credentials, self._timeouts)
            except DeviceError as error:
                if not error.retryable or attempt == CONNECT_ATTEMPTS or patience.passed():
                    raise
                time.sleep(attempt * self._timeouts.retry_s * _jitter())
            else:
                return

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        """What the command left; see `Transport.run`."""
        stdout, stderr = Bounded(max_output_bytes), Bounded(max_output_bytes)
        status = self._execute(argv, Deadline(timeout_s), _pieces(stdin), stdout, stderr)
        return Completed(status, stdout.value(), stderr.value())

    def open(self, argv: Sequence[str]) -> Channel:
        """A channel to the started process."""
        with self._operation(f"starting {named(argv)}", self._timeouts.channel_s) as link:
            return SshChannel(self._device.name, link, self._start(link, argv))

    def put(
        self,
        source: Path,
        destination: str,
        *,
        offset: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Bytes moved; see `Transport.put`. By SFTP, or through `cat` where the device has no SFTP server."""
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
                download = _Download(self._device.name, source, file, max_bytes)
                errors = Bounded(1 << 12)
                deadline = Deadline(self._timeouts.transfer_s(max_bytes))
                status = self._execute(["cat", "--", source], deadline, iter(()), download, errors)
            if status != 0:
                raise DeviceError(f"{self._device.name}: cannot read {source}: {_last_line(errors.value())}")
            partial.replace(destination)
        except OSError as error:
            raise unwritable(destination, error) from error
        finally:
            partial.unlink(missing_ok=True)
        return download.moved

    def close(self) -> None:
        """Close the connection and everything opened over it; never raises."""
        link, self._link, self._sftp, self._sftp_refused = self._link, None, None, False
        if link is not None:
            link.close()

    # --- commands ---

    def _execute(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        stdin: Iterator[bytes],
        stdout: Sink,
        stderr: Sink,
    ) -> int:
        """The exit status of a command whose output went to the sinks."""
        with self._operation(f"running {named(argv)}", deadline.limit_s) as link:
            channel = self._start(link, argv)
            try:
                status = Exchange(channel, stdin, stdout, stderr).finish(deadline)
                if status is None:
                    send_signal(channel, "KILL")
            finally:
                channel.close()
            if status is None:
                raise DeviceError(
                    f"{self._device.name}: {named(argv)} did not end within {deadline.limit_s:g} s",
                    hint="the board may be overloaded or hung; look at it, then run again",
                )
            if status == -1 and not channel.eof_received:
                raise EOFError
            return status

    def _start(self, link: Link, argv: Sequence[str]) -> paramiko.Channel:
        command = command_line(argv).encode("utf-8", "surrogateescape")
        channel = link.transport.open_session(timeout=self._timeouts.channel_s)
        channel.settimeout(SLICE_S)
        channel.exec_command(command)
        return channel

    # --- transfers ---

    def _sftp_client(self) -> paramiko.SFTPClient | None:
        """The SFTP session of this connection, opened once; None where the device has no SFTP server."""
        if self._sftp is None and not self._sftp_refused:
            with self._operation("starting SFTP", self._timeouts.channel_s) as link:
                self._sftp = self._open_sftp(link)
                self._sftp_refused = self._sftp is None
        return self._sftp

    def _open_sftp(self, link: Link) -> paramiko.SFTPClient | None:
        import paramiko

        channel = link.transport.open_session(timeout=self._timeouts.channel_s)
        try:
            channel.invoke_subsystem("sftp")
            return paramiko.SFTPClient(channel)
        except (paramiko.SSHException, paramiko.SFTPError, EOFError):
            channel.close()
            if not link.settled_alive():
                raise
            return None

    def _put_by_sftp(self, sftp: paramiko.SFTPClient, upload: _Upload) -> int:
        with self._operation(upload.what, self._timeouts.transfer_s(upload.left_bytes)) as link:
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
        deadline = Deadline(self._timeouts.transfer_s(upload.left_bytes))
        status = self._execute(
            ["sh", "-c", script, "sh", upload.destination], deadline, iter(counted), Bounded(0), errors
        )
        if status != 0:
            raise _RefusedError(_last_line(errors.value()))
        self._check_all_there(upload, counted.moved, self._size_there(upload.destination))
        return counted.moved

    def _size_there(self, path: str) -> int:
        done = self.run(["sh", "-c", 'wc -c < "$1"', "sh", path], timeout_s=_DIAGNOSE_S)
        text = done.stdout.decode("ascii", "replace").strip()
        if done.status != 0 or not text.isdecimal():
            raise _RefusedError(_last_line(done.stderr))
        return int(text)

    def _check_there(self, upload: _Upload, there_bytes: int) -> None:
        if there_bytes != upload.offset:
            raise wrong_offset(self._device.name, upload.destination, upload.offset, there_bytes)

    def _check_all_there(self, upload: _Upload, moved: int, there_bytes: int) -> None:
        if there_bytes == upload.offset + moved:
            return
        if self._free_bytes(upload.folder) == 0:
            raise _RefusedError("No space left on device")
        raise cut_short(self._device.name, upload.destination, upload.offset + moved, there_bytes)

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
                self._device.name,
                upload.folder,
                needs_bytes=upload.left_bytes,
                has_bytes=free_bytes + written,
            )
        return DeviceError(
            f"{self._device.name}: cannot write {upload.destination}: {refused}",
            hint="give a writable folder as work_dir in the inventory",
        )

    def _free_bytes(self, folder: str) -> int | None:
        done = self.run(["df", "-Pk", folder], timeout_s=_DIAGNOSE_S)
        return df_available_bytes(done.stdout.decode("utf-8", "replace"))

    # --- errors ---

    @contextlib.contextmanager
    def _operation(self, what: str, limit_s: float) -> Iterator[Link]:
        """The link, watched until the operation ends; all errors of the library come out as DeviceError."""
        link = self._link
        if link is None:
            raise BugError(f"{self._device.name} is not connected")
        with link.mapped_errors(self._device.name, what), link.watchdog.within(limit_s + SLACK_S):
            if not link.alive:
                raise EOFError
            yield link


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


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


def _no_progress(_moved: int) -> None:
    return


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"


def _jitter() -> float:
    """A factor between 1 and 3, so that workers who failed together come back apart."""
    return 1 + secrets.randbelow(2000) / 1000


def route_to(device: Device) -> tuple[Login, ...]:
    """The logins on the way to the device, the device's own last; DeviceError where nothing is pinned."""
    ssh = device.ssh
    user = ssh.user or _own_name(device)
    last = Login(device.name, device.address, ssh.port, user, ssh.key_file, device.host_keys)
    if ssh.jump is None:
        return (_pinned(last),)
    jump_user, address, port = parse_jump(ssh.jump)
    jump = Login(
        f"jump host {address} of {device.name}",
        address,
        port,
        jump_user or user,
        ssh.key_file,
        ssh.jump_host_keys,
        option="ssh.jump_host_key",
    )
    return (_pinned(jump), _pinned(last))


def _own_name(device: Device) -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise UserError(f"{device.name}: as whom to log in?", hint="set ssh.user in the inventory") from error


def parse_jump(text: str) -> tuple[str | None, str, int]:
    """User, address and port of "[user@]host[:port]"; an IPv6 address with a port stands in brackets."""
    user, _, host = text.rpartition("@")
    match = _BRACKETED.fullmatch(host) or _PLAIN.fullmatch(host) or _IPV6.fullmatch(host)
    port = int(match["port"] or 22) if match else 0
    if match is None or not 0 < port < 65536:
        raise UserError(f'"{text}" is no jump host', hint="write it as user@host or user@host:port")
    return user or None, match["address"], port


def _pinned(login: Login) -> Login:
    if not login.host_keys:
        raise DeviceError(
            f"{login.name}: no host key is pinned for {login.address}",
            hint=f"edgebench devices scan {login.address} shows it; compare, then write it as {login.option}",
        )
    return login


def _log_in(route: Sequence[Login], credentials: Credentials, timeouts: Timeouts) -> Link:
    """A link to the last stop of the route, logged in at each."""
    link: Link | None = None
    for login in route:
        via, link = link, None
        try:
            link = verified_link(login, via, timeouts)
            with link.watchdog.within(2 * timeouts.auth_s + SLACK_S):
                authenticate(link, login, credentials)
        except BaseException:
            for opened in (link, via):
                if opened is not None:
                    opened.close()
            raise
        link.transport.set_keepalive(timeouts.keepalive_s)
    if link is None:
        raise BugError("a route without a stop")
    return link
