"""`edgebench convert --to ncnn`: dynamic int8 as weights alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebench.tools import find_pnnx
from tests.commands import Cli
from tests.convert.support import pnnx_home
from tests.models.architectures import ARCHITECTURES
from tests.models.generate import conv_net_integer, save


@pytest.fixture(autouse=True)
def _pnnx(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "EDGEBENCH_PNNX", str(find_pnnx(pnnx_home()))
    )  # after `cli`, which clears the environment


@pytest.mark.parametrize("name", ["vit", "lstm"])
def test_dynamic_int8_becomes_weight_only_and_says_so(cli: Cli, tmp_path: Path, name: str) -> None:
    path = save(ARCHITECTURES[name](), tmp_path / f"{name}.onnx")
    told = {
        precision: cli.json("convert", path, "--to", "ncnn", "--precision", precision)["artifacts"][0]
        for precision in ("fp32", "int8-dynamic")
    }
    sizes = {precision: made["artifact"]["size_bytes"] for precision, made in told.items()}
    assert sizes["int8-dynamic"] < 0.45 * sizes["fp32"]
    assert "weight-only int8: " in told["int8-dynamic"]["artifact"]["notes"][0]
    assert told["int8-dynamic"]["parity"]["passed"]


def test_a_file_that_is_dynamic_int8_already(cli: Cli, tmp_path: Path) -> None:
    path = save(conv_net_integer(), tmp_path / "integer.onnx")
    (made,) = cli.json("convert", path, "--to", "ncnn")["artifacts"]
    assert made["artifact"]["precision"] == "int8-dynamic"
    assert "1 of 1 larger weights" in made["artifact"]["notes"][0]
