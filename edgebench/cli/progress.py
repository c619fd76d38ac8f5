"""Live progress on stderr: what runs where, how far, how long still. Plain lines where no terminal is."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import click

from edgebench.cli.output import clean
from edgebench.pipeline import Step
from edgebench.units import format_duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


# stages whose note is told: it is why something failed, or is done once more
BAD = ("failed", "given up", "invalid")
TOLD = (*BAD, "repeat", "too hot", "retry", "health check")


class Pace:
    """How many launches of each device are done, and how long the rest will take."""

    def __init__(self, planned: Mapping[str, int]) -> None:
        self._planned = dict(planned)
        self._done: dict[str, int] = {}
        self._since: dict[str, float] = {}

    def started(self, device: str, now_s: float) -> None:
        """The device begins its first launch."""
        self._since.setdefault(device, now_s)

    def finished(self, device: str) -> None:
        """The device finished one more launch."""
        self._done[device] = self._done.get(device, 0) + 1

    def repeats(self, device: str) -> None:
        """A launch was invalid: it is done once more."""
        self._planned[device] = self._planned.get(device, 0) + 1

    def dropped(self, device: str, launches: int) -> None:
        """A job failed: its remaining launches will not come."""
        self._planned[device] = max(self._done.get(device, 0), self._planned.get(device, 0) - launches)

    def share(self, device: str) -> tuple[int, int]:
        """Launches done and planned on the device."""
        return self._done.get(device, 0), self._planned.get(device, 0)

    def left_s(self, device: str, now_s: float) -> float | None:
        """Seconds left on the device at its pace so far; None before the first launch is done."""
        done, planned = self.share(device)
        if done == 0 or device not in self._since:
            return None
        return (now_s - self._since[device]) / done * max(0, planned - done)


class Progress:
    """An `Announce` that draws; use as a context manager. Safe to call from several threads."""

    def __init__(self, planned: Mapping[str, int]) -> None:
        self._pace = Pace(planned)
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, Step] = {}
        self._reached: dict[str, Step] = {}  # the launch that each device was at last

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, step: Step) -> None:
        """Take note of one step and show it."""
        with self._lock:
            last = self._last.get(step.device)
            self._count(step)
            if self._bars is not None:
                self._draw(step, self._bars)
            elif last is None or _line_of(step) != _line_of(last):
                self._print(step)
            self._last[step.device] = step

    def _count(self, step: Step) -> None:
        if step.stage == "launch":
            self._pace.started(step.device, time.monotonic())
        elif step.stage == "launched":
            self._pace.finished(step.device)
        elif step.stage == "repeat":
            self._pace.repeats(step.device)
        elif step.stage == "invalid":
            self._pace.dropped(step.device, step.total - step.done - 1)
        elif step.stage == "failed":
            self._pace.dropped(step.device, step.total - _launched(step, self._reached.get(step.device)))
        if step.done:
            self._reached[step.device] = step

    def _left(self, device: str) -> str:
        left_s = self._pace.left_s(device, time.monotonic())
        return "" if left_s is None else f"about {format_duration(left_s)} left"

    def _print(self, step: Step) -> None:
        """One line for each new stage and launch; phases are for terminals."""
        if step.stage == "launched":
            return
        if step.stage in TOLD:
            click.echo(clean(_told(step)), err=True)
            return
        count = f" {step.done}/{step.total}" if step.total else ""
        left = self._left(step.device)
        line = f"{step.device}: {step.stage}{count} {step.what}{', ' + left if left else ''}"
        click.echo(clean(line), err=True)

    def _draw(self, step: Step, bars: Bars) -> None:
        done, planned = self._pace.share(step.device)
        text = clean(" ".join(filter(None, (step.stage, step.what, step.note))))
        count, left, total = f"{done}/{planned}" if planned else "", self._left(step.device), planned or None
        if step.device not in self._tasks:
            self._tasks[step.device] = bars.add_task(text, total=total, device=step.device, count="", left="")
        task = self._tasks[step.device]
        bars.update(task, description=text, completed=done, total=total, count=count, left=left)
        if step.stage in TOLD:
            bars.console.print(clean(_told(step)), style="red" if step.stage in BAD else "yellow")


def _line_of(step: Step) -> Step:
    """The step without what does not deserve a line of its own."""
    return step if step.stage in TOLD else step._replace(note="")


def _told(step: Step) -> str:
    """One line about what went wrong, and what is done about it."""
    stage = {"repeat": "invalid launch", "invalid": "invalid launch"}.get(step.stage, step.stage)
    count = f" {step.done}/{step.total}" if step.done else ""
    note = f": {step.note}" if step.note else ""
    return f"{step.device}: {stage}{count}: {step.what}{note}"


def _launched(step: Step, last: Step | None) -> int:
    """How many launches the failed job had done: what the device said last of that job."""
    if last is None or last.what != step.what:
        return 0
    return last.done - 1 if last.stage in ("launch", "cool down") else last.done


def _bars() -> Bars:
    """One line a device: its name, launches done of those planned, what it does, how long still."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Bars(
        TextColumn("{task.fields[device]}", style="bold", markup=False),
        BarColumn(bar_width=8),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.description}", markup=False, table_column=rest),
        TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
        console=Console(stderr=True, markup=False, highlight=False),
        transient=True,
        expand=True,
    )
