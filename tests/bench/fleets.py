"""What a large fleet costs the one controller: real servers, and many more simulated devices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.controller import MARK
from tests.bench.measure import Figure, python
from tests.fleet.boards import WORK
from tests.fleet.netns import HOME, USER_ID, Fleet, FleetDevice, MissingTool, Spec
from tests.fleet.simulated import inventory

TIMEOUT_S = 3000
MOST_JOBS = 256  # devices at work at the same time, of those that the settings allow
KEYS = ("ed25519",)
BRIEF = ("--launches", "1", "--threads", "1", "--min-samples", "20", "--min-duration", "10 ms")
CPU_S = 60.0


class Taken(NamedTuple):
    """What a command took and left."""

    cpu_s: float
    wall_s: float
    threads: int
    bytes: int
    measured: int
    failures: list[dict[str, Any]]

    def lacking(self, planned: int) -> float:
        """Jobs that were not measured."""
        return float(max(planned - self.measured, len(self.failures)))

    @property
    def reasons(self) -> str:
        """Why, in short."""
        return "; ".join(sorted({each["message"] for each in self.failures}))[:200]


def controller(home: Path, arguments: Sequence[str], *, jobs: int, simulated: bool = False) -> Taken:
    """One `edgebench run` in a process of its own."""
    played = ("--simulated",) if simulated else ()
    done = subprocess.run(
        python("-m", "tests.bench.controller", *played, "run", *arguments, "--json"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "EDGEBENCH_HOME": str(home), "EDGEBENCH_JOBS": str(min(jobs, MOST_JOBS))},
    )
    said = [line for line in done.stderr.splitlines() if line.startswith(MARK)]
    document = json.loads(done.stdout or "{}")
    if not said or "measurements" not in document:
        shown = f"{done.stderr[-4000:]}\n{done.stdout[:2000]}"
        raise RuntimeError(f"{arguments} ended with {done.returncode}:\n{shown}")
    taken = json.loads(said[-1].removeprefix(MARK))
    return Taken(**taken, measured=len(document["measurements"]), failures=document["failures"])


# --- real servers ---------------------------------------------------------------------------------


def real_devices(home: Path, count: int, model: Path) -> Iterator[Figure]:
    """One short job on each of many real sshd, all at the same time: failures, threads, memory, CPU."""
    name = f"{count} devices (real sshd)"
    large, small = Spec(home_mib=1024, host_key_types=KEYS), Spec(home_mib=64, host_key_types=KEYS)
    try:
        with Fleet([large, *[small] * (count - 1)], kind="netns") as fleet:
            file = home / "many.yaml"
            file.write_text(fleet.inventory())
            words = [str(model), "--to", "onnxruntime", "--inventory", str(file), *BRIEF]
            alone = controller(home, [*words, "--on", "board-01"], jobs=1)
            with _shared_bundle(fleet.devices):
                every = controller(home, words, jobs=count)
    except MissingTool as missing:
        yield Figure(f"{name}: not measured", float("inf"), 0.0, "", f"missing tool: {missing}")
        return
    shown = f"all at the same time; {every.wall_s:.0f} s on this computer, which plays the devices too"
    yield Figure(f"{name}, jobs not measured", every.lacking(count), 0.0, "jobs", every.reasons or shown)
    per_device = (every.bytes - alone.bytes) / max(1, count - 1) / 1024
    yield Figure(f"{name}, controller's memory per connection", per_device, 1024.0, "KiB", "with its job")
    yield Figure(f"{name}, controller's threads at most", float(every.threads), 5.0 * count + 10, "threads")
    yield Figure(f"{name}, controller's CPU", every.cpu_s, CPU_S, "s", f"one device: {alone.cpu_s:.1f} s")


@contextmanager
def _shared_bundle(devices: Sequence[FleetDevice]) -> Iterator[None]:
    """The first device's runtime on all of them: a copy for each would take this computer's memory."""
    with tempfile.TemporaryDirectory(prefix="edgebench-bundle-", dir="/var/tmp") as folder:  # seen by all
        for bundle in (devices[0].home / WORK / "bundles").iterdir():
            shutil.copytree(bundle, Path(folder, bundle.name), symlinks=True)
            os.chmod(Path(folder, bundle.name), 0o755)  # it belongs to us now, and others read it
            for device in devices[1:]:
                _mount(Path(folder, bundle.name), device)
        os.chmod(folder, 0o755)
        try:
            yield
        finally:
            for device in devices[1:]:
                for bundle in Path(folder).iterdir():
                    _inside(device, "umount", f"{HOME}/{WORK}/bundles/{bundle.name}")


def _mount(bundle: Path, device: FleetDevice) -> None:
    place = device.home / WORK / "bundles" / bundle.name
    place.mkdir(parents=True)
    for made in (place, place.parent, place.parent.parent):
        os.chown(made, USER_ID, USER_ID)
    _inside(device, "mount", "--bind", str(bundle), f"{HOME}/{WORK}/bundles/{bundle.name}")


def _inside(device: FleetDevice, *argv: str) -> None:
    enter = ("nsenter", "-m", "-t", device.root.parts[2])
    subprocess.run([*enter, *argv], check=True, capture_output=True, timeout=30)


# --- simulated devices ----------------------------------------------------------------------------


def simulated_devices(home: Path, count: int, model: Path) -> Iterator[Figure]:
    """One job on each of very many devices that cost nothing themselves: plan, schedule, store, report."""
    name = f"{count:,} devices (simulated)"
    file = home / "simulated.yaml"
    file.write_text(inventory(count))
    words = [str(model), "--to", "onnxruntime", "--inventory", str(file), "--launches", "2"]
    taken = controller(home, words, jobs=16, simulated=True)
    yield Figure(f"{name}, jobs not measured", taken.lacking(count), 0.0, "jobs", taken.reasons)
    yield Figure(f"{name}, controller's CPU", taken.cpu_s, CPU_S, "s", "plan, schedule, store, report")
