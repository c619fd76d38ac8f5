"""Launches of this computer through the product itself: a local device, pairs (ABBA) and duets."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import edgebench
from edgebench import exchange
from edgebench.convert.run import Limits
from edgebench.device.session import Lease
from edgebench.gates import observed
from edgebench.gates.base import LaunchFigures
from edgebench.pipeline import (
    Cell,
    Prepared,
    Site,
    Step,
    Trial,
    Workbench,
    open_device,
    prepare,
    side_by_side,
)
from edgebench.pipeline.measuring import was_rerun
from edgebench.records import ROLES, Device, Job, Measurement, Role, Run, Workload, replace
from edgebench.store import Store, sqlite_url
from edgebench.targets import find
from tests.aa_local.load import IN_WORDS, LOADS, load
from tests.aa_local.network import LAYERS, chain
from tests.aa_local.recordings import Comparison, Condition, DuetRow, LaunchRow, Recording

RUN = "aa-local"
ANY_LOAD = 4096.0  # cores of others: what loads a launch is recorded, and judged when it is replayed
WORKLOAD = Workload(
    threads=2, warmup_samples=20, max_warmup_s=1.0, min_samples=120, min_duration_s=0.0, max_duration_s=10.0
)
HERE = Device(name="here", target="linux-x86_64", transport="local", lease="folder")


class Sizes(NamedTuple):
    """How many pairs and duets of each comparison, and how long either may take."""

    pairs: int = 20
    duets: int = 15
    pairs_s: float = 60.0
    duets_s: float = 36.0


# by condition: under load a launch takes ten times as long, and is run again
SIZES = {
    "mild": Sizes(),
    "on/off": Sizes(pairs_s=130.0, duets_s=80.0),
    "heavy": Sizes(pairs_s=110.0, duets_s=110.0),
}


class TimeUp(Exception):
    """A trial has had its time."""


class Clock:
    """What a workbench announces its steps to: it ends a trial after a launch once its time is up."""

    def __init__(self) -> None:
        self.end_s = float("inf")

    def __call__(self, step: Step) -> None:
        if step.stage == "launched" and time.monotonic() > self.end_s:
            raise TimeUp


class Bench(NamedTuple):
    """An open session on this computer, and the networks by how much slower they are."""

    site: Site
    workbench: Workbench
    clock: Clock
    networks: dict[float, Prepared]


def record(sizes: Mapping[str, Sizes], tell: Callable[[str], None]) -> Recording:
    """Everything, one condition after the other."""
    with _opened() as bench:
        conditions = []
        for name in LOADS:
            with load(name):
                compared = tuple(_comparison(bench, slower_by, sizes[name]) for slower_by in LAYERS)
            conditions.append(Condition(name=name, load=IN_WORDS[name], comparisons=compared))
            seconds = sum(each.separate_s + each.duets_s for each in compared)
            tell(f"{name}: {seconds:.0f} s")
        facts = bench.site.facts
        return Recording(
            recorded=f"{datetime.now(UTC):%Y-%m-%d}",
            processor=facts.cpu,
            cores=os.cpu_count() or 0,
            runtime=f"onnxruntime {_version(bench)}, Python {platform.python_version()}",
            threads=WORKLOAD.threads,
            conditions=tuple(conditions),
        )


@contextlib.contextmanager
def _opened() -> Iterator[Bench]:
    """A bench in a temporary home, with the networks proven."""
    with tempfile.TemporaryDirectory(prefix="edgebench-aa-local-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        clock = Clock()
        workbench = Workbench(home, limits=Limits(), announce=clock)
        target = find("linux-x86_64")
        target = replace(target, limits=replace(target.limits, max_foreign_cores=ANY_LOAD))
        device = replace(HERE, work_dir=str(Path(folder) / "device"))
        session, facts = open_device(device, target, home, Lease(run=RUN, purpose="make aa-local"))
        try:
            with session, Store(sqlite_url(home / "store.sqlite")) as store:
                store.add_run(_run())
                made = {slower: _network(workbench, home, slower) for slower in LAYERS}
                yield Bench(Site(RUN, session, facts, target, store, {}), workbench, clock, made)
        finally:
            workbench.close()


def _run() -> Run:
    return Run(
        id=RUN,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        status="running",
        plan={},
        edgebench_version=edgebench.__version__,
        controller="here",
    )


def _network(workbench: Workbench, home: Path, slower_by: float) -> Prepared:
    path = chain(home / f"chain{LAYERS[slower_by]}.onnx", LAYERS[slower_by])
    return prepare(Cell(model_path=str(path), runtime="onnxruntime", precision="fp32"), workbench)


def _version(bench: Bench) -> str:
    (first, *_) = bench.site.store.measurements(RUN)
    return first.launches[0].runtime_version


# --- one comparison -------------------------------------------------------------------------------


def _comparison(bench: Bench, slower_by: float, sizes: Sizes) -> Comparison:
    separate, separate_s = _launched(bench, slower_by, Trial(sizes.pairs), sizes.pairs_s)
    duet, duets_s = _launched(bench, slower_by, Trial(sizes.duets, "duet"), sizes.duets_s)
    rows = [
        LaunchRow(launch.pair or 0, role == "candidate", not was_rerun(launch), *_times(figures))
        for role in ("baseline", "candidate")
        for launch, figures in zip(separate[role].launches, _all_figures(separate[role]), strict=True)
    ]
    together = [
        DuetRow(round(each.duet_shift or 0.0, 6), *_times(each)) for each in _all_figures(duet["duet"])
    ]
    return Comparison(
        slower_by=slower_by,
        separate=tuple(sorted(rows, key=lambda row: row.pair)),
        duets=tuple(together),
        separate_s=round(separate_s, 1),
        duets_s=round(duets_s, 1),
    )


def _launched(
    bench: Bench, slower_by: float, trial: Trial, longest_s: float
) -> tuple[dict[Role, Measurement], float]:
    """The measurements of a trial by role, and the seconds that it took."""
    store, candidate = bench.site.store, bench.networks[slower_by]
    before = {each.id for each in store.measurements(RUN, ROLES)}
    begun = time.monotonic()
    bench.clock.end_s = begun + longest_s
    trial = trial._replace(rival=bench.networks[0.0] if slower_by else None)
    with contextlib.suppress(TimeUp):
        side_by_side(_job(candidate), candidate, bench.site, bench.workbench, trial)
    seconds = time.monotonic() - begun
    made = [each for each in store.measurements(RUN, ROLES) if each.id not in before]
    return {each.role: each for each in made}, seconds


def _job(prepared: Prepared) -> Job:
    artifact = prepared.artifact
    return Job(
        model=artifact.model,
        model_path=f"{artifact.model}.onnx",
        variant=artifact.variant,
        runtime=artifact.runtime,
        precision=artifact.precision,
        device=HERE.name,
        target=HERE.target,
        workload=WORKLOAD,
    )


def _all_figures(measurement: Measurement) -> tuple[LaunchFigures, ...]:
    """The figures of every launch, of those that were run again as well."""
    counted = replace(
        measurement,
        launches=tuple(replace(each, valid=True, invalid_reason="") for each in measurement.launches),
    )
    return observed(exchange.entry(counted)).launches


def _times(figures: LaunchFigures) -> tuple[int, int, int, float | None]:
    p10, p50, p90 = (round(each or 0) for each in (figures.p10_ns, figures.p50_ns, figures.p90_ns))
    return p10, p50, p90, figures.foreign_load
