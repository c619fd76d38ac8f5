"""Wheels unpacked side by side, with what an archive may claim and hold bounded."""

import contextlib
import os
import re
import stat
import zipfile
from typing import Iterator, List, Optional, Type

from . import check
from .wire import ProbeError

CHUNK_BYTES = 1 << 20
MAX_BUNDLE_BYTES = 4 << 30
MAX_BUNDLE_FILES = 200000
MERGED = ("purelib", "platlib")  # of a wheel's .data folder; scripts and headers are of no use here
DATA_FOLDER = re.compile(r"[^/]+\.data/([^/]+)/(.+)\Z")


class Budget:
    """What unpacking may use: bytes really written and entries, over all wheels of a bundle."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._bytes = MAX_BUNDLE_BYTES
        self._files = MAX_BUNDLE_FILES

    def plan(self, entries: List[zipfile.ZipInfo]) -> None:
        """Check what an archive claims, before anything is written."""
        self._files -= len(entries)
        claimed = sum(entry.file_size for entry in entries)
        if self._files < 0 or claimed > self._bytes:
            raise _too_much()
        if claimed > self._free:
            raise ProbeError("no_space", "unpacking needs %d bytes, %d are free" % (claimed, self._free))

    def spend(self, count: int) -> None:
        """Count bytes as they are written: what an archive claims need not be true."""
        self._bytes -= count
        self._free -= count
        if self._bytes < 0:
            raise _too_much()


def _too_much() -> ProbeError:
    limits = (MAX_BUNDLE_BYTES >> 30, MAX_BUNDLE_FILES)
    return ProbeError("corrupt", "the wheels hold more than %d GiB or %d files" % limits)


def unzip(archive: str, folder: str, budget: Budget) -> None:
    """Unpack one wheel into `folder`; ProbeError `corrupt` for damage, links and names that lead outside."""
    try:
        with zipfile.ZipFile(archive) as wheel:
            entries = [entry for entry in wheel.infolist() if not entry.filename.endswith("/")]
            budget.plan(entries)
            for entry in entries:
                path = _wheel_path(entry)
                if path is not None:
                    _extract(wheel, entry, os.path.join(folder, *path.split("/")), budget)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib_error()) as error:
        raise ProbeError("corrupt", "a wheel cannot be unpacked: %s" % error) from error


def zlib_error() -> Type[Exception]:
    """zlib's own exception; zipfile lets it through."""
    import zlib

    return zlib.error


def _wheel_path(entry: zipfile.ZipInfo) -> Optional[str]:
    """Where an entry goes, or None for what is left out; ProbeError for one that must not be."""
    name = entry.filename
    try:
        check.relative(name, "a wheel's entry")
    except ProbeError as error:
        raise ProbeError("corrupt", error.message) from None
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ProbeError("corrupt", 'the wheel\'s entry "%s" is a link' % name)
    data = DATA_FOLDER.match(name)
    if data is None:
        return name
    return data.group(2) if data.group(1) in MERGED else None


def _extract(wheel: zipfile.ZipFile, entry: zipfile.ZipInfo, target: str, budget: Budget) -> None:
    with conflicts(entry.filename):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with wheel.open(entry) as source, open(target, "wb") as file:
            while True:
                chunk = source.read(CHUNK_BYTES)
                if not chunk:
                    break
                budget.spend(len(chunk))
                file.write(chunk)
    os.chmod(target, 0o644 | (entry.external_attr >> 16) & 0o111)


@contextlib.contextmanager
def conflicts(path: str) -> Iterator[None]:
    """A name that is both a file and a folder is the sender's mistake."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ProbeError(
            "corrupt", 'the path "%s" is there twice, or both a file and a folder' % path
        ) from None
