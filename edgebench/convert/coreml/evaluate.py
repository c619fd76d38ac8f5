"""The interpreter as its own process: `python -m edgebench.convert.coreml.evaluate PACKAGE IN.npz OUT.npz`.

The caller sets its time and memory limits; a package that hangs or bursts ends this process alone. Inputs and
outputs are npz files without pickle. An error is one line of JSON on stdout, with the exit code of its class.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.convert.base import Answer, read_arrays, write_arrays
from edgebench.errors import EdgebenchError, UserError
from edgebench.records import encode

if TYPE_CHECKING:
    from edgebench.convert.coreml.interpreter.base import Precision

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "fp64")
_USAGE = (
    "usage: python -m edgebench.convert.coreml.evaluate "
    "PACKAGE INPUTS.npz OUTPUTS.npz [INPUTS.npz OUTPUTS.npz]... [fp32|fp16|fp64] [every]"
)


def main() -> None:
    """Evaluate the package named on the command line; SystemExit with the class of the error."""
    stdout = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    _leave_processors()
    from edgebench.convert.coreml.interpreter import interpret

    try:
        words = sys.argv[1:]
        every = words[-1:] == ["every"]
        package, samples, precision = _arguments(words[:-1] if every else words)
        for inputs, outputs in samples:
            made = interpret(package, read_arrays(inputs), precision=precision, every=every)
            write_arrays(outputs, made)
    except EdgebenchError as error:
        answer = Answer(owner=error.owner, message=error.message, hint=error.hint, detail=error.detail)
        os.write(stdout, encode(answer) + b"\n")
        raise SystemExit(error.exit_code) from error


def _leave_processors() -> None:
    """Half of the processors for numpy's matrix products, said before numpy is imported.

    Its threads wait for each other by spinning: with as many as there are processors, a busy machine makes
    small products a hundred times slower.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))


def _arguments(words: list[str]) -> tuple[Path, list[tuple[Path, Path]], Precision]:
    """The package, the pairs of input and output file, and the precision."""
    given: Precision = "fp32"
    for precision in _PRECISIONS:
        if words[-1:] == [precision]:
            given, words = precision, words[:-1]
    package, *files = map(Path, words or [""])
    if not files or len(files) % 2 != 0:
        raise UserError(_USAGE)
    return package, list(zip(files[::2], files[1::2], strict=True)), given


if __name__ == "__main__":
    main()
