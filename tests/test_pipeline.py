"""One job, top to bottom: made once, refused before a device is touched, never timed where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.convert.run import Limits
from edgebench.device.session import Lease
from edgebench.errors import DeviceBusy, DeviceError, ModelError, ParityError, UserError
from edgebench.pipeline import (
    Cell,
    Prepared,
    Site,
    Step,
    Workbench,
    measure,
    open_device,
    prepare,
    verify_artifact,
)
from edgebench.records import Device, Job, Run, Target, Workload, replace
from edgebench.store import Store, sqlite_url
from edgebench.targets import all_targets
from tests.commands import DIGITS
from tests.models import generate

LIMITS = Limits(time_s=120.0, memory_bytes=8 << 30)
QUICK = Workload(
    launches=2, threads=1, warmup_samples=2, max_warmup_s=0.5, min_samples=20, min_duration_s=0.0
)
RUN = "20261123-230000-aaaa"


@pytest.fixture
def steps() -> list[Step]:
    return []


@pytest.fixture
def bench(tmp_path: Path, steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    (tmp_path / "user").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    made = Workbench(tmp_path / "home", limits=LIMITS, announce=steps.append)
    yield made
    made.close()


@pytest.fixture(scope="module")
def target() -> Target:
    return all_targets()["linux-x86_64"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "home").mkdir(exist_ok=True)
    with Store(sqlite_url(tmp_path / "home" / "store.sqlite")) as opened:
        opened.add_run(
            Run(
                id=RUN,
                created_utc="2026-11-23T23:00:00Z",
                status="running",
                plan={},
                edgebench_version="0",
                controller="desk",
            )
        )
        yield opened


def cell(
    path: object = DIGITS, runtime: str = "onnxruntime", precision: str = "fp32", **more: object
) -> Cell:
    return Cell(model_path=str(path), runtime=runtime, precision=precision, **more)  # type: ignore[arg-type]


def stages(steps: list[Step]) -> list[str]:
    return list(dict.fromkeys(step.stage for step in steps))


def job(prepared: Prepared, workload: Workload = QUICK) -> Job:
    artifact = prepared.artifact
    return Job(
        model=artifact.model,
        model_path=DIGITS,
        variant=artifact.variant,
        runtime=artifact.runtime,
        precision=artifact.precision,
        device="here",
        target="linux-x86_64",
        workload=workload,
    )


HERE = Device(name="here", target="linux-x86_64", transport="local", lease="folder")


def opened(bench: Workbench, target: Target, store: Store) -> Site:
    session, facts = open_device(HERE, target, bench.home, Lease(run=RUN, purpose="test"))
    return Site(RUN, session, facts, target, store, {})


# --- preparing -----------------------------------------------------------------------------------


def test_stages_come_in_order_and_everything_is_made_once(bench: Workbench, steps: list[Step]) -> None:
    first = prepare(cell(precision="int8-dynamic"), bench)
    assert stages(steps) == ["inspect", "compress", "convert", "parity"]
    assert first.parity.passed
    assert not first.conversion.cached
    steps.clear()
    second = prepare(cell(precision="int8-dynamic"), bench)
    assert second.conversion.cached
    assert second.artifact == first.artifact
    assert second.parity == first.parity
    assert "compress" not in stages(steps)


def test_the_artifact_says_what_it_is_made_of(bench: Workbench) -> None:
    made = prepare(cell(precision="int8-dynamic", name="numbers"), bench)
    assert made.artifact.model == "numbers"
    assert made.variant.lineage != ()
    assert made.artifact.model_digest == made.variant.model_digest


@pytest.mark.parametrize(
    ("name", "runtime", "precision", "told"),
    [
        ("conv_net", "tensorrt", "int8-dynamic", "cannot run int8-dynamic"),
        ("conv_net_qdq", "onnxruntime", "fp16", "already int8-qdq"),
        ("nan_output", "onnxruntime", "fp32", "NaN"),
        ("string_input", "onnxruntime", "fp32", "string"),
    ],
)
def test_what_a_runtime_cannot_take_is_refused(
    bench: Workbench, tmp_path: Path, name: str, runtime: str, precision: str, told: str
) -> None:
    with pytest.raises(ModelError) as caught:
        prepare(cell(generate.write(tmp_path, name), runtime, precision), bench)
    assert told in caught.value.message
    assert caught.value.hint
    assert list((bench.home / "tmp").glob("*")) == []


def test_an_artifact_of_another_interface_is_the_users_mistake(bench: Workbench, tmp_path: Path) -> None:
    made = prepare(cell(), bench)
    other = cell(generate.write(tmp_path, "conv_net"))
    with pytest.raises(UserError, match="do not have the same inputs and outputs"):
        verify_artifact(other, made.artifact, bench.artifacts.path(made.artifact.digest), bench)


# --- measuring -----------------------------------------------------------------------------------


def test_every_launch_is_stored_as_it_comes(
    bench: Workbench, target: Target, store: Store, steps: list[Step]
) -> None:
    prepared = prepare(cell(), bench)
    site = opened(bench, target, store)
    with site.session:
        measurement = measure(job(prepared), prepared, site, bench)
    assert measurement.status == "ok"
    assert [launch.number for launch in measurement.launches] == [1, 2]
    assert len({launch.started_utc for launch in measurement.launches}) == 2
    assert all(len(launch.samples_ns) >= 20 for launch in measurement.launches)
    assert measurement.device_parity is not None
    assert measurement.device_parity.where == "here"
    (stored,) = store.measurements(RUN)
    assert stored == measurement
    assert [step.done for step in steps if step.stage == "launched"] == [1, 2]


def test_the_cool_down_is_announced(
    bench: Workbench, target: Target, store: Store, steps: list[Step]
) -> None:
    prepared = prepare(cell(), bench)
    site = opened(bench, target, store)
    with site.session:
        measure(job(prepared, replace(QUICK, cooldown_s=0.05)), prepared, site, bench)
    assert [step.done for step in steps if step.stage == "cool down"] == [2]


def recorded(prepared: Prepared, bench: Workbench, output: np.ndarray, folder: Path) -> Prepared:
    """The same job in the replay runtime, whose device answers `output`."""
    folder.mkdir()
    np.save(folder / "logits.npy", output)
    record = {
        "load_ns": 5,
        "first_ns": 9,
        "warmup_ns": [7],
        "samples_ns": [7, 8],
        "outputs": {"logits": "logits.npy"},
    }
    (folder / "replay.json").write_text(json.dumps(record))
    draft = replace(
        prepared.artifact, runtime="replay", entry={"model": "replay.json"}, options={}, key=str(folder)
    )
    artifact = bench.artifacts.put(folder, draft)
    return prepared._replace(conversion=prepared.conversion._replace(artifact=artifact))


def test_a_device_that_computes_something_else_is_never_timed(
    bench: Workbench, target: Target, store: Store, tmp_path: Path, steps: list[Step]
) -> None:
    prepared = prepare(cell(), bench)
    right = bench.reference(prepared.variant, prepared.inputs).samples[0]["logits"]
    site = opened(bench, target, store)
    with site.session:
        for number, output in enumerate((right * 1.01, right[:, ::-1], np.full_like(right, np.nan))):
            wrong = recorded(prepared, bench, output, tmp_path / f"wrong{number}")
            with pytest.raises(ModelError, match="does not compute the same on here"):
                measure(job(wrong), wrong, site, bench)
        assert store.measurements(RUN) == ()
        assert "launch" not in stages(steps)
        good = recorded(prepared, bench, right, tmp_path / "right")
        measurement = measure(job(good), good, site, bench)
    assert [launch.samples_ns[:4] for launch in measurement.launches] == [(7, 8, 7, 8)] * 2


def test_a_device_is_leased_once(bench: Workbench, target: Target, store: Store) -> None:
    site = opened(bench, target, store)
    with site.session, pytest.raises(DeviceBusy, match=RUN):
        opened(bench, target, store)
    opened(bench, target, store).session.close()


def test_a_device_that_is_not_its_target_is_refused_and_freed(
    bench: Workbench, target: Target, store: Store
) -> None:
    with pytest.raises(DeviceError, match="is not what its target raspberry-pi-5 says"):
        opened(bench, all_targets()["raspberry-pi-5"], store)
    opened(bench, target, store).session.close()


def test_a_compression_that_breaks_the_network_is_refused(bench: Workbench, tmp_path: Path) -> None:
    """Sums beyond float16 become infinite: the fp16 file and its artifact would agree with each other."""
    weight = numpy_helper.from_array(np.full((4, 4), 3e4, dtype=np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["big"], name="beyond_float16"),
        helper.make_node("Mul", ["big", "small"], ["y"], name="back"),
    ]
    small = numpy_helper.from_array(np.array(1e-6, dtype=np.float32), "small")
    tensor = helper.make_tensor_value_info
    ends = ([tensor("x", TensorProto.FLOAT, [1, 4])], [tensor("y", TensorProto.FLOAT, [1, 4])])
    made = helper.make_model(
        helper.make_graph(nodes, "g", *ends, [weight, small]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(made, tmp_path / "overflow.onnx")
    np.savez(tmp_path / "inputs.npz", x=np.array([[5.0, 6.0, 7.0, 8.0]], dtype=np.float32))
    wanted = Cell(
        model_path=str(tmp_path / "overflow.onnx"),
        runtime="onnxruntime",
        precision="fp16",
        inputs=str(tmp_path / "inputs.npz"),
    )
    with pytest.raises(ParityError, match="is not the same network any more"):
        prepare(wanted, bench)
    assert prepare(replace(wanted, precision="fp32"), bench).parity.passed
