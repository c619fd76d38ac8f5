"""Whatever a probe answers, a session ends in a DeviceError that names the device: in time, and printable."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.device import wire
from edgebench.device.answers import MAX_ITEMS, NonsenseError, harmless, own_path
from edgebench.device.session import InputSet, Lease, Placed, Session
from edgebench.errors import DeviceError, EdgebenchError, NoDuet
from edgebench.records import Artifact, ArtifactFile, Facts, Launch, Tensor, Workload, encode_exact
from edgebench.store.rows import blob_rows, launch_row
from tests.device.hostile import HELLO, WORK, Answer, Hostile, refusal, result

FLOAT = Tensor(name="y", dtype="float32", shape=(1, 2))
ARTIFACT = Artifact(
    digest="a" * 64,
    key="k",
    runtime="onnxruntime",
    precision="fp32",
    model="m",
    variant="fp32",
    model_digest="b" * 64,
    files=(ArtifactFile(path="model.onnx", sha256="c" * 64, size_bytes=1),),
    size_bytes=1,
    entry={"model": "model.onnx"},
    inputs=(FLOAT,),
    outputs=(FLOAT,),
)
INPUTS = InputSet(digest="d" * 64, folder="/nowhere", files=(), samples=((("x", "x.npy"),),))
PLACED = Placed(artifact=f"{WORK}/a", inputs=f"{WORK}/i", bundle=None, moved_bytes=0)
FACTS = {"arch": "aarch64", "bits": 64, "os": "linux", "kernel": "5.15", "python": "3.10.12"}
LAUNCH = {
    "started_unix_s": 1.7e9,
    "import_ns": 1,
    "load_ns": 2,
    "first_inference_ns": 3,
    "warmup_ns": [4],
    "warmup_stable": True,
    "samples_ns": [5, 6],
    "memory": {"method": "VmHWM", "peak_bytes": 7},
    "before": {"temperature_c": 40.0, "clock_khz": [1000]},
    "after": {"temperature_c": 41.0},
    "runtime_version": "1.22",
    "effective": {"threads": "1"},
    "foreign_load": 0.0,
}
ASKED: dict[str, Callable[[Session], object]] = {
    "lease": lambda session: session.lease(Lease(run="r", purpose="p")),
    "facts": Session.facts,
    "conditions": Session.conditions,
    "versions": lambda session: session.versions("ncnn", None),
    "clean": Session.clean,
    "infer": lambda session: session.infer(ARTIFACT, PLACED, INPUTS),
    "launch": lambda session: launch(session),
    "duet": lambda session: duet(session),
}


def launch(session: Session) -> Launch:
    return session.launch(ARTIFACT, PLACED, INPUTS, Workload(), 1, lambda _phase: None)


def duet(session: Session) -> Launch:
    return session.duet(
        ARTIFACT, PLACED, ARTIFACT, PLACED, INPUTS, Workload(), 1, lambda _phase: None, baseline_first=False
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Hostile]:
    """A monotonic clock that moves as the probes do that a test puts in."""
    probes: list[Hostile] = []
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + sum(each.clock_s for each in probes))
    return probes


def refused(probe: Hostile, ask: Callable[[Session], object], home: Path) -> DeviceError:
    """The error that a request ends in: the device's, with its name, and nothing that a terminal obeys."""
    with pytest.raises(DeviceError) as caught:
        ask(probe.session(home))
    error = caught.value
    assert "nano" in error.message
    assert error.message.isprintable()
    assert error.hint.isprintable()
    assert error.detail.replace("\n", "").isprintable()
    assert len(error.message) < 4096
    return error


def outcome(ask: Callable[[Session], object], session: Session) -> tuple[object, EdgebenchError | None]:
    """What a request gives: a value, or an error of ours."""
    try:
        return ask(session), None
    except EdgebenchError as error:
        return None, error


# --- replies of any form -------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["../../etc/passwd", "/etc/shadow", "\x1b[2J", "/dev/zero", WORK, "\0"]),
    lambda each: (
        st.lists(each, max_size=4)
        | st.dictionaries(
            st.sampled_from([*LAUNCH, *FACTS, "samples", "path", "name", "id", "ok", "error", "kind"]),
            each,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("op", ASKED)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=PLAIN)
def test_any_result_is_understood_or_refused(op: str, value: object, tmp_path: Path) -> None:
    got, error = outcome(ASKED[op], Hostile(result(value)).session(tmp_path))
    if error is None:
        assert printable_throughout(got)
    else:
        assert isinstance(error, DeviceError)
        assert "nano" in error.message
        assert error.message.isprintable()


@pytest.mark.parametrize("kind", [LAUNCH, FACTS])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_right_answer_with_one_wrong_value(
    kind: dict[str, Any], data: st.DataObject, tmp_path: Path
) -> None:
    key = data.draw(st.sampled_from(sorted(kind)))
    changed = kind | {key: data.draw(PLAIN)}
    ask = launch if kind is LAUNCH else Session.facts
    got, error = outcome(ask, Hostile(result(changed)).session(tmp_path))
    if error is not None:
        assert isinstance(error, DeviceError)
        assert error.message.isprintable()
        return
    assert printable_throughout(got)
    encode_exact(got)
    if isinstance(got, Launch):  # and every database takes it
        blob_rows(got)
        launch_row(got)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(error=PLAIN)
def test_any_error_is_told_printably(error: object, tmp_path: Path) -> None:
    with pytest.raises(EdgebenchError) as caught:
        Hostile(refusal(error)).session(tmp_path).facts()
    assert caught.value.message.isprintable()
    assert "nano" in caught.value.message


def printable_throughout(value: object) -> bool:
    """Whether no text in a record, list or table would move a cursor."""
    if isinstance(value, str):
        return value.replace("\n", "").isprintable()
    if isinstance(value, dict):
        return all(printable_throughout(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return all(map(printable_throughout, value))
    fields = getattr(value, "__struct_fields__", ())
    return all(printable_throughout(getattr(value, name)) for name in fields)


# --- numbers, sizes, texts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_ns": [-1]},
        {"samples_ns": [2**70]},
        {"samples_ns": [1.5]},
        {"samples_ns": [True]},
        {"samples_ns": "12"},
        {"samples_ns": [1] * (MAX_ITEMS + 1)},
        {"warmup_ns": [1] * (MAX_ITEMS + 1)},
        {"import_ns": -5},
        {"load_ns": 2**63},
        {"memory": {"method": "x", "peak_bytes": -1}},
        {"memory": {"method": "x", "peak_bytes": 2**70}},
        {"before": {"temperature_c": "hot"}},
        {"before": {"clock_khz": [-1]}},
        {"foreign_load": -3.0},
        {"foreign_load": 1e300},
        {"effective": {"threads": 3}},
        {"effective": {str(number): "" for number in range(5000)}},
        {"runtime_version": ["1"]},
        {"valid": "yes"},
        {"surprise": 1},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_launches_that_cannot_be(changes: dict[str, Any], tmp_path: Path) -> None:
    assert "makes no sense" in refused(Hostile(result(LAUNCH | changes)), launch, tmp_path).message


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999", b"-", b"0x10", b"1" * 5000])
def test_numbers_that_are_none(number: bytes, tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> list[bytes]:
        return [b'{"id": %d, "ok": true, "result": {"temperature_c": %s}}\n' % (request["id"], number)]

    refused(Hostile(answer), Session.conditions, tmp_path)


def test_escapes_are_neutralised_where_they_come_in(tmp_path: Path) -> None:
    told = FACTS | {"board": "\x1b[2J\x1b]0;owned\x07 Pi\u202e", "versions": {"\x1b[1m": "\x00"}}
    facts = Hostile(result(told)).session(tmp_path).facts()
    assert facts.board == "?[2J?]0;owned? Pi?"
    assert facts.versions == {"?[1m": "?"}


def test_a_text_without_end_is_cut(tmp_path: Path) -> None:
    facts = Hostile(result(FACTS | {"kernel": "x" * (1 << 20)})).session(tmp_path).facts()
    assert len(facts.kernel) == 16 << 10


def test_an_error_of_a_megabyte_is_cut(tmp_path: Path) -> None:
    error = {"kind": "failed", "message": "\x1b[31m" + "x" * (1 << 20), "detail": "\x07" * (1 << 20)}
    told = refused(Hostile(refusal(error)), Session.facts, tmp_path)
    assert len(told.detail) <= 8192


def test_an_answer_nested_without_end(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> list[bytes]:
        return [
            b'{"id": %d, "ok": true, "result": {"board": %s}}\n' % (request["id"], b"[" * 5000 + b"]" * 5000)
        ]

    refused(Hostile(answer), Session.facts, tmp_path)
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    refused(Hostile(result(FACTS | {"board": deep})), Session.facts, tmp_path)


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_LINE_BYTES", 1 << 20)

    def answer(_request: dict[str, Any]) -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    assert "a line of more than 1 MiB" in refused(Hostile(answer), Session.facts, tmp_path).message


def test_many_small_lines_are_read_in_linear_time(tmp_path: Path) -> None:
    flood = b'{"id": 0}\n' * 300_000

    def answer(request: dict[str, Any]) -> list[dict[str, Any] | bytes]:
        return [flood, {"id": request["id"], "ok": True, "result": FACTS}]

    began = time.process_time()
    assert Hostile(answer).session(tmp_path).facts().arch == "aarch64"
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "hello", [{}, {"work": 3}, {"work": None}, {"work": ["/"]}, b'{"event": "hello", "work": 1e999}\n']
)
def test_a_hello_that_is_none(hello: object, tmp_path: Path) -> None:
    said = hello if isinstance(hello, bytes) else {"event": "hello", **hello}  # type: ignore[dict-item]
    with pytest.raises(DeviceError, match="nano"):
        Hostile(result({}), hello=said).session(tmp_path)


# --- time ----------------------------------------------------------------------------------------


def _phases(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    while True:
        yield {"id": request["id"], "event": "phase", "phase": "\x1b[31mwarmup" * 1000}


def _strangers(_request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    number = 1000
    while True:
        number += 1
        yield {"id": number, "ok": True, "result": FACTS}


def _silence(_request: dict[str, Any]) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    ("samples", "baseline", "said"),
    [
        ([5, 6], [5], "2 samples beside 1"),
        ([5, 6], [], "2 samples beside 0"),
        ([], [], "0 samples beside 0"),
        ([5, 6], [5, 0], "no inference takes"),
        ([0, 6], [5, 5], "no inference takes"),
        ([5, 6], [5, 10**15], "no inference takes"),
        ([5, 6], [5, -1], "-1"),
        ([5, 6], [5, 1.5], "float"),
        ([5, 6], [5] * (MAX_ITEMS + 1), "entries"),
        ([5, 6], "56", "array"),
    ],
)
def test_pairs_that_are_none(samples: list[int], baseline: object, said: str, tmp_path: Path) -> None:
    answer = result({**LAUNCH, "samples_ns": samples, "baseline_ns": baseline})
    assert said in refused(Hostile(answer), duet, tmp_path).message


def test_a_runtime_without_duets_is_told_apart(tmp_path: Path) -> None:
    answer = refusal({"kind": "no_duet", "message": "a duet needs both models in one process"})
    error = refused(Hostile(answer), duet, tmp_path)
    assert isinstance(error, NoDuet)
    assert not error.retryable
    assert "separate launches" in error.hint


@pytest.mark.timeout(60)  # without a deadline it would take for ever
@pytest.mark.parametrize(
    ("answer", "said"),
    [(_phases, "did not answer in time"), (_strangers, "did not answer in time"), (_silence, "said nothing")],
)
@pytest.mark.parametrize("op", ["facts", "launch"])
def test_events_without_end_do_not_extend_a_deadline(
    op: str, answer: Answer, said: str, tmp_path: Path, clock: list[Hostile]
) -> None:
    probe = Hostile(answer)
    probe.hurries = True
    clock.append(probe)
    error = refused(probe, ASKED[op], tmp_path)
    assert said in error.message
    assert error.retryable


def test_phases_are_short_and_printable(tmp_path: Path) -> None:
    told: list[str] = []

    def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
        strange = [{"id": request["id"], "event": "phase", "phase": each} for each in ("\x1b[2J" * 99, 3, [])]
        return [*strange, {"id": request["id"], "ok": True, "result": LAUNCH}]

    Hostile(answer).session(tmp_path).launch(ARTIFACT, PLACED, INPUTS, Workload(), 1, told.append)
    assert len(told) == 3
    assert all(len(each) <= 32 and each.isprintable() for each in told)


# --- pushing -------------------------------------------------------------------------------------

HAVE = {
    "missing": ["c" * 64],
    "partial": {},
    "incoming": f"{WORK}/incoming",
    "free_bytes": 1 << 40,
    "folders": {},
}


def pushed(tmp_path: Path) -> Callable[[Session], object]:
    """Pushes an artifact of one file and a runtime of one wheel that is on the controller already."""
    (tmp_path / "artifact").mkdir(exist_ok=True)
    (tmp_path / "artifact" / "model.onnx").write_bytes(b"m")
    bundle = tmp_path / "bundles" / "onnxruntime-py3.10-manylinux_2_35_aarch64"
    bundle.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(bundle / "runtime.whl", "w") as wheel:
        wheel.writestr("runtime.py", "")
    facts = Facts(**FACTS, libc="glibc 2.35")  # type: ignore[arg-type]
    return lambda session: session.place(ARTIFACT, tmp_path / "artifact", INPUTS, facts)


@pytest.mark.parametrize(
    "changes",
    [
        {"missing": 5},
        {"missing": [["c"]]},
        {"missing": None},
        {"missing": {"c" * 64: 1}},
        {"missing": ["c" * 64] * (MAX_ITEMS + 1)},
        {"partial": 7},
        {"partial": {"c" * 64: "1"}},
        {"partial": {"c" * 64: 2**70}},
        {"incoming": 3},
        {"free_bytes": "much"},
        {"free_bytes": -1},
        {"free_bytes": 2**80},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_what_a_device_has_is_checked(changes: dict[str, Any], tmp_path: Path) -> None:
    refused(Hostile(result(HAVE | changes)), pushed(tmp_path), tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=PLAIN)
def test_any_answer_to_a_push_is_understood_or_refused(value: object, tmp_path: Path) -> None:
    _, error = outcome(pushed(tmp_path), Hostile(result(value)).session(tmp_path))
    assert error is None or (isinstance(error, DeviceError) and error.message.isprintable())


# --- files ---------------------------------------------------------------------------------------


def outputs(**changes: object) -> Answer:
    """Answers `infer` with one output file."""
    output = {
        "name": "y",
        "dtype": "float32",
        "shape": [1, 2],
        "path": f"{WORK}/runs/1/0-0.npy",
        "size_bytes": 136,
    }
    return result({"samples": [[output | changes]], "effective": {}})


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/dev/zero",
        "/dev/tty",
        f"{WORK}/../../../etc/shadow",
        f"{WORK}x/secret",
        WORK,
        "runs/1/0-0.npy",
        "",
        f"{WORK}/" + "x" * 5000,
    ],
)
def test_files_outside_of_the_work_folder_are_not_fetched(path: str, tmp_path: Path) -> None:
    probe = Hostile(outputs(path=path))
    assert "outside of its work folder" in refused(probe, ASKED["infer"], tmp_path).message
    assert probe.fetched == []


@pytest.mark.parametrize("path", [f"{WORK}/runs/\x1b[2J", f"{WORK}/runs/\0"])
def test_a_path_is_printable_before_it_is_asked_for(path: str, tmp_path: Path) -> None:
    probe = Hostile(outputs(path=path))
    refused(probe, ASKED["infer"], tmp_path)
    assert all(each.isprintable() for each in probe.fetched)


def test_the_work_folder_of_a_path_is_its_own() -> None:
    assert own_path(f"{WORK}/runs/1/y.npy", WORK) == f"{WORK}/runs/1/y.npy"
    with pytest.raises(NonsenseError):
        own_path(None, WORK)


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def claiming(shape: str, kind: str = "<f4") -> bytes:
    """A .npy file whose header promises more than comes."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 8


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, y=np.zeros(2))
    return buffer.getvalue()


FILES = {
    "empty": b"",
    "no array": b"PK nonsense",
    "a pickle": npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "an archive": zipped(),
    "a header that asks for a terabyte": claiming("(1099511627776,)"),
    "a negative size": claiming("(-1, 2)"),
    "sizes that overflow": claiming("(4611686018427387904, 4611686018427387904)"),
    "texts": npy(np.array(["\x1b[2J"])),
    "records": npy(np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")])),
    "complex numbers": npy(np.zeros(1, dtype=np.complex64)),
    "a header of code": b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').system('true')\n",
    "cut short": npy(np.zeros((1, 2), dtype=np.float32))[:-3],
    "something behind it": npy(np.zeros((1, 2), dtype=np.float32)) + b"more",
}


@pytest.mark.parametrize("name", FILES)
def test_output_files_that_are_no_arrays(name: str, tmp_path: Path) -> None:
    (tmp_path / "0-0.npy").write_bytes(FILES[name])
    error = refused(Hostile(outputs(), files=tmp_path), ASKED["infer"], tmp_path)
    assert "makes no sense" in error.message


def test_an_output_file_that_is_right(tmp_path: Path) -> None:
    (tmp_path / "0-0.npy").write_bytes(npy(np.array([[1, 2]], dtype=np.float32)))
    (got,) = Hostile(outputs(), files=tmp_path).session(tmp_path).infer(ARTIFACT, PLACED, INPUTS)
    assert got["y"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [[], []],
        [[]],
        [[{"name": "z", "dtype": "f", "shape": [1], "path": f"{WORK}/a", "size_bytes": 1}]],
        [[{"name": "y", "dtype": "f", "shape": [1], "path": f"{WORK}/a", "size_bytes": 1}] * 1000],
        "yes",
        None,
        {"0": []},
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_outputs_than_the_models(samples: object, tmp_path: Path) -> None:
    probe = Hostile(result({"samples": samples}))
    refused(probe, ASKED["infer"], tmp_path)
    assert probe.fetched == []


def test_harmless_takes_what_json_gives_only() -> None:
    with pytest.raises(NonsenseError):
        harmless(b"bytes")
    assert harmless({"a": [1, 2.5, None, True, "x\n"]}) == {"a": [1, 2.5, None, True, "x\n"]}
    assert HELLO["event"] == "hello"
