"""Fixtures: the probe's zip, and sessions that are closed whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.probe.harness import Probe, build_zip


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe's zip file."""
    return build_zip(tmp_path_factory.mktemp("program") / "probe.pyz")


@pytest.fixture
def open_probe(program: Path, tmp_path: Path) -> Iterator[Callable[..., Probe]]:
    """A function that starts a session; all of one test share the work folder `tmp_path/work`."""
    opened: list[Probe] = []

    def start(**options: Any) -> Probe:
        opened.append(Probe(options.pop("program", program), tmp_path / "work", **options))
        return opened[-1]

    yield start
    for probe in opened:
        probe.close()


@pytest.fixture(scope="module")
def hardy(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """One leased session that has to survive all the bad requests of a test module."""
    probe = Probe(program, tmp_path_factory.mktemp("hardy") / "work", silence_s=3600)
    probe.lease()
    yield probe
    probe.close()


@pytest.fixture
def probe(open_probe: Callable[..., Probe]) -> Probe:
    """A leased session."""
    started = open_probe()
    started.lease()
    return started
