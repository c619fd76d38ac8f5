"""The first contact with a device: find its Python, make the work folder, put the probe there."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import msgspec

from edgebench.errors import DeviceError, printable
from edgebench.records import Device, Record, prepared
from edgebench.transport.base import Completed, Transport

TIMEOUT_S = 30.0
PYTHONS = ("python3", "/usr/bin/python3", "/usr/local/bin/python3", "/opt/homebrew/bin/python3")

# Runs on the device's Python, 3.6 or newer: makes the folder, moves a finished upload into place, reports.
SCRIPT = """\
import hashlib, json, os, sys
work, digest, part = sys.argv[1:4]
out = {"python": sys.version.split()[0], "executable": sys.executable, "error": None}
try:
    work = os.path.abspath(os.path.join(os.path.expanduser("~"), os.path.expanduser(work)))
    folder = os.path.join(work, "probe")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    final, part = os.path.join(folder, "probe-%s.pyz" % digest), os.path.join(folder, part)
    out.update(work=work, final=final, part=part)
    for path in (part, final):
        if os.path.exists(path):
            with open(path, "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() == digest:
                    os.rename(path, final)
                else:
                    os.remove(path)
    out["have"] = os.path.exists(final)
    stat = os.statvfs(folder)
    out["free_bytes"] = stat.f_bavail * stat.f_frsize
except OSError as error:
    out["error"] = "%s: %s" % (error.strerror, error.filename)
print("edgebench:" + json.dumps(out))
"""


class Footing(Record, frozen=True):
    """What the bootstrap found: the device's Python, the absolute work folder and the probe's place in it."""

    python: str
    executable: str
    error: str | None
    work: str = ""
    final: str = ""
    part: str = ""
    have: bool = False
    free_bytes: int = 0


def install_probe(transport: Transport, device: Device, archive: Path, digest: str) -> Footing:
    """The probe in place on the device; DeviceError without a Python, a writable folder or room."""
    part = f"{digest[:12]}-{secrets.token_hex(4)}.part"
    python, footing = _find_python(transport, device, digest, part)
    if not footing.have:
        _check_room(device, footing, archive.stat().st_size)
        transport.put(archive, footing.part)
        footing = _ask(transport, python, device, digest, part) or footing
    if not footing.have:
        raise DeviceError(
            f"{device.name}: the probe arrived damaged in {footing.work}",
            hint="check the device's storage (dmesg, fsck), then run again",
            retryable=True,
        )
    return footing


def _find_python(transport: Transport, device: Device, digest: str, part: str) -> tuple[str, Footing]:
    for python in _candidates(device):
        footing = _ask(transport, python, device, digest, part)
        if footing is not None:
            return python, footing
    raise _no_python(device)


def _candidates(device: Device) -> tuple[str, ...]:
    return (sys.executable,) if device.transport == "local" else PYTHONS


def _no_python(device: Device) -> DeviceError:
    return DeviceError(
        f"{device.name}: no Python 3.6 or newer found (tried {', '.join(_candidates(device))})",
        hint="install python3 on the device (its standard library is enough)",
    )


def _ask(transport: Transport, python: str, device: Device, digest: str, part: str) -> Footing | None:
    argv = [python, "-c", SCRIPT, device.work_dir, digest, part]
    done = transport.run(argv, timeout_s=TIMEOUT_S)
    footing = _parse(done)
    if footing is not None:
        _check_silent(device, done.stdout.partition(b"edgebench:")[0])
    if footing is not None and footing.error:
        raise DeviceError(
            f"{device.name}: the work folder {device.work_dir} cannot be used: {footing.error}",
            hint="give a writable folder as work_dir in the inventory, or free space on the device",
        )
    return footing


def _check_silent(device: Device, greeting: bytes) -> None:
    """A login that prints before each command damages every file that is carried: SFTP and `cat` alike."""
    text = greeting.strip()[:80].decode("utf-8", "replace")
    if text:
        shown = printable(text)
        raise DeviceError(
            f'{device.name}: its login prints "{shown}" before each command, which damages files',
            hint="make it silent where no terminal is, for example as the first line of ~/.bashrc there: "
            "[ -t 1 ] || return",
        )


def _parse(done: Completed) -> Footing | None:
    for line in done.stdout.splitlines():
        if line.startswith(b"edgebench:"):
            try:
                return msgspec.json.decode(line.removeprefix(b"edgebench:"), type=prepared(Footing))
            except (msgspec.DecodeError, msgspec.ValidationError):
                return None
    return None


def _check_room(device: Device, footing: Footing, needed_bytes: int) -> None:
    if footing.free_bytes < needed_bytes:
        raise DeviceError(
            f"{device.name}: disk full: the probe needs {needed_bytes} bytes in {footing.work}, "
            f"{footing.free_bytes} are free",
            hint=f"free space on the device, or: edgebench devices clean {device.name}",
        )


# Refuses a folder that is not ours, or that a session holds (flock), and removes it otherwise.
REMOVE = """\
import fcntl, json, os, shutil, sys
work = os.path.abspath(os.path.join(os.path.expanduser("~"), os.path.expanduser(sys.argv[1])))
out = {"error": None}
try:
    if os.path.isdir(work) and not os.path.isdir(os.path.join(work, "probe")):
        out["error"] = "%s holds no probe: it is not edgebench's folder" % work
    elif os.path.isdir(work):
        with open(os.path.join(work, "lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder, _, _ in os.walk(work):
                os.chmod(folder, 0o700)
            shutil.rmtree(work)
except BlockingIOError:
    out["error"] = "the device is leased: wait until that run is over"
except OSError as error:
    out["error"] = "%s: %s" % (error.strerror, error.filename)
print("edgebench:" + json.dumps(out))
"""


def remove_everything(transport: Transport, device: Device) -> None:
    """Nothing of edgebench is left on the device; DeviceError when it is leased or the folder is not ours."""
    for python in _candidates(device):
        done = transport.run([python, "-c", REMOVE, device.work_dir], timeout_s=10 * TIMEOUT_S)
        for line in done.stdout.splitlines():
            if line.startswith(b"edgebench:"):
                _check_removed(device, line.removeprefix(b"edgebench:"))
                return
    raise _no_python(device)


def _check_removed(device: Device, answer: bytes) -> None:
    try:
        error = msgspec.json.decode(answer, type=dict[str, str | None]).get("error")
    except (msgspec.DecodeError, msgspec.ValidationError):
        error = "its answer makes no sense"
    if error:
        raise DeviceError(
            f"{device.name}: nothing was removed: {error}", hint=f"look at {device.work_dir} there"
        )
