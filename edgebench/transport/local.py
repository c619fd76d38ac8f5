"""The controller itself as a device: commands by subprocess, files by copying; it behaves as ssh does.

Commands run in the user's home, in a session and process group of their own, without the variables that would
leak this Python's environment or the ssh secrets into them. No shell is involved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from edgebench.errors import BugError, DeviceError
from edgebench.records import Device
from edgebench.transport.base import (
    OUTPUT_GRACE_S,
    Bounded,
    Channel,
    Completed,
    Credentials,
    Deadline,
    Tail,
    check_offset,
    command_line,
    cut_short,
    disk_full,
    named,
    read_chunks,
    too_large,
    unwritable,
    wrong_offset,
)

_SLICE_S = 0.1  # how often a wait for output looks whether the process has ended
_END_S = 2.0  # how long a process may take to end by itself once its stdin is closed
_COPY_BYTES = 1 << 20
_PRIVATE = ("EDGEBENCH_SSH_PASSPHRASE", "EDGEBENCH_SSH_PASSWORD", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")


class LocalTransport:
    """Runs commands on the controller and copies files; there is nothing to log in to."""

    def __init__(self, device: Device, *, credentials: Credentials | None = None) -> None:
        del credentials  # taken because every transport is made alike; nobody asks for any here
        self._device = device
        self._channels: list[LocalChannel] = []

    def connect(self) -> None:
        """Check that the home is there; DeviceError when not."""
        if not _home().is_dir():
            raise DeviceError(
                f"{self._device.name}: the home folder {_home()} is not there",
                hint="set HOME to a folder that exists",
            )

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        max_output_bytes: int = 1 << 20,
    ) -> Completed:
        """What the command left; see `Transport.run`."""
        deadline = Deadline(timeout_s)
        try:
            process = self._start(argv)
        except OSError as error:
            return _not_started(argv, error)
        with process:
            exchange = _Exchange(process, stdin, max_output_bytes)
            try:
                in_time = exchange.finish(deadline)
            finally:
                exchange.close()
                if process.poll() is None:
                    _signal_group(process, signal.SIGKILL)
        if not in_time:
            raise DeviceError(
                f"{self._device.name}: {named(argv)} did not end within {timeout_s:g} s",
                hint="look what keeps this computer busy, then run again",
            )
        return Completed(max(process.returncode, -1), exchange.stdout.value(), exchange.stderr.value())

    def open(self, argv: Sequence[str]) -> Channel:
        """A channel to the started process; a missing program is a channel at its end with status 127."""
        try:
            process = self._start(argv)
        except OSError as error:
            return _NeverStarted(self._device.name, _not_started(argv, error))
        self._channels = [channel for channel in self._channels if not channel.closed]
        self._channels.append(LocalChannel(self._device.name, process))
        return self._channels[-1]

    def put(
        self,
        source: Path,
        destination: str,
        *,
        offset: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Bytes copied; see `Transport.put`."""
        size_bytes = check_offset(source, offset)
        target = _home() / destination
        try:
            return self._copy(source, target, offset, progress)
        except OSError as error:
            raise self._put_error(error, target, size_bytes - offset, offset) from error

    def _copy(self, source: Path, target: Path, offset: int, progress: Callable[[int], None] | None) -> int:
        moved = 0
        with target.open("ab" if offset else "wb") as file:
            there_bytes = file.seek(0, os.SEEK_END)
            if there_bytes != offset:
                raise wrong_offset(self._device.name, str(target), offset, there_bytes)
            for piece in read_chunks(source, offset, _COPY_BYTES):
                file.write(piece)
                moved += len(piece)
                if progress is not None:
                    progress(len(piece))
        there_bytes = target.stat().st_size
        if there_bytes != offset + moved:
            raise cut_short(self._device.name, str(target), offset + moved, there_bytes)
        return moved

    def _put_error(self, error: OSError, target: Path, needs_bytes: int, offset: int) -> DeviceError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            written = max(0, target.stat().st_size - offset) if target.is_file() else 0
            has_bytes = shutil.disk_usage(target.parent).free + written
            return disk_full(
                self._device.name, str(target.parent), needs_bytes=needs_bytes, has_bytes=has_bytes
            )
        return DeviceError(
            f"{self._device.name}: cannot write {target}: {error.strerror or error}",
            hint="give a writable folder as work_dir in the inventory",
        )

    def get(self, source: str, destination: Path, *, max_bytes: int) -> int:
        """Bytes copied; see `Transport.get`."""
        path = _home() / source
        partial = destination.with_name(destination.name + ".part")
        try:
            with path.open("rb") as file:
                return self._fetch(file, source, partial, destination, max_bytes)
        except OSError as error:
            raise DeviceError(
                f"{self._device.name}: cannot read {path}: {error.strerror or error}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def _fetch(self, file: IO[bytes], source: str, partial: Path, destination: Path, max_bytes: int) -> int:
        moved = 0
        try:
            with partial.open("wb") as out:
                while piece := file.read(min(_COPY_BYTES, max_bytes - moved + 1)):
                    moved += len(piece)
                    if moved > max_bytes:
                        raise too_large(self._device.name, source, max_bytes)
                    out.write(piece)
            partial.replace(destination)
        except OSError as error:
            raise unwritable(destination, error) from error
        return moved

    def close(self) -> None:
        """End what was opened; never raises."""
        for channel in self._channels:
            channel.close()
        self._channels = []

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        command_line(argv)  # refuses what no device could be given
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=_home(),
            env=_environment(os.environ),
            start_new_session=True,
        )


class LocalChannel:
    """A long-lived process of the controller. Several threads may send; receiving belongs to one."""

    def __init__(self, device: str, process: subprocess.Popen[bytes]) -> None:
        self._device = device
        self._process = process
        self._stdin, self._stdout, self._stderr = _pipes(process)
        self._sending = threading.Lock()
        self._tail = Tail()
        self._ending = threading.Event()
        self._drain = threading.Thread(
            target=self._drain_stderr, name=f"stderr of {process.pid}", daemon=True
        )
        self.closed = False
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)
        self._drain.start()

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Write all of `data` to the process's stdin; DeviceError when it is gone or does not read."""
        deadline = Deadline(timeout_s)
        if not self._sending.acquire(timeout=timeout_s):
            raise self._stuck(timeout_s)
        try:
            rest = memoryview(data)
            while rest:
                if not _ready(self._stdin, selectors.EVENT_WRITE, deadline.left_s()):
                    raise self._stuck(timeout_s)
                rest = rest[self._stdin.write(rest) or 0 :]
        except (OSError, ValueError) as error:  # ValueError: closed by us, in another thread
            raise DeviceError(
                f"{self._device}: the process ended while it was written to (status {self._process.poll()})",
                detail=self.stderr_tail(),
                retryable=True,
            ) from error
        finally:
            self._sending.release()

    def receive(self, *, timeout_s: float) -> bytes | None:
        """Some bytes of stdout; b"" at its end; None when nothing came within `timeout_s`."""
        if self.closed:
            return b""
        deadline = Deadline(timeout_s)
        try:
            while not _ready(self._stdout, selectors.EVENT_READ, min(_SLICE_S, deadline.left_s())):
                if deadline.passed():
                    return None
            data = self._stdout.read(1 << 16) or b""
        except ValueError:  # closed by us, in another thread
            return b""
        if not data:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(OUTPUT_GRACE_S)  # the status follows the end of the output
        return data

    def stderr_tail(self) -> str:
        """The last 16 KiB of stderr so far, decoded with replacement."""
        if self._process.poll() is not None:
            self._drain.join(OUTPUT_GRACE_S)  # what it wrote last is still on its way
        return self._tail.text()

    def exit_status(self) -> int | None:
        """The exit status (-1: killed by a signal), or None while the process runs."""
        status = self._process.poll()
        return None if status is None else max(status, -1)

    def close(self) -> None:
        """End stdin, give the process a moment to end by itself, then end it and its group; never raises."""
        if self.closed:
            return
        self.closed = True
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._reap()
        self._ending.set()
        self._drain.join()
        self._stdout.close()
        self._stderr.close()

    def _reap(self) -> None:
        deadline = Deadline(_END_S)
        while self._process.poll() is None and not deadline.passed():
            if _ready(self._stdout, selectors.EVENT_READ, 0.01) and not self._stdout.read(1 << 16):
                time.sleep(0.01)  # at its end, thus always ready
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            _signal_group(self._process, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)

    def _drain_stderr(self) -> None:
        while not self._ending.is_set():
            if _ready(self._stderr, selectors.EVENT_READ, _SLICE_S):
                data = self._stderr.read(1 << 16)
                if not data:
                    return
                self._tail.add(data)

    def _stuck(self, timeout_s: float) -> DeviceError:
        return DeviceError(
            f"{self._device}: the process did not read its input for {timeout_s:g} s",
            detail=self.stderr_tail(),
        )


class _NeverStarted:
    """The channel to a program that is not there: at its end, with the status a shell would give."""

    def __init__(self, device: str, left: Completed) -> None:
        self._device = device
        self._left = left

    def send(self, data: bytes, *, timeout_s: float) -> None:
        del data, timeout_s
        raise DeviceError(f"{self._device}: {self.stderr_tail()}")

    def receive(self, *, timeout_s: float) -> bytes | None:
        del timeout_s
        return b""

    def stderr_tail(self) -> str:
        return self._left.stderr.decode("utf-8", "replace")

    def exit_status(self) -> int | None:
        return self._left.status

    def close(self) -> None:
        """Nothing is open."""


class _Exchange:
    """Feeds a process's stdin and drains both outputs in one loop, so that neither side blocks the other."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, max_output_bytes: int) -> None:
        self.stdout = Bounded(max_output_bytes)
        self.stderr = Bounded(max_output_bytes)
        self._process = process
        self._rest = memoryview(stdin)
        self._stdin, out, err = _pipes(process)
        self._sinks = {out: self.stdout, err: self.stderr}
        self._selector = selectors.DefaultSelector()
        for pipe in self._sinks:
            self._selector.register(pipe, selectors.EVENT_READ)
        os.set_blocking(self._stdin.fileno(), False)
        self._selector.register(self._stdin, selectors.EVENT_WRITE)

    def finish(self, deadline: Deadline) -> bool:
        """Whether the process ended in time, with its output read."""
        grace: Deadline | None = None
        while not deadline.passed():
            moved = self._step(min(_SLICE_S, deadline.left_s()))
            if self._process.poll() is None:
                continue
            if moved or grace is None:
                grace = Deadline(OUTPUT_GRACE_S)
            if not self._sinks or grace.passed():
                return True
        return False

    def close(self) -> None:
        """Release the selector; the pipes belong to the process."""
        self._selector.close()

    def _step(self, timeout_s: float) -> bool:
        """Move what can be moved; whether any output came."""
        if not self._selector.get_map():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
            return False
        moved = False
        for key, _events in self._selector.select(timeout_s):
            if key.fileobj is self._stdin:
                self._feed()
            else:
                moved |= self._take(key.fileobj)  # type: ignore[arg-type]  # only our pipes are registered
        return moved

    def _feed(self) -> None:
        try:
            if self._rest:
                self._rest = self._rest[self._stdin.write(self._rest[: 1 << 16]) or 0 :]
        except BrokenPipeError:
            self._rest = memoryview(b"")  # the process does not want more
        if not self._rest:
            self._selector.unregister(self._stdin)
            with contextlib.suppress(BrokenPipeError):
                self._stdin.close()

    def _take(self, pipe: IO[bytes]) -> bool:
        data = pipe.read(1 << 16)
        if data:
            self._sinks[pipe].add(data)
        else:
            self._selector.unregister(pipe)
            del self._sinks[pipe]
        return bool(data)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise BugError("a process without three pipes")
    return process.stdin, process.stdout, process.stderr


def _ready(pipe: IO[bytes], events: int, timeout_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, events)
        return bool(selector.select(timeout_s))


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _not_started(argv: Sequence[str], error: OSError) -> Completed:
    """What a POSIX shell says: 126 for what is there but is no program, 127 for what is not there.

    A folder on PATH that may not be searched makes EACCES of the latter, so look again.
    """
    there = shutil.which(argv[0], mode=os.F_OK) is not None
    text = f"{argv[0]}: {error.strerror if there else 'not found'}\n".encode("utf-8", "replace")
    return Completed(126 if there else 127, b"", text)


def _home() -> Path:
    return Path.home()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in _PRIVATE}
