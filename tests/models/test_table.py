"""docs/models.md is written from the rows kept, and what is kept has nothing wrong or broken in it."""

from __future__ import annotations

import pytest

from tests.models.sources import GROUPS, NETWORKS
from tests.models.table import ALL_PRECISIONS, BAD, DOCUMENT, PRECISIONS, RUNTIMES, document, kept

TOOLS = "Made by `make models` with "


def test_the_page_is_written_from_the_rows() -> None:
    made, page = document(kept()).splitlines(), DOCUMENT.read_text("utf-8").splitlines()
    # the versions are those of the run
    assert [line for line in made if TOOLS not in line] == [line for line in page if TOOLS not in line]


def test_every_row_has_passed_or_was_refused_with_a_reason() -> None:
    for row in kept():
        assert row.network in NETWORKS
        assert row.outcome not in BAD, row
        assert row.snr_db is not None or (row.owner and row.reason), row


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_was_taken_through_every_runtime(network: str) -> None:
    taken = {(row.runtime, row.precision) for row in kept() if row.network == network}
    precisions = {precision for _, precision in taken}
    assert precisions == set(PRECISIONS) or (len(precisions) == 1 and precisions <= set(ALL_PRECISIONS))
    assert taken == {(runtime, precision) for runtime in RUNTIMES for precision in precisions}
    if network in GROUPS["Generated"]:
        assert precisions == set(PRECISIONS)
