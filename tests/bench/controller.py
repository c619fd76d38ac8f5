"""One `edgebench` command in a process of its own, and what it took: a JSON line on stderr at its end.

    python -m tests.bench.controller [--simulated] ARGUMENT...

`--simulated`: every ssh device is a simulated one.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from edgebench.cli.main import run
from edgebench.settings import load
from tests.bench.measure import resident_bytes
from tests.fleet.simulated import facts_of_this_computer, played

EVERY_S = 0.02
MARK = "took: "


class Watch(threading.Thread):
    """The most threads and memory seen while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.threads = 0
        self.bytes = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Look until it is ended."""
        while not self.ended.wait(EVERY_S):
            self.threads = max(self.threads, threading.active_count() - 1)
            self.bytes = max(self.bytes, resident_bytes())


def main() -> int:
    """Run the command; its exit code."""
    arguments = sys.argv[1:]
    with ExitStack() as stack:
        if arguments[0] == "--simulated":
            stack.enter_context(played(facts_of_this_computer(load(Path(), os.environ).home)))
            arguments = arguments[1:]
        watch = Watch()
        started_s, used_s = time.perf_counter(), _cpu_s()
        watch.start()
        status = run(arguments)
        watch.ended.set()
        taken = {
            "cpu_s": _cpu_s() - used_s,
            "wall_s": time.perf_counter() - started_s,
            "threads": watch.threads,
            "bytes": watch.bytes,
        }
    print(MARK + json.dumps(taken), file=sys.stderr, flush=True)
    return status


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
