"""The JSON of a run against its schema and its page in docs/; no number that JSON cannot hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgebench.records import Conditions, replace
from edgebench.report.build import build
from edgebench.report.document import document
from tests.report import fixtures

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DOCS / "run.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(loaded)
    return loaded


@pytest.mark.parametrize("example", [fixtures.calm, fixtures.troubled, fixtures.hostile])
def test_every_run_follows_the_schema(example: Any, schema: dict[str, Any]) -> None:
    made = document(build(*example()))
    jsonschema.Draft202012Validator(schema).validate(made)
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_energy_follows_the_schema(schema: dict[str, Any]) -> None:
    made = document(build(fixtures.run(), [fixtures.powered(), fixtures.powered(rails=False)], []))
    jsonschema.Draft202012Validator(schema).validate(made)
    with_rails, without = (each["energy"] for each in made["measurements"])
    assert with_rails["net_mj"] == pytest.approx(16.0)
    assert with_rails["rail"] == "VDD_IN"
    assert without is None


def test_an_empty_run_follows_the_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(document(build(fixtures.run(), [], [])))


def test_the_contract_of_the_issue() -> None:
    made = document(build(*fixtures.troubled()))
    measurement, failure = made["measurements"][0], made["failures"][0]
    assert made["run"] == fixtures.RUN
    assert set(measurement) >= {
        *("model", "variant", "runtime", "precision", "device", "target", "artifact", "artifact_bytes"),
        *("launches", "samples", "latency_ms", "load_ms", "first_inference_ms", "throughput_per_s"),
        *("memory", "parity", "facts", "status"),
    }
    assert {"p50", "p90", "p99", "min", "max", "mean"} <= set(measurement["latency_ms"])
    assert {"owner", "stage", "message", "hint", "model", "device", "runtime"} <= set(failure)


def test_figures_are_the_measured_ones_in_milliseconds() -> None:
    measurement = fixtures.measurement(samples=([2_500_000] * 700, [2_500_000] * 700), batch=4)
    (made,) = document(build(fixtures.run(), [measurement], []))["measurements"]
    assert {made["latency_ms"][key] for key in ("p50", "p90", "p99", "min", "max", "mean")} == {2.5}
    assert (made["launches"], made["samples"], made["load_ms"]) == (2, 1400, 14.2)
    assert made["throughput_per_s"] == pytest.approx(1600)
    assert made["memory"]["peak_bytes"] == 61 * fixtures.MIB + 2


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, float | int) and not isinstance(value, bool):
        yield value


@pytest.mark.parametrize("at", [0, 1])
def test_emulated_and_invalid_figures_do_not_travel(at: int) -> None:
    run, measurements, failures = fixtures.troubled()
    wanted = ("emulated", "invalid")[at]
    made = document(build(run, measurements, failures))
    (one,) = [each for each in made["measurements"] if each["status"] == wanted]
    withheld = ("latency_ms", "launch_p50_ms", "load_ms", "first_inference_ms", "import_ms", "memory")
    assert list(_numbers([one[key] for key in (*withheld, "throughput_per_s")])) == []
    assert one["ratios_to_fp32"]["speedup"] is None


def test_numbers_that_json_cannot_hold_are_null(schema: dict[str, Any]) -> None:
    measurement = fixtures.measurement(samples=([10] * 700, [12] * 700))
    parity = measurement.device_parity
    output = replace(parity.outputs[0], snr_db=math.inf, max_abs=math.nan, max_rel=-math.inf)
    measurement = replace(
        measurement,
        device_parity=replace(parity, outputs=(output,)),
        launches=tuple(
            replace(one, before=Conditions(load_1m=math.nan), memory=replace(one.memory, peak_bytes=None))
            for one in measurement.launches
        ),
    )
    made = document(build(fixtures.run(), [measurement], []))
    jsonschema.Draft202012Validator(schema).validate(made)
    outcome = made["measurements"][0]["parity"]["device"]["outputs"][0]
    assert (outcome["snr_db"], outcome["max_abs"], outcome["max_rel"]) == (None, None, None)
    assert all(math.isfinite(number) for number in _numbers(made))


# --- docs/json.md ---------------------------------------------------------------------------------


def fields(part: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, type and meaning of every field of an object schema; arrays are entered with "[]"."""
    for key, each in part["properties"].items():
        path = f"{prefix}{key}"
        yield path, _type(each), each["description"]
        inner = each.get("items", each)
        if "properties" in inner:
            yield from fields(inner, f"{path}[]." if "items" in each else f"{path}.")


def _type(each: dict[str, Any]) -> str:
    if "$ref" in each:
        name = each["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "const" in each:
        return str(each["const"])
    kinds = each["type"] if isinstance(each["type"], list) else [each["type"]]
    words = " or ".join(kinds)
    return f"{words} of {_type(each['items'])}" if "items" in each else words


def test_every_field_is_explained_in_the_docs(schema: dict[str, Any]) -> None:
    page = (DOCS / "json.md").read_text().splitlines()
    for part in (schema, *schema["$defs"].values()):
        for path, kind, meaning in fields(part):
            assert f"| `{path}` | {kind} | {meaning} |" in page


def test_the_docs_explain_no_field_that_is_not_there(schema: dict[str, Any]) -> None:
    page = (DOCS / "json.md").read_text().splitlines()
    known = {path for part in (schema, *schema["$defs"].values()) for path, _, _ in fields(part)}
    shown = {line.split("`")[1] for line in page if line.startswith("| `")}
    assert shown == known
