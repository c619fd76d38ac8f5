"""Other makers' tools on the controller: which version, where, and how a pinned one gets into our folder.

    HOME/tools/pnnx-20261020/pnnx          the binary
    HOME/tools/pnnx-20261020/tool.json     version, sha256 and size, written when it was installed

pnnx turns ONNX into NCNN's files. Its wheel says that it needs torch; the binary in it does not, so the wheel
is downloaded without dependencies and only the binary is taken out. `EDGEBENCH_PNNX=PATH` uses another one.

Every conversion's process imports this module, so what only installing needs is imported there.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from edgebench.errors import InfrastructureError
from edgebench.records import Record, decode, encode

PNNX_VERSION = "20261020"
PNNX_VARIABLE = "EDGEBENCH_PNNX"
PNNX_COMMAND = "edgebench runtimes install pnnx"

_PNNX_MEMBER = "pnnx/pnnx"
_MAX_BINARY_BYTES = 512 << 20
_DOWNLOAD_TIMEOUT_S = 600.0
_CHUNK_BYTES = 1 << 20


class Tool(Record, frozen=True):
    """One installed tool; `path` is its binary."""

    name: str
    version: str
    sha256: str
    size_bytes: int
    path: str


def package_version(package: str, extra: str) -> str:
    """The version of an installed Python package, without importing it; `extra` is ours that brings it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError as error:
        raise InfrastructureError(
            f"the Python package {package} is not installed", hint=f"pip install 'edgebench[{extra}]'"
        ) from error


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The version of each Python package, "missing" where it is not there; nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def usable_cores() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone tells
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def own_cpu_features() -> tuple[str, ...]:
    """What instructions this computer's processor says it has, as facts of devices name them; () unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return tuple(line.partition(":")[2].split())


def find_pnnx(home: Path | None) -> Path:
    """The path of pnnx: `EDGEBENCH_PNNX`, else in the tool folder; InfrastructureError when missing."""
    chosen = os.environ.get(PNNX_VARIABLE)
    if chosen:
        return _chosen_pnnx(Path(chosen))
    installed = None if home is None else _pnnx_folder(home) / "pnnx"
    if installed is None or not _is_program(installed):
        raise InfrastructureError(
            f"pnnx {PNNX_VERSION}, which makes NCNN's files, is not installed", hint=PNNX_COMMAND
        )
    return installed


def pnnx_version(home: Path | None) -> str:
    """The version of the pnnx that `find_pnnx` gives; of one chosen by hand, a mark of its contents."""
    path = find_pnnx(home)
    if os.environ.get(PNNX_VARIABLE):
        return _mark(path)
    record = path.parent / "tool.json"
    try:
        tool = decode(Tool, record.read_bytes(), source=str(record))
    except OSError as error:
        raise InfrastructureError(
            f"{path.parent} holds pnnx without its record", hint=PNNX_COMMAND, detail=str(error)
        ) from error
    if tool.size_bytes != path.stat().st_size:
        raise InfrastructureError(f"{path} is not the file that was installed", hint=PNNX_COMMAND)
    return tool.version


def install_pnnx(home: Path) -> Tool:
    """The installed pnnx, after downloading it by pip into a folder of its own; replaces what was there."""
    import tempfile

    folder = _pnnx_folder(home)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="install-", dir=folder.parent) as scratch:
        wheel = _download_wheel(f"pnnx=={PNNX_VERSION}", Path(scratch) / "wheel")
        staged = Path(scratch) / "tool"
        staged.mkdir()
        binary = _take_out(wheel, _PNNX_MEMBER, staged / "pnnx")
        tool = Tool(
            name="pnnx",
            version=PNNX_VERSION,
            sha256=sha256(binary),
            size_bytes=binary.stat().st_size,
            path=str(folder / "pnnx"),
        )
        (staged / "tool.json").write_bytes(encode(tool))
        _put_in_place(staged, folder, Path(scratch) / "old")
    return tool


def _pnnx_folder(home: Path) -> Path:
    return home / "tools" / f"pnnx-{PNNX_VERSION}"


def _chosen_pnnx(path: Path) -> Path:
    if not _is_program(path):
        raise InfrastructureError(
            f"{PNNX_VARIABLE} names {path}, which is no program",
            hint=f"set it to the pnnx binary, or unset it and type: {PNNX_COMMAND}",
        )
    return path.resolve()


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _download_wheel(requirement: str, folder: Path) -> Path:
    """The one wheel that pip downloads for this computer, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(
            f"downloading {requirement} took longer than {_DOWNLOAD_TIMEOUT_S:.0f} s",
            hint="check the network, then try again",
        ) from error
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if done.returncode != 0 or len(wheels) != 1:
        raise InfrastructureError(
            f"pip could not download {requirement} for this computer",
            hint=f"check the network and pip's index, or use your own: {PNNX_VARIABLE}=/path/to/pnnx",
            detail=_without_secrets(done.stderr.decode("utf-8", "replace"))[-2000:],
        )
    return wheels[0]


def _without_secrets(log: str) -> str:
    """The log without its lines that may hold an index address, and with it a password."""
    return "\n".join(line for line in log.splitlines() if "@" not in line)


def _take_out(wheel: Path, member: str, destination: Path) -> Path:
    """One file of a wheel, made executable. Only that name is read, so no other path can be written."""
    import zipfile

    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as reader,
            destination.open("xb") as writer,
        ):
            left = _MAX_BINARY_BYTES
            while chunk := reader.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise InfrastructureError(f"{member} in {wheel.name} is larger than any tool should be")
                writer.write(chunk)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise InfrastructureError(f"{wheel.name} holds no sound {member}: {error}") from error
    destination.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    return destination


def _put_in_place(staged: Path, folder: Path, aside: Path) -> None:
    """Rename the staged folder to its place; what was there goes aside first."""
    import shutil

    if folder.exists():
        folder.rename(aside)
    try:
        staged.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(staged)  # another process installed the same pinned version meanwhile


def _mark(path: Path) -> str:
    """A short digest of a file's size, beginning (there a program's build id lies) and end.

    Not of the whole file: this is asked at every conversion, also of those that are served from the store.
    """
    import hashlib

    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        hasher = hashlib.sha256(f"{size}\n".encode() + file.read(_CHUNK_BYTES))
        file.seek(max(0, size - _CHUNK_BYTES))
        hasher.update(file.read(_CHUNK_BYTES))
    return f"chosen-{hasher.hexdigest()[:16]}"


def data_digest(path: Path) -> str:
    """What names data: the sha256 of a file, or of the names and contents of all files in a folder."""
    if not path.is_dir():
        return sha256(path)
    import hashlib

    made = hashlib.sha256()
    for each in sorted(found for found in path.rglob("*") if found.is_file()):
        made.update(f"{each.relative_to(path).as_posix()}\n{sha256(each)}\n".encode())
    return made.hexdigest()


def sha256(path: Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
