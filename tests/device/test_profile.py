"""A session takes what a device says of layers with care: numbers are checked, the rest is text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench.device.session import Lease, Session, open_session, save_inputs
from edgebench.errors import DeviceError, EdgebenchError
from edgebench.records import Artifact, ArtifactFile, Device, Profile, Tensor, Workload
from tests.probe.fakes import recording

LAYER = {"name": "a", "kind": "Conv", "mean_ns": 5, "unit": None, "nodes": []}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A leased session on this computer."""
    home = tmp_path_factory.mktemp("home")
    device = Device(name="here", target="", transport="local", work_dir=str(home / "work"))
    with open_session(device, home=home, lease=Lease(run="r", purpose="test")) as opened:
        yield opened


def profiled(session: Session, folder: Path, **recorded: Any) -> Profile:
    """What the session makes of recorded layers."""
    content = recording(**recorded)
    (folder / "model.json").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    tensor = Tensor(name="y", dtype="float32", shape=(1,))
    artifact = Artifact(
        digest=digest,
        key="",
        runtime="replay",
        precision="fp32",
        model="m",
        variant="fp32",
        model_digest=digest,
        files=(ArtifactFile(path="model.json", sha256=digest, size_bytes=len(content)),),
        size_bytes=len(content),
        entry={"model": "model.json"},
        inputs=(tensor,),
        outputs=(tensor,),
    )
    inputs = save_inputs([{"y": np.zeros(1, np.float32)}], folder)
    placed = session.place(artifact, folder, inputs, session.facts())
    return session.profile(artifact, placed, inputs, Workload(), 4)


def test_what_the_device_says_becomes_a_profile(session: Session, tmp_path: Path) -> None:
    made = profiled(session, tmp_path, layers=[LAYER], profiled={"total_ns": 9})
    assert (made.layers[0].name, made.layers_ns, made.total_ns, made.repeats) == ("a", 5, 9, 4)
    assert made.started_utc.startswith("20")


@pytest.mark.parametrize(
    "recorded",
    [
        {"layers": [{**LAYER, "mean_ns": -1}]},
        {"layers": [{**LAYER, "mean_ns": 2**62}]},
        {"layers": [{**LAYER, "mean_ns": 1.5}]},
        {"layers": [{**LAYER, "nodes": "conv"}]},
        {"layers": [{**LAYER, "surprise": 1}]},
        {"layers": ["conv"]},
        {"layers": [LAYER], "profiled": {"total_ns": -9}},
        {"layers": [LAYER], "profiled": {"total_ns": 10**18}},
        {"layers": [LAYER], "profiled": {"estimated": "perhaps"}},
        {"layers": [LAYER], "profiled": {"started_unix_s": {}, "method": 7}},
    ],
)
def test_nonsense_is_the_devices_failure(session: Session, tmp_path: Path, recorded: Any) -> None:
    with pytest.raises(DeviceError, match=r"the probe's answer \(\w+\) makes no sense"):
        profiled(session, tmp_path, **json.loads(json.dumps(recorded)))


def test_no_layers_are_the_runtimes_own_word(session: Session, tmp_path: Path) -> None:
    with pytest.raises(EdgebenchError, match="no layers were recorded"):
        profiled(session, tmp_path, layers=None)
