"""The interpreter as its own process: `python -m edgebench.convert.coreml.evaluate PACKAGE IN.npz OUT.npz`.

The caller sets its time and memory limits; a package that hangs or bursts ends this process alone. Inputs and
outputs are npz files without pickle. An error is one line of JSON on stdout, with the exit code of its class.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import numpy as np

from edgebench.convert.base import Answer
from edgebench.convert.coreml.interpreter import interpret
from edgebench.convert.coreml.interpreter.base import Array, Precision
from edgebench.errors import EdgebenchError, UserError
from edgebench.records import encode

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "fp64")
_USAGE = "usage: python -m edgebench.convert.coreml.evaluate PACKAGE INPUTS.npz OUTPUTS.npz [fp32|fp16|fp64]"


def main() -> None:
    """Evaluate the package named on the command line; SystemExit with the class of the error."""
    stdout = os.dup(1)
    os.dup2(2, 1)  # coremltools greets on stdout
    try:
        package, inputs, outputs, precision = _arguments(sys.argv[1:])
        write_arrays(outputs, interpret(package, read_arrays(inputs), precision=precision))
    except EdgebenchError as error:
        answer = Answer(owner=error.owner, message=error.message, hint=error.hint, detail=error.detail)
        os.write(stdout, encode(answer) + b"\n")
        raise SystemExit(error.exit_code) from error


def _arguments(words: list[str]) -> tuple[Path, Path, Path, Precision]:
    if len(words) not in (3, 4):
        raise UserError(_USAGE)
    for precision in _PRECISIONS:
        if (words[3:] or ["fp32"]) == [precision]:
            return Path(words[0]), Path(words[1]), Path(words[2]), precision
    raise UserError(f'no precision "{words[3]}"', hint=_USAGE)


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an npz file by name; UserError when it is none, or holds Python objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f'"{path.name}" cannot be read as an npz file: {error}') from error


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """An npz file of the arrays, whole or not at all; UserError when it cannot be written."""
    part = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        part.replace(path)
    except OSError as error:
        raise UserError(f'"{path.name}" cannot be written: {error}') from error


if __name__ == "__main__":
    main()
