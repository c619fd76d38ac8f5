"""Engines that a device built: their build time and size in the table, all else in the document."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from edgebench.records import Engine, Measurement, replace
from edgebench.report import terminal
from edgebench.report.base import Report
from edgebench.report.build import build
from edgebench.report.document import document
from tests.report import fixtures

SCHEMA = Path(__file__).parents[2] / "docs" / "run.schema.json"
ENGINE = Engine(
    sha256="ab" * 32,
    size_bytes=6 << 20,
    cached=True,
    build_s=184.708,
    version="8.2.1",
    program="/usr/src/tensorrt/bin/trtexec",
    flags=("--fp16",),
    gpu="NVIDIA Tegra X1",
    outputs_by="trtexec --exportOutput, 6 digits: import tensorrt fails",
)


def on_a_nano(precision: str, size_bytes: int) -> Measurement:
    cell = fixtures.job(runtime="tensorrt", precision=precision)
    made = fixtures.measurement(cell, size_bytes=20 << 20)
    launches = tuple(replace(each, import_ns=None, first_inference_ns=None) for each in made.launches)
    return replace(made, engine=replace(ENGINE, size_bytes=size_bytes), launches=launches)


def report() -> Report:
    made = [on_a_nano("fp32", 12 << 20), on_a_nano("fp16", 6 << 20)]
    return build(fixtures.run([each.job for each in made]), made, [])


def test_the_table_shows_build_time_and_the_engines_size() -> None:
    text = terminal.render(report(), width=200, colour=False)
    assert "build" in text
    assert "185" in text
    assert "12.0" in text
    assert "20.0" not in text
    assert "seconds the device took to build the engine" in text


def test_an_engine_is_compared_by_its_own_size() -> None:
    assert {row.job.precision: row.size_ratio for row in report().rows} == {"fp32": 1.0, "fp16": 2.0}


def test_the_document_holds_the_engine_and_null_for_what_trtexec_does_not_tell() -> None:
    made = document(report())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(made)
    (first, _) = made["measurements"]
    assert first["engine"]["build_s"] == 184.708
    assert first["engine"]["cached"]
    assert first["import_ms"] is None
    assert first["first_inference_ms"] is None
    assert first["load_ms"] is not None


def test_no_engine_no_column() -> None:
    plain = terminal.render(build(*fixtures.calm()), width=200, colour=False)
    assert "build" not in plain.partition("Devices")[0]
