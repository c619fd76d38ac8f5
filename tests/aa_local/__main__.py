"""`make aa-local`: launches of this computer, and how often the gate's rules are right on them.

    python -m tests.aa_local [--replay]

Records into tests/aa_local/recorded.json and writes its section of docs/statistics.md.
"""

from __future__ import annotations

import argparse

from tests.aa_local import recordings, replay
from tests.aa_local.record import SIZES, record
from tests.simulation import page


def main() -> int:
    """Print the tables and keep them; 1 when a figure that is claimed does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.aa_local", description=main.__doc__)
    parser.add_argument("--replay", action="store_true", help="of what was recorded; record nothing")
    if not parser.parse_args().replay:
        recordings.write(record(SIZES, print))
    lines = list(replay.document(recordings.read()))
    print("\n".join(lines))
    page.keep(page.MACHINE, lines)
    return int(any(page.FAILS in line for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
