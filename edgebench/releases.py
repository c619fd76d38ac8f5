"""Releases: stored runs under names that stay, and which of them may be a baseline. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgebench.errors import UserError, did_you_mean
from edgebench.records import Judgement, Record, Release, replace

LATEST_PASSED = "latest-passed"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-.*")
TAKEN = ("latest", LATEST_PASSED)
FILE_ENDINGS = (".json", ".onnx", ".yaml", ".zip")
PASSED = "its gate passed"


class Standing(Record, frozen=True):
    """A release with what the last gate said of its run; `problem` is why it may be no baseline, or ""."""

    release: Release
    verdict: str
    problem: str


def created(name: str, run: str, now_utc: str, note: str, judgement: Judgement | None) -> Release:
    """A new release of a run; fit as a baseline at once where the run's gate passed."""
    _check_name(name)
    passed = judgement is not None and judgement.exit_code == 0
    return Release(
        name=name,
        run=run,
        created_utc=now_utc,
        note=note,
        passed_utc=now_utc if passed else "",
        passed_why=PASSED if passed else "",
    )


def promoted(release: Release, judgement: Judgement | None, now_utc: str, why: str) -> Release:
    """The release, fit as a baseline from now on and the latest; UserError where its own gate failed."""
    if not why.strip():
        raise UserError("--why is empty", hint="say in a few words why it may be a baseline")
    if judgement is not None and judgement.verdict == "fail":
        raise UserError(
            f"{release.name} failed its own gate ({judgement.judged_utc[:10]}, {judgement.budgets})",
            hint=f"edgebench gate {release.run} shows what; a waiver lets a known failure through",
        )
    return replace(release, passed_utc=now_utc, passed_why=why.strip())


def latest_passed(releases: Sequence[Release]) -> Release:
    """The release that became fit as a baseline last; UserError where none is."""
    fit = [each for each in releases if each.passed_utc]
    if not fit:
        there = f"of {len(releases)} releases none passed its gate" if releases else "there is no release yet"
        raise UserError(
            f"{LATEST_PASSED}: {there}",
            hint="edgebench gate RUN, then release create NAME --from RUN; or release promote NAME --why ...",
        )
    return max(fit, key=lambda each: each.passed_utc)


def named(name: str, releases: Sequence[Release]) -> Release:
    """The release of that name; UserError naming the nearest."""
    for each in releases:
        if each.name == name:
            return each
    hint = did_you_mean(name, [each.name for each in releases]) if releases else "edgebench release create"
    raise UserError(f'there is no release "{name}"', hint=hint)


def standing(release: Release, judgement: Judgement | None) -> Standing:
    """How a release stands as a baseline."""
    verdict = "no gate" if judgement is None else judgement.verdict
    return Standing(release=release, verdict=verdict, problem=problem_of(release.name, judgement))


def problem_of(name: str, judgement: Judgement | None) -> str:
    """Why a run that goes by a name may be no baseline, or "": its own gate failed."""
    if judgement is None or judgement.verdict != "fail":
        return ""
    return f"the baseline {name} failed its own gate on {judgement.judged_utc[:10]}"


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(
            f'"{name[:80]}" cannot be the name of a release', hint="letters, digits and . _ + -, 64 at most"
        )
    if name in TAKEN or RUN_ID.fullmatch(name) or name.endswith(FILE_ENDINGS):
        raise UserError(
            f'a release cannot be called "{name}": it reads as something else',
            hint="choose a name that is no run, no file and none of: " + ", ".join(TAKEN),
        )
