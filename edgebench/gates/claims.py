"""Sentences about a compressed model x measured cells -> verified, refuted or inconclusive. Pure.

A claim is judged in every place (device, model, runtime) that has the form it is about. "N x" and "N %" mean
"at least". Figures that vary are judged by the whole 95 % interval of their ratio: verified where all of it
keeps the claim, refuted where none of it does.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from edgebench import comparison
from edgebench.budgets import Subject
from edgebench.comparison import ALPHA, LEAST_LAUNCHES
from edgebench.errors import UserError, did_you_mean
from edgebench.gates.base import Observed
from edgebench.gates.limits import (
    ASSUMED_FREEDOM,
    ASSUMED_SESSION_SD,
    LEAST_MEMORY_LAUNCHES,
    differences,
    known_logs,
)
from edgebench.records import PRECISIONS, Record, replace
from edgebench.units import significant

What = Literal["size", "speed", "memory", "energy", "accuracy"]
Answer = Literal["verified", "refuted", "inconclusive"]

REFERENCE = "fp32"
MAX_CHARACTERS = 300
FORMS = (
    "int8 is 4x smaller than fp32",
    "int8 is 75 % smaller than fp32",
    "int8 is 2x faster than fp32",
    "int8 is 30 % faster than fp32",
    "int8 uses 2x less memory than fp32",
    "int8 uses 30 % less memory than fp32",
    "int8 uses 1.5x less energy than fp32",
    "int8 uses 30 % less energy than fp32",
    "accuracy drop of int8 < 1 %",
    "int8 loses less than 1 % accuracy",
)

_NAME = r"(?P<name>[\w.+/→-]{1,80}?)"
_THAN = r"(?: than (?P<than>[\w.+/→-]{1,80}))?"
_MUCH = r"(?P<number>[0-9]{1,6}(?:\.[0-9]{1,6})?) ?(?P<unit>x|×|times|%)"
_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "is": re.compile(rf"{_NAME} is {_MUCH} (?P<what>smaller|faster){_THAN}"),
    "uses": re.compile(rf"{_NAME} uses {_MUCH} less (?P<what>memory|energy){_THAN}"),
    "drop": re.compile(rf"accuracy drop of {_NAME} < {_MUCH}"),
    "loses": re.compile(rf"{_NAME} loses less than {_MUCH} accuracy"),
}
_WORDS: Mapping[str, What] = {"smaller": "size", "faster": "speed", "memory": "memory", "energy": "energy"}
_METRICS = {"speed": "latency.p50", "energy": "energy_per_inference"}
_TOLD = {"size": "smaller", "speed": "faster", "memory": "less memory", "energy": "less energy"}


class Claim(NamedTuple):
    """A sentence as it was understood. `wanted`: the least ratio of `than` by `name`, or the most to lose."""

    text: str
    what: What
    name: str
    than: str
    wanted: float


class ClaimVerdict(Record, frozen=True):
    """What was found of one claim in one place.

    `value` is how many times smaller, faster or more frugal (more is better), of accuracy the drop as a
    share; with its 95 % interval where it is one that varies. `wanted` is what the claim says.
    """

    claim: str
    device: str
    target: str
    model: str
    runtime: str
    verdict: Answer
    reason: str
    what: What
    wanted: float
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


class Expected(NamedTuple):
    """A planned cell: what was measured of it, or why nothing was."""

    subject: Subject
    cell: Observed | None
    why: str = ""


# --- reading --------------------------------------------------------------------------------------


def parse(text: str) -> Claim:
    """The claim that a sentence makes; UserError with the nearest valid form for any other sentence."""
    plain = " ".join(text.replace("->", "→").split())
    if len(plain) > MAX_CHARACTERS:
        raise UserError(f"a claim has {len(plain)} characters; at most {MAX_CHARACTERS}", hint=_nearest(""))
    plain = re.sub(r"(?<=[0-9]) ?(?:% ?points?|pp)\b", " %", plain)
    plain = re.sub(r" ?< ?", " < ", plain)
    for kind, pattern in _PATTERNS.items():
        found = pattern.fullmatch(plain)
        if found is not None:
            return _claim(text, kind, found)
    raise UserError(f'"{_shown(text)}" is no claim that can be judged', hint=_nearest(plain))


def _claim(text: str, kind: str, found: re.Match[str]) -> Claim:
    number, name = float(found["number"]), found["name"]
    if kind in ("drop", "loses"):
        if found["unit"] != "%" or number > 100:
            raise UserError(f'"{_shown(text)}" loses no share', hint='write "accuracy drop of int8 < 1 %"')
        return Claim(text, "accuracy", name, "", number / 100)
    what = _WORDS[found["what"]]
    wanted = _ratio(text, what, number, percent=found["unit"] == "%")
    than = found["than"] or REFERENCE
    if than == name:
        raise UserError(f'"{_shown(text)}" compares {name} with itself', hint="name another after than")
    return Claim(text, what, name, than, wanted)


def _ratio(text: str, what: What, number: float, *, percent: bool) -> float:
    """How many times more the other has: 75 % smaller is 4 times, 30 % faster is 1.3 times the speed."""
    if percent and what != "speed" and number >= 100:
        raise UserError(f'"{_shown(text)}" leaves nothing', hint='write "75 % smaller", or "4x smaller"')
    if not percent and number < 1:
        raise UserError(f'"{_shown(text)}" says the opposite', hint='write for example "2x smaller"')
    if not percent:
        return number
    return 1 + number / 100 if what == "speed" else 1 / (1 - number / 100)


def _nearest(plain: str) -> str:
    """The form that the words come nearest to."""
    alike = [form for form in FORMS if ("%" in form) == ("%" in plain)]
    near = difflib.get_close_matches(plain, alike, n=1, cutoff=0.5)
    return f'the nearest form is "{near[0]}"' if near else f'write for example "{FORMS[0]}", "{FORMS[-2]}"'


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:80]) + ("…" if len(text) > 80 else "")


def names_of(subject: Subject) -> tuple[str, ...]:
    """What a claim may call a cell, the most exact name first: "fp32→int8", "int8"; "pruned-50"."""
    precision = subject.precision
    variant = subject.variant or precision
    exact = f"{variant}→{precision}"
    if precision in (variant, variant.split("-")[0]):
        return exact, variant, precision
    if precision == REFERENCE and REFERENCE not in variant:
        return exact, variant
    return (exact, precision) if variant in PRECISIONS else (exact, exact, variant)


def check(claim: Claim, subjects: Sequence[Subject]) -> None:
    """UserError where no planned cell has a name that the claim uses."""
    known = sorted({name for each in subjects for name in names_of(each)})
    for name in filter(None, (claim.name, claim.than)):
        if name not in known:
            hint = did_you_mean(name, [each for each in known if "→" not in each])
            raise UserError(f'"{_shown(claim.text)}": the plan has no "{_shown(name)}"', hint=hint)


# --- judging --------------------------------------------------------------------------------------


def judge(claims: Sequence[Claim], expected: Sequence[Expected]) -> tuple[ClaimVerdict, ...]:
    """Every claim in every place that has the form it is about, in the order of claims, then of cells."""
    places: dict[tuple[str, str, str], list[Expected]] = {}
    for each in expected:
        places.setdefault((each.subject.device, each.subject.model, each.subject.runtime), []).append(each)
    return tuple(
        verdict
        for claim in claims
        for cells in places.values()
        if _called(claim.name, cells)
        for verdict in _judged(claim, cells)
    )


def _judged(claim: Claim, cells: Sequence[Expected]) -> Iterator[ClaimVerdict]:
    subject = cells[0].subject
    blank = ClaimVerdict(
        claim=claim.text,
        device=subject.device,
        target=subject.target,
        model=subject.model,
        runtime=subject.runtime,
        verdict="inconclusive",
        reason="",
        what=claim.what,
        wanted=claim.wanted,
    )
    cell, why = _one(claim.name, cells)
    other, why_not = (cell, "") if claim.what == "accuracy" else _one(claim.than, cells)
    if cell is None or other is None:
        yield replace(blank, reason=why or why_not)
    else:
        yield _RULES[claim.what](claim, cell, other, blank)


def _called(name: str, cells: Sequence[Expected]) -> list[Expected]:
    """The cells of that name: by the most exact of their names that any of them has."""
    for rank in range(3):
        found = [each for each in cells if name in names_of(each.subject)[rank : rank + 1]]
        if found:
            return found
    return []


def _one(name: str, cells: Sequence[Expected]) -> tuple[Observed | None, str]:
    """The measured cell of that name, or why there is none."""
    found = _called(name, cells)
    if not found:
        return None, f"{name} was not planned there"
    if len(found) > 1:
        exact = ", ".join(names_of(each.subject)[0] for each in found)
        return None, f"{len(found)} cells are called {name}: say which, as {exact}"
    cell = found[0].cell
    if cell is None or cell.failure:
        reason = found[0].why or (cell.failure if cell else "")
        return None, f"{name} was not measured: {reason or 'the run did not come to it'}"
    return cell, ""


def _size(claim: Claim, cell: Observed, other: Observed, blank: ClaimVerdict) -> ClaimVerdict:
    if not cell.artifact_bytes or other.artifact_bytes is None:
        return replace(blank, reason="the size is not known")
    return _exact(claim, other.artifact_bytes / cell.artifact_bytes, blank)


def _memory(claim: Claim, cell: Observed, other: Observed, blank: ClaimVerdict) -> ClaimVerdict:
    """The largest launch of each side."""
    problem = _problem(claim, cell, other, LEAST_MEMORY_LAUNCHES)
    peaks = [[launch.peak_bytes for launch in side.launches] for side in (cell, other)]
    if not problem and any(None in each for each in peaks):
        problem = "the memory is not known of every launch"
    if problem:
        return replace(blank, reason=problem)
    small, large = (max(each or 0 for each in side) for side in peaks)
    return _exact(claim, large / small, blank) if small else replace(blank, reason="the memory is not known")


def _exact(claim: Claim, value: float, blank: ClaimVerdict) -> ClaimVerdict:
    word: Answer = "verified" if value >= claim.wanted else "refuted"
    return replace(blank, verdict=word, value=value, reason=f"{significant(value)}x {_TOLD[claim.what]}")


def _varying(claim: Claim, cell: Observed, other: Observed, blank: ClaimVerdict) -> ClaimVerdict:
    """Speed and energy: Welch's interval of the ratio of launch figures."""
    problem = _problem(claim, cell, other, LEAST_LAUNCHES)
    if problem:
        return replace(blank, reason=problem)
    now, before = (known_logs(_METRICS[claim.what], side) for side in (cell, other))
    if now is None or before is None:
        return replace(blank, reason=f"the {claim.what} is not known of every launch")
    estimate = comparison.welch(now, before)
    if estimate is None:
        return replace(blank, reason="too few launches")
    apart = ""
    if cell.session != other.session:
        estimate = estimate.with_variance(2 * ASSUMED_SESSION_SD**2, ASSUMED_FREEDOM)
        apart = ", widened for what lies between two sessions"
    ends = [estimate.lower(ALPHA / 2), estimate.upper(ALPHA / 2)]
    value, low, high = (math.exp(min(50.0, max(-50.0, each))) for each in (estimate.shift, *ends))
    word: Answer = "verified" if low >= claim.wanted else "refuted" if high < claim.wanted else "inconclusive"
    interval = f"95 % interval {significant(low)}–{significant(high)}{apart}"
    told = f"{significant(value)}x {_TOLD[claim.what]}, {interval}"
    return replace(
        blank,
        verdict=word,
        value=value,
        ci_low=low,
        ci_high=high,
        reason=told if word != "inconclusive" else f"{told}: more launches would decide",
    )


def _accuracy(claim: Claim, cell: Observed, _other: Observed, blank: ClaimVerdict) -> ClaimVerdict:
    """The loss against the model as it was given."""
    report = cell.accuracy_report
    if report is None or report.drop is None:
        return replace(blank, reason=f"the accuracy of {claim.name} was not measured: name a dataset")
    low, high = report.drop_low, report.drop_high
    told = f"a drop of {significant(100 * report.drop)} %"
    found = replace(blank, value=report.drop, ci_low=low, ci_high=high)
    if low is None or high is None:
        return replace(found, reason=f"{told}; {report.metric} gives one figure, which has no interval")
    word: Answer = "verified" if high < claim.wanted else "refuted" if low >= claim.wanted else "inconclusive"
    told += f", 95 % interval {significant(100 * low)} to {significant(100 * high)} %, {report.n} samples"
    more = ": more samples would decide" if word == "inconclusive" else ""
    return replace(found, verdict=word, reason=f"{told}{more}")


_Rule = Callable[[Claim, Observed, Observed, ClaimVerdict], ClaimVerdict]
_RULES: Mapping[What, _Rule] = {
    "size": _size,
    "speed": _varying,
    "memory": _memory,
    "energy": _varying,
    "accuracy": _accuracy,
}


def _problem(claim: Claim, cell: Observed, other: Observed, least: int) -> str:
    """What keeps the launches of two cells from being compared, or ""."""
    for name, side in ((claim.name, cell), (claim.than, other)):
        if not side.launches and side.invalid:
            return f"no launch of {name} is valid: {side.invalid_reason}"
        if len(side.launches) < least:
            launches = "1 valid launch" if len(side.launches) == 1 else f"{len(side.launches)} valid launches"
            return f"{name} has {launches}; {least} are the least"
    return differences(cell, other)
