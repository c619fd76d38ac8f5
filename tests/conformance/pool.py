"""Worker processes, replaced when they crash or hang. A case of ours is then judged again in isolation."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

import msgspec

from tests.conformance import others
from tests.conformance.cases import Case
from tests.conformance.child import Child
from tests.conformance.route import Outcome
from tests.conformance.worker import Task

LIMIT_S = 60.0
ISOLATED_LIMIT_S = 180.0


class Pool:
    """Judges one case at a time; `cache` is the folder with pnnx and the other makers' environment."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._folder = tempfile.TemporaryDirectory(prefix="edgebench-conformance-")
        self._home = Path(self._folder.name) / "home"
        self._home.mkdir()
        if (cache / "tools").is_dir():
            (self._home / "tools").symlink_to(cache / "tools")
        self._worker: Child | None = None
        self._others: dict[str, others.OtherRoute] = {}
        self.deaths = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        for route in self._others.values():
            route.end()
        self._folder.cleanup()

    def judge(self, case: Case, runtime: str) -> Outcome:
        """The outcome of a case; a worker that dies or hangs over it makes way for the isolated route."""
        if runtime in others.ROUTES:
            return self._other(runtime).judge(case)
        task = Task(case.name, case.operator, case.form, str(case.folder), runtime)
        if self._worker is None:
            self._worker = self._start("quick")
        outcome = self._worker.ask(msgspec.json.encode(task), LIMIT_S)
        if outcome is not None:
            return msgspec.json.decode(outcome, type=Outcome)
        self.deaths += 1
        self._end()
        return self._in_isolation(task)

    def _in_isolation(self, task: Task) -> Outcome:
        """The same case as `edgebench convert` does it: every tool in a process of its own."""
        worker = self._start("isolated")
        try:
            outcome = worker.ask(msgspec.json.encode(task), ISOLATED_LIMIT_S)
        finally:
            worker.end()
        if outcome is not None:
            return msgspec.json.decode(outcome, type=Outcome)
        return Outcome(
            case=task.name,
            operator=task.operator,
            form=task.form,
            runtime=task.runtime,
            verdict="crashed",
            reason=f"edgebench itself {worker.fate}",
        )

    def _start(self, mode: str) -> Child:
        for name in ("artifacts", "inputs", "tmp"):
            shutil.rmtree(self._home / name, ignore_errors=True)
        return Child(
            [sys.executable, "-m", "tests.conformance.worker", str(self._home), mode],
            {"EDGEBENCH_HOME": str(self._home), "TMPDIR": self._folder.name},
        )

    def _other(self, runtime: str) -> others.OtherRoute:
        if runtime not in self._others:
            python = others.environment(self._cache)
            self._others[runtime] = others.OtherRoute(runtime, python, Path(self._folder.name))
        return self._others[runtime]

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


def judged(pools: Sequence[Pool], work: Iterable[tuple[Case, str]]) -> Iterator[Outcome]:
    """The outcomes in the order of the work, however many pools share it."""
    free: SimpleQueue[Pool] = SimpleQueue()
    for pool in pools:
        free.put(pool)

    def one(item: tuple[Case, str]) -> Outcome:
        pool = free.get()
        try:
            return pool.judge(*item)
        finally:
            free.put(pool)

    with ThreadPoolExecutor(len(pools)) as threads:
        yield from threads.map(one, work)


def processors() -> int:
    """How many cases can be judged at a time without waiting for each other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
