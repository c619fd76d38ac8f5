"""A session builds an engine on this computer, with the stand-in for trtexec: progress, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgebench.device.session import InputSet, Lease, Session, open_session, save_inputs
from edgebench.errors import DeviceError, ModelError
from edgebench.records import Artifact, ArtifactFile, Device
from tests.probe import trt_bench
from tests.probe.harness import sha256
from tests.standins import trtexec


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed stand-in for 8.2.1 on a Nano."""
    program = trtexec.install(tmp_path / "standin", version=8201)
    monkeypatch.setenv("EDGEBENCH_TRTEXEC", str(program))
    return program.parent


@pytest.fixture
def session(stand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("HOME", str(tmp_path))
    device = Device(
        name="here", target="", transport="local", work_dir=str(tmp_path / "work"), lease="folder"
    )
    with open_session(device, home=tmp_path / "home", lease=Lease(run="r", purpose="test")) as opened:
        yield opened


def inputs(tmp_path: Path) -> InputSet:
    return save_inputs([{"x": np.zeros((1, 4), dtype=np.float32)}], tmp_path)


def artifact(folder: Path) -> Artifact:
    """A plan for a Nano in `folder`."""
    contents = {"model.onnx": trt_bench.MODEL, "plan.json": trt_bench.plan("8.2.1")}
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = tuple(
        ArtifactFile(path=name, sha256=sha256(content), size_bytes=len(content))
        for name, content in contents.items()
    )
    return Artifact(
        digest=sha256(b"artifact"),
        key="",
        runtime="tensorrt",
        precision="fp16",
        model="net",
        variant="fp32",
        model_digest="",
        files=files,
        size_bytes=sum(each.size_bytes for each in files),
        entry={"model": "model.onnx", "plan": "plan.json"},
        inputs=(trt_bench.X,),
        outputs=(trt_bench.Y,),
    )


def test_progress_is_told_while_the_device_builds(session: Session, stand: Path, tmp_path: Path) -> None:
    trtexec.configure(stand, version=8201, build_s=2)
    made = artifact(tmp_path / "artifact")
    placed = session.place(made, tmp_path / "artifact", inputs(tmp_path), session.facts())
    told: list[tuple[float, str]] = []
    built, engine = session.build(made, placed, lambda *each: told.append(each), timeout_s=60)
    assert built.engine is not None
    assert Path(built.engine).stat().st_size == engine.size_bytes
    assert not engine.cached
    assert engine.gpu == "NVIDIA Tegra X1"
    assert engine.version == "8.2.1"
    assert engine.program == str(stand / "trtexec")
    assert told[0] == (0.0, "")
    assert len(told) >= 3
    assert any("tactic" in line for _, line in told)
    again, kept = session.build(made, placed, lambda *each: told.append(each), timeout_s=60)
    assert again == built
    assert told.count((0.0, "")) == 1
    assert kept.cached
    assert kept.build_s == engine.build_s


def test_what_the_board_says_is_cleaned(session: Session, stand: Path, tmp_path: Path) -> None:
    line = "[TRT] \x1b[31mred\x07 is refused"
    trtexec.configure(stand, version=8201, errors={"build": [line]})
    made = artifact(tmp_path / "artifact")
    placed = session.place(made, tmp_path / "artifact", inputs(tmp_path), session.facts())
    with pytest.raises(ModelError) as caught:
        session.build(made, placed, lambda *_: None, timeout_s=60)
    assert "\x1b" not in caught.value.message + caught.value.detail
    assert "is refused" in caught.value.message


def test_a_build_over_its_time_is_not_tried_again(session: Session, stand: Path, tmp_path: Path) -> None:
    trtexec.configure(stand, version=8201, build_s=60)
    made = artifact(tmp_path / "artifact")
    placed = session.place(made, tmp_path / "artifact", inputs(tmp_path), session.facts())
    with pytest.raises(DeviceError, match="not done after 1 s") as caught:
        session.build(made, placed, lambda *_: None, timeout_s=1)
    assert not caught.value.retryable
    assert "EDGEBENCH_BUILD_TIMEOUT_S" in caught.value.hint
