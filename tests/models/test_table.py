"""docs/models.md is written from the rows kept, and what is kept has nothing wrong or broken in it."""

from __future__ import annotations

from tests.models.architectures import ARCHITECTURES
from tests.models.table import BAD, DOCUMENT, PRECISIONS, RUNTIMES, document, kept

TOOLS = "Made by `make models` with "


def test_the_page_is_written_from_the_rows():
    made, page = document(kept()).splitlines(), DOCUMENT.read_text("utf-8").splitlines()
    # the versions are those of the run
    assert [line for line in made if TOOLS not in line] == [line for line in page if TOOLS not in line]


def test_every_architecture_has_passed_or_was_refused_with_a_reason():
    rows = {(row.network, row.runtime, row.precision): row for row in kept()}
    for name in ARCHITECTURES:
        for runtime in RUNTIMES:
            for precision in PRECISIONS:
                row = rows[name, runtime, precision]
                assert row.outcome not in BAD, row
                assert row.snr_db is not None or (row.owner and row.reason), row
