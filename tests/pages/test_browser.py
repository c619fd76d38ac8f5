"""The page in headless Chromium: nothing leaves it, nothing goes wrong in it, and it can be used.

Screenshots at three widths, light and dark, lie in build/pages (EDGEBENCH_PAGES names another folder).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edgebench.report.base import form, name
from edgebench.report.page import render
from edgebench.report.page.base import filled_columns
from tests import browser
from tests.browser import Tab
from tests.report.test_page import PAGES, fleet, rendered

pytestmark = pytest.mark.xdist_group("browser")
PICTURES = Path(os.environ.get("EDGEBENCH_PAGES", Path(__file__).parents[2] / "build" / "pages"))
CHECKS = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")
WIDTHS = {"phone": 390, "tablet": 820, "desk": 1440}
PAPER = ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pages")
    for page in PAGES:
        (made / f"{page}.html").write_text(rendered(page), encoding="utf-8")
    return made


def _opened(chromium: browser.Browser, path: Path, fragment: str = "", width: int = 1440) -> Tab:
    tab = chromium.tab()
    tab.size(width)
    tab.open(path.as_uri() + fragment)
    tab.js(CHECKS)
    return tab


@pytest.fixture
def full(chromium: browser.Browser, folder: Path) -> Tab:
    return _opened(chromium, folder / "full.html")


@pytest.mark.parametrize("page", sorted(PAGES))
def test_no_request_leaves_the_page_and_nothing_is_complained_of(
    chromium: browser.Browser, folder: Path, page: str
) -> None:
    tab = _opened(chromium, folder / f"{page}.html")
    tab.js("checks.open()")
    tab.js("checks.later()")
    assert tab.requests == [(folder / f"{page}.html").as_uri()]
    assert tab.console == []
    assert tab.js("window.violations") == []


def test_an_injected_script_or_request_is_refused(full: Tab) -> None:
    full.js("checks.injectScript()")
    full.js("checks.injectImage()")
    full.js("checks.later()")
    assert full.js("window.bad") is None
    assert len(full.js("window.violations")) == 2
    assert all("Content Security Policy" in line for line in full.console)


def test_every_chart_has_marks_and_titled_axes_where_they_can_be_seen(full: Tab) -> None:
    full.js("checks.open()")
    found = full.js("checks.charts()")
    assert len(found) > 40
    for each in found:
        assert each["marks"] > 0, each
        assert each["axes"], each
        assert each["outside"] == [], each


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(full: Tab, scheme: str) -> None:
    full.prefer(scheme)
    full.js("checks.open()")
    background = full.js("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 26)"}[scheme]
    assert full.js("checks.pale()") == []


def test_the_numbers_on_the_page_are_those_of_the_run(full: Tab) -> None:
    rows = PAGES["full"]().report.rows
    shown = filled_columns(rows)
    expected = [[name(row.job.device), name(row.job.model), *(c.text(row) for c in shown)] for row in rows]
    assert full.js("checks.numbers()") == expected
    p50 = next(column for column in shown if column.title == "p50")
    told = {
        (f"{row.job.model} {form(row.job)} · {row.job.runtime}", row.job.device): p50.text(row)
        for row in rows
    }
    seen = {(line, head): text for line, head, text in full.js("checks.heat()")}
    assert {key: text for key, text in seen.items() if text[0].isdigit()} == {
        key: text for key, text in told.items() if text[0].isdigit()
    }


def test_the_keyboard_reaches_everything_in_order(full: Tab) -> None:
    seen = []
    for _ in range(4):
        full.key("Tab")
        seen.append(full.js("checks.focused()"))
    assert seen[:2] == ["skip", "theme"]
    assert full.js("checks.inOrder()") is True
    assert full.js("document.querySelectorAll(\"#heat td[tabindex='0']\").length") == 1


def test_a_screen_reader_finds_names_for_everything(full: Tab) -> None:
    """From Chromium's accessibility tree; what real readers say was not tried."""
    full.js("checks.open()")
    nodes = [each for each in full.call("Accessibility.getFullAXTree")["nodes"] if not each.get("ignored")]
    named: dict[str, list[str]] = {}
    for each in nodes:
        role, words = each.get("role", {}).get("value", ""), each.get("name", {}).get("value", "")
        named.setdefault(role.lower(), []).append(words)
    for role in ("image", "button", "region", "link", "searchbox", "grid", "row", "columnheader", "gridcell"):
        assert named[role], role
    for role in ("image", "button", "region", "link", "searchbox", "grid", "columnheader"):
        assert all(named[role]), role
    assert len(named["image"]) > 40
    assert len(named["grid"]) == 1
    assert any("over its limit" in words for words in named["gridcell"])


def test_arrows_move_enter_opens_and_escape_gives_the_focus_back(full: Tab) -> None:
    full.js("document.querySelector(\"#heat td[tabindex='0']\").focus()")
    first = full.js("document.activeElement.id")
    full.key("ArrowDown")
    second = full.js("document.activeElement.id")
    assert second != first
    full.key("Enter")
    assert full.js("document.getElementById('cell').open") is True
    assert full.js("document.getElementById('cell-title').textContent")
    assert full.js("location.hash") == f"#{second}"
    assert full.js("document.getElementById('cell-numbers').rows.length") > 5
    full.key("Escape")
    full.js("checks.later()")
    assert full.js("document.getElementById('cell').open") is False
    assert full.js("document.activeElement.id") == second


def test_the_address_opens_a_cell(chromium: browser.Browser, folder: Path) -> None:
    tab = _opened(chromium, folder / "full.html", "#c3")
    assert tab.js("document.getElementById('cell').open") is True


def test_headings_sort_and_the_filter_counts(full: Tab) -> None:
    for reverse in (False, True):
        full.js("checks.sortNumbers(4)")
        numbers = [float(text) for text in full.js("checks.column(4)") if re.fullmatch(r"[\d.]+", text)]
        assert numbers == sorted(numbers, reverse=reverse)
    full.js("checks.filter('mobilenet')")
    shown = full.js("checks.lines()")
    assert shown
    assert all("mobilenet" in each for each in shown)
    assert full.js("document.getElementById('shown').textContent").startswith(f"{len(shown)} of ")


def test_the_numbers_can_be_saved_as_csv(full: Tab) -> None:
    full.js("document.getElementById('save').click()")
    path = full.downloads / "edgebench.csv"
    full.wait(path.is_file, "the file to be saved")
    lines = path.read_bytes().decode().split("\r\n")
    assert lines[0].startswith("device,model,variant,runtime,p50 ms")
    assert len(lines) == len(PAGES["full"]().report.rows) + 2


def test_paper_is_white_whatever_is_preferred(full: Tab) -> None:
    full.prefer("dark", media="print")
    assert full.js("getComputedStyle(document.body).backgroundColor") in PAPER
    assert full.js("getComputedStyle(document.getElementById('theme')).display") == "none"
    assert full.pdf().startswith(b"%PDF")


def test_it_can_be_read_with_scripts_off(chromium: browser.Browser, folder: Path) -> None:
    tab = chromium.tab()
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.call("Page.navigate", url=(folder / "full.html").as_uri())
    tab.wait(lambda: tab.is_loaded, "the page to load")
    root = tab.call("DOM.getDocument")["root"]["nodeId"]
    assert 'id="heat"' in tab.call("DOM.getOuterHTML", nodeId=root)["outerHTML"]
    tab.picture(PICTURES / "no-script.png", whole=False)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_nothing_is_wider_than_a_phone(chromium: browser.Browser, folder: Path, page: str) -> None:
    tab = _opened(chromium, folder / f"{page}.html", width=390)
    tab.js("checks.open()")
    assert tab.js("document.documentElement.scrollWidth") <= 390
    for each in tab.js("checks.figures()"):
        assert each["scrolls"] is False, each
        assert 0 <= each["left"] < each["right"] <= 390, each
        assert each["letters"] >= 9.5, each


def test_a_large_fleet_is_small_and_can_be_used(chromium: browser.Browser, tmp_path: Path) -> None:
    path = tmp_path / "fleet.html"
    path.write_text(render(fleet(100, 20)), encoding="utf-8")
    assert path.stat().st_size < 2_500_000
    tab = _opened(chromium, path)
    assert len(tab.js("checks.heat()")) == 2000
    assert "more cells are among the raw numbers only" in tab.js("document.body.textContent")
    tab.js("document.querySelector('#heat [data-sort=\"1\"]').click()")
    assert tab.js("document.querySelectorAll('#heat thead th')[1].getAttribute('aria-sort')") == "ascending"
    tab.js("document.getElementById('more').click()")
    assert len(tab.js("checks.column(1)")) == 2000
    assert tab.console == []
    tab.picture(PICTURES / "fleet-desk.png", whole=False)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", ["calm", "full", "hostile", "troubled"])
def test_pictures_to_look_at(chromium: browser.Browser, folder: Path, page: str, width: str) -> None:
    tab = _opened(chromium, folder / f"{page}.html", width=WIDTHS[width])
    tab.js("checks.whole()")
    tab.picture(PICTURES / f"{page}-{width}.png")
    assert (PICTURES / f"{page}-{width}.png").stat().st_size > 10_000
    tab.prefer("dark")
    tab.picture(PICTURES / f"{page}-{width}-dark.png", whole=False)
