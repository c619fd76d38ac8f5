"""The page as a file: the same bytes for the same run, nothing from outside, names, numbers, sizes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest

from edgebench.records import Run, replace
from edgebench.report.build import build
from edgebench.report.page import Subjects, render
from edgebench.report.page.base import DARK, LIGHT, contrast, filled_columns, step_of, text_on
from tests.report import fixtures, pages
from tests.report.fixtures import job, measurement, timings

PAGES: dict[str, Callable[[], Subjects]] = {
    "full": cache(pages.subjects),
    "calm": cache(lambda: pages.plain(fixtures.calm())),
    "troubled": cache(lambda: pages.plain(fixtures.troubled())),
    "hostile": cache(lambda: pages.plain(fixtures.hostile())),
    "empty": cache(lambda: Subjects(build(pages.quiet(), [], []))),
}


@cache
def rendered(name: str) -> str:
    """One of these pages, made once for all tests."""
    return render(PAGES[name]())


class Parsed(HTMLParser):
    """What a page holds, read as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.raw: dict[str, str] = {}
        self.words: list[str] = []
        self.grid_stops = 0
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in known.items()]
        if "id" in known:
            self.ids.append(known["id"])
        self.refers += known.get("aria-labelledby", "").split()
        if known.get("href", "").startswith("#"):
            self.refers.append(known["href"][1:])
        self.grid_stops += tag == "td" and known.get("tabindex") == "0"
        kind = {"style": "style", "script": known.get("type") or "script"}.get(tag, "")
        self._inside = kind or self._inside

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw[self._inside] = self.raw.get(self._inside, "") + data
        else:
            self.words.append(data)

    @property
    def data(self) -> Any:
        """The page's data block."""
        return json.loads(self.raw["application/json"])


@pytest.fixture(scope="module", params=sorted(PAGES))
def page(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, rendered(request.param)


def test_the_same_run_gives_the_same_bytes(page: tuple[str, str]) -> None:
    name, text = page
    assert render(PAGES[name]()) == text


def test_nothing_is_loaded_from_anywhere(page: tuple[str, str]) -> None:
    _, text = page
    parsed = Parsed(text)
    assert not {"link", "iframe", "object", "embed", "img", "base", "form"} & set(parsed.tags)
    assert parsed.tags["script"] == 2
    assert parsed.tags["style"] == 1
    for tag, name, value in parsed.attributes:
        assert name not in ("src", "srcset", "style", "action"), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
        if name == "href":
            assert value.startswith("#")
    for word in ("@import", "url(", "http"):
        assert word not in parsed.raw["style"]
        assert word not in parsed.raw["script"]


def test_the_policy_allows_this_style_and_this_script_alone(page: tuple[str, str]) -> None:
    parsed = Parsed(page[1])
    policy = next(value for tag, name, value in parsed.attributes if tag == "meta" and "default-src" in value)
    for kind, key in (("style", "style"), ("script", "script")):
        digest = base64.b64encode(hashlib.sha256(parsed.raw[key].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page[1].index("Content-Security-Policy") < page[1].index("<style>")


def test_ids_are_unique_and_whatever_is_referred_to_exists(page: tuple[str, str]) -> None:
    parsed = Parsed(page[1])
    assert [each for each, count in Counter(parsed.ids).items() if count > 1] == []
    assert set(parsed.refers) <= set(parsed.ids)
    assert parsed.grid_stops == (0 if page[0] == "empty" else 1)


def test_every_chart_is_named_and_has_its_numbers_and_titled_axes(page: tuple[str, str]) -> None:
    _, text = page
    for figure in re.findall(r"<figure.*?</figure>", text, re.DOTALL):
        assert 'role="img"' in figure
        assert 'class="axis-title"' in figure
        assert 'class="mark' in figure
        assert figure.count("<tr>") > 1
        titles = re.findall(r'class="axis-title"[^>]*>([^<]*)<', figure)
        assert any(re.search(r"(, | )(ms|MiB|s|°C|MHz|%|×|score)\b|×", title) for title in titles), titles


def test_hostile_names_are_words_and_nothing_else() -> None:
    parsed = Parsed(rendered("hostile"))
    words = "".join(parsed.words)
    assert "<script>alert('x')</script>" in words
    assert "\x1b" not in words
    assert "\u202e" not in words
    assert "long" * 70 in words
    assert all(not any(c in value for c in "\x1b\u202e\x07") for _, _, value in parsed.attributes)


@pytest.mark.parametrize(
    "name",
    [
        "x</script><img src=x onerror=alert(1)>",
        'rack "B" & <b>4</b>',
        "one\u2028two <!-- three",
        "🚀 مرحبا 数",
        "a" * 300,
        "lone \ud800 surrogate",
        "'; --",
    ],
)
def test_any_name_anywhere_is_only_text(name: str) -> None:
    one = measurement(job(model=name, variant=name, device=name))
    one = replace(
        one,
        warnings=(name,),
        facts=replace(one.facts, board=name, cpu=name, kernel=name),
        launches=(replace(one.launches[0], valid=False, invalid_reason=name), *one.launches[1:]),
    )
    other = measurement(job(model=name, variant="int8-static", precision="int8", device=name))
    failed = fixtures.failure(job(model=name, device="x"), "bug", name, name, name)
    text = render(pages.plain((fixtures.run(), [one, other], [failed])))
    parsed = Parsed(text)
    assert parsed.tags["script"] == 2
    assert parsed.tags["img"] == 0
    assert parsed.tags["b"] == len(parsed.data["states"]) - 2  # the marks under the matrix
    assert text.encode("utf-8")
    assert parsed.data["devices"]


def test_numbers_are_as_they_are_printed_everywhere() -> None:
    subjects = PAGES["full"]()
    parsed = Parsed(rendered("full"))
    rows = subjects.report.rows
    shown = filled_columns(rows)
    assert parsed.data["headings"] == [column.heading for column in shown]
    for row, told in zip(rows, parsed.data["rows"], strict=True):
        assert told[2:] == [column.text(row) for column in shown]


def test_every_planned_cell_is_in_the_matrix_once() -> None:
    subjects = PAGES["troubled"]()
    text = rendered("troubled")
    parsed = Parsed(text)
    assert len(re.findall(r"data-c=", text)) == subjects.report.counts.planned == len(parsed.data["cells"])


def test_the_first_screen_says_the_verdict_and_why() -> None:
    text = " ".join("".join(Parsed(rendered("full")).words).split())
    head = text[: text.index("Devices and models")]
    assert "Release 1.4" in head
    assert "fail" in head
    assert "latency.p50 at most" in head
    assert "zero-01 has 3.1 MiB free, 13.4 MiB are needed. Next: free some space there" in head
    assert "Refuted: “int8 is 5x smaller than fp32”, in 6 places" in head
    assert "The worst cells" in head


def test_every_part_of_a_full_run_is_there() -> None:
    text = rendered("full")
    for key in (
        "failures",
        "gate",
        "comparison",
        "measurements",
        "fronts",
        "gain",
        "claims",
        "parity",
        "trends",
    ):
        assert f'<section aria-labelledby="h-{key}"' in text
    for words in (
        "Latency, launch by launch",
        "Memory, step by step",
        "The board meanwhile",
        "Where the time goes",
        "throttled in launch",
        "What changed since 1.3",
        "6.6.31+rpt-rpi-2712",
        "12 % higher",
        "pi5-04",
    ):
        assert words in text


def test_a_page_of_nothing_says_so() -> None:
    text = "".join(Parsed(rendered("empty")).words)
    assert "No cell was planned" in text
    assert "Nothing was measured" in text


def test_only_failures_make_a_page_too() -> None:
    cell = job()
    failed = fixtures.failure(cell, "model", "convert", "no such operator", "choose another")
    text = "".join(Parsed(render(pages.plain((fixtures.run([cell]), [], [failed])))).words)
    assert "no such operator. Next: choose another" in text
    assert "Nothing was measured" in text


def test_equal_values_and_times_beyond_seconds() -> None:
    one = measurement(samples=[[12_345_000_000] * 30] * 3)
    text = render(pages.plain((fixtures.run(), [one], [])))
    assert "12300" in text
    assert "e+0" not in text
    assert not re.search(r"\b(nan|inf)\b", text[: text.index("<script")])


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_text_on_every_colour_can_be_read(colours: tuple[str, ...]) -> None:
    assert len(colours) == 9
    assert min(contrast(text_on(colour), colour) for colour in colours) >= 4.5


def test_colours_follow_the_ratio() -> None:
    steps = [step_of(ratio) for ratio in (0.1, 0.6, 0.8, 0.9, 1.0, 1.1, 1.3, 1.7, 9.0)]
    assert steps == list(range(9))
    assert step_of(None) is None
    assert step_of(float("nan")) is None


def test_a_page_that_gets_too_long_leaves_drawings_out_and_says_so() -> None:
    whole, cut = rendered("full"), render(PAGES["full"](), len(rendered("full")) // 2)
    assert len(cut) <= len(whole) // 2
    assert 0 < cut.count('id="c-lat') < whole.count('id="c-lat') == 18
    assert "more cells are among the raw numbers only, to keep this file small" in cut
    assert Parsed(cut).data["rows"] == Parsed(whole).data["rows"]


@cache
def fleet(devices: int, models: int) -> Subjects:
    """So many devices with so many models, judged; of many launches each has few samples."""
    base = {
        model: measurement(
            job(model=f"model-{model:02}"),
            samples=[timings(1_000_000 * (model + 1), 120, seed=at) for at in range(5)],
        )
        for model in range(models)
    }
    made = []
    for device in range(devices):
        for model, one in base.items():
            cell = replace(one.job, device=f"board-{device:03}", target="linux-aarch64")
            made.append(replace(one, id=f"m-{device}-{model}", job=cell))
    stored: Run = fixtures.run([one.job for one in made])
    return pages.subjects((stored, made, []))
