"""The same path against the real trtexec, where this computer has one and an NVIDIA GPU."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest

from edgebench.probe import facts, program, trtexec
from edgebench.probe.wire import ProbeError
from tests.boards.test_tensorrt import TARGET
from tests.commands import DIGITS, Cli, follows_schema

NAMED = os.environ.get(trtexec.VARIABLE, "")  # before a test's own environment hides it
CAPABILITY = "EDGEBENCH_TEST_COMPUTE_CAPABILITY"
GIVEN = os.environ.get(CAPABILITY, "")


def compute_capability() -> str:
    """What the GPU's driver says, the chip's name on a Jetson, or what the caller's environment says."""
    soc = facts.soc_name(facts.Tree())
    known = GIVEN or facts.COMPUTE_CAPABILITY.get(soc or "")
    if known:
        return known
    if shutil.which("nvidia-smi") is None:
        pytest.skip(f"without an NVIDIA GPU: no nvidia-smi, no Jetson ({CAPABILITY} names another)")
    asked = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()[0]


@pytest.fixture
def board(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> str:
    """TensorRT's version here, with this computer as the fleet's only device."""
    if NAMED:
        monkeypatch.setenv(trtexec.VARIABLE, NAMED)
    try:
        path = trtexec.find()
    except ProbeError as error:
        pytest.skip(f"without NVIDIA's trtexec: {error.message}")
    version = trtexec.banner_version(program.output_of([path, "--help"], 120))
    assert version is not None
    text = TARGET.format(name="here", version=version, capability=compute_capability())
    (cli.folder / "targets").mkdir()
    (cli.folder / "targets" / "here.yaml").write_text(text)
    (cli.folder / "edgebench.toml").write_text('targets = "targets"\n')
    (cli.folder / "inventory.yaml").write_text(
        "version: 1\ndevices:\n  gpu: {transport: local, target: here}\n"
    )
    return version


def test_a_network_is_built_proven_and_timed_by_the_real_trtexec(cli: Cli, board: str) -> None:
    images = np.random.default_rng(7).normal(size=(2, 1, 8, 8)).astype(np.float32)
    np.savez(cli.folder / "inputs.npz", image=images)
    words = ("run", DIGITS, "--to", "tensorrt", "--precision", "fp32,fp16", "--inputs", "inputs.npz")
    document = cli.json(*words, "--launches", "2", "--min-samples", "50")
    follows_schema(document)
    assert document["failures"] == []
    for measured in document["measurements"]:
        assert measured["status"] == "ok"
        assert measured["runtime_version"] == board
        assert 0 < measured["latency_ms"]["p50"] < 1000
        assert measured["parity"]["device"]["passed"]
        assert measured["memory"]["peak_bytes"] > 1 << 20
        assert measured["engine"]["build_s"] > 0
        assert measured["engine"]["outputs_by"]
    again = cli.json(*words, "--launches", "1", "--min-samples", "50")["measurements"]
    assert all(measured["engine"]["cached"] for measured in again)
