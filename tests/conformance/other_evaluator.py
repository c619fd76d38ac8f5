"""A package that another converter wrote, evaluated on a case's inputs by edgebench's interpreter.

A line {"package", "folder"} in, a line {"verdict", "reason"} out, until stdin ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgebench.convert.coreml.interpreter import interpret
from edgebench.convert.coreml.interpreter.base import Declared
from edgebench.convert.coreml.interpreter.package import load
from edgebench.errors import EdgebenchError
from tests.conformance.cases import Case, read
from tests.conformance.others import Answer
from tests.conformance.route import differs, threads_of_one

UNKNOWN = "is not known to the reference interpreter"


class Task(msgspec.Struct, frozen=True):
    """A package, and the folder of the case that it was made from."""

    package: str
    folder: str


def main() -> None:
    """Evaluate until stdin ends."""
    threads_of_one()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin.buffer:
        task = msgspec.json.decode(line, type=Task)
        answers.write(msgspec.json.encode(judged(Path(task.package), Path(task.folder))) + b"\n")


def judged(package: Path, folder: Path) -> Answer:
    """Whether the package computes what the case expects.

    One that the interpreter cannot evaluate is refused, and the reason says so: that is our limit where the
    operator is unknown, and the package's where it contradicts itself.
    """
    inputs, expected = read(Case("", "", "", folder))
    try:
        fed = _fed(load(package).inputs, inputs)
        outputs = interpret(package, fed)
    except EdgebenchError as error:
        what = "our interpreter lacks an operator" if UNKNOWN in error.message else "it cannot be evaluated"
        return Answer("refused", f"a package came out, but {what}: {error.message}")
    reason = differs(expected, _paired(expected, outputs))
    return Answer("wrong", reason) if reason else Answer("passed")


def _fed(declared: Iterable[Declared], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs by the names of the program, which has no rank 0: that becomes one element."""
    known = {item.name: item for item in declared}
    feeds = {}
    for name, array in _paired(known, inputs).items():
        shape = known[name].shape if name in known else array.shape
        single = array.ndim == 0 and shape == (1,)
        feeds[name] = array.reshape(1) if single else array
    return feeds


def _paired(wanted: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given under the wanted names: by name where they agree, else by place (Core ML renames)."""
    there = {name: np.asarray(array) for name, array in given.items()}
    left = [name for name in wanted if name not in there]
    others = iter([name for name in there if name not in set(wanted)])
    renamed = {name: there[other] for name, other in zip(left, others, strict=False)}
    return {name: there[name] for name in wanted if name in there} | renamed


if __name__ == "__main__":
    main()
