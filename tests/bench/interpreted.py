"""Seconds that the interpreter takes for a package, as the parity run of one evaluates it: one sample, cold.

    python interpreted.py PACKAGE INPUTS.npz OUTPUTS.npz

Reading the inputs and the package and writing the outputs count; starting Python and importing do not.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from edgebench.convert.base import read_arrays, write_arrays
from edgebench.convert.coreml.interpreter import interpret, package


def main() -> None:
    """Evaluate, and print the seconds."""
    path, inputs, outputs = map(Path, sys.argv[1:])
    package.load(path)  # imports coremltools' protobuf classes
    started = time.perf_counter()
    write_arrays(outputs, interpret(path, read_arrays(inputs)))
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
