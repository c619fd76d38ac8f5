"""Linux devices that pass for Macs, for tests: a stand-in coremltools as the runtime's bundle, and `uname`.

edgebench keeps the wheels that it once chose for a kind of device below its home. The folder for Core ML is
filled here before the first run: with the stand-in, and with what its interpreter needs on the device.
"""

from __future__ import annotations

import importlib.metadata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import edgebench
from tests.fleet.boards import login_script
from tests.fleet.netns import FleetDevice

STANDINS = Path(__file__).parent
PYTHON = "3.11"  # of the devices
NEEDED = ("numpy", "protobuf", "msgspec")


def bundle_of_standins(home: Path) -> Path:
    """The folder of wheels that stands for Core ML's on a Mac with Python 3.11."""
    folder = home / "bundles" / f"coreml-py{PYTHON}-macosx_15_0_arm64"
    if not folder.is_dir():
        part = folder.with_name(".part-of-the-standin")
        part.mkdir(parents=True)
        standin_wheel(part / "coremltools-9.0-py3-none-any.whl")
        for name in NEEDED:
            _repacked(name, part / f"{name}-0-py3-none-any.whl")
        part.rename(folder)
    return folder


def standin_wheel(path: Path) -> None:
    """The stand-in, the message classes of the real coremltools, and edgebench with its interpreter."""
    source = Path(edgebench.__file__).parent
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((STANDINS / "coremltools").rglob("*.py")):
            archive.write(file, file.relative_to(STANDINS).as_posix())
        for file in sorted(source.rglob("*.py")):
            archive.write(file, file.relative_to(source.parent).as_posix())
        for name in importlib.metadata.files("coremltools") or ():
            if name.parent.as_posix() == "coremltools/proto" and name.suffix == ".py":
                archive.write(name.locate(), name.as_posix())


def _repacked(name: str, path: Path) -> None:
    """An installed package as a wheel again."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in importlib.metadata.files(name) or ():
            inside = file.as_posix()
            if ".." not in file.parts and "/tests/" not in inside and file.suffix != ".pyc":
                archive.write(file.locate(), inside)


@contextmanager
def mac(device: FleetDevice, environment: str = "") -> Iterator[None]:
    """The device tells of macOS while this is open; `environment`: lines for its login script."""
    folder = device.home / "mac"
    folder.mkdir(exist_ok=True)
    standin = folder / "sitecustomize.py"
    standin.write_bytes((STANDINS / "mac" / "sitecustomize.py").read_bytes())
    lines = f'export PYTHONPATH="$HOME/mac"\n{environment}\n'
    try:
        with login_script(device, lines):
            yield
    finally:
        standin.unlink()
