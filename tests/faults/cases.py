"""The list of faults: every kind at every stage of the path where it can strike, numbered for good.

A seed decides the order and what a fault leaves open (which byte is damaged, how far a clock jumps), so that
`--seed S --only N` repeats one exactly.
"""

from __future__ import annotations

import random
from typing import NamedTuple

# Stages, in the order of the path; `name:n` is the n-th time that the board reaches it.
# child:1 is the inference that parity needs, child:2 and child:3 are the launches.
EARLY = ("connect", "bootstrap", "start", "lease", "facts")
PUSHING = ("upload", "commit", "assemble")
RUNNING = ("child:1", "load:1", "child:2", "load:2", "warmup:1", "samples:1", "child:3", "samples:2")
ENDING = ("end",)
ON_BOARD = EARLY[1:] + PUSHING + RUNNING + ENDING
LEASED = EARLY[3:] + PUSHING + RUNNING
BUNDLE = ("unpack", "compile")  # the runtime itself is pushed again: slow, so few


class Case(NamedTuple):
    """One fault. `seed` draws what is left open."""

    number: int
    kind: str
    stage: str
    seed: int

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.kind} at {self.stage}"


KINDS: dict[str, tuple[str, ...]] = {
    # the network
    "cut": (*ON_BOARD, *BUNDLE),
    "outage of 2 s": ON_BOARD,
    "silent drop": ("lease", "upload", "child:1", "samples:1"),
    "reset": ("bootstrap", "start", "facts", "upload", "child:1", "load:2", "samples:1", "end"),
    "reject": ("connect", "start", "upload", "samples:1"),
    "slow link": ("connect", "upload", "samples:1"),
    # kill -9
    "kill controller": (*ON_BOARD, *BUNDLE),
    "kill session": (*LEASED, "end", *BUNDLE),
    "kill guard": LEASED,
    "kill session and guard": ("lease", "upload", "child:1", "load:2", "samples:1", "samples:2"),
    "kill launch": ("load:1", "load:2", "warmup:1", "samples:1", "samples:2"),
    "kill connection": (*ON_BOARD, "compile"),
    "kill listener": ("connect", "start", "facts", "upload", "samples:1", "end"),
    "kill everything": ("bootstrap", *LEASED),
    # SIGSTOP
    "stop controller": ("bootstrap", "lease", "upload", "child:1", "samples:1", "end"),
    "stop session": ("lease", "facts", "upload", "commit", "child:1", "load:2", "samples:1", "samples:2"),
    "stop guard": ("lease", "upload", "samples:1", "end"),
    "stop launch": ("load:1", "warmup:1", "samples:2"),
    "stop connection": ("bootstrap", "lease", "upload", "child:1", "samples:1", "end"),
    "stop listener": ("connect",),
    # storage
    "full disk": (
        "connect",
        "start",
        "lease",
        "upload",
        "commit",
        "assemble",
        "child:1",
        "samples:1",
        "unpack",
    ),
    "corrupted upload": ("commit", "commit", "bootstrap"),
    # what the board says
    "clock jumps": ("start", "lease", "commit", "child:1", "samples:1", "samples:2"),
    "garbage line": ("lease", "child:1", "samples:1", "end"),
    "endless garbage": ("lease", "child:1", "samples:1"),
    "half a message": ("lease", "samples:1"),
    "terminal escapes": ("facts", "samples:2"),
    # others on the board
    "busy board": ("connect", "connect"),
    "busy board, waited for": ("connect", "connect"),
    "two controllers": ("connect", "connect"),
    "two controllers, one killed": ("lease", "upload", "child:1", "samples:1", "samples:2", "end"),
}


def cases(seed: int) -> list[Case]:
    """All faults in the seed's order; numbers and seeds belong to the fault, not to the order."""
    plain = [(kind, stage) for kind, stages in KINDS.items() for stage in stages]
    draw = random.Random(seed)
    listed = [Case(number, *each, draw.randrange(1 << 30)) for number, each in enumerate(plain, 1)]
    draw.shuffle(listed)
    return listed
