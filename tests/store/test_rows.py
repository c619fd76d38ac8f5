"""Samples <-> blobs: exact, small, and tamper-evident."""

from __future__ import annotations

import contextlib
import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edgebench.errors import BugError, InfrastructureError
from edgebench.records import Launch, replace
from edgebench.store.rows import Blob, launch_row, pack, unpack
from tests.store.records import launch, launches, times_ns


@given(st.lists(times_ns, max_size=50).map(tuple))
def test_samples_come_back(samples: tuple[int, ...]) -> None:
    blob = pack(samples)
    assert unpack(blob, source="it") == samples
    assert blob.dtype == ("int64" if any(sample >= 2**32 for sample in samples) else "uint32")
    assert blob.count == len(samples)


def test_a_thousand_samples_take_few_bytes() -> None:
    rng = random.Random(7)
    samples = tuple(12_000_000 + round(rng.gauss(0, 100_000)) for _ in range(1000))
    assert len(pack(samples).data) < 4000


@pytest.mark.parametrize("samples", [(-1,), (5, -(2**62)), (2**63,), (1.5,), ("7",), (None,)])
def test_what_is_no_time_is_refused(samples: tuple[int, ...]) -> None:
    with pytest.raises(BugError, match="a sample is"):
        pack(samples)


@pytest.mark.parametrize("name", ["load_ns", "first_inference_ns", "number"])
@pytest.mark.parametrize("value", [-1, 2**63])
def test_a_launch_with_an_impossible_figure_is_refused(name: str, value: int) -> None:
    with pytest.raises(BugError, match="of a launch is"):
        launch_row(replace(launch(), **{name: value}))


@given(st.data())
def test_a_changed_blob_is_never_believed(data: st.DataObject) -> None:
    samples = (1_000_001, 1_000_777, 999_983, 1_500_000)
    blob = pack(samples)
    position = data.draw(st.integers(0, len(blob.data) - 1))
    bit = data.draw(st.integers(0, 7))
    raw = bytearray(blob.data)
    raw[position] ^= 1 << bit
    changed = replace(blob, data=bytes(raw))
    if _read_or_none(changed) is None:
        with pytest.raises(InfrastructureError, match="the samples of launch 3 were changed"):
            unpack(changed, source="launch 3")
    else:  # a bit that means nothing, such as the frame's unused flag
        assert unpack(changed, source="launch 3") == samples


def _read_or_none(blob: Blob) -> tuple[int, ...] | None:
    with contextlib.suppress(InfrastructureError):
        return unpack(blob, source="it")
    return None


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "0" * 64},
        {"count": 3},
        {"count": 2**40},
        {"dtype": "int64"},
        {"dtype": "float32"},
        {"codec": "pickle"},
        {"data": b""},
        {"data": b"\x28\xb5\x2f\xfd"},
        {"data": zstandard.compress(b"\0" * 10_000_000)},
        {"data": zstandard.compress(b"\1" * 16)},
    ],
)
def test_a_tampered_blob_is_told(changes: dict[str, object]) -> None:
    blob = replace(pack((1, 2, 3, 4)), **changes)
    with pytest.raises(InfrastructureError, match="the samples of launch 3 were changed"):
        unpack(blob, source="launch 3")


@given(launches)
def test_any_launch_has_a_row(it: Launch) -> None:
    row = launch_row(it)
    assert row["n"] == len(it.samples_ns)
    if it.samples_ns:
        assert row["min_ns"] <= row["p50_ns"] <= row["p99_ns"] <= row["max_ns"]
    else:
        assert row["p50_ns"] is None
