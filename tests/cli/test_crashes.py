"""A runtime that dies of an artifact on the controller: the model's refusal, and the next way is tried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgebench.convert.run import Limits
from edgebench.errors import InfrastructureError, ModelError
from edgebench.pipeline import Cell, Workbench, prepare
from tests.commands import DIGITS, Cli
from tests.models import generate

# ncnn's ROIAlign reads where the box says: a box far outside is a segmentation fault, one of size 1 is fine.
FOREIGN = ("QuickGelu", "com.microsoft")  # what edgebench does not write for ncnn either
FAR = 1e9
# One channel: ncnn gives each a thread, and two that crash at once cut the log off after its first words.
SHAPE = [1, 1, 4, 4]


def fake_pnnx(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of pnnx: what it writes passes the converter's gate, and dies of far boxes."""
    layers = ("Input in0 0 1 in0", "Input in1 0 1 in1")
    layers += ("ROIAlign roi 2 1 in0 in1 out0 0=4 1=4 2=1.0 3=2 4=0 5=0",)
    text = "\\n".join(("7767517", "3 3", *layers, ""))
    path = folder / "fake-pnnx"
    path.write_text(f"#!/bin/sh\nprintf '{text}' > m.ncnn.param\n: > m.ncnn.bin\n")
    path.chmod(0o755)
    monkeypatch.setenv("EDGEBENCH_PNNX", str(path))


def network(folder: Path, last: str = "Relu", domain: str = "") -> Path:
    """y = last(x + max(box) / max(box)), whatever pnnx makes of it."""
    nodes = [
        helper.make_node("ReduceMax", ["box"], ["top"], axes=[1], keepdims=1),
        helper.make_node("Div", ["top", "top"], ["one"]),
        helper.make_node("Add", ["x", "one"], ["sum"]),
        helper.make_node(last, ["sum"], ["y"], name="last", domain=domain),
    ]
    inputs = [generate.tensor("x", SHAPE), generate.tensor("box", [1, 4])]
    made = generate.build(nodes, inputs, [generate.tensor("y", SHAPE)])
    return generate.save(made, folder / "boxes.onnx")


def endless() -> onnx.ModelProto:
    """y = x, multiplied by -1 as often as `trips` says."""
    body = helper.make_graph(
        [
            helper.make_node("Neg", ["held"], ["turned"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            generate.tensor("number", [], TensorProto.INT64),
            generate.tensor("go", [], TensorProto.BOOL),
            generate.tensor("held", [1, 4]),
        ],
        [generate.tensor("go_on", [], TensorProto.BOOL), generate.tensor("turned", [1, 4])],
    )
    loop = helper.make_node("Loop", ["trips", "yes", "x"], ["y"], name="loop", body=body)
    inputs = [generate.tensor("trips", [], TensorProto.INT64), generate.tensor("x", [1, 4])]
    return generate.build([loop], inputs, [generate.tensor("y", [1, 4])], {"yes": np.array(True)})


def far_boxes(folder: Path) -> str:
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(SHAPE)
    np.savez(folder / "far.npz", x=x, box=np.array([[0, 0, FAR, FAR]], np.float32))
    return str(folder / "far.npz")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Workbench(tmp_path / "home", limits=Limits(time_s=20.0, memory_bytes=4 << 30))
    yield made
    made.close()


def test_after_a_crash_the_next_way_is_tried(
    tmp_path: Path, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pnnx(tmp_path, monkeypatch)
    cell = Cell(
        model_path=str(network(tmp_path)),
        runtime="ncnn",
        precision="fp32",
        inputs=far_boxes(tmp_path),
    )
    made = prepare(cell, bench)
    assert made.parity.passed
    assert "written by edgebench itself" in made.artifact.notes[0]


def test_a_crash_is_the_models_refusal_and_the_session_lives_on(
    tmp_path: Path, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pnnx(tmp_path, monkeypatch)
    path = str(network(tmp_path, *FOREIGN))
    inputs = far_boxes(tmp_path)
    with pytest.raises(ModelError, match=r"ncnn did not survive running it: .*SIGSEGV") as caught:
        prepare(Cell(model_path=path, runtime="ncnn", precision="fp32", inputs=inputs), bench)
    assert "in _extract" in caught.value.detail  # the Python lines that led to the crash
    assert "device" not in f"{caught.value.message} {caught.value.hint}"
    with bench.controller() as session:
        before = session.id
    assert prepare(Cell(model_path=DIGITS, runtime="onnxruntime", precision="fp32"), bench).parity.passed
    with bench.controller() as session:
        assert session.id == before


def test_a_hang_ends_at_the_time_limit(tmp_path: Path, bench: Workbench) -> None:
    """A loop that counts to 2**40 in ONNX Runtime; ONNX's own definition of it would not end either."""
    bench.limits = Limits(time_s=5.0, memory_bytes=4 << 30)
    path = generate.save(endless(), tmp_path / "loop.onnx")
    np.savez(tmp_path / "long.npz", trips=np.array(1 << 40), x=np.ones((1, 4), np.float32))
    cell = Cell(
        model_path=str(path), runtime="onnxruntime", precision="fp32", inputs=str(tmp_path / "long.npz")
    )
    with pytest.raises(ModelError, match="not done after 5 s") as caught:
        prepare(cell, bench)
    assert "EDGEBENCH_CONVERT_TIMEOUT_S" in caught.value.hint


def test_when_the_session_itself_is_gone_the_next_model_gets_another(
    tmp_path: Path, bench: Workbench
) -> None:
    cell = Cell(model_path=DIGITS, runtime="onnxruntime", precision="fp32")
    with bench.controller() as session:
        first = session.id
        os.kill(probe_of(bench.home), 9)
    with pytest.raises(InfrastructureError, match="cannot be run on this computer"):
        prepare(cell, bench)
    assert prepare(cell, bench).parity.passed
    with bench.controller() as session:
        assert session.id != first


def probe_of(home: Path) -> int:
    """The process of the controller's session: its run folder is named after it."""
    (folder,) = (home / "runs").iterdir()
    return int(folder.name.partition("-")[0])


def test_a_crash_is_told_with_its_log(fresh_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pnnx(fresh_cli.folder, monkeypatch)
    path = network(fresh_cli.folder, *FOREIGN)
    asked = ("convert", path, "--to", "ncnn", "--inputs", far_boxes(fresh_cli.folder))
    assert "SIGSEGV" in fresh_cli.fails(4, "model", *asked, "-o", "out")
    assert "Fatal Python error: Segmentation fault" in fresh_cli(*asked, code=4).err
    assert "Segmentation fault" in fresh_cli.json(*asked, code=4)["error"]["detail"]
    several = (*asked[:3], "ncnn,onnxruntime", *asked[4:])
    assert "Segmentation fault" in fresh_cli(*several, code=4).err
    (failure,) = fresh_cli.json(*several, code=4)["failures"]
    assert "Segmentation fault" in failure["detail"]
    assert fresh_cli.leftovers() == []
    assert not (fresh_cli.folder / "out").exists()
