"""Uploads, artifacts and bundles below the work folder. What has its final name is complete and verified.

incoming/<sha256>.part   uploads          store/<sha256>      committed files, read-only
artifacts/<digest>/      hard links       bundles/<digest>/   unpacked wheels
probe/probe-<sha256>.pyz the probe itself, put there by the controller
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import zipfile
from typing import Callable, ContextManager, Iterator, List, Optional, Set, Tuple, Type

from . import check
from .wire import Json, ProbeError

CHUNK_BYTES = 1 << 20
MAX_BUNDLE_BYTES = 4 << 30
MAX_BUNDLE_FILES = 200000
MERGED = ("purelib", "platlib")  # of a wheel's .data folder; scripts and headers are of no use here
DATA_FOLDER = re.compile(r"[^/]+\.data/([^/]+)/(.+)\Z")
PARTS = ("incoming", "store", "artifacts", "bundles")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Store:
    """The files of one work folder. `program` is the running probe's own file, which `clean` spares.

    `whole` keeps scratch folders from being removed (in another thread) while one gets its final name.
    """

    def __init__(self, work: str, program: str, whole: Callable[[], ContextManager[None]]) -> None:
        self._whole = whole
        self._work = work
        self._program = program
        for part in PARTS:
            os.makedirs(os.path.join(work, part), mode=0o700, exist_ok=True)

    def have(self, files: List[Tuple[str, int]]) -> Json:
        """What of `files` [(sha256, size)] is missing, what of it arrived in part, and the room left."""
        missing, partial = [], {}
        for digest, size in files:
            if _size(self._place("store", digest)) == size:
                continue
            missing.append(digest)
            arrived = self._arrived(digest, size)
            if arrived:
                partial[digest] = arrived
        return {
            "missing": missing,
            "partial": partial,
            "free_bytes": free_bytes(self._work),
            "incoming": self._place("incoming"),
        }

    def _arrived(self, digest: str, size: int) -> Optional[int]:
        part = self._part(digest)
        arrived = _size(part)
        if arrived is not None and arrived > size:
            os.remove(part)
            return None
        return arrived

    def commit(self, digest: str, size: int) -> Json:
        """Move an upload into the store if size and hash are right; else remove it: ProbeError `corrupt`."""
        part, final = self._part(digest), self._place("store", digest)
        if _size(part) is None:
            if _size(final) == size:
                return {}
            raise ProbeError("corrupt", "nothing was uploaded for %s" % digest)
        found = sha256_synced(part)
        if found != (digest, size):
            os.remove(part)
            raise ProbeError(
                "corrupt",
                "an upload arrived damaged: %d bytes with sha256 %s instead of %d with %s"
                % (found[::-1] + (size, digest)),
            )
        os.chmod(part, 0o400)
        os.rename(part, final)
        sync_folder(self._place("store"))
        return {}

    def assemble(self, digest: str, files: List[Tuple[str, str, int]], scratch: str) -> Json:
        """The folder of an artifact: hard links into the store, named by `files` [(path, sha256, size)]."""
        final = self._place("artifacts", digest)
        if self._is_whole(final, files):
            return {"path": final}
        self._check_stored([(each, size) for _, each, size in files])
        for path, each, _ in files:
            target = os.path.join(scratch, *path.split("/"))
            with _conflicts(path):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                _link(self._place("store", each), target)
        self._publish(scratch, final)
        return {"path": final}

    def _is_whole(self, folder: str, files: List[Tuple[str, str, int]]) -> bool:
        return all(_size(os.path.join(folder, *path.split("/"))) == size for path, _, size in files)

    def unpack(
        self, digest: str, wheels: List[str], scratch: str, compile_folder: Callable[[str, str], None]
    ) -> Json:
        """The folder of a bundle: the wheels side by side, byte-compiled by `compile_folder(new, final)`."""
        final = self._place("bundles", digest)
        if os.path.isdir(final):
            return {"path": final}
        self._check_stored([(wheel, None) for wheel in wheels])
        budget = Budget(free_bytes(self._work))
        for wheel in wheels:
            unzip(self._place("store", wheel), scratch, budget)
        compile_folder(scratch, final)
        if hasattr(os, "sync"):
            os.sync()  # one call for thousands of files, before the name says that they are there
        self._publish(scratch, final)
        return {"path": final}

    def clean(self, keep: Set[str]) -> Json:
        """Remove what is not named in `keep`; the bytes that this freed."""
        freed = 0
        for part in ("artifacts", "bundles"):
            for name in os.listdir(self._place(part)):
                freed += 0 if name in keep else remove(self._place(part, name))
        for name in os.listdir(self._place("store")):
            path = self._place("store", name)
            if name not in keep and os.lstat(path).st_nlink == 1:  # more links: a kept artifact has it
                freed += remove(path)
        freed += sum(remove(self._place("incoming", name)) for name in os.listdir(self._place("incoming")))
        return {"freed_bytes": freed + self._clean_probes()}

    def _clean_probes(self) -> int:
        folder = self._place("probe")
        names = os.listdir(folder) if os.path.isdir(folder) else []
        paths = [os.path.join(folder, name) for name in names]
        return sum(
            remove(path) for path in paths if os.path.realpath(path) != os.path.realpath(self._program)
        )

    def _check_stored(self, files: List[Tuple[str, Optional[int]]]) -> None:
        for digest, size in files:
            there = _size(self._place("store", digest))
            if there is None or (size is not None and there != size):
                raise check.bad("the store has no file %s of the right size: push it first" % digest)

    def _publish(self, folder: str, final: str) -> None:
        with self._whole():
            sync_folder(folder)
            if os.path.isdir(final):  # incomplete: its files were removed or changed by hand
                remove(final)
            os.rename(folder, final)
        sync_folder(os.path.dirname(final))

    def _part(self, digest: str) -> str:
        return self._place("incoming", digest + ".part")

    def _place(self, *names: str) -> str:
        return os.path.join(self._work, *names)


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
    with _conflicts(entry.filename):
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
def _conflicts(path: str) -> Iterator[None]:
    """A name that is both a file and a folder is the sender's mistake."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ProbeError(
            "corrupt", 'the path "%s" is there twice, or both a file and a folder' % path
        ) from None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without hard links, or too many of them
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS):
            raise
        shutil.copyfile(source, target)


def sha256_synced(path: str) -> Tuple[str, int]:
    """(sha256, size) of a regular file, after its bytes have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    hashed, size = hashlib.sha256(), 0
    with os.fdopen(descriptor, "rb") as file:
        os.fsync(file.fileno())
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            hashed.update(chunk)
            size += len(chunk)
    return hashed.hexdigest(), size


def sync_folder(path: str) -> None:
    """Make renames inside a folder last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot
            raise
    finally:
        os.close(descriptor)


def free_bytes(path: str) -> int:
    """Bytes that this user may still write."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def remove(path: str) -> int:
    """Remove a file or folder; the bytes that this freed (files that have other links free none)."""
    freed = _freed(path)
    if os.path.isdir(path) and not os.path.islink(path):
        for folder, _, names in os.walk(path):
            freed += sum(_freed(os.path.join(folder, name)) for name in names)
        shutil.rmtree(path)
    else:
        os.remove(path)
    return freed


def _freed(path: str) -> int:
    status = os.lstat(path)
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0


def _size(path: str) -> Optional[int]:
    """The size of a regular file, or None."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
