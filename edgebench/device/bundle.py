"""What a device needs before it can work: the probe as one zip file, and each runtime as a set of wheels.

Nothing is installed on a device. Wheels are chosen on the controller for the device's Python, processor and C
library, pushed, unzipped below the device's work folder and used through `sys.path`. Once chosen they stay
chosen (`HOME/bundles/`), so that a fleet does not change under a release; remove a folder there to choose
anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edgebench.errors import DeviceError, InfrastructureError
from edgebench.records import ArtifactFile, Facts, Record
from edgebench.tools import sha256

PIP_TIMEOUT_S = 900
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed date makes the archive's digest depend on its contents alone

# What a runtime's wheel really needs to run, without what its metadata asks for besides (ncnn names OpenCV).
WHEELS = {
    "onnxruntime": ("onnxruntime", "numpy"),
    "ncnn": ("ncnn", "numpy"),
    "openvino": ("openvino", "numpy<2.5"),
}


# What is part of the device's system and never pushed.
OWN = ("tensorrt",)


class Bundle(Record, frozen=True):
    """The wheels of one runtime for one kind of device; `digest` names the set."""

    digest: str
    wheels: tuple[ArtifactFile, ...]
    folder: str


def probe_archive(home: Path) -> tuple[Path, str]:
    """The probe as one runnable zip file, and its sha256: the same source gives the same bytes."""
    source = Path(__file__).parent.parent / "probe"
    folder = home / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", b"from edgebench_probe.__main__ import main\n\nmain()\n")
        for path in sorted(source.rglob("*.py")):
            _add(archive, f"edgebench_probe/{path.relative_to(source).as_posix()}", path.read_bytes())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    final = folder / f"probe-{digest}.pyz"
    if not final.exists():
        part = folder / f".{secrets.token_hex(6)}.part"
        part.write_bytes(content.getvalue())
        os.replace(part, final)
    return final, digest


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), content, zipfile.ZIP_DEFLATED)


def resolve(runtime: str, facts: Facts, home: Path) -> Bundle | None:
    """The wheels of `runtime` that run on a device with these facts, downloaded once and kept.

    None for a runtime that the device brings along.
    """
    if runtime in OWN:
        return None
    python, tags = _python(facts), platform_tags(facts)
    name = f"{runtime}-py{python}-{tags[0]}"
    folder = home / "bundles" / name
    if not folder.is_dir():
        _download(WHEELS[runtime], python, tags, folder, name)
    return _bundle(folder)


def _bundle(folder: Path) -> Bundle:
    wheels = tuple(
        ArtifactFile(path=path.name, sha256=sha256(path), size_bytes=path.stat().st_size)
        for path in sorted(folder.glob("*.whl"))
    )
    digest = hashlib.sha256("\n".join(wheel.sha256 for wheel in wheels).encode()).hexdigest()
    return Bundle(digest=digest, wheels=wheels, folder=str(folder))


def _python(facts: Facts) -> str:
    return ".".join(facts.python.split(".")[:2])


def platform_tags(facts: Facts) -> tuple[str, ...]:
    """Wheel platform tags that run there, best first (PEP 600); DeviceError where no wheel can fit."""
    if facts.os == "macos":
        return tuple(f"macosx_{major}_0_{_mac_arch(facts)}" for major in range(15, 10, -1))
    version = re.fullmatch(r"glibc 2\.(\d{1,3})(?:\..*)?", facts.libc or "")
    if version is None:
        raise DeviceError(
            f"no runtime wheel fits a device whose C library is {facts.libc or 'unknown'}",
            hint="runtimes are published for glibc only: Debian, Ubuntu, Raspberry Pi OS",
        )
    arch = "armv7l" if facts.bits == 32 and facts.arch in ("aarch64", "armv7l") else facts.arch
    minor = int(version[1])
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    tags: list[str] = []
    for step in range(minor, 4, -1):
        tags.append(f"manylinux_2_{step}_{arch}")
        if step in legacy:
            tags.append(f"{legacy[step]}_{arch}")
    return tuple(tags)


def _mac_arch(facts: Facts) -> str:
    return "arm64" if facts.arch in ("arm64", "aarch64") else facts.arch


def _download(wheels: tuple[str, ...], python: str, tags: tuple[str, ...], folder: Path, name: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        _pip_download(wheels, python, tags, part, name)
        os.rename(part, folder)
    except OSError:
        if not folder.is_dir():  # another process may have been quicker: then its choice stands
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _pip_download(wheels: tuple[str, ...], python: str, tags: tuple[str, ...], part: Path, name: str) -> None:
    number = python.replace(".", "")
    abi = f"cp{number}m" if number in ("36", "37") else f"cp{number}"
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    argv += ["--disable-pip-version-check", "--python-version", python, "--implementation", "cp"]
    argv += [word for each in (abi, "abi3", "none") for word in ("--abi", each)]
    argv += [word for tag in tags for word in ("--platform", tag)]
    argv += ["--dest", str(part), *wheels]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(
            f"the wheels for {name} did not arrive within {PIP_TIMEOUT_S} s",
            hint="look at the controller's network, then run again; nothing was changed",
        ) from error
    if done.returncode != 0:
        raise InfrastructureError(
            f"no wheels for {name}: {_last_error(done.stderr)}",
            hint="the controller needs a package index (pip's own settings and PIP_* variables count), "
            "or no wheel fits that Python and processor: choose another runtime for this device",
            detail=done.stderr[-4096:],
        )


def _last_error(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    return lines[-1].removeprefix("ERROR:").strip() if lines else "pip failed"
