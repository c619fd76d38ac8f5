"""Files of measurements: what comes out goes in again, and what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.errors import UserError
from edgebench.exchange import LaunchEntry, MeasurementEntry, MeasurementFile, json_schema, parse, text

SMALLEST: dict[str, Any] = {
    "schema": 1,
    "measurements": [
        {
            "model": "m",
            "variant": "fp32",
            "runtime": "onnxruntime",
            "precision": "fp32",
            "device": "d",
            "target": "linux-x86_64",
            "session": "s1",
            "launches": [{"latency_ns": [101, 102]}],
        }
    ],
}


def _bytes(**changes: Any) -> bytes:
    return json.dumps({**SMALLEST, **changes}).encode()


def test_the_smallest_file() -> None:
    (entry,) = parse(_bytes(), "a.json").measurements
    assert entry.launches == (LaunchEntry(latency_ns=(101, 102)),)


launches = st.builds(
    LaunchEntry,
    latency_ns=st.lists(st.integers(1, 10**12), max_size=5).map(tuple),
    valid=st.booleans(),
    invalid_reason=st.text(max_size=9),
    load_ns=st.none() | st.integers(0, 10**12),
    energy_mj=st.none() | st.floats(0, 1e6),
)
entries = st.builds(
    MeasurementEntry,
    **{name: st.sampled_from(["a", "b ü"]) for name in ("model", "variant", "runtime", "precision")},
    **{name: st.sampled_from(["x", "y-1"]) for name in ("device", "target", "session")},
    launches=st.lists(launches, max_size=3).map(tuple),
    batch=st.integers(1, 8),
    looks=st.sampled_from([(), (5, 10, 20)]),
    environment=st.dictionaries(st.sampled_from(["kernel", "board"]), st.text(max_size=5)),
)


@given(st.lists(entries, max_size=3))
def test_what_goes_out_comes_in_again(made: list[MeasurementEntry]) -> None:
    file = MeasurementFile(schema=1, measurements=tuple(made), run="r")
    assert parse(text(file).encode(), "a.json") == file


def test_the_schema_holds_for_what_is_written() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(_bytes()), json_schema())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no file of measurements"),
        (b"[1, 2]", "no file of measurements"),
        (_bytes()[:-20], "a.json"),
        (_bytes(schema=2), "schema 2"),
        (_bytes(schema=2, brand_new=True), "newer edgebench"),
        (_bytes(schema=True), "no file of measurements"),
        (_bytes(extra=1), "extra"),
        (b"[" * 100_000, "a.json"),
    ],
)
def test_what_is_no_file_of_measurements_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(data, "a.json")
    assert said in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ({"latency_ns": [101, 0]}, "launches[0].latency_ns"),
        ({"latency_ns": [-5]}, "-5"),
        ({"latency_ns": [10**18]}, "1 ns and a day"),
        ({"latency_ns": [1.5]}, "latency_ns"),
        ({"latency_ns": ["1"]}, "latency_ns"),
        ({"latency_ns": [1], "peak_bytes": -1}, "peak_bytes"),
        ({"latency_ns": [2**70]}, "a.json"),
        ({}, "latency_ns"),
    ],
)
def test_numbers_that_cannot_be_are_named_with_their_place(launch: dict[str, Any], said: str) -> None:
    measurement = {**SMALLEST["measurements"][0], "launches": [launch]}
    with pytest.raises(UserError) as caught:
        parse(_bytes(measurements=[measurement]), "a.json")
    assert said in caught.value.message


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_what_is_no_number_is_refused(number: bytes) -> None:
    data = _bytes().replace(b"101", number)
    with pytest.raises(UserError):
        parse(data, "a.json")


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(UserError):
        parse(data, "a.json")


def test_the_published_schema_is_that_of_the_code() -> None:
    published = Path(__file__).parents[1] / "docs" / "measurements.schema.json"
    assert json.loads(published.read_text()) == json.loads(json.dumps(json_schema()))
