"""`make statistics`: how often each rule of the gate is right, from simulation with known truth.

    python -m tests.simulation [--trials 2000] [--write]

Writes docs/statistics.md with --write. Every cell has at least as many trials as asked.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgebench import comparison
from edgebench.comparison import ALPHA, false_discoveries
from tests.simulation import rules
from tests.simulation.boards import BOARDS, DRIFTING, Trials, trials

DOCUMENT = Path(__file__).parents[2] / "docs" / "statistics.md"
SEED = 20261125
TOLERANCE = 0.02
COUNTS = (5, 10, 20)
WORDS: tuple[comparison.Outcome, ...] = ("fail", "pass", "inconclusive")
OFFERED: dict[str, tuple[rules.Rule, tuple[int, ...]]] = {
    "Welch t on launch p50": (rules.welch, COUNTS),
    "paired t on ABBA pairs": (rules.paired, COUNTS),
    "trimmed paired t": (rules.trimmed, (10, 20)),
    "looks at 5, 10, 20 (the gate)": (rules.looks, (20,)),
    "duet, median of neighbours": (rules.duet, COUNTS),
}
OTHERS: dict[str, tuple[rules.Rule, tuple[int, ...]]] = {
    "mean over the limit (naive)": (rules.naive_mean, COUNTS),
    "Mann-Whitney, pooled inferences": (rules.pooled_mann_whitney, (5, 10)),
    "bootstrap, pooled inferences": (rules.pooled_bootstrap, (5, 10)),
}


def main() -> int:
    """Print the tables; 1 when a figure that is claimed does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    begun = time.monotonic()
    lines = list(_document(asked.trials))
    print("\n".join(lines))
    print(f"\n{time.monotonic() - begun:.0f} s")
    if asked.write:
        DOCUMENT.write_text("\n".join(lines) + "\n", "utf-8")
    return int(any("DOES NOT HOLD" in line for line in lines))


def _document(count: int) -> Iterator[str]:
    known = {board.name: trials(board, count, max(COUNTS), SEED) for board in BOARDS}
    stored = {board.name: trials(board, count, max(COUNTS), SEED + 1, session_sd=0.015) for board in BOARDS}
    yield "# How often the gate is right"
    yield ""
    yield (
        f"Made on {datetime.now(UTC):%Y-%m-%d} by `make statistics`: simulated launches with known truth "
        f"(tests/simulation/boards.py), {count:,} trials a cell: a share of 5 % is known to within "
        f"{200 * math.sqrt(0.05 * 0.95 / count):.1f} points, and that much is allowed for below."
    )
    yield from _sizes(known)
    yield from _drifting(trials(DRIFTING, count, max(COUNTS), SEED + 2))
    yield from _power(known)
    yield from _stored(stored)
    yield from _fleet(known)


def _sizes(known: dict[str, Trials]) -> Iterator[str]:
    yield from ("", "## False alarms in %, nothing changed and no tolerance (nominal 5 %)", "")
    yield f"| rule | {' | '.join(f'{board.name} {_counts(COUNTS)}' for board in BOARDS)} | |"
    yield "|---|" + "---|" * (len(BOARDS) + 1)
    for name, (rule, counts) in OFFERED.items():
        shares = [[_share(rule, known[board.name], n, 0.0, 0.0, "fail") for n in counts] for board in BOARDS]
        flat = [share for each in shares for share in each]
        low = 0.0 if rule is rules.looks else 0.03
        wanted = f"{100 * low:.0f} to 6 %" if low else "under 6 %"
        yield _row(
            name, shares, _holds(_between(flat, low, 0.06, len(next(iter(known.values())).baseline)), wanted)
        )
    for name, (rule, counts) in OTHERS.items():
        shares = [[_share(rule, known[board.name], n, 0.0, 0.0, "fail") for n in counts] for board in BOARDS]
        yield _row(name, shares, "not offered")


def _drifting(known: Trials) -> Iterator[str]:
    yield from ("", "## The same on a board that drifts by 0.4 % a launch", "")
    yield f"| rule | {DRIFTING.name} {_counts(COUNTS)} | |"
    yield "|---|---|---|"
    for name, (rule, counts) in OFFERED.items():
        shares = [_share(rule, known, n, 0.0, 0.0, "fail") for n in counts]
        yield _row(name, [shares], _holds(_between(shares, 0.0, 0.06, len(known.baseline)), "under 6 %"))


def _power(known: dict[str, Trials]) -> Iterator[str]:
    yield from ("", f"## Fail / pass / inconclusive in %, tolerance {TOLERANCE:.0%}, typical board", "")
    effects = (0.0, 0.03, 0.05, 0.10)
    yield f"| rule | launches | {' | '.join(f'+{effect:.0%}' for effect in effects)} |"
    yield "|---|---|" + "---|" * len(effects)
    limit = math.log1p(TOLERANCE)
    for name, (rule, counts) in OFFERED.items():
        for n in counts:
            cells = []
            for effect in effects:
                answers = rule(_first(known["typical"], n), math.log1p(effect), limit)
                cells.append("/".join(_percent(answers, word) for word in WORDS))
            yield f"| {name} | {n} | {' | '.join(cells)} |"


def _stored(known: dict[str, Trials]) -> Iterator[str]:
    yield from (
        "",
        "## A baseline from another day (1.5 % between days), false alarms in % at no tolerance",
        "",
    )
    yield f"| rule | {' | '.join(f'{board.name} {_counts(COUNTS)}' for board in BOARDS)} | |"
    yield "|---|" + "---|" * (len(BOARDS) + 1)
    plain = [
        [_share(rules.welch, known[board.name], n, 0.0, 0.0, "fail") for n in COUNTS] for board in BOARDS
    ]
    yield _row("Welch t as if it were the same day", plain, "not offered")
    aware = [
        [_share(_with_history, known[board.name], n, 0.0, 0.0, "fail") for n in COUNTS] for board in BOARDS
    ]
    flat = [share for each in aware for share in each]
    holds = _between(flat, 0.0, 0.06, len(next(iter(known.values())).baseline))
    yield _row("with the variance of ten A/A pairs", aware, _holds(holds, "under 6 %"))


def _with_history(known: Trials, effect: float, limit: float) -> rules.Answers:
    chance = np.random.default_rng(3)
    before, after = known.p50()
    made: rules.Answers = []
    for a, b in zip(before, after + effect, strict=True):
        history = chance.normal(0, 0.015 * math.sqrt(2), 10)
        estimate = comparison.welch(a, b)
        assert estimate is not None
        made.append(comparison.decide(estimate.with_variance(float(np.mean(history**2)), 10), limit))
    return made


def _fleet(known: dict[str, Trials], cells: int = 500, releases: int = 200) -> Iterator[str]:
    yield from (
        "",
        f"## A fleet of {cells} cells, {releases} releases, tolerance {TOLERANCE:.0%}, typical board",
        "",
    )
    yield "| truth | launches | releases with a false failure | slower cells found | |"
    yield "|---|---|---|---|---|"
    for n in (5, 10):
        for slower, effect in ((0, 0.0), (25, 0.10)):
            alarms, found = _releases(known["typical"], n, cells, releases, slower, effect)
            holds = _holds(alarms <= 0.05, "at most 5 %")
            shown = f"{100 * found:.0f} %" if slower else ""
            truth = f"{slower} of {cells} slower by {effect:.0%}"
            yield f"| {truth} | {n} | {100 * alarms:.1f} % | {shown} | {holds} |"


def _releases(
    known: Trials, n: int, cells: int, releases: int, slower: int, effect: float
) -> tuple[float, float]:
    """(share of releases with a false failure, share of slower cells found), drawn from the trials."""
    before, after = _first(known, n).p50()
    estimates = [comparison.by_pairs(each) for each in after - before]
    limit = math.log1p(TOLERANCE)
    quiet = np.asarray([each.p_above(limit) for each in estimates if each is not None])
    shifted = np.asarray([each.p_above(limit - math.log1p(effect)) for each in estimates if each is not None])
    chance = np.random.default_rng(SEED + n + slower)
    alarms = found = 0
    for _ in range(releases):
        drawn = chance.integers(0, len(quiet), cells)
        p = np.where(np.arange(cells) < slower, shifted[drawn], quiet[drawn])
        failed = np.asarray(false_discoveries(p.tolist())) <= ALPHA
        failed &= p <= ALPHA
        alarms += bool(failed[slower:].any())
        found += int(failed[:slower].sum())
    return alarms / releases, found / (releases * slower) if slower else 0.0


def _percent(answers: rules.Answers, word: comparison.Outcome) -> str:
    return f"{100 * answers.count(word) / len(answers):.0f}"


def _share(
    rule: rules.Rule, known: Trials, n: int, effect: float, limit: float, word: comparison.Outcome
) -> float:
    answers = rule(_first(known, n), effect, limit)
    return answers.count(word) / len(answers)


def _between(shares: list[float], low: float, high: float, count: int) -> bool:
    """Whether all shares lie there, but for two standard errors of a simulation of `count` trials."""
    slack = 2 * math.sqrt(high * (1 - high) / count)
    return all(low - slack <= share <= high + slack for share in shares)


def _holds(holds: bool, wanted: str) -> str:
    return f"holds: {wanted}" if holds else f"DOES NOT HOLD: {wanted}"


def _first(known: Trials, n: int) -> Trials:
    return Trials(known.baseline[:, :n], known.candidate[:, :n])


def _row(name: str, shares: list[list[float]], verdict: str) -> str:
    cells = " | ".join(" / ".join(f"{100 * share:.1f}" for share in each) for each in shares)
    return f"| {name} | {cells} | {verdict} |"


def _counts(counts: tuple[int, ...]) -> str:
    return "/".join(map(str, counts))


if __name__ == "__main__":
    raise SystemExit(main())
