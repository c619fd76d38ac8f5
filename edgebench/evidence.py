"""All that led to a verdict in one zip file, and the verdict recomputed from it. Pure: bytes in and out.

A bundle holds the question (day, severity of "inconclusive", noise of devices), the budgets, the measurements
of candidate and baseline with their raw samples, gate.json, and a manifest with the sha256 of each. The same
evidence gives the same bytes. What comes from outside is bounded, and every deviation is a UserError.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

import edgebench
from edgebench import budgets as budget_files
from edgebench import exchange
from edgebench.documents import quoted
from edgebench.errors import BugError, UserError
from edgebench.gates import DeviceNoise, Gate, Known, Observed, concluded, needs_samples, observed
from edgebench.gates import judged as judged_cells
from edgebench.gates.document import document
from edgebench.records import Record, prepared

# 1: the first
SCHEMA = 1

MANIFEST, QUESTION, BUDGETS = "manifest.json", "question.json", "budgets.yaml"
CANDIDATE, BASELINE, GATE = "candidate.json", "baseline.json", "gate.json"
# Every member that there may be, in this order, and how large it may be
LARGEST: Mapping[str, int] = {
    MANIFEST: 1 << 20,
    QUESTION: 16 << 20,
    BUDGETS: 1 << 20,
    CANDIDATE: 512 << 20,
    BASELINE: 512 << 20,
    GATE: 512 << 20,
}
REQUIRED = tuple(each for each in LARGEST if each != BASELINE)
MAX_BYTES = 1 << 30
DIRECTORY_BYTES = 4096  # six members take some 400
TOLERANCE = 1e-9  # processors and libraries differ in the last digits of a logarithm

Inconclusive = Literal["keep", "fail", "pass"]
R = TypeVar("R", bound=Record)

_END = struct.Struct("<4s4H2LH")  # the end of a zip file: signature, numbers, sizes
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
    struct.error,
)


class KnownNoise(Record, frozen=True):
    """What was known of the noise of one runtime on one device."""

    device: str
    runtime: str
    known: DeviceNoise


class Question(Record, frozen=True):
    """What was asked: on which day (waivers end), by which budgets, with what known of devices' noise.

    `problem`: why the baseline may be none, or "".

    `candidate` and `baseline` are the names that were typed, to be read by people.
    """

    day: str
    budgets: str
    candidate: str = ""
    baseline: str = ""
    inconclusive: Inconclusive = "keep"
    noise: tuple[KnownNoise, ...] = ()
    problem: str = ""


class Member(Record, frozen=True):
    """One file of a bundle."""

    sha256: str
    bytes: int


class Manifest(Record, frozen=True):
    """What a bundle holds, and which edgebench wrote it."""

    schema: int
    edgebench: str
    files: dict[str, Member]


class Evidence(NamedTuple):
    """All that leads to a verdict. Without a baseline what was measured beside the candidate is it."""

    question: Question
    budgets: str
    candidate: exchange.MeasurementFile
    baseline: exchange.MeasurementFile | None = None


class Bundle(NamedTuple):
    """A bundle that was read: the evidence, gate.json as it was stored, and who wrote it."""

    evidence: Evidence
    gate: dict[str, Any]
    edgebench: str


def judge(evidence: Evidence) -> Gate:
    """The verdict that the evidence gives; device by device, as a store is judged."""
    question = evidence.question
    rules = budget_files.parse(evidence.budgets, question.budgets)
    wanted = needs_samples(rules)
    cells = _by_device(observed(each, with_samples=wanted) for each in evidence.candidate.measurements)
    before = {} if evidence.baseline is None else _by_device(map(observed, evidence.baseline.measurements))
    noise = {(each.device, each.runtime): each.known for each in question.noise}
    known = Known(noise, question.problem)
    parts = []
    for device, here in cells.items():
        against = here if evidence.baseline is None else before.get(device, [])
        role = "baseline" if evidence.baseline is None else "candidate"
        parts.append(
            judged_cells(
                [each for each in here if each.role == "candidate"],
                rules,
                [each for each in against if each.role == role],
                known=known,
                duets=[each for each in here if each.role == "duet"],
            )
        )
    return concluded(parts, rules, today=date.fromisoformat(question.day))


def _by_device(cells: Iterable[Observed]) -> dict[str, list[Observed]]:
    found: dict[str, list[Observed]] = {}
    for each in cells:
        found.setdefault(each.subject.device, []).append(each)
    return found


# --- writing --------------------------------------------------------------------------------------


def pack(evidence: Evidence, judged: Gate) -> bytes:
    """The bundle of a verdict; UserError where it would be too large.

    The verdict is recomputed first, so that no bundle leaves that would not replay.
    """
    stored = document(judged)
    problem = difference(_plain(stored), _plain(document(judge(evidence))))
    if problem:
        raise BugError(f"the evidence does not give the verdict that was shown: {problem}")
    members = {
        QUESTION: _json(evidence.question),
        BUDGETS: evidence.budgets.encode(),
        CANDIDATE: exchange.text(evidence.candidate).encode(),
        **({} if evidence.baseline is None else {BASELINE: exchange.text(evidence.baseline).encode()}),
        GATE: _json(stored),
    }
    files = {name: Member(sha256=_sha256(data), bytes=len(data)) for name, data in members.items()}
    manifest = Manifest(schema=SCHEMA, edgebench=edgebench.__version__, files=files)
    return _zipped({MANIFEST: _json(manifest), **members})


def _zipped(members: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in members.items():
            if len(data) > LARGEST[name]:
                raise UserError(
                    f"{name} has {len(data)} bytes; a bundle takes at most {LARGEST[name]} of it",
                    hint="judge fewer cells at a time, or measure fewer samples",
                )
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return made.getvalue()


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- reading --------------------------------------------------------------------------------------


def unpack(data: bytes, source: str) -> Bundle:
    """What a bundle holds; UserError naming `source` for whatever is not as `pack` makes it."""
    members = _members(data, source)
    manifest = _manifest(members, source)
    question = _record(Question, members[QUESTION], f"{source}: {QUESTION}")
    try:
        date.fromisoformat(question.day)
        text = members[BUDGETS].decode()
    except ValueError as error:
        raise _no_bundle(source, str(error)) from error
    budget_files.parse(text, f"{source}: {BUDGETS}")
    before = members.get(BASELINE)
    evidence = Evidence(
        question=question,
        budgets=text,
        candidate=exchange.parse(members[CANDIDATE], f"{source}: {CANDIDATE}"),
        baseline=None if before is None else exchange.parse(before, f"{source}: {BASELINE}"),
    )
    return Bundle(evidence, _decoded(members[GATE], dict[str, Any], f"{source}: {GATE}"), manifest.edgebench)


def replay(bundle: Bundle, source: str) -> Gate:
    """The verdict, recomputed; UserError naming the first cell where it is not the stored one."""
    judged = judge(bundle.evidence)
    problem = difference(bundle.gate, _plain(document(judged)))
    if not problem:
        return judged
    here = edgebench.__version__
    same = bundle.edgebench == here
    raise UserError(
        f"{source} does not give the verdict that it holds: {problem}",
        hint="it was changed after it was written: ask for the original"
        if same
        else f"edgebench {quoted(bundle.edgebench)} wrote it and this is {here}: replay with that version",
    )


def _members(data: bytes, source: str) -> dict[str, bytes]:
    """The content of every member, all names and sizes checked before anything is unpacked."""
    _check_layout(data, source)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = archive.infolist()
            for problem in _wrong_members(found):
                raise _no_bundle(source, problem)
            return {info.filename: archive.read(info) for info in found}
    except _DAMAGED as error:
        raise _no_bundle(source, f"it is damaged ({error})") from error


def _check_layout(data: bytes, source: str) -> None:
    """That the file ends as a small zip file does, so that reading its directory takes no time or memory."""
    if len(data) > MAX_BYTES:
        raise UserError(f"{source} has {len(data)} bytes; a bundle has at most {MAX_BYTES}")
    if not data.startswith(b"PK\x03\x04"):
        raise _no_bundle(source, "it is no zip file")
    end = _END.unpack(data[-_END.size :]) if len(data) >= _END.size else (b"",)
    if end[0] != b"PK\x05\x06":
        raise _no_bundle(source, "it is cut off, or something follows its end")
    _, _, _, here, entries, size, offset, _ = end
    if here != entries or entries > len(LARGEST) or size > DIRECTORY_BYTES:
        raise _no_bundle(source, f"it holds {entries} files; a bundle has at most {len(LARGEST)}")
    if offset + size + _END.size != len(data) or data[-_END.size - 20 :].startswith(b"PK\x06\x07"):
        raise _no_bundle(source, "its directory does not fit its length")


def _wrong_members(found: list[zipfile.ZipInfo]) -> Iterator[str]:
    names = [info.orig_filename for info in found]
    for info in found:
        name = info.orig_filename
        if name not in LARGEST:
            yield f"it holds {quoted(name)}, which is no part of a bundle"
        elif names.count(name) > 1:
            yield f"it holds {name} twice"
        elif info.file_size > LARGEST[name]:
            yield f"{name} would have {info.file_size} bytes; at most {LARGEST[name]} are read"
        elif info.flag_bits & 1:
            yield f"{name} is encrypted"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield f"{name} is compressed in an unknown way"
    for name in REQUIRED:
        if name not in names:
            yield f"{name} is missing"


def _manifest(members: Mapping[str, bytes], source: str) -> Manifest:
    where = f"{source}: {MANIFEST}"
    schema = _decoded(members[MANIFEST], _Head, where).schema
    if schema != SCHEMA:
        newer = schema > SCHEMA
        raise UserError(
            f"{where} has schema {schema}; this edgebench reads {SCHEMA}",
            hint="install a newer edgebench" if newer else "write the bundle again: edgebench gate --bundle",
        )
    manifest = _record(Manifest, members[MANIFEST], where)
    contents = {name: data for name, data in members.items() if name != MANIFEST}
    for name in sorted(contents.keys() ^ manifest.files.keys()):
        where_it_is = "in the manifest alone" if name in manifest.files else "not in the manifest"
        raise _no_bundle(source, f"{quoted(name)} is {where_it_is}")
    for name, data in contents.items():
        if manifest.files[name] != Member(sha256=_sha256(data), bytes=len(data)):
            raise _no_bundle(source, f"{name} is not what the manifest says: it was changed")
    return manifest


class _Head(msgspec.Struct):
    schema: int


def _record(kind: type[R], data: bytes, where: str) -> R:
    return _decoded(data, prepared(kind), where)


D = TypeVar("D")


def _decoded(data: bytes, kind: type[D], where: str) -> D:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise _no_bundle(where, str(error)) from error


def _no_bundle(source: str, why: str) -> UserError:
    return UserError(
        f"{source} is no sound bundle: {why}",
        hint="edgebench gate RUN --bundle FILE.zip writes one; copy it unchanged",
    )


# --- comparing ------------------------------------------------------------------------------------


def difference(stored: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The first thing in which two gates as JSON differ, its cell by name; "" where they are the same."""
    then, now = stored.get("cells"), found["cells"]
    for place, cell in enumerate(now):
        before = then[place] if isinstance(then, list) and place < len(then) else None
        for key in _unlike(before, cell):
            names = " ".join(str(cell[each]) for each in ("model", "variant", "precision", "runtime"))
            where = f"{names} on {cell['device']}, {cell['metric']} {cell['kind']}"
            said = before.get(key) if isinstance(before, dict) else None
            return f"{where}: {key} is {_shown(said)} there and {_shown(cell.get(key))} here"
    for key in _unlike(stored, found):
        return f"{key} differs"
    return ""


def _unlike(stored: object, found: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, `verdict` first."""
    if not isinstance(stored, dict):
        return ["verdict"]
    keys = sorted(stored.keys() | found.keys(), key=lambda key: (key != "verdict", key))
    absent = object()
    return [key for key in keys if not _alike(stored.get(key, absent), found.get(key, absent))]


def _alike(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, int | float) and not isinstance(other, bool):
        return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other


def _plain(value: object) -> dict[str, Any]:
    """The document as it is after a file: lists, and no number that JSON does not have."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return plain


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else quoted(str(value))[1:-1]
