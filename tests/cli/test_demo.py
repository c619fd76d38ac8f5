"""`edgebench demo`: the main job on real input, whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Cli


@pytest.mark.slow
def test_the_demo_ends_with_the_path_of_its_report(cli: Cli) -> None:
    answer = cli("demo", "--launches", "1")
    path = Path(answer.out.rstrip().rsplit(" ", 1)[-1])
    assert path.is_file()
    text = path.read_text()
    assert text.startswith("<!doctype html>")
    assert "digits" in text
    assert "Latency, launch by launch" in text
    assert "digits" in path.with_suffix(".md").read_text()
    for word in ("fp32", "fp16", "int8", "int8-dynamic", "pruned", "onnxruntime", "openvino"):
        assert word in answer.out
    assert cli.leftovers() == []
