"""Every number on the page, read in Chromium, is that of the raw samples in the store to its last digit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgebench.cli.paging import Against
from edgebench.records import Job, Measurement, replace
from edgebench.report.page import render
from tests import browser
from tests.pages.test_browser import CHECKS
from tests.report import fixtures, pages
from tests.report.arithmetic import expected, is_printed, printed_numbers
from tests.report.stored import fill, measurements, page

pytestmark = pytest.mark.xdist_group("browser")
WORDS = ("device", "model", "variant", "runtime", "status")


class Seen(NamedTuple):
    """What a page shows, and what the store holds."""

    headings: list[str]
    rows: list[dict[str, str]]
    heat: dict[tuple[str, str], str]
    stored: list[Measurement]


@pytest.fixture(scope="module")
def seen(chromium: browser.Browser, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    home = tmp_path_factory.mktemp("numbers")
    run = fill(home, _example())
    tab = chromium.tab()
    tab.open(page(home, run, Against()).as_uri())
    tab.js(CHECKS)
    headings = tab.js("checks.headings()")
    rows = [dict(zip(headings, row, strict=True)) for row in tab.js("checks.numbers()")]
    heat = {(line, head): text for line, head, text in tab.js("checks.heat()")}
    return Seen(headings, rows, heat, measurements(home, run))


def _example() -> fixtures.Example:
    """Cells of every kind: hot, watched for power, short of samples, slow, partly measured, of two sizes."""
    (run, made, failures), _ = pages.full()
    powered = replace(fixtures.powered(), id="powered", job=fixtures.job(model="net", device="jetson-01"))
    _, troubled, _ = fixtures.troubled()
    others = [
        replace(each, id=f"other.{each.id}", job=replace(each.job, model=f"other {each.job.model}"))
        for each in troubled
    ]
    return replace(run, plan={}), [*made, powered, *others], failures


def _form(job: Job) -> tuple[str, str]:
    """Variant and precision as the page may call them."""
    return job.variant, f"{job.variant}→{job.precision}"


def _pairs(seen: Seen) -> list[tuple[dict[str, str], Measurement]]:
    """Every row of the page with what is stored of it."""
    found = []
    for row in seen.rows:
        same = [
            each
            for each in seen.stored
            if (each.job.device, each.job.model, each.job.runtime)
            == (row["device"], row["model"], row["runtime"])
            and row["variant"] in _form(each.job)
        ]
        named = [each for each in same if row["variant"] != each.job.variant or _is_plain(each.job)]
        assert len(named) == 1, (row, [each.job for each in same])
        found.append((row, named[0]))
    return found


def _is_plain(job: Job) -> bool:
    return job.variant.startswith(job.precision) or job.precision == "fp32"


def _fp32(one: Measurement, every: list[Measurement]) -> Measurement | None:
    job = one.job
    same = [
        each
        for each in every
        if (each.job.variant, each.job.precision) == ("fp32", "fp32")
        and (each.job.model, each.job.device, each.job.runtime) == (job.model, job.device, job.runtime)
    ]
    return same[0] if same else None


def test_every_stored_measurement_has_its_row(seen: Seen) -> None:
    assert len(_pairs(seen)) == len(seen.stored) == 28


def test_every_number_of_the_table_is_the_stores(seen: Seen) -> None:
    compared: dict[str, int] = {}
    for row, one in _pairs(seen):
        if row["status"] in ("invalid", "emulated"):
            shown = {heading for heading in seen.headings if printed_numbers(row[heading])}
            assert not any(each.startswith(("p50", "p9", "mean", "memory")) for each in shown), row
            continue
        wanted = expected(one, _fp32(one, seen.stored))
        for heading in seen.headings:
            if heading in WORDS:
                continue
            numbers = printed_numbers(row[heading])
            values: Any = wanted.get(heading, [])
            assert len(numbers) == len(values), (heading, row[heading], values, one.job)
            for number, value in zip(numbers, values, strict=True):
                assert is_printed(number, value), (heading, number, value, one.job)
            compared[heading] = compared.get(heading, 0) + len(values)
    without = {heading for heading in seen.headings if heading not in WORDS and not compared.get(heading)}
    assert without == set()
    assert len(compared) == 26


def test_every_number_of_the_matrix_is_the_stores(seen: Seen) -> None:
    compared = 0
    for row, one in _pairs(seen):
        cell = f"{row['model']} {row['variant']} · {row['runtime']}"
        shown = seen.heat.get((cell, row["device"])) or seen.heat[row["device"], cell]
        if row["status"] in ("invalid", "emulated"):
            assert not printed_numbers(shown)
            continue
        assert is_printed(shown, expected(one, None)["p50 ms"][0]), (cell, shown)
        compared += 1
    assert compared == 26


def test_a_number_that_is_off_by_its_last_digit_would_be_seen() -> None:
    assert is_printed("1.23", 1.2349999)
    assert not is_printed("1.23", 1.2361)
    assert is_printed("1820", 1823.4)
    assert not is_printed("1820", 1826.0)
    assert is_printed("61", 61.4)
    assert not is_printed("61", 61.6)


def test_the_saved_csv_is_the_table(seen: Seen, chromium: browser.Browser, tmp_path: Path) -> None:
    """The rows in the page's data are those that are shown."""
    path = tmp_path / "page.html"
    path.write_text(render(pages.subjects()), encoding="utf-8")
    tab = chromium.tab()
    tab.open(path.as_uri())
    tab.js(CHECKS)
    tab.js("document.getElementById('save').click()")
    saved = tab.downloads / "edgebench.csv"
    tab.wait(saved.is_file, "the file to be saved")
    lines = [line.split(",") for line in saved.read_bytes().decode().split("\r\n")[1:-1]]
    assert lines == tab.js("checks.numbers()")
