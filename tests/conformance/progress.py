"""How far a long run is, told on stderr now and then."""

from __future__ import annotations

import sys
import time
from collections import Counter

from edgebench.units import format_duration
from tests.conformance.route import Outcome

EVERY_S = 15.0


class Progress:
    """Counts outcomes: a line every few seconds, and one for each runtime and form."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._started = self._told = time.monotonic()
        self._done = 0
        self._counts: Counter[str] = Counter()
        self._group = ("", "")

    def step(self, outcome: Outcome) -> None:
        """One more outcome."""
        group = (outcome.runtime, outcome.form)
        if group != self._group:
            self.end()
            self._group = group
        self._done += 1
        self._counts[outcome.verdict] += 1
        if time.monotonic() - self._told >= EVERY_S:
            self._say(f"{self._done:,} of {self._total:,} cases, about {self._left()} left; now ")

    def end(self) -> None:
        """The last group is complete."""
        if self._counts:
            self._say("")
        self._counts.clear()

    def _left(self) -> str:
        gone_s = time.monotonic() - self._started
        return format_duration(gone_s / self._done * (self._total - self._done))

    def _say(self, before: str) -> None:
        runtime, form = self._group
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(self._counts.items()))
        print(f"{before}{runtime} {form}: {counts}", file=sys.stderr, flush=True)
        self._told = time.monotonic()
