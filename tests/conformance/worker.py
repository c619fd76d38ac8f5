"""One process that judges cases: a line of JSON in (case, runtime), a line of JSON out (outcome)."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import msgspec

from tests.conformance.cases import Case
from tests.conformance.route import Outcome, Route, threads_of_one

FORGET_AFTER = 50


class Task(msgspec.Struct, frozen=True):
    """One case for one runtime."""

    name: str
    operator: str
    form: str
    folder: str
    runtime: str


def main() -> None:
    """Judge until stdin ends."""
    home, isolated = Path(sys.argv[1]), sys.argv[2] == "isolated"
    threads_of_one()
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    route = Route(home, isolated=isolated)
    for number, line in enumerate(sys.stdin.buffer, 1):
        task = msgspec.json.decode(line, type=Task)
        case = Case(task.name, task.operator, task.form, Path(task.folder))
        outcome: Outcome = route.judge(case, task.runtime)
        answers.write(msgspec.json.encode(outcome) + b"\n")
        if number % FORGET_AFTER == 0:
            route.forget()
    route.close()


if __name__ == "__main__":
    main()
