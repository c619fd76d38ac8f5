"""Disks that are soon full, for tests of what then happens."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted disk of 1 MiB."""
    with _mounted(tmp_path / "small", 1) as folder:
        yield folder


@pytest.fixture
def disk_of_8_mib(tmp_path: Path) -> Iterator[Path]:
    """A mounted disk of 8 MiB."""
    with _mounted(tmp_path / "eight", 8) as folder:
        yield folder


@contextmanager
def _mounted(folder: Path, size_mib: int) -> Iterator[Path]:
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a full disk needs root and mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "edgebench-test", str(folder)],
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("a tmpfs may not be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
