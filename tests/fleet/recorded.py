"""Runs without boards: real probes on this computer play recordings, each in a work folder of its own.

The engine sees devices behind SSH; what opens them here starts a probe locally in the replay runtime. A test
says what goes wrong on which device, and when.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgebench.convert.run import Limits
from edgebench.device.leases import Patience
from edgebench.device.session import Lease, Session, open_session
from edgebench.errors import DeviceError
from edgebench.fleet.base import Options, Ready, Retries
from edgebench.fleet.engine import Engine
from edgebench.pipeline import Cell, Prepared, Step, Workbench, prepare
from edgebench.records import Device, Facts, Job, Run, Target, Workload, replace, to_json
from edgebench.store import Store, sqlite_url
from edgebench.targets import all_targets
from tests.commands import DIGITS

LIMITS = Limits(time_s=120.0, memory_bytes=8 << 30)
RUN = "20261125-180000-test"
QUICK = Workload(
    launches=2, threads=1, warmup_samples=2, max_warmup_s=0.5, min_samples=20, min_duration_s=0.0
)
SOON = Retries(first_s=0.01, longest_s=0.02)
TARGET = "linux-x86_64"


class Bench:
    """A workbench whose one model plays a recording, and the devices that it is played on.

    Tests may share a `home`, where the model is prepared once.
    """

    def __init__(self, folder: Path, home: Path, store: Store) -> None:
        self.steps: list[Step] = []
        self.bench = Workbench(home, limits=LIMITS, announce=self.steps.append)
        self.store = store
        self.targets: dict[str, Target] = all_targets()
        self.prepared = self._recorded(home / "recording", [7, 8])
        # slow enough to be over in a few samples: other people's load is not measured in so short a time
        self.health = self._recorded(home / "health-recording", [7_000_000])
        self.open_now: list[str] = []
        self.most_open = 0
        self.opened: list[str] = []
        self._folder = folder
        self._lock = threading.Lock()
        self.before_opening: Callable[[str], None] = lambda _name: None

    def _recorded(self, folder: Path, samples_ns: list[int]) -> Prepared:
        """The digits network as a recording that answers rightly and takes so many nanoseconds."""
        made = prepare(Cell(model_path=str(DIGITS), runtime="onnxruntime", precision="fp32"), self.bench)
        right = self.bench.reference(made.variant, made.inputs).samples
        folder.mkdir(parents=True, exist_ok=True)
        listed = []
        for number, sample in enumerate(right):
            np.save(folder / f"{number}.npy", sample["logits"])
            listed.append({"logits": f"{number}.npy"})
        times = {"load_ns": 5, "first_ns": 9, "warmup_ns": samples_ns, "samples_ns": samples_ns}
        (folder / "replay.json").write_text(json.dumps({**times, "outputs": listed}))
        draft = replace(
            made.artifact, runtime="replay", entry={"model": "replay.json"}, options={}, key=str(folder)
        )
        artifact = self.bench.artifacts.put(folder, draft)
        return made._replace(conversion=made.conversion._replace(artifact=artifact))

    # --- devices and jobs ---

    def devices(self, *names: str) -> dict[str, Device]:
        """Devices behind SSH, as the engine sees them."""
        return {
            name: Device(name=name, target=TARGET, transport="ssh", address=f"{name}.lab") for name in names
        }

    def jobs(self, *names: str, each: int = 1, workload: Workload = QUICK) -> list[Ready]:
        """So many jobs on every device, stored as a run's."""
        jobs = [
            Job(
                model=f"digits-{number}",
                model_path=str(DIGITS),
                variant="fp32",
                runtime="replay",
                precision="fp32",
                device=name,
                target=TARGET,
                workload=workload,
            )
            for name in names
            for number in range(each)
        ]
        self.store.add_run(
            Run(
                id=RUN,
                created_utc="2026-11-25T18:00:00Z",
                status="running",
                plan={"jobs": [to_json(job) for job in jobs]},
                edgebench_version="0",
                controller="desk",
            )
        )
        self.store.plan_jobs(RUN, jobs)
        return [Ready(job, self.prepared) for job in jobs]

    def open(
        self, device: Device, target: Target, home: Path, lease: Lease, patience: Patience
    ) -> tuple[Session, Facts]:
        """A real probe in a folder of the device's own."""
        del target
        self.before_opening(device.name)
        folder = str(self._folder / "boards" / device.name)
        here = replace(device, transport="local", work_dir=folder, lease="folder")
        session = open_session(here, home=home, lease=lease, patience=patience)
        with self._lock:
            self.opened.append(device.name)
            self.open_now.append(device.name)
            self.most_open = max(self.most_open, len(self.open_now))
        close = session.abort

        def closed() -> None:
            with self._lock:
                if device.name in self.open_now:
                    self.open_now.remove(device.name)
            close()

        session.abort = closed  # type: ignore[method-assign]
        return session, session.facts()

    def run(
        self,
        ready: Sequence[Ready],
        *names: str,
        health: dict[str, Prepared] | None = None,
        **options: object,
    ) -> Engine:
        """Measure on devices of these names; the engine afterwards."""
        settings = Options(opener=self.open, health=False, retries=SOON)._replace(**options)  # type: ignore[arg-type]
        engine = Engine(RUN, self.bench, self.store, settings)
        engine.measure(ready, self.devices(*names), self.targets, health or {})
        return engine

    def told(self, stage: str, device: str = "") -> list[Step]:
        """The steps of a stage."""
        return [step for step in self.steps if step.stage == stage and device in ("", step.device)]


def unreachable(name: str) -> DeviceError:
    """What a transport says of a board that does not answer."""
    return DeviceError(f"{name}: no answer from {name}.lab", hint="look at its cable", retryable=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where the model of all tests of a module is prepared once."""
    return tmp_path_factory.mktemp("shared-home")


@pytest.fixture
def lab(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Devices that play recordings, with an empty store."""
    (tmp_path / "user").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    with Store(sqlite_url(tmp_path / "store.sqlite")) as store:
        made = Bench(tmp_path, shared, store)
        yield made
        made.bench.close()
