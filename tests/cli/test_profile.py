"""run --profile with the real runtimes: every ONNX node has its layer, timed launches stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgebench.store import Store, sqlite_url
from edgebench.tools import find_pnnx
from tests.commands import DIGITS, Cli, follows_schema
from tests.convert.support import pnnx_home
from tests.probe.networks import NODES, residual

QUICK = ("--launches", "1", "--min-samples", "5", "--min-duration", "1 ms", "--threads", "1")


@pytest.fixture
def network(tmp_path: Path) -> str:
    """A network of nine nodes, of which runtimes fuse some."""
    onnx.save(residual(), tmp_path / "residual.onnx")
    return str(tmp_path / "residual.onnx")


def profiled(cli: Cli, *words: str) -> dict[str, Any]:
    """The one measurement of a run with --profile."""
    document = cli.json("run", *words, *QUICK, "--profile")
    follows_schema(document)
    (made,) = document["measurements"]
    assert made["status"] == "ok"
    assert not [warning for warning in made["warnings"] if "profile" in warning]
    return made


def nodes_of(profile: dict[str, Any]) -> list[str]:
    return [name for layer in profile["layers"] for name in layer["nodes"]]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "ncnn"])
def test_every_node_of_a_network_is_accounted_for_once(
    cli: Cli, network: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(runtime, reason=f"missing tool: {runtime}")
    if runtime == "ncnn":
        monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
    made = profiled(cli, network, "--to", runtime)
    profile = made["profile"]
    accounted = nodes_of(profile) + profile["nodes_folded"] + profile["nodes_unclaimed"]
    assert sorted(accounted) == sorted(NODES)
    assert (profile["nodes_folded"], profile["nodes_unclaimed"]) == ([], [])
    fused = next(layer for layer in profile["layers"] if "conv_a" in layer["nodes"])
    assert fused["nodes"] == ["conv_a", "relu_a"]
    assert 0 < profile["layers_ms"] <= profile["total_ms"]
    assert profile["unexplained_ms"] == pytest.approx(profile["total_ms"] - profile["layers_ms"])
    assert profile["runtime_version"] == made["runtime_version"]
    assert profile["repeats"] == 30


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-dynamic"])
def test_compressed_networks_name_the_nodes_of_what_was_converted(cli: Cli, precision: str) -> None:
    calibration = str(Path(DIGITS).with_name("digits-calibration.npz"))
    words = (DIGITS, "--to", "onnxruntime", "--precision", precision, "--calibration", calibration)
    profile = profiled(cli, *words)["profile"]
    assert profile["nodes_unclaimed"] == []
    source = (
        cli.home / "artifacts" / "objects" / profile["onnx"][:2] / profile["onnx"] / "files" / "model.onnx"
    )
    known = {node.name or node.output[0] for node in onnx.load(source).graph.node}
    assert set(nodes_of(profile)) | set(profile["nodes_folded"]) == known


def test_the_table_is_shown_after_the_run_and_again_by_report(cli: Cli) -> None:
    shown = cli("run", DIGITS, "--to", "onnxruntime", *QUICK, "--profile").out
    assert "Where the time goes: digits fp32 · onnxruntime · local" in shown
    assert "/dense1/conv/Conv, /dense1/relu/Relu" in shown
    assert "are slower than the timed launches" in " ".join(shown.split())
    again = cli("report").out
    assert again[again.index("Where the time") :] == shown[shown.index("Where the time") :]
    assert "## Where the time goes" in cli("report", "--format", "markdown").out
    assert json.loads(cli("report", "--format", "json").out)["measurements"][0]["profile"]["layers"]


def test_without_the_flag_there_is_no_profile(cli: Cli) -> None:
    (made,) = cli.json("run", DIGITS, "--to", "onnxruntime", *QUICK)["measurements"]
    assert made["profile"] is None
    assert "Where the time goes" not in cli("report").out


def test_a_plan_may_ask_for_profiles(cli: Cli) -> None:
    lines = ["version: 1", f"models: [{DIGITS}]", "runtimes: [onnxruntime]", "profile: true"]
    lines += ["workload: {launches: 1, min_samples: 5, min_duration_s: 0.001, threads: 1}"]
    (cli.folder / "plan.yaml").write_text("\n".join(lines) + "\n")
    (made,) = cli.json("run", "--plan", "plan.yaml")["measurements"]
    assert made["profile"]["layers"]
    (cli.folder / "plan.yaml").write_text("\n".join(lines[:3] + lines[4:]) + "\n")
    assert cli.json("run", "--plan", "plan.yaml", "--profile")["measurements"][0]["profile"]
    assert cli.json("run", "--plan", "plan.yaml")["measurements"][0]["profile"] is None


def test_the_timed_launches_are_those_of_a_run_without_profile(cli: Cli) -> None:
    run = cli.json("run", DIGITS, "--to", "onnxruntime", *QUICK, "--launches", "2", "--profile")["run"]
    with Store(sqlite_url(cli.home / "store.sqlite")) as store:
        (measurement,) = store.measurements(run)
        (profile,) = store.profiles(run).values()
    assert [launch.number for launch in measurement.launches] == [1, 2]
    assert all(launch.started_utc < profile.started_utc for launch in measurement.launches)
    assert profile.effective == measurement.launches[0].effective
