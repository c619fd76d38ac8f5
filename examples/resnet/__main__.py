"""`python -m examples.resnet [FOLDER]`: trains, compresses and measures; README.md says what it shows."""

from __future__ import annotations

import sys

from examples.samples import mnist
from examples.scenario import Scenario, run

if __name__ == "__main__":
    sys.exit(run(Scenario("resnet", mnist, for_tensorrt="pruned8"), sys.argv[1:]))
