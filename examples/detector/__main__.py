"""`python -m examples.detector [FOLDER]`: trains, compresses and measures; README.md says what it shows."""

from __future__ import annotations

import sys

from examples.samples import shapes
from examples.scenario import Scenario, run

if __name__ == "__main__":
    sys.exit(run(Scenario("detector", shapes, for_tensorrt="pruned8"), sys.argv[1:]))
