"""`targets/*.yaml` -> Target: a closed schema with its own rules, and where a device differs from its target.

`parse` and `mismatches` are pure. `find` and `all_targets` read the files that ship with edgebench, which are
constants of the program like the tables in its code, and those in an optional folder of the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from edgebench import documents
from edgebench.documents import At, Document, quoted
from edgebench.errors import ConfigError, InfrastructureError, UserError, did_you_mean
from edgebench.records import (
    COMPUTE_UNITS,
    PRECISIONS,
    RUNTIMES,
    Facts,
    Limits,
    RuntimeProfile,
    Target,
    Workload,
)

VERSION = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Problem(NamedTuple):
    """A rule that a value breaks: the field, what is wrong in plain words, and what to write instead."""

    field: str
    message: str
    hint: str


def parse(text: str, source: str) -> Target:
    """The target that a YAML text describes; ConfigError with file, line and nearest key when it is wrong."""
    document = documents.load_with_lines(text, Target, source=source)
    _check_identity(document)
    _check_versions(document)
    _check_runtimes(document)
    _check_numbers(document)
    return document.value


def find(name: str, extra: Path | None = None) -> Target:
    """The target of that name, shipped or in the folder `extra`; UserError when there is none."""
    paths = _paths(extra)
    if name not in paths:
        raise UserError(f"there is no target {quoted(name)}", hint=did_you_mean(name, paths))
    return _read(paths[name])


def names(extra: Path | None = None) -> tuple[str, ...]:
    """The names of all targets, shipped or in the folder `extra`, without reading the files."""
    return tuple(sorted(_paths(extra)))


def all_targets(extra: Path | None = None) -> dict[str, Target]:
    """Every target, shipped or in the folder `extra`, by name; ConfigError for the first wrong file."""
    return {name: _read(path) for name, path in sorted(_paths(extra).items())}


def mismatches(target: Target, facts: Facts) -> tuple[str, ...]:
    """What the target expects and the device is not, one sentence each: expected, found, and what to do.

    A fact that the device does not tell is a mismatch where the target asks for it: unknown is not equal.
    """
    return tuple(sentence for sentence in _differences(target, facts) if sentence)


def python_fits(wanted: str, version: str) -> bool:
    """Whether a Python version ("3.11.2") lies in a target's range: ">=3.6,<3.12", or "3.11" for any 3.11."""
    return _in_range(wanted, version)


def workload_problem(workload: Workload) -> Problem | None:
    """The first rule that a workload breaks, or None; shared by targets, plans and flags."""
    for field, lowest, highest in _WORKLOAD_RANGES:
        value = getattr(workload, field)
        if not lowest <= value <= highest:
            hint = f"write a number from {lowest:g} to {highest:g}"
            return Problem(field, f"{field} is {value:g}", hint)
    if workload.max_duration_s < workload.min_duration_s:
        message = (
            f"max_duration_s is {workload.max_duration_s:g}, below min_duration_s {workload.min_duration_s:g}"
        )
        return Problem("max_duration_s", message, "raise max_duration_s or lower min_duration_s")
    return None


# --- rules --------------------------------------------------------------------------------------

# The upper ends keep one mistyped zero from holding a board for days; a probe keeps at most 200,000 samples.
_WORKLOAD_RANGES: tuple[tuple[str, float, float], ...] = (
    ("launches", 1, 1000),
    ("threads", 0, 1024),
    ("batch", 1, 65536),
    ("warmup_samples", 0, 100_000),
    ("max_warmup_s", 0, 3600),
    ("min_samples", 1, 200_000),
    ("min_duration_s", 0, 3600),
    ("max_duration_s", 0.001, 86400),
    ("cooldown_s", 0, 86400),
    ("max_invalid", 0, 1000),
    ("precision", 0, 1),
)


def _check_identity(document: Document[Target]) -> None:
    target = document.value
    if target.version != VERSION:
        message = f"version is {target.version}; this edgebench reads version {VERSION}"
        hint = (
            "a newer file needs a newer edgebench"
            if target.version > VERSION
            else f"write version: {VERSION}"
        )
        raise document.error(("version",), message, hint=hint)
    if not NAME.fullmatch(target.name):
        hint = "letters, digits, dot, dash and underscore; at most 64"
        raise document.error(("name",), f"{quoted(target.name)} cannot be a name", hint=hint)
    stem = PurePath(document.source).stem
    if document.source.endswith(".yaml") and target.name != stem:
        message = f"name is {quoted(target.name)}, but the file is called {quoted(stem + '.yaml')}"
        raise document.error(("name",), message, hint="a target's name and its file's name are the same")


def _check_versions(document: Document[Target]) -> None:
    target = document.value
    ranges: tuple[tuple[At, str | None], ...] = (
        (("python",), target.python),
        (("expects", "python"), target.expects.python),
        (("expects", "tensorrt"), target.expects.tensorrt),
    )
    for at, text in ranges:
        if text is not None and not _is_range(text):
            message = f"{documents.place(at)} is {quoted(text)}, which is no range of versions"
            raise document.error(at, message, hint='write for example ">=3.9,<3.14", in quotes')


def _check_runtimes(document: Document[Target]) -> None:
    if not document.value.runtimes:
        raise document.error(("runtimes",), "runtimes is empty", hint=f"known: {', '.join(RUNTIMES)}")
    for name, profile in document.value.runtimes.items():
        at: At = ("runtimes", name)
        if name not in RUNTIMES:
            raise document.error(at, f"unknown runtime {quoted(name)}", hint=did_you_mean(name, RUNTIMES))
        if not profile.precisions:
            message = f"runtimes.{name}.precisions is empty"
            raise document.error((*at, "precisions"), message, hint=f"known: {', '.join(PRECISIONS)}")
        for index, precision in enumerate(profile.precisions):
            _check_precision(document, (*at, "precisions", index), precision, profile.precisions[:index])
        if name == "tensorrt":
            _check_tensorrt(document, at, profile)
        if name == "coreml":
            _check_coreml(document, at, profile)


def _check_tensorrt(document: Document[Target], at: At, profile: RuntimeProfile) -> None:
    """An engine fits one version and one GPU, and is built where it runs."""
    if profile.build_on != "device":
        message = "runtimes.tensorrt is built on the device it is for"
        raise document.error((*at, "build_on"), message, hint="write build_on: device")
    for name, form, example in _TENSORRT_OPTIONS:
        value = profile.options.get(name)
        if not isinstance(value, str) or re.fullmatch(form, value) is None:
            said = "is missing" if value is None else f"is {quoted(str(value))}"
            message = f"runtimes.tensorrt.options.{name} {said}"
            hint = f'write it in quotes: {name}: "{example}"'
            raise document.error((*at, "options"), message, hint=hint)


def _check_coreml(document: Document[Target], at: At, profile: RuntimeProfile) -> None:
    units = profile.options.get("compute_units", COMPUTE_UNITS[0])
    if units not in COMPUTE_UNITS:
        message = f"unknown compute_units {quoted(str(units))}"
        raise document.error(
            (*at, "options", "compute_units"), message, hint=did_you_mean(str(units), COMPUTE_UNITS)
        )


_TENSORRT_OPTIONS = (
    ("tensorrt_version", r"[0-9]{1,2}\.[0-9]{1,2}(\.[0-9]{1,3})?", "10.3.0"),
    ("compute_capability", r"[0-9]{1,2}\.[0-9]", "8.7"),
)


def _check_precision(document: Document[Target], at: At, precision: str, before: tuple[str, ...]) -> None:
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise document.error(
            at, f"unknown precision {quoted(precision)} in {documents.place(at[:-1])}", hint=hint
        )
    if precision in before:
        message = f"{documents.place(at[:-1])} names {precision} twice"
        raise document.error(at, message, hint="remove one of the two")


def _check_numbers(document: Document[Target]) -> None:
    problem = workload_problem(document.value.workload) or _limits_problem(document.value.limits)
    if problem is not None:
        part = "limits" if problem.field in Limits.__struct_fields__ else "workload"
        raise document.error((part, problem.field), f"{part}.{problem.message}", hint=problem.hint)


def _limits_problem(limits: Limits) -> Problem | None:
    highest_of = {
        "max_temperature_c": 150,
        "memory_mib": 1 << 24,
        "max_foreign_cores": 4096,
        "health_low_ms": 60_000,
        "health_high_ms": 60_000,
    }
    for field, highest in highest_of.items():
        value = getattr(limits, field)
        if value is not None and not 0 < value <= highest:
            return Problem(field, f"{field} is {value:g}", f"write a number above 0 and at most {highest}")
    return _band_problem(limits.health_low_ms, limits.health_high_ms)


def _band_problem(low_ms: float | None, high_ms: float | None) -> Problem | None:
    if (low_ms is None) != (high_ms is None):
        return Problem(
            "health_low_ms" if high_ms is None else "health_high_ms",
            "health_low_ms and health_high_ms belong together",
            "write both, or neither",
        )
    if low_ms is not None and high_ms is not None and low_ms >= high_ms:
        return Problem(
            "health_low_ms",
            f"health_low_ms is {low_ms:g}, not below health_high_ms {high_ms:g}",
            "write the lower end of the band",
        )
    return None


# --- facts --------------------------------------------------------------------------------------

_OS = {"darwin": "macos", "mac": "macos"}
_ARCH = {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64", "armv8l": "armv7l"}


def _differences(target: Target, facts: Facts) -> Iterator[str]:
    expects = target.expects
    yield _platform_difference(target, facts)
    yield _bits_difference(target, facts)
    yield _beginning(target, "board", expects.board, facts.board)
    yield _beginning(target, "soc", expects.soc, facts.soc)
    yield _power_mode(target, expects.power_mode, facts.power_mode)
    for wanted in dict.fromkeys((target.python, expects.python)):
        yield _python(target, wanted, facts.python)
    yield _tensorrt(target, expects.tensorrt, facts.versions.get("tensorrt"))


def _platform_difference(target: Target, facts: Facts) -> str:
    system = _OS.get(facts.os.lower(), facts.os.lower())
    arch = _ARCH.get(facts.arch.lower(), facts.arch.lower())
    wanted = target.platform
    if system == wanted.os and wanted.arch in (arch, "any"):
        return ""
    if wanted.arch == "armv7l" and arch == "aarch64" and facts.bits == 32 and system == wanted.os:
        return ""  # 32-bit programs on a 64-bit kernel: `uname` tells the kernel's processor
    return (
        f"target {target.name} expects {wanted.os} on {wanted.arch}, "
        f"the device runs {quoted(facts.os)} on {quoted(facts.arch)}: "
        "choose another target for it in the inventory (edgebench targets list), or check its address"
    )


def _bits_difference(target: Target, facts: Facts) -> str:
    if target.platform.arch not in ("x86_64", "aarch64") or facts.bits == 64:
        return ""
    return (
        f"target {target.name} expects 64-bit programs, the device's Python is a {facts.bits}-bit program: "
        "install the 64-bit system; a 64-bit kernel alone is not enough"
    )


def _beginning(target: Target, what: str, expected: str | None, found: str | None) -> str:
    if expected is None or (found is not None and found.startswith(expected)):
        return ""
    return (
        f'target {target.name} expects {what} "{expected}", the device says {_said(found)}: '
        "choose another target for it in the inventory (edgebench targets list), or check its address"
    )


def _power_mode(target: Target, expected: str | None, found: str | None) -> str:
    if expected is None or expected == found:
        return ""
    return (
        f'target {target.name} expects power mode "{expected}", the device says {_said(found)}: '
        "set the mode on the device (nvpmodel), or write a target for the mode that it has"
    )


def _python(target: Target, wanted: str | None, found: str) -> str:
    if wanted is None or python_fits(wanted, found):
        return ""
    return (
        f"target {target.name} expects Python {wanted}, the device has {_said(found)}: "
        "install a Python in that range beside it, or write a target for the system that it has"
    )


def _tensorrt(target: Target, wanted: str | None, found: str | None) -> str:
    if wanted is None or (found is not None and _in_range(wanted, found)):
        return ""
    return (
        f"target {target.name} expects TensorRT {wanted}, the device has {_said(found)}: "
        "choose the target of the device's JetPack release"
    )


def _said(found: str | None) -> str:
    return "nothing about it" if found is None else quoted(found)


def _is_plain_version(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", text) is not None


def _is_range(text: str) -> bool:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if _is_plain_version(text):
        return True
    try:
        return len(SpecifierSet(text)) > 0
    except InvalidSpecifier:
        return False


def _in_range(wanted: str, version: str) -> bool:
    """Whether the leading numbers of a version lie in a range; "3.9.2+" (Debian) counts as 3.9.2."""
    from packaging.specifiers import SpecifierSet

    numbers = re.match(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}", version)
    exact = f"=={wanted}.*" if _is_plain_version(wanted) else wanted
    return numbers is not None and SpecifierSet(exact).contains(numbers[0])


# --- files --------------------------------------------------------------------------------------


def _read(path: Path) -> Target:
    return parse(documents.read_text(path), str(path))


def _paths(extra: Path | None) -> dict[str, Path]:
    shipped = {path.stem: path for path in documents.find_files(_shipped_folder(), ".yaml")}
    own = {path.stem: path for path in documents.find_files(extra, ".yaml")} if extra else {}
    for name in own:
        if name in shipped:
            message = f"the target {name} already ships with edgebench"
            hint = f"give yours a name of its own, for example {name}-ours"
            raise ConfigError(str(own[name]), 1, message, hint=hint)
    return shipped | own


def _shipped_folder() -> Path:
    here = Path(__file__).parent
    for folder in (here / "targets_data", here.parent / "targets"):  # in a wheel; in a checkout
        if folder.is_dir():
            return folder
    hint = "install edgebench again: pip install --force-reinstall edgebench"
    raise InfrastructureError("this edgebench came without its target files", hint=hint)
