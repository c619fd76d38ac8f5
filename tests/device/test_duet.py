"""Duets through a session: what the device says of two models becomes one launch, or an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from edgebench.convert.run import Limits
from edgebench.device.session import Lease, Placed, Session, open_session
from edgebench.errors import NoDuet
from edgebench.pipeline import Cell, Prepared, Workbench, prepare
from edgebench.records import Device, Launch, Workload, replace
from tests.commands import DIGITS
from tests.convert.support import pnnx_home

QUICK = Workload(threads=2, warmup_samples=2, max_warmup_s=0.2, min_samples=20, min_duration_s=0.0)
PRUNED = str(Path(DIGITS).with_name("digits-pruned.onnx"))


class Bench(NamedTuple):
    """A session of this computer, and the workbench that prepares models."""

    session: Session
    workbench: Workbench

    def place(self, runtime: str, model: str) -> tuple[Prepared, Placed]:
        """A network as an artifact that lies on the device."""
        tools = self.workbench.home / "tools"
        if runtime == "ncnn" and not tools.exists():
            tools.symlink_to(pnnx_home() / "tools")
        made = prepare(Cell(model_path=model, runtime=runtime, precision="fp32"), self.workbench)
        folder = self.workbench.artifacts.path(made.artifact.digest)
        return made, self.session.place(made.artifact, folder, made.inputs, self.session.facts())

    def duet(self, runtime: str, *, baseline_first: bool = False, phases: list[str] | None = None) -> Launch:
        """The digits network pruned beside itself as it was."""
        (candidate, placed), (baseline, beside) = self.place(runtime, PRUNED), self.place(runtime, DIGITS)
        heard: list[str] = [] if phases is None else phases
        return self.session.duet(
            candidate.artifact,
            placed,
            baseline.artifact,
            beside,
            candidate.inputs,
            QUICK,
            7,
            heard.append,
            baseline_first=baseline_first,
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A leased session on this computer."""
    home = tmp_path_factory.mktemp("home")
    device = Device(name="here", target="", transport="local", work_dir=str(home / "work"), lease="folder")
    workbench = Workbench(home, limits=Limits(time_s=120.0, memory_bytes=8 << 30))
    with open_session(device, home=home, lease=Lease(run="r", purpose="test")) as session:
        yield Bench(session, workbench)
    workbench.close()


@pytest.mark.parametrize("runtime", ["onnxruntime", "ncnn", "openvino"])
@pytest.mark.parametrize("baseline_first", [False, True])
def test_both_are_timed_in_pairs(bench: Bench, runtime: str, baseline_first: bool) -> None:
    pytest.importorskip(runtime, reason=f"missing tool: {runtime}")
    phases: list[str] = []
    launch = bench.duet(runtime, baseline_first=baseline_first, phases=phases)
    assert len(launch.samples_ns) == len(launch.baseline_ns) >= 20
    assert min(launch.samples_ns + launch.baseline_ns) > 0
    assert (launch.number, launch.session) == (7, bench.session.id)
    assert launch.effective["threads"] == "2"
    assert launch.load_ns
    assert launch.first_inference_ns
    assert launch.memory.model_bytes
    loads = [phase for phase in phases if phase.startswith("load")]
    assert loads == (["load_baseline", "load"] if baseline_first else ["load", "load_baseline"])


def test_two_runtimes_are_no_duet(bench: Bench) -> None:
    made, placed = bench.place("onnxruntime", DIGITS)
    other = replace(made.artifact, runtime="ncnn")
    with pytest.raises(NoDuet, match="onnxruntime beside ncnn"):
        bench.session.duet(
            made.artifact, placed, other, placed, made.inputs, QUICK, 1, print, baseline_first=False
        )
