"""Artifacts on disk, found by what went in (key) and named by what came out (digest).

    ROOT/
      objects/ab/abcd.../manifest.json   the artifact as first put here; its mtime is the last use
      objects/ab/abcd.../files/...       the files, read-only
      keys/<sha256 of the key>.json      the artifact that this key made
      parity/abcd.../<sha256>.json       parity reports, so that a repeated convert shows its proof at once
      tmp/...                            what is being written, by processes that hold `tmp.lock` shared
      tmp.lock  index.lock               flock: while staging (alone: to sweep), and while renaming

Everything is written below `tmp`, flushed, and then renamed, so nothing half-written is ever visible; what a
crash leaves below `tmp` goes when the next `put` or `prune` finds nobody else writing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import msgspec

from edgebench.errors import BugError, InfrastructureError, UserError
from edgebench.records import (
    SCHEMA_VERSION,
    Artifact,
    ArtifactFile,
    ParityReport,
    Record,
    decode_exact,
    encode,
    encode_exact,
    replace,
)
from edgebench.units import format_bytes

_LOG = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{6,64}")
_CHUNK_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 16 << 20
_LOCK_WAIT_S = 120.0
_LOCK_POLL_S = 0.02


class _Stamp(msgspec.Struct, frozen=True):
    """Only the version, so that a newer file is told from a damaged one."""

    schema_version: int


class _StoredArtifact(Record, frozen=True):
    schema_version: int
    artifact: Artifact


class _StoredParity(Record, frozen=True):
    schema_version: int
    inputs_digest: str
    report: ParityReport


_S = TypeVar("_S", _StoredArtifact, _StoredParity)


class _DamagedError(InfrastructureError):
    """Something in the store, at `path`, is not what was put there."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message, hint="`edgebench convert` makes it again")
        self.path = path


class Pruned(NamedTuple):
    """What `prune` took away: digests, oldest use first, and the bytes of their files."""

    digests: tuple[str, ...]
    freed_bytes: int


class ArtifactStore:
    """Immutable artifacts below one folder; safe for many threads and processes at once.

    `warn` gets one sentence whenever a damaged entry was found and removed. Every method raises
    InfrastructureError when the disk is full, read-only or otherwise refuses.
    """

    def __init__(self, root: Path, *, warn: Callable[[str], None] = _LOG.warning) -> None:
        self.root = root
        self._warn = warn

    # --- putting --------------------------------------------------------------------------------

    def put(self, folder: Path, draft: Artifact, *, take: bool = False) -> Artifact:
        """The stored artifact: `draft` with `files`, `size_bytes` and `digest` filled in from `folder`.

        The files are copied and `folder` stays as it is; with `take` they are moved where they lie on the
        store's disk. The same files put twice are stored once. A key put again names the newer artifact from
        then on. BugError when the folder is empty, holds a link, or lacks a file that `draft.entry` names.
        """
        sources = _sources(folder)
        with _disk_errors(self.root, _total_bytes(sources)), self._staging() as staging:
            files = _store_files(sources, staging / "object" / "files", take=take)
            artifact = _complete(draft, files)
            self._publish(staging, artifact)
        return artifact

    def _publish(self, staging: Path, artifact: Artifact) -> None:
        """Rename the staged object and its key into place; an object already there is kept if it is sound."""
        stored = _StoredArtifact(schema_version=SCHEMA_VERSION, artifact=artifact)
        _write(staging / "object" / "manifest.json", stored)
        _flush_folder(staging / "object")
        _write(staging / "key.json", stored)
        with self._index_lock():
            home = self._object(artifact.digest)
            if self._is_sound(artifact.digest):
                _touch(home / "manifest.json")
            else:
                _set_aside(home, staging)
                _rename(staging / "object", home)
            _rename(staging / "key.json", self._key_file(artifact.key))

    def _is_sound(self, digest: str) -> bool:
        """Whether the object is already there with every byte right."""
        try:
            artifact = self._manifest(digest)
            if artifact is not None:
                self._check_contents(artifact)
        except _DamagedError as damage:
            self._warn(f"{damage.message}; it is replaced")
            return False
        return artifact is not None

    # --- finding --------------------------------------------------------------------------------

    def lookup(self, key: str) -> Artifact | None:
        """The artifact that was made from `key`, or None. Quick: sizes are checked, contents are not.

        A damaged entry is removed, `warn` is told, and None comes back: the artifact is then made again.
        """
        with _disk_errors(self.root):
            try:
                artifact = self._find(key)
            except _DamagedError as damage:
                self._discard(damage, lambda: self._find(key))
                return None
            if artifact is not None:
                _touch(self._object(artifact.digest) / "manifest.json")
        return artifact

    def _find(self, key: str) -> Artifact | None:
        key_file = self._key_file(key)
        stored = _read(_StoredArtifact, key_file)
        if stored is None:
            return None
        artifact = stored.artifact
        if artifact.key != key or artifact.digest != _digest(artifact):
            raise _DamagedError(key_file, f"{key_file} is not the entry of its key")
        if not self._object(artifact.digest).exists():  # pruned meanwhile
            return None
        self._check_files(artifact)
        return artifact

    def get(self, digest: str) -> Artifact:
        """The artifact of a digest, or of its first six or more digits; UserError when there is none.

        Keys that made the same files share a digest; what comes back is the artifact of the first of them.
        """
        with _disk_errors(self.root):
            full = self._resolve(digest)
            artifact = self._manifest(full)
            if artifact is None:
                raise _no_artifact(digest)
            self._check_files(artifact)
        return artifact

    def path(self, digest: str) -> Path:
        """The folder that holds the artifact's files, read-only; UserError when there is none."""
        return self._object(self.get(digest).digest) / "files"

    def all(self) -> tuple[Artifact, ...]:
        """Every artifact, by model, variant, runtime, precision; not those found damaged (see `warn`)."""
        found = []
        with _disk_errors(self.root):
            for digest in self._digests():
                try:
                    artifact = self._manifest(digest)
                except _DamagedError as damage:
                    self._warn(damage.message)
                    continue
                if artifact is not None:
                    found.append(artifact)
        return tuple(sorted(found, key=lambda a: (a.model, a.variant, a.runtime, a.precision, a.digest)))

    def _resolve(self, digest: str) -> str:
        if _DIGEST.fullmatch(digest):
            return digest
        if not _PREFIX.fullmatch(digest):
            raise UserError(
                f'"{digest}" is no artifact digest', hint="a digest is 64 hexadecimal digits; 6 are enough"
            )
        matches = [known for known in self._digests() if known.startswith(digest)]
        if not matches:
            raise _no_artifact(digest)
        if len(matches) > 1:
            raise UserError(
                f'"{digest}" is the beginning of {len(matches)} artifacts',
                hint="type more digits: " + ", ".join(match[:16] for match in matches[:5]),
            )
        return matches[0]

    def _digests(self) -> list[str]:
        folders = self.root.glob("objects/*/*")
        return sorted(folder.name for folder in folders if _DIGEST.fullmatch(folder.name))

    def _manifest(self, digest: str) -> Artifact | None:
        """The manifest of an object, or None; _DamagedError when it was lost or changed."""
        home = self._object(digest)
        stored = _read(_StoredArtifact, home / "manifest.json")
        if stored is None:
            if home.exists():
                raise _DamagedError(home, f"artifact {digest[:12]} has lost its manifest")
            return None
        if stored.artifact.digest != digest or _digest(stored.artifact) != digest:
            raise _DamagedError(home, f"the manifest of artifact {digest[:12]} was changed")
        return stored.artifact

    # --- checking -------------------------------------------------------------------------------

    def verify(self, digest: str) -> None:
        """Nothing, when every file still hashes to what was put; else InfrastructureError naming the file.

        A damaged artifact is removed, so that converting again makes a good one.
        """
        with _disk_errors(self.root):
            full = self._resolve(digest)
            try:
                is_there = self._examine(full)
            except _DamagedError as damage:
                self._discard(damage, lambda: self._examine(full))
                raise
        if not is_there:
            raise _no_artifact(digest)

    def _examine(self, digest: str) -> bool:
        """Whether there is such an object; _DamagedError when one byte of it is wrong."""
        artifact = self._manifest(digest)
        if artifact is not None:
            self._check_contents(artifact)
        return artifact is not None

    def _check_files(self, artifact: Artifact) -> None:
        home = self._object(artifact.digest)
        for file in artifact.files:
            problem = _size_problem(home / "files" / file.path, file.size_bytes)
            if problem:
                raise _DamagedError(home, f'file "{file.path}" of artifact {artifact.digest[:12]} {problem}')

    def _check_contents(self, artifact: Artifact) -> None:
        self._check_files(artifact)
        home = self._object(artifact.digest)
        for file in artifact.files:
            if _hash_file(home / "files" / file.path) != file.sha256:
                raise _DamagedError(
                    home, f'file "{file.path}" of artifact {artifact.digest[:12]} was changed'
                )
        known = {file.path for file in artifact.files}
        for path in _all_files(home / "files"):
            name = path.relative_to(home / "files").as_posix()
            if name not in known:
                raise _DamagedError(home, f'artifact {artifact.digest[:12]} has a foreign file "{name}"')

    # --- taking away ----------------------------------------------------------------------------

    def prune(
        self, *, keep_bytes: int | None = None, older_than_s: float | None = None, spare_s: float = 3600.0
    ) -> Pruned:
        """What was removed: artifacts unused for `older_than_s`, then the longest unused beyond `keep_bytes`.

        Artifacts used in the last `spare_s` seconds stay: they may be on their way to a device. Damaged
        artifacts, keys and parity reports without an artifact, and what crashes left behind go as well.
        """
        with _disk_errors(self.root), self._staging() as staging, self._index_lock():
            doomed = _choose(self._uses(), _Rule(time.time(), keep_bytes, older_than_s, spare_s))
            for use in doomed:
                _set_aside(self._object(use.digest), staging)
            self._drop_orphans()
        return Pruned(tuple(use.digest for use in doomed), sum(use.size_bytes for use in doomed))

    def _uses(self) -> list[_Use]:
        """Every object with its last use, longest unused first."""
        uses = []
        for digest in self._digests():
            try:
                artifact = self._manifest(digest)
                if artifact is None:
                    continue
                used = (self._object(digest) / "manifest.json").stat().st_mtime
                uses.append(_Use(used, digest, artifact.size_bytes, is_damaged=False))
            except _DamagedError:
                size_bytes = _total_bytes(_all_files(self._object(digest)))
                uses.append(_Use(0.0, digest, size_bytes, is_damaged=True))
        return sorted(uses)

    def _drop_orphans(self) -> None:
        digests = set(self._digests())
        for key_file in self.root.glob("keys/*.json"):
            if _key_digest(key_file) not in digests:
                key_file.unlink()
        for folder in self.root.glob("parity/*"):
            if folder.name not in digests:
                shutil.rmtree(folder)

    def _discard(self, damage: _DamagedError, check: Callable[[], object]) -> None:
        """Take a damaged entry away and say so, unless another process has put a good one meanwhile."""
        # on a read-only disk it stays, and is not used
        with contextlib.suppress(OSError), self._staging() as staging, self._index_lock():
            try:
                check()
                return
            except _DamagedError:
                _set_aside(damage.path, staging)
        self._warn(f"{damage.message}; it is removed and will be made again")

    # --- parity ---------------------------------------------------------------------------------

    def remember_parity(self, digest: str, report: ParityReport, inputs_digest: str) -> None:
        """Keep the parity of an artifact; one kept before for the same inputs is replaced.

        `inputs_digest` names all that parity depends on besides the artifact: inputs, reference model, bound.
        """
        stored = _StoredParity(schema_version=SCHEMA_VERSION, inputs_digest=inputs_digest, report=report)
        with _disk_errors(self.root), self._staging() as staging:
            _write(staging / "parity.json", stored)
            _rename(staging / "parity.json", self._parity_file(digest, inputs_digest))

    def recall_parity(self, digest: str, inputs_digest: str) -> ParityReport | None:
        """The report remembered for exactly this artifact and these inputs, or None."""
        with _disk_errors(self.root):
            try:
                return self._parity(digest, inputs_digest)
            except _DamagedError as damage:
                self._discard(damage, lambda: self._parity(digest, inputs_digest))
                return None

    def _parity(self, digest: str, inputs_digest: str) -> ParityReport | None:
        file = self._parity_file(digest, inputs_digest)
        stored = _read(_StoredParity, file)
        if stored is None:
            return None
        if stored.inputs_digest != inputs_digest:
            raise _DamagedError(file, f"{file} is not the parity of its inputs")
        return stored.report

    # --- places and locks -----------------------------------------------------------------------

    def _object(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest

    def _key_file(self, key: str) -> Path:
        return self.root / "keys" / f"{_hash_text(key)}.json"

    def _parity_file(self, digest: str, inputs_digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise BugError(f'"{digest}" is no artifact digest')
        return self.root / "parity" / digest / f"{_hash_text(inputs_digest)}.json"

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """A fresh folder below `tmp`, gone afterwards; leftovers of crashed processes go first."""
        parent = self.root / "tmp"
        parent.mkdir(parents=True, exist_ok=True)
        with (self.root / "tmp.lock").open("ab") as lock:
            if _try_lock(lock.fileno(), fcntl.LOCK_EX):
                for leftover in parent.iterdir():
                    shutil.rmtree(leftover)
            _wait_for_lock(lock.fileno(), fcntl.LOCK_SH, lock.name)
            folder = Path(tempfile.mkdtemp(dir=parent))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _index_lock(self) -> Iterator[None]:
        with (self.root / "index.lock").open("ab") as lock:
            _wait_for_lock(lock.fileno(), fcntl.LOCK_EX, lock.name)
            yield


class _Use(NamedTuple):
    used_unix_s: float
    digest: str
    size_bytes: int
    is_damaged: bool


class _Rule(NamedTuple):
    now_unix_s: float
    keep_bytes: int | None
    older_than_s: float | None
    spare_s: float


def _choose(uses: list[_Use], rule: _Rule) -> list[_Use]:
    """Those of `uses` (longest unused first) that have to go."""
    excess_bytes = 0 if rule.keep_bytes is None else sum(use.size_bytes for use in uses) - rule.keep_bytes
    doomed = []
    for use in uses:
        age_s = rule.now_unix_s - use.used_unix_s
        is_old = rule.older_than_s is not None and age_s >= rule.older_than_s
        if use.is_damaged or (age_s >= rule.spare_s and (is_old or excess_bytes > 0)):
            doomed.append(use)
            excess_bytes -= use.size_bytes
    return doomed


# --- digests ------------------------------------------------------------------------------------


def _digest(artifact: Artifact) -> str:
    """The sha256 over the sorted files and all that decides how the runtime runs them.

    Options belong to it: ncnn runs the same files in fp32 or in fp16, and these two are not one artifact.
    """
    manifest = {
        "runtime": artifact.runtime,
        "entry": artifact.entry,
        "blobs": artifact.blobs,
        "options": artifact.options,
        "files": sorted((file.path, file.sha256, file.size_bytes) for file in artifact.files),
    }
    return hashlib.sha256(encode(manifest)).hexdigest()


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _complete(draft: Artifact, files: tuple[ArtifactFile, ...]) -> Artifact:
    for part, name in draft.entry.items():
        if not any(file.path == name or file.path.startswith(f"{name}/") for file in files):
            held = ", ".join(file.path for file in files[:10])
            raise BugError(f'the artifact\'s entry "{part}" is "{name}", but its folder holds {held}')
    size_bytes = sum(file.size_bytes for file in files)
    artifact = replace(draft, files=files, size_bytes=size_bytes, digest="")
    return replace(artifact, digest=_digest(artifact))


# --- files --------------------------------------------------------------------------------------


class _Source(NamedTuple):
    name: str
    path: Path


def _sources(folder: Path) -> list[_Source]:
    """The regular files below `folder`, sorted by name; BugError for an empty folder, links and odd names."""
    sources = []
    for path in _all_files(folder):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.is_symlink():
            raise BugError(f'"{name}" is no regular file, so it cannot be part of an artifact')
        if not name.isprintable():
            raise BugError(f"{name!r} cannot be the name of an artifact's file")
        sources.append(_Source(name, path))
    if not sources:
        raise BugError(f"{folder} holds no file, so there is no artifact to store")
    return sorted(sources)


def _all_files(folder: Path) -> list[Path]:
    """Everything below `folder` that is not a folder, links included."""
    return [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


def _total_bytes(files: list[_Source] | list[Path]) -> int:
    return sum(os.lstat(file.path if isinstance(file, _Source) else file).st_size for file in files)


def _store_files(sources: list[_Source], folder: Path, *, take: bool) -> tuple[ArtifactFile, ...]:
    files = []
    for source in sources:
        destination = folder / PurePosixPath(source.name)
        destination.parent.mkdir(parents=True, exist_ok=True)
        moved = take and _move_file(source.path, destination)
        files.append(_sealed(source.name, destination) if moved else _copy_file(source, destination))
    for made in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _flush_folder(made)
    return tuple(files)


def _move_file(source: Path, destination: Path) -> bool:
    """Whether the file could be renamed into place; not from another disk."""
    try:
        os.rename(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _sealed(name: str, path: Path) -> ArtifactFile:
    """A file that lies in place already: hashed, made read-only, flushed."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        _seal(file.fileno(), lambda: None)
        return ArtifactFile(path=name, sha256=digest, size_bytes=os.fstat(file.fileno()).st_size)


def _copy_file(source: _Source, destination: Path) -> ArtifactFile:
    """Copy and hash in one reading, so that the digest is of what was really stored."""
    hasher = hashlib.sha256()
    size_bytes = 0
    with source.path.open("rb") as reader, destination.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            hasher.update(chunk)
            writer.write(chunk)
            size_bytes += len(chunk)
        _seal(writer.fileno(), writer.flush)
    return ArtifactFile(path=source.name, sha256=hasher.hexdigest(), size_bytes=size_bytes)


def _seal(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fchmod(descriptor, 0o444)
    os.fsync(descriptor)


def _size_problem(path: Path, size_bytes: int) -> str:
    """What is wrong with a stored file, as the end of a sentence; empty when nothing is."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    return "" if status.st_size == size_bytes else f"has {status.st_size} bytes, not {size_bytes}"


def _write(path: Path, record: Record) -> None:
    with path.open("xb") as file:
        file.write(encode_exact(record).encode("ascii"))
        _seal(file.fileno(), file.flush)


def _read(kind: type[_S], path: Path) -> _S | None:
    """The stored record, or None where there is none; _DamagedError when it cannot be read back."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(data) > _MAX_MANIFEST_BYTES:
        raise _DamagedError(path, f"{path} is larger than any manifest")
    try:
        version = decode_exact(_Stamp, data, source=str(path)).schema_version
        if version <= SCHEMA_VERSION:
            return decode_exact(kind, data, source=str(path))
    except InfrastructureError as error:
        raise _DamagedError(path, error.message) from error
    raise InfrastructureError(
        f"{path} was written by a newer edgebench (schema {version}; this one knows {SCHEMA_VERSION})",
        hint="upgrade edgebench, or use another home folder",
    )


def _key_digest(key_file: Path) -> str | None:
    try:
        stored = _read(_StoredArtifact, key_file)
    except _DamagedError:
        return None
    return None if stored is None else stored.artifact.digest


def _rename(source: Path, destination: Path) -> None:
    """Rename, and flush the folder that now names it; an existing file is replaced."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    source.replace(destination)
    _flush_folder(destination.parent)
    _flush_folder(destination.parent.parent)


def _set_aside(path: Path, staging: Path) -> None:
    """Move what is at `path`, if anything, to where it is deleted at leisure."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.rename(Path(tempfile.mkdtemp(dir=staging)) / "removed")


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _touch(path: Path) -> None:
    # the time of last use only orders what prune removes: a store that cannot be written is still readable
    with contextlib.suppress(OSError):
        os.utime(path)


# --- locks and errors ---------------------------------------------------------------------------


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(descriptor: int, kind: int, name: str) -> None:
    give_up = time.monotonic() + _LOCK_WAIT_S
    while not _try_lock(descriptor, kind):
        if time.monotonic() > give_up:
            raise InfrastructureError(
                f"another process has held {name} for {_LOCK_WAIT_S:.0f} s", hint="end it, then try again"
            )
        time.sleep(_LOCK_POLL_S)


def _no_artifact(digest: str) -> UserError:
    return UserError(
        f"there is no artifact {digest}", hint="`edgebench convert` makes one and prints its digest"
    )


@contextlib.contextmanager
def _disk_errors(root: Path, wanted_bytes: int = 0) -> Iterator[None]:
    """Refusals of the disk become InfrastructureErrors that say how much was wanted and how much is free."""
    try:
        if wanted_bytes and wanted_bytes > _free_bytes(root):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            wanted = f", {format_bytes(wanted_bytes)} wanted" if wanted_bytes else ""
            raise InfrastructureError(
                f"the disk of {root} is full: {format_bytes(_free_bytes(root))} free{wanted}",
                hint="make room, or set another home folder",
            ) from error
        raise InfrastructureError(
            f"the artifact store {root} cannot be used: {error.strerror or error}",
            hint="check that the folder exists and may be written by you",
            detail=str(error),
        ) from error


def _free_bytes(root: Path) -> int:
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(existing).free
