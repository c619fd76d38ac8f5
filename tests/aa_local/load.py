"""Load of a computer's own making: processes that keep a core busy, and end with whoever started them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# arguments: seconds busy, seconds idle, its parent's id, which it looks for ten times a second
BUSY = """
import os, sys, time
busy_s, idle_s, parent = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
while os.getppid() == parent:
    begun = time.monotonic()
    if idle_s and begun % (busy_s + idle_s) > busy_s:
        time.sleep(0.1)
        continue
    while time.monotonic() - begun < 0.1:
        pass
"""

# by the name of a condition: (seconds busy, seconds idle) of each process
LOADS: dict[str, tuple[tuple[float, float], ...]] = {
    "mild": (),
    "on/off": ((3.0, 3.0),),
    "heavy": ((1.0, 0.0), (1.0, 0.0)),
}
IN_WORDS = {
    "mild": "no load of its own",
    "on/off": "one process, 3 s busy and 3 s idle",
    "heavy": "two processes, always busy",
}


@contextlib.contextmanager
def load(condition: str) -> Iterator[None]:
    """The load of a condition, as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        for busy_s, idle_s in LOADS[condition]:
            words = [sys.executable, "-c", BUSY, str(busy_s), str(idle_s), str(os.getpid())]
            process = stack.enter_context(subprocess.Popen(words))
            stack.callback(process.kill)
        yield
