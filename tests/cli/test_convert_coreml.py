"""`edgebench convert --to coreml`: what a package may be, what is cut off before, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebench.tools import find_pnnx
from tests.commands import Cli
from tests.convert.support import pnnx_home
from tests.models import detector

# --- before NonMaxSuppression ----------------------------------------------------------------------


@pytest.fixture
def found(cli: Cli) -> Path:
    return detector.write(cli.folder / "detector.onnx")


def test_a_detector_is_refused_with_the_flag_that_helps(cli: Cli, found: Path) -> None:
    told = cli.fails(4, "model", "convert", found, "--to", "coreml")
    assert "NonMaxSuppression" in told
    assert "--cut-nms" in told


@pytest.mark.parametrize("runtime", ["coreml", "onnxruntime", "openvino", "ncnn"])
def test_a_detector_is_cut_for_every_runtime(
    cli: Cli, found: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime == "ncnn":
        monkeypatch.setenv("EDGEBENCH_PNNX", str(find_pnnx(pnnx_home())))
    (made,) = cli.json("convert", found, "--to", runtime, "--cut-nms")["artifacts"]
    outputs = [each["name"] for each in made["artifact"]["outputs"]]
    assert outputs == ["features", "boxes", "scores"]
    assert made["parity"]["passed"]
    assert made["artifact"]["lineage"][0].startswith("cut-nms from sha256:")


def test_cutting_what_is_not_there(cli: Cli) -> None:
    from tests.commands import DIGITS

    told = cli.fails(2, "user", "convert", DIGITS, "--to", "onnxruntime", "--cut-nms")
    assert "has no NonMaxSuppression" in told


def test_a_cut_artifact_can_be_verified_against_the_whole_model(cli: Cli, found: Path) -> None:
    (made,) = cli.json("convert", found, "--to", "onnxruntime", "--cut-nms")["artifacts"]
    digest = made["artifact"]["digest"]
    assert cli.json("verify", found, digest)["parity"]["passed"]


def test_a_cut_model_is_another_artifact(cli: Cli, found: Path) -> None:
    (whole,) = cli.json("convert", found, "--to", "onnxruntime")["artifacts"]
    (made,) = cli.json("convert", found, "--to", "onnxruntime", "--cut-nms")["artifacts"]
    assert whole["artifact"]["key"] != made["artifact"]["key"]
    assert whole["artifact"]["model_digest"] != made["artifact"]["model_digest"]


def test_a_run_cuts_the_models_that_have_it(cli: Cli, found: Path) -> None:
    from tests.commands import DIGITS, QUICK

    told = cli.fails(2, "user", "run", DIGITS, "--to", "onnxruntime", "--cut-nms")
    assert "no model has a NonMaxSuppression" in told
    document = cli.json("run", found, DIGITS, "--to", "onnxruntime", "--cut-nms", *QUICK)
    assert document["failures"] == []
    assert len(document["measurements"]) == 2
