"""Bundles: what led to a verdict leads to it again, and nothing that was changed does."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from datetime import date
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench import evidence as bundles
from edgebench.errors import BugError, UserError
from edgebench.evidence import LARGEST, Evidence, KnownNoise, Question, judge, pack, replay, unpack
from edgebench.exchange import LaunchEntry, MeasurementEntry, MeasurementFile
from edgebench.gates import DeviceNoise, SessionNoise
from edgebench.gates.base import FloorKnown
from edgebench.records import replace

BUDGETS = """\
version: 1
budgets:
  - name: all
    limits:
      latency.p50: {regress: 2 %, max: 2 ms}
      artifact_size: {max: 1 MiB}
  - name: known-slow
    match: {model: b}
    waive: {until: 2026-12-31, reason: ticket 1, owner: me}
"""
QUESTION = Question(day="2026-11-25", budgets="budgets.yaml")


def cell(us: int, **changes: Any) -> MeasurementEntry:
    made = MeasurementEntry(
        model="a",
        variant="fp32",
        runtime="onnxruntime",
        precision="fp32",
        device="d",
        target="linux-x86_64",
        session="s1",
        launches=tuple(
            LaunchEntry(latency_ns=tuple(1000 * us + 37 * n + k for k in range(20))) for n in range(6)
        ),
    )
    return replace(made, **changes)


def file(*cells: MeasurementEntry) -> MeasurementFile:
    return MeasurementFile(schema=1, measurements=cells)


def failing(**changes: Any) -> Evidence:
    """A tenth slower than what was measured beside it, and one cell that failed."""
    cells = file(
        cell(1100), cell(1000, role="baseline"), cell(1000, model="b", launches=(), failure="out of memory")
    )
    return Evidence(replace(QUESTION, **changes), BUDGETS, cells)


@cache
def packed() -> bytes:
    made = failing()
    return pack(made, judge(made))


def refused(data: bytes) -> str:
    """What is said of a bundle that is refused."""
    with pytest.raises(UserError) as caught:
        replay(unpack(data, "x.zip"), "x.zip")
    assert caught.value.exit_code == 2
    assert "x.zip" in caught.value.message
    assert caught.value.hint
    return f"{caught.value.message} {caught.value.hint}"


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: Mapping[str, bytes], **options: Any) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data, **options)
    return made.getvalue()


def resealed(files: Mapping[str, bytes], **changes: Any) -> bytes:
    """The members with a manifest that fits them: what somebody makes who wants not to be noticed."""
    rest = {name: data for name, data in files.items() if name != "manifest.json"}
    listed = {
        name: {"sha256": bundles.hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in rest.items()
    }
    manifest = {"schema": 1, "edgebench": bundles.edgebench.__version__, "files": listed, **changes}
    return zipped({"manifest.json": json.dumps(manifest).encode(), **rest})


# --- what goes in comes out -----------------------------------------------------------------------

launches = st.builds(
    LaunchEntry,
    latency_ns=st.lists(st.integers(1, 10**9), max_size=4).map(tuple),
    valid=st.booleans(),
    invalid_reason=st.sampled_from(["", "throttled", "ü\n"]),
    peak_bytes=st.none() | st.integers(0, 10**12),
    foreign_load=st.none() | st.floats(0, 64),
    pair=st.none() | st.integers(0, 20),
)
cells = st.builds(
    MeasurementEntry,
    **{name: st.sampled_from(["a", "b"]) for name in ("model", "variant", "device", "session")},
    **{name: st.just("x") for name in ("runtime", "precision", "target")},
    launches=st.lists(launches, max_size=6).map(tuple),
    role=st.sampled_from(["candidate", "baseline", "duet"]),
    artifact_bytes=st.none() | st.integers(0, 10**9),
    environment=st.dictionaries(st.sampled_from(["kernel"]), st.text(max_size=3)),
)
files = st.lists(cells, max_size=4).map(lambda made: MeasurementFile(schema=1, measurements=tuple(made)))
known = st.builds(
    KnownNoise,
    device=st.sampled_from(["a", "b"]),
    runtime=st.just("x"),
    known=st.builds(
        DeviceNoise,
        session=st.none() | st.builds(SessionNoise, variance=st.floats(0, 1), freedom=st.integers(1, 9)),
        floor=st.none() | st.builds(FloorKnown, least_effect=st.floats(0, 1), told=st.just("A/A")),
    ),
)
questions = st.builds(
    Question,
    day=st.dates(date(2026, 1, 1), date(2027, 12, 31)).map(str),
    budgets=st.sampled_from(["budgets.yaml", "Grenzen für alle.yaml"]),
    inconclusive=st.sampled_from(["keep", "fail", "pass"]),
    noise=st.lists(known, max_size=2).map(tuple),
    problem=st.sampled_from(["", "the baseline failed its own gate"]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.builds(Evidence, questions, st.just(BUDGETS), files, st.none() | files))
def test_a_bundle_gives_the_same_evidence_verdict_and_bytes(made: Evidence) -> None:
    judged = judge(made)
    data = pack(made, judged)
    found = unpack(data, "x.zip")
    assert found.evidence == made
    assert replay(found, "x.zip") == judged
    assert pack(found.evidence, judged) == data


def test_baselines_duets_and_failures_are_kept_and_judged() -> None:
    judged = replay(unpack(packed(), "x.zip"), "x.zip")
    words = {(each.subject.model, each.metric, each.kind): each.word for each in judged.cells}
    assert words["a", "latency.p50", "regress"] == "fail"
    assert words["a", "artifact_size", "max"] == "missing"
    assert words["b", "latency.p50", "max"] == "error"
    assert judged.exit_code == 1


def test_a_waiver_is_judged_on_the_day_of_the_question() -> None:
    def waived(day: str) -> list[str]:
        cells_ = file(cell(3000, model="b"))
        made = Evidence(replace(QUESTION, day=day), BUDGETS, cells_)
        judged = replay(unpack(pack(made, judge(made)), "x.zip"), "x.zip")
        return [each.waived for each in judged.cells if each.word == "fail"]

    assert waived("2026-12-31") == ["until 2026-12-31 by me: ticket 1"]
    assert waived("2027-01-01") == [""]


def test_a_verdict_that_the_evidence_does_not_give_is_never_packed() -> None:
    other = Evidence(QUESTION, BUDGETS, file(cell(1000)))
    with pytest.raises(BugError):
        pack(failing(), judge(other))


# --- what was changed -----------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_changed_byte_is_refused_or_changes_no_content(data: st.DataObject) -> None:
    good = packed()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(UserError):
        assert unpack(bytes(bad), "x.zip") == unpack(good, "x.zip")


@pytest.mark.parametrize("kept", [0, 1, 21, 22, 100, -1, -22, -100])
def test_a_truncated_bundle_is_refused(kept: int) -> None:
    assert "no sound bundle" in refused(packed()[:kept])


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_do_more_than_be_refused(data: bytes, like_a_zip: bool) -> None:
    refused((b"PK\x03\x04" if like_a_zip else b"") + data)


def test_what_follows_or_comes_before_is_refused() -> None:
    refused(packed() + b"more")
    refused(b"more" + packed())


@pytest.mark.parametrize("name", ["../evil.json", "/etc/passwd", "notes.txt", "a\\b", "candidate.json/x"])
def test_unknown_names_are_refused_and_never_written(name: str) -> None:
    said = refused(zipped({**members(packed()), name: b"x"} if name else {}))
    assert "no part of a bundle" in said or "at most 6" in said


@pytest.mark.parametrize("name", ["manifest.json", "question.json", "budgets.yaml", "candidate.json"])
def test_a_missing_member_is_named(name: str) -> None:
    rest = {each: data for each, data in members(packed()).items() if each != name}
    assert f"{name} is missing" in refused(zipped(rest))


def test_a_member_twice_is_refused() -> None:
    made = io.BytesIO(packed())
    with zipfile.ZipFile(made, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("gate.json", b"{}")
    assert "gate.json twice" in refused(made.getvalue())


def test_members_and_manifest_must_fit() -> None:
    found = members(packed())
    assert "budgets.yaml is not what the manifest says" in refused(
        zipped({**found, "budgets.yaml": found["budgets.yaml"].replace(b"2 ms", b"9 ms")})
    )
    assert "not in the manifest" in refused(zipped({**found, "baseline.json": b"{}"}))
    manifest = json.loads(found["manifest.json"])
    manifest["files"]["baseline.json"] = manifest["files"]["gate.json"]
    assert "in the manifest alone" in refused(
        zipped({**found, "manifest.json": json.dumps(manifest).encode()})
    )


def test_a_newer_schema_says_so() -> None:
    assert "install a newer edgebench" in refused(resealed(members(packed()), schema=2, brand_new=True))
    newer = members(packed())
    newer["candidate.json"] = newer["candidate.json"].replace(b'"schema": 1', b'"schema": 7')
    assert "newer edgebench" in refused(resealed(newer))


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LARGEST, "candidate.json", 1 << 16)  # type: ignore[call-overload]
    bomb = {**members(packed()), "candidate.json": b"0" * (1 << 20)}
    assert "1048576 bytes; at most 65536" in refused(zipped(bomb))


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    bomb = bytearray(zipped({**members(packed()), "candidate.json": b"0" * (1 << 20)}))
    true, small = struct.pack("<L", 1 << 20), struct.pack("<L", 100)
    refused(bytes(bomb).replace(true, small))


def test_a_directory_without_end_is_not_read() -> None:
    many = zipped({f"{number}": b"" for number in range(20_000)})
    assert "it holds 20000 files" in refused(many)


def test_what_is_encrypted_or_compressed_otherwise_is_refused() -> None:
    found = members(packed())
    assert "unknown way" in refused(zipped(found, compress_type=zipfile.ZIP_LZMA))
    bad = bytearray(packed())
    place = bad.index(b"PK\x01\x02") + 8
    bad[place] |= 1
    assert "encrypted" in refused(bytes(bad))


def _gate(change: Callable[[dict[str, Any]], None]) -> bytes:
    found = members(packed())
    gate = json.loads(found["gate.json"])
    change(gate)
    return resealed({**found, "gate.json": json.dumps(gate).encode()})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda gate: gate["cells"][1].update(verdict="pass"), "on d, latency.p50 regress: verdict is"),
        (lambda gate: gate["cells"][0].update(observed=1.0), "on d, latency.p50 max: observed is 1.0 there"),
        (lambda gate: gate["cells"].pop(), "is None there"),
        (lambda gate: gate["cells"].append(gate["cells"][0]), "cells differs"),
        (lambda gate: gate.update(exit_code=0), "exit_code differs"),
        (lambda gate: gate.update(verdict="pass"), "verdict differs"),
        (lambda gate: gate.pop("cells"), "verdict is None"),
        (lambda gate: gate.update(cells=[1, 2]), "verdict is None"),
    ],
)
def test_another_verdict_than_the_stored_one_names_the_first_cell(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    told = refused(_gate(change))
    assert "does not give the verdict that it holds" in told
    assert said in told


def test_samples_that_were_made_faster_give_another_verdict() -> None:
    found = members(packed())
    faster = found["candidate.json"].replace(b"1100", b"1000")
    said = refused(resealed({**found, "candidate.json": faster}))
    assert "a fp32 fp32 onnxruntime on d, latency.p50 max" in said


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b'{"day": 3}'])
@pytest.mark.parametrize("name", ["question.json", "budgets.yaml", "candidate.json", "gate.json"])
def test_nonsense_in_a_member_is_refused(name: str, content: bytes) -> None:
    refused(resealed({**members(packed()), name: content}))


def test_a_day_that_is_none_is_refused() -> None:
    question = b'{"day": "2026-02-31", "budgets": "b.yaml"}'
    assert "no sound bundle" in refused(resealed({**members(packed()), "question.json": question}))
