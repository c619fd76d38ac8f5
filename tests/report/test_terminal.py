"""The terminal report: golden texts, every line fits, nothing from outside steers the terminal.

After a wanted change: `EDGEBENCH_UPDATE_GOLDEN=1 python -m pytest tests/report`, then read the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from edgebench.records import replace
from edgebench.report import markdown, terminal
from edgebench.report.base import Report, clean
from edgebench.report.build import build
from tests.report import fixtures
from tests.report.fixtures import Example, job, measurement

GOLDEN = Path(__file__).parent / "golden"
EXAMPLES: dict[str, Callable[[], Example]] = {
    "calm": fixtures.calm,
    "troubled": fixtures.troubled,
    "hostile": fixtures.hostile,
}


def _same_as_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("EDGEBENCH_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=sorted(EXAMPLES))
def example(request: pytest.FixtureRequest) -> tuple[str, Report]:
    return request.param, build(*EXAMPLES[request.param]())


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_report_reads_as_before_and_fits(example: tuple[str, Report], width: int) -> None:
    name, report = example
    text = terminal.render(report, width=width, colour=False)
    assert max(map(cell_len, text.splitlines())) <= width
    assert text.replace("\n", "").isprintable()
    _same_as_golden(f"{name}-{width}.txt", text)


def test_markdown_reads_as_before(example: tuple[str, Report]) -> None:
    name, report = example
    _same_as_golden(f"{name}.md", markdown.render(report))


ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_colour_adds_styles_and_changes_no_text(example: tuple[str, Report], width: int) -> None:
    _, report = example
    coloured = terminal.render(report, width=width, colour=True)
    assert "\x1b[" in coloured
    stripped = "\n".join(line.rstrip() for line in ESCAPE.sub("", coloured).splitlines()) + "\n"
    assert "\x1b" not in stripped
    assert stripped == terminal.render(report, width=width, colour=False)


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    report = build(*fixtures.calm())
    expected = terminal.render(report, width=80, colour=False)
    for key, value in {"FORCE_COLOR": "1", "COLUMNS": "30", "TERM": "dumb", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(key, value)
    assert terminal.render(report, width=80, colour=False) == expected
    assert "\x1b[" in terminal.render(report, width=80, colour=True)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_number_is_cut(width: int) -> None:
    cells = job(variant="v" * 90, runtime="r" * 90)
    samples = [fixtures.timings(1_234_567_890_123, 120, seed=k) for k in range(5)]
    report = build(
        fixtures.run(), [measurement(cells, samples=samples, size_bytes=98_765 * fixtures.MIB)], []
    )
    text = terminal.render(report, width=width, colour=False)
    assert re.search(r"(?<!\d)1230000(?!\d)", text)
    assert max(map(cell_len, text.splitlines())) <= width


def test_emulated_numbers_are_never_shown() -> None:
    emulated = measurement(samples=([77_777_777] * 700,) * 5)
    emulated = replace(emulated, facts=replace(emulated.facts, emulated=True))
    report = build(fixtures.run(), [emulated], [])
    for text in (terminal.render(report, width=200, colour=False), markdown.render(report)):
        assert "emulated" in text
        assert "77.8" not in text
        assert "61.0" not in text  # memory: the emulator's own


def test_failures_name_owner_and_next_step() -> None:
    text = terminal.render(build(*fixtures.troubled()), width=120, colour=False)
    assert "owner: device, stage: push" in text
    assert "next: free some space there, or `edgebench devices clean zero-01`" in text
    assert (
        "next: change the model, or choose a runtime and precision that take it" in text
    )  # no hint was given
    assert f"next: edgebench run --resume {fixtures.RUN}" in text


def test_an_empty_run_is_a_short_report() -> None:
    report = build(fixtures.run(), [], [])
    assert terminal.render(report, width=80, colour=False).count("\n") == 2
    assert "0 jobs" in markdown.render(report)


def test_many_jobs_with_one_warning_are_one_line() -> None:
    measured = [
        replace(measurement(job(model=f"m{k}"), samples=([10] * 150,) * 5), id=str(k)) for k in range(9)
    ]
    text = terminal.render(build(fixtures.run(), measured, []), width=200, colour=False)
    (line,) = [line for line in text.splitlines() if "150 samples in a launch" in line]
    assert line.endswith("and 6 more")


# --- hostile text ---------------------------------------------------------------------------------

ANYTHING = st.text(
    alphabet=st.one_of(
        st.characters(), st.sampled_from("|`*_<>&\\[]()!#~$@\x1b\n\r\t\u202e\u2066\x9b\x00-.1")
    ),
    max_size=40,
)


@given(ANYTHING)
def test_clean_text_has_nothing_to_obey(text: str) -> None:
    shown = clean(text)
    assert shown.isprintable()
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    assert len(clean(text, 10)) <= 10


@settings(max_examples=40, deadline=None)
@given(ANYTHING, st.sampled_from([24, 60, 80, 131]))
def test_no_name_breaks_the_layout(text: str, width: int) -> None:
    made = measurement(job(model=text, variant=text, device=text), samples=([10] * 120,) * 2)
    made = replace(made, warnings=(text,), facts=replace(made.facts, cpu=text))
    failure = fixtures.failure(job(device=text), "user", text, text, text)
    shown = terminal.render(build(fixtures.run(), [made], [failure]), width=width, colour=False)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert "\x1b" not in shown


@settings(max_examples=60, deadline=None)
@given(ANYTHING)
def test_no_name_breaks_a_markdown_table(text: str) -> None:
    made = measurement(job(variant=text, device=text), samples=([10] * 120,) * 2)
    failure = fixtures.failure(job(device=text), "user", text, text, text)
    lines = markdown.render(build(fixtures.run(), [made], [failure])).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 2  # the result table and the failures
    assert not any(re.search(r"<|(?<!\\)[\[\]`*]", line) for line in tables)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a&#124;b"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("[x](javascript:y)", r"\[x\](javascript:y)"),
        ("![x](http://y)", r"\!\[x\](http://y)"),
        ("`a` *b* ~c~ _d_ e_f", r"\`a\` \*b\* \~c\~ \_d\_ e_f"),
        ("\\| end\\", "&#92;&#124; end&#92;"),
        ("$x$ #12 @team a @ b", "\\$x\\$ \\#12 @\u2060team a @ b"),
        ("two\nlines\x1b[31m", r"two lines&#92;x1b\[31m"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_markdown_shows_text_as_it_stands(text: str, expected: str) -> None:
    assert markdown.escape(text) == expected
