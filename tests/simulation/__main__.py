"""`make statistics`: how often each rule of the gate is right, from simulation with known truth.

    python -m tests.simulation [--trials 2000] [--write]

Writes docs/statistics.md with --write; what `make aa-local` wrote there stays.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from edgebench.comparison import ALPHA, LOOKS, false_discoveries
from edgebench.pipeline.measuring import MOST_LAUNCHES
from edgebench.statistics import half_width_of, interval_95
from tests.simulation import page, procedure, rules
from tests.simulation.boards import (
    BOARDS,
    HARD,
    TYPICAL,
    Board,
    Compared,
    Floats,
    Pooled,
    compared,
    pooled,
)
from tests.simulation.page import claim, row

SEED = 20261125
LEAST_TRIALS = 2000
TOLERANCE = 0.02
LIMIT = math.log1p(TOLERANCE)
SHRINKS_TO = 0.85  # the most that a duet was seen to hide
COUNTS = (5, 10, 20)
SEQUENTIAL: Mapping[str, rules.Judge] = {
    "pairs, looks at 5, 10, 20 (separate)": rules.looks,
    "duet, looks at 5, 10, 20 (duet)": rules.duet_looks,
    "pairs, then a duet, alpha/2 each (auto)": rules.auto,
}
FIXED: Mapping[str, tuple[rules.Judge, tuple[int, ...]]] = {
    "one side alone (absolute limits)": (rules.one_sample, COUNTS),
    "Welch t (a file, or another session)": (rules.welch, COUNTS),
    "ABBA pairs": (rules.pairs, COUNTS),
    "duet, median of neighbours": (rules.duet, COUNTS),
}
OTHERS: Mapping[str, rules.PooledRule] = {
    "mean over the limit (naive)": rules.naive_mean,
    "Mann-Whitney, pooled inferences": rules.pooled_mann_whitney,
    "bootstrap, pooled inferences": rules.pooled_bootstrap,
}
# Detection in % at +3, +5 and +10 % with a tolerance of 2 %, by launches a side: 1,000 trials of Welch's t on
# a typical board, found before this was built. Without tolerance +5 % was found in 84, 99 and 100 %.
WANTED = {5: (12, 51, 98), 10: (19, 78, 100), 20: (33, 96, 100)}
WANTED_PLAIN = {5: 84, 10: 99, 20: 100}
WANTED_TRIALS = 1000
EFFECTS = (0.03, 0.05, 0.10)
LOOKS_TOLERANCE = 0.05
LOOKED_FOR = {0.0: "pass", 0.03: "pass", 0.08: "fail", 0.10: "fail"}  # the answer by the true change
WHY = (
    "On one side alone a slow hour and a slower model look the same. From ten launches on as much is allowed "
    "for as can be seen of launches that resemble each other, the report warns of them, and side by side it "
    "cancels."
)


class Known(NamedTuple):
    """What all sections share: comparisons on the three boards."""

    trials: int
    boards: Mapping[str, Compared]


def main() -> int:
    """Print the tables; 1 when a figure that is claimed does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=main.__doc__)
    parser.add_argument("--trials", type=int, default=LEAST_TRIALS)
    parser.add_argument("--write", action="store_true", help="keep the page; not with fewer trials")
    asked = parser.parse_args()
    begun = time.monotonic()
    lines = []
    for line in _document(asked.trials):
        print(line, flush=True)
        lines.append(line)
    print(f"\n{time.monotonic() - begun:.0f} s")
    if asked.write and asked.trials >= LEAST_TRIALS:
        page.keep(page.SIMULATION, lines)
    return int(any(page.FAILS in line for line in lines))


def _document(trials: int) -> Iterator[str]:
    known = Known(trials, {each.name: compared(each, trials, max(COUNTS), SEED) for each in BOARDS})
    error = 200 * math.sqrt(0.05 * 0.95 / trials)
    yield "# How often the gate is right"
    yield ""
    yield (
        f"Made on {datetime.now(UTC):%Y-%m-%d} by `make statistics`: simulated launches with known truth "
        f"(tests/simulation/boards.py), {trials:,} trials a cell: a share of 5 % is known to within "
        f"{error:.1f} points, and that much is allowed for below. Alpha is 5 %, one-sided. Rules with "
        "looks and those for another day are asked through the gate itself."
    )
    failing = []
    for section in (_sizes, _hard, _passes, _power, _power_of_looks, _precision, _stored, _fleet):
        for line in section(known):
            failing += [line] if page.FAILS in line else []
            yield line
    yield from ("", "## What does not hold", "")
    yield from (f"- {', '.join(filter(None, map(str.strip, each.split('|'))))}" for each in failing)
    yield from () if failing else ("Nothing: all of the above holds.",)
    yield from ("", WHY)


# --- false alarms ---------------------------------------------------------------------------------


def _sizes(known: Known) -> Iterator[str]:
    yield from ("", "## False alarms in %, nothing changed and no tolerance (nominal 5 %)", "")
    yield from _head(*(f"{each.name} {_counts(COUNTS)}" for each in BOARDS))
    for name, (rule, counts) in FIXED.items():
        shares = [_alarms(rule, known.boards[each.name], counts) for each in BOARDS]
        yield row(name, *map(_shown, shares), claim(_inside(shares, 0.03, 0.06, known), "3 to 6 %"))
    for name, rule in SEQUENTIAL.items():
        shares = [_alarms(rule, known.boards[each.name], (20,)) for each in BOARDS]
        yield row(name, *map(_shown, shares), claim(_inside(shares, 0.0, 0.06, known), "under 6 %"))
    made = [_others(each, known.trials) for each in BOARDS]
    for name in OTHERS:
        yield row(f"{name}, 5/10 launches", *(_shown(each[name]) for each in made), "not offered")


def _others(board: Board, trials: int) -> dict[str, list[float]]:
    """What others alarm at, 5 and 10 launches, by rule; few trials at a time, since all inferences count."""
    answers: dict[tuple[str, int], list[str]] = {}
    for begin in range(0, trials, 500):
        part: Pooled = pooled(board, min(500, trials - begin), 10, SEED + begin)
        for name, rule in OTHERS.items():
            for count in (5, 10):
                answers.setdefault((name, count), []).extend(rule(part.first(count), 0.0, 0.0))
    return {name: [rules.share(answers[name, count], "fail") for count in (5, 10)] for name in OTHERS}


def _hard(known: Known) -> Iterator[str]:
    yield from ("", "## The same on typical boards whose launches are not independent, or of two kinds", "")
    yield from _head(*(f"{each.name} {_counts(COUNTS)}" for each in HARD))
    made = [compared(each, known.trials, max(COUNTS), SEED + 2) for each in HARD]
    offered = {**FIXED, **{name: (rule, (20,)) for name, rule in SEQUENTIAL.items()}}
    for name, (rule, counts) in offered.items():
        # an absolute limit has no true value to lie at where launches drift
        tried = made[1:] if rule is rules.one_sample else made
        shares = [_alarms(rule, each, counts) for each in tried]
        cells = [*["-"] * (len(made) - len(tried)), *map(_shown, shares)]
        yield row(name, *cells, claim(_inside(shares, 0.0, 0.06, known), "under 6 %"))


# --- a change on the limit, and beyond ------------------------------------------------------------


def _passes(known: Known) -> Iterator[str]:
    yield from (
        "",
        f"## A change of exactly the tolerance of {TOLERANCE:.0%}: passes / failures in % (nominal 5 % each)",
        "",
        f"A duet is taken to see {SHRINKS_TO:.0%} of the change, as the worst recorded one did.",
        "",
    )
    yield from _head(*(each.name for each in BOARDS))
    absolute = [
        [rules.share(rules.one_sample(known.boards[each.name].first(n), 0.0, 0.0), "pass") for n in COUNTS]
        for each in BOARDS
    ]
    kept = claim(_inside(absolute, 0.0, 0.06, known), "under 6 %")
    yield row("launches on an absolute limit, passes 5/10/20", *map(_shown, absolute), kept)
    for name, rule in SEQUENTIAL.items():
        answers = [_seen(rule, known.boards[each.name], LIMIT, LIMIT) for each in BOARDS]
        shares = [[rules.share(each, word) for word in ("pass", "fail")] for each in answers]
        yield row(name, *map(_shown, shares), claim(_inside(shares, 0.0, 0.06, known), "under 6 %"))


def _power(known: Known) -> Iterator[str]:
    typical = known.boards[TYPICAL.name]
    yield from ("", f"## Fail / pass / inconclusive in %, tolerance {TOLERANCE:.0%}, typical board", "")
    yield from ("Wanted: what Welch's t was found to see before this was built (1,000 trials).", "")
    yield from _head("launches", *(f"+{each:.0%}" for each in (0.0, *EFFECTS)), "wanted at +3/+5/+10 %")
    for name, (rule, counts) in FIXED.items():
        for count in counts:
            yield _powers(name, rule, typical.first(count), known.trials)
    for name, sequential in SEQUENTIAL.items():
        yield _powers(name, sequential, typical, known.trials)
    yield from ("", "Without tolerance, +5 % found in %:", "")
    yield from _head("5/10/20 launches")
    for name, (rule, counts) in FIXED.items():
        shares = [rules.share(rule(typical.first(n), math.log1p(0.05), 0.0), "fail") for n in counts]
        wanted = [WANTED_PLAIN[n] for n in counts]
        holds = all(_reaches(got, want, known.trials) for got, want in zip(shares, wanted, strict=True))
        yield row(name, _shown(shares), claim(holds, f"at least {_counts(wanted)}"))


def _power_of_looks(known: Known) -> Iterator[str]:
    yield from ("", f"## The same looks at 5, 10 and 20 launches, tolerance {LOOKS_TOLERANCE:.0%}, in %", "")
    yield from _head(*(f"{effect:+.0%}: {word}" for effect, word in LOOKED_FOR.items()))
    wanted = _looked(rules.welch_looks, known)
    yield row("Welch's t at these looks", *_percents(wanted), "not offered")
    for name, rule in SEQUENTIAL.items():
        shares = _looked(rule, known)
        slack = [2 * math.sqrt(2 * want * (1 - want) / known.trials) for want in wanted]
        holds = all(got >= want - more for got, want, more in zip(shares, wanted, slack, strict=True))
        yield row(name, *_percents(shares), claim(holds, "at least that"))


def _looked(rule: rules.Judge, known: Known) -> list[float]:
    typical, limit = known.boards[TYPICAL.name], math.log1p(LOOKS_TOLERANCE)
    return [
        rules.share(_seen(rule, typical, math.log1p(effect), limit), word)
        for effect, word in LOOKED_FOR.items()
    ]


def _percents(shares: Sequence[float]) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]


def _powers(name: str, rule: rules.Judge, known: Compared, trials: int) -> str:
    launches = known.before.shape[1]
    answers = [_seen(rule, known, math.log1p(each), LIMIT) for each in (0.0, *EFFECTS)]
    found = [rules.share(each, "fail") for each in answers[1:]]
    wanted = WANTED[launches]
    holds = all(_reaches(got, want, trials) for got, want in zip(found, wanted, strict=True))
    cells = [
        "/".join(f"{100 * rules.share(each, word):.0f}" for word in ("fail", "pass", "inconclusive"))
        for each in answers
    ]
    return row(name, str(launches), *cells, _counts(wanted), claim(holds, "at least that"))


def _seen(rule: rules.Judge, known: Compared, effect: float, limit: float) -> rules.Answers:
    """The answers to a true change; where a duet speaks, it sees less than there is."""
    if rule is rules.auto:
        return rules.auto(known, effect, limit, SHRINKS_TO)
    return rule(known, SHRINKS_TO * effect if rule in (rules.duet, rules.duet_looks) else effect, limit)


def _reaches(share: float, wanted: int, trials: int) -> bool:
    """Whether it is at least that, but for two standard errors of both simulations."""
    p = min(0.99, max(0.01, wanted / 100))
    return share >= wanted / 100 - 2 * math.sqrt(p * (1 - p) * (1 / trials + 1 / WANTED_TRIALS))


# --- stopping on precision ------------------------------------------------------------------------


def _precision(known: Known) -> Iterator[str]:
    yield from (
        "",
        f"## Launches until the 95 % interval of p50 is narrow enough, {LOOKS[0]} to {MOST_LAUNCHES}",
        "",
        "How often the interval holds the true value in %, and in brackets the launches that it took.",
        "",
    )
    yield from _head(*(each.name for each in (*BOARDS, *HARD[1:])))
    hard = [compared(each, known.trials, max(COUNTS), SEED + 3) for each in HARD[1:]]
    made = [*known.boards.values(), *hard]
    for wanted in (0.0, 0.005, 0.01, 0.02):
        found = [_stopped(each.before, wanted) for each in made]
        what = f"±{100 * wanted:g} % asked for" if wanted else "always 20 launches"
        slack = 2 * math.sqrt(0.07 * 0.93 / known.trials)
        wanted_shares = [0.93] * (len(found) - 1) + [0.85]
        holds = all(got[0] >= want - slack for got, want in zip(found, wanted_shares, strict=True))
        cells = [f"{100 * covered:.1f} ({launches:.1f})" for covered, launches in found]
        yield row(what, *cells, claim(holds, "at least 93 %, autocorrelated 85 %"))


def _stopped(logs: Floats, wanted: float) -> tuple[float, float]:
    """(how often the interval holds the mean of all launches, how many launches it took on average)."""
    true = float(np.exp(logs.mean()))
    covered = launches = 0
    for trial in np.exp(logs):
        count = next((n for n in range(LOOKS[0], MOST_LAUNCHES) if _narrow(trial[:n], wanted)), MOST_LAUNCHES)
        low, high = interval_95(list(trial[:count])) or (0.0, 0.0)
        covered += low <= true <= high
        launches += count
    return covered / len(logs), launches / len(logs)


def _narrow(values: Sequence[float], wanted: float) -> bool:
    width = half_width_of(list(values))
    return bool(wanted) and width is not None and width <= wanted


# --- a baseline of another day --------------------------------------------------------------------


def _stored(known: Known) -> Iterator[str]:
    yield from (
        "",
        "## A baseline from another day (1.5 % between days), false alarms in % at no tolerance",
        "",
    )
    made = [compared(each, known.trials, max(COUNTS), SEED + 1, rules.SESSION_SD) for each in BOARDS]
    yield from _head(*(f"{each.name} {_counts(COUNTS)}" for each in BOARDS))
    plain = [_alarms(rules.welch, each, COUNTS) for each in made]
    yield row("Welch t as if it were the same day", *map(_shown, plain), "not offered")
    for name, rule in (
        ("with the variance of ten A/A pairs", rules.other_day),
        ("no A/A history", rules.other_day_unknown),
    ):
        shares = [_alarms(rule, each, COUNTS) for each in made]
        yield row(name, *map(_shown, shares), claim(_inside(shares, 0.0, 0.06, known), "under 6 %"))
    passed = [
        [rules.share(rules.other_day_unknown(each.first(n), 0.0, LIMIT), "pass") for n in COUNTS]
        for each in made
    ]
    none = not any(share for each in passed for share in each)
    yield row("no A/A history, passes at 2 %", *map(_shown, passed), claim(none, "none"))


# --- a fleet --------------------------------------------------------------------------------------


def _fleet(known: Known, cells: int = 500, releases: int = 200) -> Iterator[str]:
    yield from ("", f"## A fleet of {cells} cells on typical boards, {releases} releases", "")
    yield (
        "Pairs at looks 5, 10, 20, then Benjamini-Hochberg over the release; each comparison is drawn anew "
        "from the launches of the simulation."
    )
    yield ""
    yield from _head("tolerance", "releases with a false failure", "slower cells found")
    for slower, effect, limit in ((0, 0.0, 0.0), (0, 0.0, LIMIT), (25, 0.10, LIMIT)):
        alarms, found = _releases(
            known.boards[TYPICAL.name], Fleet(cells, releases, slower), (math.log1p(effect), limit)
        )
        holds = claim(alarms <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / releases), "at most 5 % of releases")
        truth = f"{slower} of {cells} slower by {effect:.0%}" if slower else "nothing changed"
        shown = f"{100 * found:.0f} %" if slower else ""
        yield row(truth, f"{math.expm1(limit):.0%}", f"{100 * alarms:.1f} %", shown, holds)


class Fleet(NamedTuple):
    """How many cells a release has, how many releases, and how many cells are slower."""

    cells: int
    releases: int
    slower: int


def _releases(known: Compared, fleet: Fleet, change: tuple[float, float]) -> tuple[float, float]:
    """(share of releases with a false failure, share of slower cells found) at (effect, limit)."""
    effect, limit = change
    chance = np.random.default_rng((SEED, fleet.slower, round(1e4 * limit)))
    pool = known.before.ravel()
    alarms = found = 0
    for _ in range(fleet.releases):
        before, after = pool[chance.integers(0, len(pool), (2, fleet.cells, max(COUNTS)))]
        after[: fleet.slower] += effect
        sides = zip(before, after, strict=True)
        verdicts = [procedure.separate(procedure.Launches(a, b), limit) for a, b in sides]
        # as the gate does over all cells of a run
        q = false_discoveries([each.p_of_all_looks for each in verdicts])
        failed = [each.word == "fail" and at <= ALPHA for each, at in zip(verdicts, q, strict=True)]
        alarms += any(failed[fleet.slower :])
        found += sum(failed[: fleet.slower])
    return alarms / fleet.releases, found / (fleet.releases * fleet.slower) if fleet.slower else 0.0


# --- small things ---------------------------------------------------------------------------------


def _alarms(rule: rules.Judge, known: Compared, counts: Sequence[int]) -> list[float]:
    return [rules.share(rule(known.first(n), 0.0, 0.0), "fail") for n in counts]


def _inside(shares: Sequence[Sequence[float]], low: float, high: float, known: Known) -> bool:
    """Whether all shares lie there, but for two standard errors of the simulation."""

    def slack(bound: float) -> float:
        return 2 * math.sqrt(bound * (1 - bound) / known.trials)

    return all(low - slack(low) <= share <= high + slack(high) for each in shares for share in each)


def _shown(shares: Sequence[float]) -> str:
    return " / ".join(f"{100 * share:.1f}" for share in shares)


def _head(*columns: str) -> Iterator[str]:
    yield row("", *columns, "")
    yield "|---" * (len(columns) + 2) + "|"


def _counts(counts: Sequence[int]) -> str:
    return "/".join(map(str, counts))


if __name__ == "__main__":
    raise SystemExit(main())
