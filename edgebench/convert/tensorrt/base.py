"""What every part of the TensorRT converter shares: versions, boards, what each version imports, findings.

`ops.json` says which ONNX operators each version's parser imports, with which element types and limits, and
how certain that is; its `origin` and each version's `source` say where it was read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgebench.errors import InfrastructureError, UserError
from edgebench.records import Record

OLDEST = (8, 0, 0)
STRONGLY_TYPED = (11, 0, 0)  # from here on precision is what the ONNX says; no --fp16, no --int8
VERSION_OPTION, CAPABILITY_OPTION = "tensorrt_version", "compute_capability"
MIN_INT8_CAPABILITY = (6, 1)  # the first with 8-bit dot products
TENSOR_FLOAT_CAPABILITY = (8, 0)
NO_INT8_CAPABILITIES = ((6, 2),)  # the Jetson TX2, younger than 6.1 but without them

Version = tuple[int, int, int]
Severity = Literal["refusal", "warning"]


class Finding(Record, frozen=True):
    """One thing that TensorRT would not take (refusal) or that one should know (warning).

    `rule` names the check. `node` and `operator` are empty where the model or the board as a whole is meant.
    """

    severity: Severity
    rule: str
    node: str
    operator: str
    message: str
    hint: str

    @property
    def refuses(self) -> bool:
        """Whether the model cannot be built."""
        return self.severity == "refusal"


class Board(NamedTuple):
    """What decides whether a model can be built: TensorRT's version and the GPU's compute capability."""

    version: Version
    compute_capability: tuple[int, int]

    @property
    def name(self) -> str:
        """TensorRT as messages call it: "TensorRT 8.2.1"."""
        return f"TensorRT {version_text(self.version)}"

    @property
    def capability(self) -> str:
        """The compute capability as text: "5.3"."""
        return ".".join(map(str, self.compute_capability))

    @property
    def has_int8(self) -> bool:
        """Whether the GPU computes with 8-bit integers: 5.3 and 6.2 do not, 7.2, 8.7 and 11.0 do."""
        return (
            self.compute_capability >= MIN_INT8_CAPABILITY
            and self.compute_capability not in NO_INT8_CAPABILITIES
        )

    @property
    def has_tf32(self) -> bool:
        """Whether the GPU rounds the factors of float32 products to 10 bits unless told not to."""
        return self.compute_capability >= TENSOR_FLOAT_CAPABILITY

    @property
    def casts_int64(self) -> bool:
        """Whether the parser turns INT64 into INT32, as all of 8.x do."""
        return self.version < (10, 0, 0)

    @property
    def strongly_typed(self) -> bool:
        """Whether precision comes from the ONNX file alone."""
        return self.version >= STRONGLY_TYPED


def board_of(options: Mapping[str, str]) -> Board:
    """The board that a conversion's options name; UserError when one of the two is missing or wrong."""
    missing = [name for name in (VERSION_OPTION, CAPABILITY_OPTION) if not options.get(name)]
    if missing:
        raise UserError(
            f"an engine fits one TensorRT version and one GPU, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not known",
            hint="name the kind of board: --target jetson-orin-nano (edgebench targets list shows all)",
        )
    return Board(parse_version(options[VERSION_OPTION]), parse_capability(options[CAPABILITY_OPTION]))


def parse_version(text: str) -> Version:
    """The version in "8.2.1", "8.2" or a banner's number (8201, v100300); UserError when it is none.

    Numbers: below 10000 major * 1000 + minor * 100 + patch, else major * 10000 + minor * 100 + patch.
    """
    dotted = re.fullmatch(r"v?(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?(?:\.\d{1,6})?", text.strip())
    whole = re.fullmatch(r"v?(\d{4,6})", text.strip())
    if dotted:
        version = int(dotted[1]), int(dotted[2]), int(dotted[3] or 0)
    elif whole:
        number = int(whole[1])
        major = 1000 if number < 10_000 else 10_000
        version = number // major, number % major // 100, number % 100
    else:
        raise UserError(f'"{text[:40]}" is no TensorRT version', hint='write it as "8.2.1" or "10.3.0"')
    if version < OLDEST:
        raise UserError(
            f"TensorRT {version_text(version)} is too old: edgebench knows 8.0 to 11",
            hint="use a JetPack with TensorRT 8.0 or newer (4.6 has one for every Jetson)",
        )
    return version


def parse_capability(text: str) -> tuple[int, int]:
    """The compute capability in "5.3"; UserError when it is none."""
    found = re.fullmatch(r"(\d{1,2})\.(\d)", text.strip())
    if not found:
        raise UserError(
            f'"{text[:40]}" is no compute capability',
            hint='write it as "8.7" (Orin), "7.2" (Xavier), "5.3" (Nano), in quotes',
        )
    return int(found[1]), int(found[2])


def version_text(version: Version) -> str:
    """The version as NVIDIA writes it: "8.2.1"."""
    return ".".join(map(str, version))


# --- what a version imports ---------------------------------------------------------------------


class OperatorTable(NamedTuple):
    """What one version's parser imports. `opset_max`: the newest ONNX operator set it was written for.

    `types`: operator -> TensorRT's names of element types; `limits`: operator -> documented limits, as text.
    `doubtful` operators have an importer but are documented as unsupported. `remark` says where the table is
    weaker than one read from that very version.
    """

    label: str
    opset_max: int
    operators: frozenset[str]
    types: dict[str, frozenset[str]]
    limits: dict[str, str]
    doubtful: frozenset[str]
    remark: str


# The newest operator set that the changelog since 10.3 speaks of: GroupNormalization of 21, Attention of 23,
# Swish of 24
_OPSETS = (((11, 0), 24), ((10, 14), 23), ((10, 9), 21))
# changelog wording that lifts a documented limit
_LIFTS = ("tensor axes", "dynamic axes", "dynamic axis", "ellipsis")


@cache
def operator_table(version: Version) -> OperatorTable:
    """What that version imports: its own table, or the nearest older one with the parser's changes since.

    8.0 has no table and gets 8.2's, which holds every operator that 8.0 has.
    """
    known = _data()["versions"]
    labels = {_pair(label): label for label in known if label != "latest"}
    wanted = version[:2]
    base = max((pair for pair in labels if pair <= wanted), default=min(labels))
    entry = known[labels[base]]
    added, lifted = _changes(base, wanted)
    limits = {op: text for op, text in entry["restrictions"].items() if op not in lifted}
    return OperatorTable(
        label=labels[base],
        opset_max=_opset_max(wanted, entry["opset_max"]),
        operators=frozenset(entry["ops"]) | added,
        types={op: frozenset(names.split()) for op, names in entry["dtypes"].items()},
        limits=limits,
        doubtful=frozenset(entry.get("ops_importer_only", ())),
        remark=_remark(wanted, base, labels[base], entry["certainty"]),
    )


def first_version_with(operator: str, after: Version) -> str:
    """The oldest version beyond `after` that imports the operator: "8.5"; empty where none is known to."""
    for pair in _milestones():
        if pair > after[:2] and operator in operator_table((*pair, 0)).operators:
            return f"{pair[0]}.{pair[1]}"
    return ""


def never_quantized_operators() -> frozenset[str]:
    """Integer operators of ONNX that no version imports: TensorRT takes int8 as Q/DQ pairs only."""
    return frozenset(_data()["never_supported_quant_ops"])


def _milestones() -> list[tuple[int, int]]:
    data = _data()
    versions = {_pair(label) for label in data["versions"] if label != "latest"}
    return sorted(versions | {_pair(label) for label in data["parser_changes"]})


def _changes(base: tuple[int, int], wanted: tuple[int, int]) -> tuple[frozenset[str], frozenset[str]]:
    """Operators that came, and operators whose limits went, since the table's version up to the wanted."""
    added: set[str] = set()
    lifted: set[str] = set()
    for label, lines in _data()["parser_changes"].items():
        if not base < _pair(label) <= wanted:
            continue
        for line in lines:
            if line.startswith("+"):
                added.add(line[1:].split()[0])
                continue
            names, _, what = line.partition(": ")
            if any(word in what for word in _LIFTS):
                lifted.update(name.strip() for name in names.split(","))
    return frozenset(added), frozenset(lifted)


def _opset_max(wanted: tuple[int, int], stated: int) -> int:
    return next((opset for since, opset in _OPSETS if wanted >= since), stated)


def _remark(wanted: tuple[int, int], base: tuple[int, int], label: str, certainty: str) -> str:
    here = f"{wanted[0]}.{wanted[1]}"
    if wanted < base:
        return f"no list of TensorRT {here}'s operators is known; that of {label} was used, it may lack some"
    if wanted > (11, 1):
        return f"TensorRT {here} is newer than this edgebench knows; it was taken to be like 11.1"
    if wanted != base:
        return (
            f"the operators of TensorRT {here} are those of {label} with the changes that its changelog names"
        )
    return (
        ""
        if certainty == "from source"
        else f"the operators of TensorRT {here} come from 10.1 and its changelog"
    )


def _pair(label: str) -> tuple[int, int]:
    major, minor = label.split(".")
    return int(major), int(minor)


@cache
def _data() -> dict[str, Any]:
    path = Path(__file__).with_name("ops.json")
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InfrastructureError(
            f"TensorRT's operator lists cannot be read from {path}: {error}",
            hint="install edgebench again: pip install --force-reinstall edgebench",
        ) from error
    return read
