"""Messages and request checks take anything and answer with an object or a clear refusal."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.probe import check, specs, wire
from edgebench.probe.wire import LineReader, ProbeError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(wire.parse(data), dict)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_messages_come_back(message: dict[str, Any]) -> None:
    line = wire.encode(message)
    assert line.isascii()
    assert line.count(b"\n") == 1
    try:
        assert wire.parse(line[:-1]) == message
    except ValueError:
        assert any(abs(number) >= 10**30 for number in _integers(message))


def _integers(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in _integers(each)]
    if isinstance(value, list):
        return [number for each in value for number in _integers(each)]
    return [value] if isinstance(value, int) else []


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_do_not_depend_on_the_chunks(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    reader, found, position = LineReader(limit=20), [], 0
    while position < len(stream):
        size = data.draw(st.integers(1, 40))
        found += reader.feed(stream[position : position + size])
        position += size
    assert found == [line if len(line) <= 20 else None for line in lines]


@settings(deadline=None)
@given(JSON)
def test_any_spec_is_taken_or_refused(fields: Any) -> None:
    for checked in (
        lambda: specs.checked(fields, "/nowhere"),
        lambda: specs.for_versions(fields, "/nowhere"),
    ):
        with pytest.raises(ProbeError) as refused:
            checked()
        assert refused.value.kind in ("bad_request", "runtime_missing")


GOOD: dict[str, Any] = {
    "runtime": "replay",
    "artifact": ".",
    "entry": {},
    "samples": [[]],
    "outputs": ["y"],
    "workload": {
        "threads": 1,
        "warmup_samples": 1,
        "max_warmup_s": 1,
        "min_samples": 1,
        "min_duration_s": 1,
        "max_duration_s": 1,
    },
}


@settings(deadline=None)
@given(st.sampled_from(sorted(GOOD)), JSON)
def test_one_wrong_field_never_escapes(key: str, value: Any) -> None:
    fields = {**GOOD, "artifact": os.getcwd(), key: value}
    with contextlib.suppress(ProbeError):
        assert specs.checked(fields, os.getcwd())["runtime"] == "replay"


@settings(deadline=None)
@given(st.text(max_size=40))
def test_relative_paths_stay_inside(path: str) -> None:
    try:
        accepted = check.relative(path)
    except ProbeError:
        return
    folder = Path("/work-folder")
    assert folder in Path(os.path.normpath(folder / accepted)).parents


def test_links_do_not_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "out").symlink_to(tmp_path)
    with pytest.raises(ProbeError, match="outside"):
        check.below(str(tmp_path / "work" / "out"), str(tmp_path / "work"), "the artifact")


def test_a_failure_as_json() -> None:
    plain = ProbeError("failed", "why", "x" * 100_000).to_json()
    assert plain["kind"] == "failed"
    assert len(plain["detail"]) == wire.TAIL_BYTES
    assert json.dumps(plain)
    assert "holder" not in plain
    assert ProbeError("busy", "why").to_json()["holder"] is None
