"""Accuracy of real digits networks through what each runtime runs, here and by a device's own outputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgebench.convert.run import Limits
from edgebench.device.session import Lease
from edgebench.errors import ModelError, UserError
from edgebench.pipeline import Cell, Labelled, Prepared, Site, Step, Workbench, measure, open_device, prepare
from edgebench.records import Accuracy, Device, Job, Run, Workload, replace
from edgebench.store import Store, sqlite_url
from edgebench.targets import all_targets
from tests.commands import DEMO, DIGITS
from tests.convert.support import pnnx_home

LIMITS = Limits(time_s=120.0, memory_bytes=8 << 30)
PRUNED = str(DEMO / "digits-pruned.onnx")
CALIBRATION = str(DEMO / "digits-calibration.npz")
N = 150  # more than one request to a device holds, and no multiple of the batches here
RUN = "20261126-010000-aaaa"


@pytest.fixture
def steps() -> list[Step]:
    return []


@pytest.fixture
def bench(tmp_path: Path, steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    (tmp_path / "user").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    made = Workbench(tmp_path / "home", limits=LIMITS, announce=steps.append)
    yield made
    made.close()


@pytest.fixture
def some(tmp_path: Path) -> str:
    """The first test pictures with their labels, three of them wrong."""
    with np.load(DEMO / "digits-test.npz") as data:
        labels = data["labels"][:N].copy()
        labels[:3] = (labels[:3] + 1) % 10
        np.savez(tmp_path / "some.npz", image=data["image"][:N], labels=labels)
    return str(tmp_path / "some.npz")


def made(bench: Workbench, labelled: Labelled, path: str = DIGITS, **more: object) -> Prepared:
    fields = {"runtime": "onnxruntime", "precision": "fp32", "calibration": CALIBRATION} | more
    return prepare(Cell(model_path=path, labelled=labelled, **fields), bench)  # type: ignore[arg-type]


def of(prepared: Prepared) -> Accuracy:
    assert prepared.accuracy is not None
    return prepared.accuracy


def stages(steps: list[Step]) -> list[str]:
    return [step.what for step in steps if step.stage == "accuracy"]


@pytest.mark.parametrize(
    ("runtime", "precision", "batch"),
    [
        ("onnxruntime", "fp32", 1),
        ("onnxruntime", "int8", 11),
        ("openvino", "fp16", 7),
        ("ncnn", "fp32", 1),
        ("coreml", "fp32", 4),
    ],
)
def test_every_runtime_answers_as_the_reference(
    bench: Workbench, some: str, runtime: str, precision: str, batch: int
) -> None:
    if runtime == "ncnn":
        home = pnnx_home()
        (bench.home / "tools").mkdir(parents=True)
        for each in (home / "tools").iterdir():
            (bench.home / "tools" / each.name).symlink_to(each)
    found = of(made(bench, Labelled(some), runtime=runtime, precision=precision, batch=batch))
    assert (found.n, found.metric, found.where) == (N, "top1", "controller")
    assert found.reference == found.value == pytest.approx((N - 3) / N)
    assert (found.drop, found.only_reference, found.only_candidate) == (0.0, 0, 0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert found.against == "digits fp32"
    assert found.computed_by == ("interpreter" if runtime == "coreml" else "runtime")
    assert found.top5 is not None
    assert found.top5 >= found.value


def test_a_network_that_lost_is_compared_on_the_same_samples(
    bench: Workbench, some: str, tmp_path: Path
) -> None:
    """Most of its weights are gone: lost against what it was made of, not against itself."""
    from edgebench import compress

    ruined = tmp_path / "ruined.onnx"
    compress.apply(Path(DIGITS), ("prune:share=0.7",), compress.Settings(arch="x86_64"), out=ruined)
    alone = of(made(bench, Labelled(some), str(ruined)))
    assert alone.drop == 0.0
    found = of(made(bench, Labelled(some, reference=DIGITS), str(ruined)))
    assert found.value == alone.value < 0.9
    assert found.drop == pytest.approx((N - 3) / N - found.value)
    assert found.drop_low is not None
    assert found.drop_low > 0.02
    assert found.p_value is not None
    assert found.p_value < 1e-4
    assert found.only_reference is not None
    assert found.only_candidate is not None
    assert found.only_reference - found.only_candidate == round(found.drop * N)


def test_the_reference_is_computed_once(bench: Workbench, some: str, steps: list[Step]) -> None:
    made(bench, Labelled(some))
    made(bench, Labelled(some), precision="int8")
    made(bench, Labelled(some), precision="int8")
    of_int8 = "digits int8 on onnxruntime"
    computed = list(dict.fromkeys(stages(steps)))
    assert computed == ["digits fp32, the reference", "digits fp32 on onnxruntime", of_int8]
    assert sum(step.note == f"0 of {N} samples" for step in steps if step.stage == "accuracy") == 3
    notes = [step.note for step in steps if step.stage == "accuracy"]
    assert notes[0] == f"0 of {N} samples"
    assert any(" left" in note for note in notes)
    assert [step.stage for step in steps].count("data set") == 1


# --- a metric of one's own ------------------------------------------------------------------------

METRIC = """
import numpy as np


def right(outputs, labels):
    assert outputs["logits"].shape == (len(labels), 10)
    return outputs["logits"].argmax(1) == labels


def loss(outputs, labels):
    chances = np.exp(outputs["logits"] - outputs["logits"].max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    return -np.log(np.maximum(chances[np.arange(len(labels)), labels], 1e-9))


def one(outputs, labels):
    return float((outputs["logits"].argmax(1) == labels).mean())


def broken(outputs, labels):
    return outputs["logit"]


def boxes(outputs):
    logits = outputs["logits"]
    return [[[row.argmax(), 1 / (1 + np.exp(-row.max())), 0.5, 0.5, 0.2, 0.2]] for row in logits]


def made():
    data = np.load({path!r})
    return {{"image": data["image"]}}, data["labels"]
"""


@pytest.fixture
def own(tmp_path: Path, some: str) -> str:
    """A module with metrics in the working directory, named for this test alone."""
    module = f"metrics_{abs(hash(str(tmp_path))):x}"
    (tmp_path / f"{module}.py").write_text(METRIC.format(path=some))
    return module


def test_a_metric_of_ones_own_and_a_function_that_gives_samples(
    bench: Workbench, own: str, some: str
) -> None:
    top1 = of(made(bench, Labelled(some), precision="int8"))
    right = of(made(bench, Labelled(f"{own}:made", metric=f"{own}:right"), precision="int8", batch=11))
    assert (right.value, right.low, right.drop_high) == (top1.value, top1.low, top1.drop_high)
    assert right.dataset == top1.dataset
    loss = of(made(bench, Labelled(some, metric=f"{own}:loss"), precision="int8"))
    assert loss.only_reference is None
    assert loss.drop is not None
    assert loss.drop_low is not None
    assert loss.drop_high is not None
    assert loss.drop_low < loss.drop < loss.drop_high
    single = of(made(bench, Labelled(some, metric=f"{own}:one"), precision="int8"))
    assert (single.value, single.low, single.drop_low) == (top1.value, None, None)


def test_mean_average_precision_of_boxes_has_an_interval(
    bench: Workbench, own: str, some: str, tmp_path: Path
) -> None:
    """Each digit is a box in the middle of its picture, of the class that it is."""
    with np.load(some) as data:
        labels = np.concatenate([data["labels"][:, None], np.full((N, 4), (0.5, 0.5, 0.2, 0.2))], axis=1)
        np.savez(tmp_path / "boxes.npz", image=data["image"], labels=labels[:, None])
    asked = Labelled(str(tmp_path / "boxes.npz"), metric=f"map:{own}:boxes")
    found = of(made(bench, asked, precision="int8"))
    assert found.metric == asked.metric
    assert found.n == N
    assert 0.5 < found.value < 1
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert found.drop is not None
    assert found.drop_low is not None
    assert found.drop_low <= found.drop
    with pytest.raises(UserError, match=r"not \[N, boxes, 5\]"):
        made(bench, Labelled(some, metric=f"map:{own}:boxes"))


# --- bad input ------------------------------------------------------------------------------------


def test_what_cannot_be_judged_is_the_users(bench: Workbench, some: str, own: str, tmp_path: Path) -> None:
    def refused(labelled: Labelled) -> UserError:
        with pytest.raises(UserError) as caught:
            made(bench, labelled)
        assert caught.value.hint
        return caught.value

    assert 'no output "logit"' in refused(Labelled(some, output="logit")).message
    error = refused(Labelled(some, metric=f"{own}:broken"))
    assert "in broken: KeyError" in error.message
    assert f"{own}.py:" in error.message
    assert "Traceback" in error.detail
    np.savez(tmp_path / "far.npz", image=np.zeros((2, 1, 8, 8), np.float32), labels=[3, 10])
    assert (
        'a label is 10, and "logits" has 10 classes' in refused(Labelled(str(tmp_path / "far.npz"))).message
    )
    assert "no file" in refused(Labelled(str(tmp_path / "none.npz"))).message


def test_a_reference_with_other_inputs_is_refused(bench: Workbench, some: str, tmp_path: Path) -> None:
    from tests.models import generate

    other = generate.write(tmp_path, "conv_net")
    with pytest.raises((UserError, ModelError), match="has other inputs or outputs"):
        made(bench, Labelled(some, reference=str(other)))


# --- on a device ----------------------------------------------------------------------------------


def test_a_device_computes_its_own_accuracy(
    bench: Workbench, some: str, tmp_path: Path, steps: list[Step]
) -> None:
    here = of(made(bench, Labelled(some), precision="int8"))
    prepared = made(bench, Labelled(some, on_device=True), precision="int8")
    assert prepared.accuracy is None
    artifact = prepared.artifact
    workload = Workload(launches=1, threads=1, min_samples=5, min_duration_s=0.0, max_warmup_s=0.2)
    job = Job(
        model=artifact.model,
        model_path=DIGITS,
        variant=artifact.variant,
        runtime="onnxruntime",
        precision="int8",
        device="here",
        target="linux-x86_64",
        workload=workload,
    )
    target = all_targets()["linux-x86_64"]
    target = replace(target, limits=replace(target.limits, max_foreign_cores=4096.0))
    device = Device(name="here", target="linux-x86_64", transport="local", lease="folder")
    with Store(sqlite_url(tmp_path / "store.sqlite")) as store:
        store.add_run(
            Run(
                id=RUN,
                created_utc="2026-11-26T01:00:00Z",
                status="running",
                plan={},
                edgebench_version="0",
                controller="desk",
            )
        )
        session, facts = open_device(device, target, bench.home, Lease(run=RUN, purpose="test"))
        with session:
            measured = measure(job, prepared, Site(RUN, session, facts, target, store, {}), bench)
        (stored,) = store.measurements(RUN)
    assert stored.accuracy == measured.accuracy == replace(here, where="here")
    there = [step for step in steps if step.device == "here"]
    notes = [step.note for step in there if step.stage == "accuracy"]
    assert [note.split(",")[0] for note in notes] == ["0 of 150 samples", "128 of 150 samples"]
    order = list(dict.fromkeys(step.stage for step in there))
    assert order.index("accuracy") > order.index("launched")  # it would have warmed the board
    assert list((bench.home / "tmp").glob("*")) == []
