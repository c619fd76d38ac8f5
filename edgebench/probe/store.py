"""Uploads, artifacts and bundles below the work folder. What has its final name is complete and verified.

incoming/<sha256>.part   uploads          store/<sha256>      committed files, read-only
artifacts/<digest>/      hard links       bundles/<digest>/   unpacked wheels
probe/probe-<sha256>.pyz the probe itself, put there by the controller
used.json, uses.lock     what was used when (uses.py), so that room can be made (room.py)
"""

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import stat
import time
from typing import Callable, List, NamedTuple, Optional, Set, Tuple

from . import check, room
from .runs import RunFolder
from .tree import pids
from .uses import Uses
from .wheels import Budget, conflicts, unzip
from .wire import Json, ProbeError

CHUNK_BYTES = 1 << 20
END_WRITERS_S = 1.0
PARTS = ("incoming", "store", "artifacts", "bundles")

Wanted = NamedTuple("Wanted", [("kind", str), ("digest", str), ("files", List[Tuple[str, str, int]])])


class Store:
    """The files of one work folder. `program` is the running probe's own file, which nothing removes.

    Where a folder gets its final name or leaves it, `run.whole` keeps the session's end from coming between.
    """

    def __init__(self, work: str, program: str, run: RunFolder, uses: Uses) -> None:
        self._run = run
        self._uses = uses
        self._work = work
        self._program = program
        for part in PARTS:
            os.makedirs(os.path.join(work, part), mode=0o700, exist_ok=True)

    def have(self, files: List[Tuple[str, int]], folders: List[Wanted], leased: bool) -> Json:
        """What of `files` [(sha256, size)] is missing, what of it arrived in part, and the room left.

        Of `folders` those that are whole are named with their paths; the files of the others are asked for.
        Who has the lease ends uploads that go on behind it, of a connection that was cut.
        """
        there, missing, partial = {}, [], {}
        for wanted in folders:
            path = self._whole_folder(wanted)
            if path is None:
                files = files + [(digest, size) for _, digest, size in wanted.files]
            else:
                there["%s/%s" % wanted[:2]] = path
        for digest, size in dict.fromkeys(files):
            if _size(self._place("store", digest)) == size:
                continue
            missing.append(digest)
            if leased and _size(self._part(digest)) is not None:
                end_writers(self._part(digest))
            arrived = self._arrived(digest, size)
            if arrived:
                partial[digest] = arrived
        return {
            "missing": missing,
            "partial": partial,
            "free_bytes": free_bytes(self._work),
            "incoming": self._place("incoming"),
            "folders": there,
        }

    def _whole_folder(self, wanted: Wanted) -> Optional[str]:
        """The path of a folder with everything in it, from now on in use; None where something lacks."""
        path, key = self._place(*wanted[:2]), "%s/%s" % wanted[:2]

        def is_whole() -> bool:
            return os.path.isdir(path) if wanted.kind == "bundles" else self._is_whole(path, wanted.files)

        if not is_whole():
            return None
        self._uses.note(key)
        return path if is_whole() else None  # until the note stood, others could remove it

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
        if self._whole_folder(Wanted("artifacts", digest, files)) is not None:
            return {"path": final}
        self._check_stored([(each, size) for _, each, size in files])
        for path, each, _ in files:
            target = os.path.join(scratch, *path.split("/"))
            with conflicts(path):
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
        if self._whole_folder(Wanted("bundles", digest, [])) is not None:
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

    def make_room(self, needed: int, quota: Optional[int], keep: Set[str]) -> Json:
        """What was removed so that `needed` more bytes fit: into the free space, and into the quota.

        `quota` None is half of what the disk could give us, and gives way to what is in use; 0 is none.
        `keep` are files of the store and uploads that are wanted. ProbeError `no_space` where it cannot be.
        """
        with self._uses.still():
            units = room.read(self._work, self._uses.last())
            used, free = room.used_bytes(units), free_bytes(self._work)
            limit = (used + free) // 2 if quota is None else quota
            spared = self._uses.own() | self._uses.others() | self._keys_of(keep)
            spared |= {
                unit.key for unit in units if unit.key.startswith("probe/") and unit.key.endswith(".part")
            }
            for_disk, for_quota = needed - free, used + needed - limit if limit else 0
            chosen = room.choose(units, spared, max(for_disk, for_quota))
            if chosen is None and quota is None:
                chosen = room.choose(units, spared, for_disk)
            if chosen is None:
                raise _no_room(needed, free, used, quota if quota and for_quota > for_disk else None)
            removed = [{"what": unit.key, "freed_bytes": self._discard(unit.key)} for unit in chosen]
        return {"removed": removed, "free_bytes": free_bytes(self._work)}

    def clean(self, keep: Set[str]) -> Json:
        """Remove what neither `keep` nor another living session holds; the bytes that this freed."""
        with self._uses.still():
            units = room.read(self._work, {})
            spared = self._uses.others() | self._keys_of(keep)
            kept = {inode for unit in units if unit.key in spared for inode in unit.files}
            # a file of the store that a kept artifact has frees nothing, and saves an upload
            gone = [
                unit.key
                for unit in units
                if unit.key not in spared and not (unit.key.startswith("store/") and kept & set(unit.files))
            ]
            return {"freed_bytes": sum(self._discard(key) for key in gone)}

    def _keys_of(self, digests: Set[str]) -> Set[str]:
        """The keys of everything named by one of the digests, and of the running probe."""
        keys = {"%s/%s" % (kind, digest) for digest in digests for kind in room.FOLDERS + ("store",)}
        keys |= {"incoming/%s.part" % digest for digest in digests}
        return keys | {probe_key(self._program)}

    def _discard(self, key: str) -> int:
        """Remove a unit, which is never there in part under its name; the bytes that this freed."""
        grave = os.path.join(self._run.fresh("discarded"), "unit")
        with self._run.whole():
            os.rename(self._place(*key.split("/")), grave)
        return remove(grave)

    def _check_stored(self, files: List[Tuple[str, Optional[int]]]) -> None:
        for digest, size in files:
            there = _size(self._place("store", digest))
            if there is None or (size is not None and there != size):
                raise check.bad("the store has no file %s of the right size: push it first" % digest)

    def _publish(self, folder: str, final: str) -> None:
        with self._run.whole():
            sync_folder(folder)
            if os.path.isdir(final):  # incomplete: its files were removed or changed by hand
                remove(final)
            os.rename(folder, final)
        sync_folder(os.path.dirname(final))
        self._uses.note(os.path.relpath(final, self._work))

    def _part(self, digest: str) -> str:
        return self._place("incoming", digest + ".part")

    def _place(self, *names: str) -> str:
        return os.path.join(self._work, *names)


def probe_key(program: str) -> str:
    """The key of a probe's own file among the units of its work folder."""
    return "probe/" + os.path.basename(program)


def _no_room(needed: int, free: int, used: int, quota: Optional[int]) -> ProbeError:
    what = "%s are to be pushed and unpacked" % _mib(needed)
    if quota is None:
        text = "disk full: %s, %s are free" % (what, _mib(free))
    else:
        text = "over the quota: %s, and the work folder holds %s of %s" % (what, _mib(used), _mib(quota))
    return ProbeError("no_space", text + "; nothing is left there that is not in use")


def _mib(count: int) -> str:
    return "%.1f MiB" % (count / 1048576.0)


def end_uploads(work: str) -> None:
    """End what still takes uploads, for whoever holds the lease: a cut link does not end them."""
    incoming = os.path.join(work, "incoming")
    for name in os.listdir(incoming) if os.path.isdir(incoming) else []:
        end_writers(os.path.join(incoming, name))


def end_writers(path: str) -> None:
    """Kill the processes that have this upload open, and wait until they are gone.

    Where there is no /proc nothing is known of them; a damaged upload is then found by its hash.
    """
    deadline = time.monotonic() + END_WRITERS_S
    while time.monotonic() < deadline:
        writers = _writers(path)
        if not writers:
            return
        for pid in writers:
            with contextlib.suppress(OSError):  # gone
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _writers(path: str) -> List[int]:
    found = []
    for pid in pids():
        if pid != os.getpid():
            folder = "/proc/%d/fd" % pid
            with contextlib.suppress(OSError):  # somebody else's process, or gone
                if any(os.readlink(os.path.join(folder, each)) == path for each in os.listdir(folder)):
                    found.append(pid)
    return found


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
