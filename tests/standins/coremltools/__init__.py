"""A stand-in for coremltools on a Mac, for tests: Core ML's part is played by edgebench's own interpreter.

It has what the probe calls and nothing more, in the form that coremltools 9.0 documents. `COREML_STANDIN=old`
in the environment plays a macOS without compute plans.
"""

import enum

from . import models  # noqa: F401

__version__ = "9.0"


class ComputeUnit(enum.Enum):
    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4
