"""What a device lacks of a job's files: asked for in one request, sent, verified there, put into folders.

A job whose folders are all there costs that one request and moves nothing.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from edgebench.errors import DeviceError, InfrastructureError
from edgebench.records import ArtifactFile, Device, Record, prepared
from edgebench.transport.base import Transport

ANSWER_S = 120.0
UNPACK_S = 1200.0
VERIFIED_BYTES_PER_S = 2_000_000  # hashing and flushing on a slow card
ATTEMPTS = 2  # an upload that arrives damaged is sent once more

T = TypeVar("T")
Progress = Callable[[int, int], None]


class Folder(Record, frozen=True):
    """A folder that the device is to have, made of the files of a folder here."""

    kind: Literal["artifacts", "bundles"]
    digest: str
    files: tuple[ArtifactFile, ...]
    source: str

    @property
    def key(self) -> str:
        """What the probe calls it."""
        return f"{self.kind}/{self.digest}"


class Removed(Record, frozen=True):
    """Something that was used least recently and had to go; `what` is "artifacts/DIGEST" or the like."""

    what: str
    freed_bytes: int


class Pushed(NamedTuple):
    """Where the folders lie on the device, by key; the bytes that travelled; what had to go for them."""

    paths: Mapping[str, str]
    moved_bytes: int
    removed: tuple[Removed, ...]


class DamagedUpload(DeviceError):
    """What arrived is not what was sent; the device has removed it."""


class Ask(Protocol):
    """How the probe is asked."""

    def __call__(self, op: str, *, timeout_s: float = ANSWER_S, **fields: Any) -> dict[str, Any]:
        """Send one request; its result."""


class _Have(Record, frozen=True):
    missing: tuple[str, ...]
    partial: dict[str, int]
    incoming: str
    folders: dict[str, str]
    free_bytes: int


class _Room(Record, frozen=True):
    free_bytes: int
    removed: tuple[Removed, ...]


def push(
    folders: Sequence[Folder], device: Device, transport: Transport, ask: Ask, progress: Progress
) -> Pushed:
    """The folders on the device; DeviceError where they have no room or do not arrive intact."""
    have = _checked(_Have, ask("have", folders=[_asked(folder) for folder in folders]), device)
    paths = {folder.key: have.folders[folder.key] for folder in folders if folder.key in have.folders}
    lacking = [folder for folder in folders if folder.key not in paths]
    if not lacking:
        return Pushed(paths, 0, ())
    cargo = _Cargo(lacking, have)
    removed = _make_room(cargo, device, ask)
    moved = _send(cargo, transport, ask, progress)
    for folder in lacking:
        paths[folder.key] = _make(folder, ask)
    return Pushed(paths, moved, removed)


class _Cargo:
    """The files that must travel, each once, with what of them is there already."""

    def __init__(self, lacking: Sequence[Folder], have: _Have) -> None:
        here = {file.sha256: (folder, file) for folder in lacking for file in folder.files}
        self.folders = lacking
        self.incoming = PurePosixPath(have.incoming)
        self.files = [here[digest][1] for digest in have.missing if digest in here]
        self.sources = {key: Path(folder.source) / file.path for key, (folder, file) in here.items()}
        self.offsets = {
            file.sha256: have.partial.get(file.sha256, 0)
            for file in self.files
            if 0 <= have.partial.get(file.sha256, 0) <= file.size_bytes
        }

    def offset(self, file: ArtifactFile) -> int:
        """How many of its bytes are there already."""
        return self.offsets.get(file.sha256, 0)

    @property
    def left_bytes(self) -> int:
        """How many bytes must travel."""
        return sum(file.size_bytes - self.offset(file) for file in self.files)

    @property
    def needed_bytes(self) -> int:
        """The room that it takes there: artifacts are links into the store, wheels are unpacked beside it."""
        wheels = [
            Path(folder.source) / file.path
            for folder in self.folders
            if folder.kind == "bundles"
            for file in folder.files
        ]
        return self.left_bytes + sum(unpacked_bytes(wheel) for wheel in wheels)


def unpacked_bytes(wheel: Path) -> int:
    """What a wheel takes once it is unpacked and byte-compiled (which about doubles its Python files)."""
    try:
        return _unpacked_bytes(wheel, wheel.stat().st_mtime_ns)
    except (OSError, zipfile.BadZipFile) as error:
        raise InfrastructureError(
            f"the wheel {wheel} cannot be read: {error}", hint=f"remove {wheel.parent}, then run again"
        ) from error


@lru_cache(maxsize=256)
def _unpacked_bytes(wheel: Path, _changed_ns: int) -> int:
    """The same, read once: each device of a fleet asks for it."""
    with zipfile.ZipFile(wheel) as archive:
        return sum(
            entry.file_size * (2 if entry.filename.endswith(".py") else 1) for entry in archive.infolist()
        )


def _asked(folder: Folder) -> dict[str, Any]:
    return {"kind": folder.kind, "digest": folder.digest, "files": _listed(folder.files)}


def _listed(files: Sequence[ArtifactFile]) -> list[dict[str, Any]]:
    return [{"path": each.path, "sha256": each.sha256, "size_bytes": each.size_bytes} for each in files]


def _make_room(cargo: _Cargo, device: Device, ask: Ask) -> tuple[Removed, ...]:
    keep = sorted({file.sha256 for folder in cargo.folders for file in folder.files})
    answer = ask(
        "room",
        timeout_s=UNPACK_S,
        needed_bytes=cargo.needed_bytes,
        quota_bytes=device.work_quota_bytes,
        keep=keep,
    )
    return _checked(_Room, answer, device).removed


def _send(cargo: _Cargo, transport: Transport, ask: Ask, progress: Progress) -> int:
    moved, total = 0, cargo.left_bytes

    def count(more: int) -> None:
        nonlocal moved
        moved += more
        progress(min(moved, total), total)

    for file in cargo.files:
        _send_one(file, cargo, transport, ask, count)
    return moved


def _send_one(
    file: ArtifactFile, cargo: _Cargo, transport: Transport, ask: Ask, count: Callable[[int], None]
) -> None:
    """The file in the device's store; sent anew, from its first byte, when it arrived damaged."""
    offset = cargo.offset(file)
    place = str(cargo.incoming / f"{file.sha256}.part")
    timeout_s = ANSWER_S + file.size_bytes / VERIFIED_BYTES_PER_S
    for attempt in range(1, ATTEMPTS + 1):
        transport.put(cargo.sources[file.sha256], place, offset=offset, progress=count)
        try:
            ask("commit", timeout_s=timeout_s, sha256=file.sha256, size_bytes=file.size_bytes)
        except DamagedUpload:
            if attempt == ATTEMPTS:
                raise
            offset = 0
        else:
            return


def _make(folder: Folder, ask: Ask) -> str:
    if folder.kind == "artifacts":
        answer = ask("assemble", digest=folder.digest, files=_listed(folder.files))
    else:
        wheels = [wheel.sha256 for wheel in folder.files]
        answer = ask("unpack", timeout_s=UNPACK_S, digest=folder.digest, wheels=wheels)
    return str(answer.get("path"))


def _checked(kind: type[T], answer: dict[str, Any], device: Device) -> T:
    try:
        return msgspec.convert(answer, prepared(kind))
    except msgspec.ValidationError as error:
        raise DeviceError(
            f"{device.name}: the probe's answer about its files makes no sense: {error}",
            hint=f"edgebench devices clean {device.name}, then run again",
        ) from error
