"""Pages and questions about the fleet through the command line, over a real store."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import duckdb
import jsonschema
import pyarrow.parquet as pq
import pytest

from edgebench.records import replace
from edgebench.report.fleet import KEYS, KNOWN
from tests.commands import Cli
from tests.report import fixtures, pages
from tests.report.fixtures import job, measurement, run
from tests.report.stored import fill

DOCS = Path(__file__).parents[2] / "docs" / "reports.md"


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an earlier run and a later one that has everything; to be copied."""
    home = tmp_path_factory.mktemp("filled")
    example, profiles = pages.full()
    fill(home, pages.earlier(example), profiles)
    fill(home, example, profiles)
    return home / "store.sqlite"


@pytest.fixture
def fleet(fresh_cli: Cli, filled: Path) -> Cli:
    """Commands over a copy of that store."""
    fresh_cli.home.mkdir()
    shutil.copy(filled, fresh_cli.home / "store.sqlite")
    return fresh_cli


# --- the page -------------------------------------------------------------------------------------


def test_a_page_is_written_and_named(fleet: Cli) -> None:
    answer = fleet("report", "--html", "page.html")
    assert answer.out == "report: page.html\n"
    text = Path("page.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "not judged" in text
    assert "no gate has judged this run" in text
    assert fleet.json("report", "--html", "page.html") == {
        "schema": 1,
        "run": fixtures.RUN,
        "html": "page.html",
    }


def test_budgets_and_a_baseline_make_verdicts_and_ratios(fleet: Cli) -> None:
    Path("budgets.yaml").write_text(pages.BUDGETS)
    fleet("release", "create", "1.3", "--from", "20260701")
    fleet("release", "create", "1.4", "--from", fixtures.RUN)
    fleet("report", "1.4", "--html", "page.html", "--budgets", "budgets.yaml", "--baseline", "1.3")
    text = Path("page.html").read_text()
    for words in ("Release 1.4", "Against 1.3", "What changed since 1.3", "1.21.0", "not-comparable"):
        assert words in text
    assert "Fail: latency.p50 at most 2 ms is not kept in " in text


def test_the_word_of_the_last_gate_is_told(fleet: Cli) -> None:
    Path("budgets.yaml").write_text(pages.BUDGETS)
    fleet("gate", fixtures.RUN, code=None)
    fleet("report", "--html", "page.html")
    assert "its cells are shown with --budgets FILE" in Path("page.html").read_text()


def test_page_options_without_a_page_are_refused(fleet: Cli) -> None:
    assert "--html" in fleet.fails(2, "user", "report", "--budgets", "b.yaml")
    assert "--group" in fleet.fails(2, "user", "report", "--metric", "latency.p50")


def test_an_empty_store_says_what_makes_a_run(fresh_cli: Cli) -> None:
    assert "edgebench run MODEL" in fresh_cli.fails(2, "user", "report", "--html", "page.html")
    assert "no stored cell" in fresh_cli("report", "--group", "target", code=5).err
    assert "no stored cell" in fresh_cli("worst", code=5).err
    assert "no stored run" in fresh_cli("history", "digits", code=5).err


def test_a_baseline_that_is_not_there_is_an_error(fleet: Cli) -> None:
    assert "no run" in fleet.fails(2, "user", "report", "--html", "page.html", "--baseline", "2.0")
    assert not Path("page.html").exists()


def test_a_gate_whose_baseline_is_gone_still_has_its_page(fleet: Cli) -> None:
    Path("budgets.yaml").write_text(pages.BUDGETS)
    fleet("export", "20260701", "-o", "old.json")
    fleet("gate", fixtures.RUN, "--baseline", "old.json", code=None)
    Path("old.json").unlink()
    fleet("report", "--html", "page.html")
    assert "There is no baseline" in Path("page.html").read_text()


def test_a_device_that_left_the_inventory_stays_in_reports(fleet: Cli) -> None:
    _inventory("other")
    fleet("report", "--html", "page.html")
    assert "zero-01" in Path("page.html").read_text()
    assert "zero-01" in fleet("report", "--group", "device").out
    assert fleet.json("report", "--group", "group")["groups"][0]["group"] == ""
    assert len(fleet.json("worst", "-n", "100")["cells"]) == 18


def _inventory(*devices: str) -> None:
    lines = [f"  {device}: {{target: linux-x86_64, transport: local}}" for device in devices]
    Path("inventory.yaml").write_text("\n".join(["version: 1", "devices:", *lines, ""]))


def test_a_renamed_device_is_another_one_and_the_page_says_so(fresh_cli: Cli) -> None:
    for at, device in enumerate(("pi5-01", "pi5-kitchen")):
        made = [measurement(job(device=device)), measurement(job(device="zero-01"), p50_ns=9_000_000)]
        stored = replace(run([one.job for one in made]), id=f"2026080{at + 1}-101500-abcd")
        fill(fresh_cli.home, (stored, made, []))
    _inventory("pi5-kitchen", "zero-01")
    fresh_cli("report", "20260802", "--html", "page.html", "--baseline", "20260801")
    text = Path("page.html").read_text()
    assert "Measured in 20260801 alone: pi5-01. Measured in this run alone: pi5-kitchen." in text
    assert "A device that got another name counts as another device." in text
    lines = fresh_cli.json("history", "digits")["lines"]
    assert {each["device"]: len(each["points"]) for each in lines} == {
        "pi5-01": 1,
        "pi5-kitchen": 1,
        "zero-01": 2,
    }


QUESTIONS = (
    ("report",),
    ("report", "--html", "page.html"),
    ("report", "--plot", "pareto", "-o", "plot.svg"),
    ("report", "--group", "device"),
    ("worst",),
    ("coverage",),
    ("history", "digits"),
    ("export", "all", "--parquet", "files"),
)


def test_a_store_of_a_newer_edgebench_is_left_as_it_is(fleet: Cli) -> None:
    store = fleet.home / "store.sqlite"
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE edgebench_schema SET version_num = '0999'")
    connection.close()
    before = store.read_bytes()
    for words in QUESTIONS:
        assert "was written by a newer edgebench" in fleet.fails(4, "infrastructure", *words)
    assert store.read_bytes() == before
    assert not any(Path(name).exists() for name in ("page.html", "plot.svg", "files"))


def test_a_run_of_failures_alone_answers_every_question(fresh_cli: Cli) -> None:
    cell = job(model="digits")
    lost = fixtures.failure(cell, "model", "convert", "no such operator", "choose another")
    fill(fresh_cli.home, (run([cell]), [], [lost]))
    fresh_cli("report", "--html", "page.html")
    text = Path("page.html").read_text()
    assert "no such operator. Next: choose another" in text
    assert "Nothing was measured" in text
    for form in ("terminal", "markdown", "json"):
        assert "no such operator" in fresh_cli("report", "--format", form).out
    assert fresh_cli("report", "--format", "csv").out == "device,model\n"
    assert 'state="failed"} 1' in fresh_cli("report", "--format", "prometheus").out
    assert "0 of 1 measured" in fresh_cli("report", "--format", "badge").out
    assert fresh_cli.json("coverage", code=3)["gaps"][0]["why"] == "no such operator"
    for words in (("report", "--group", "device"), ("worst",), ("history", "digits")):
        assert fresh_cli.json(*words, code=5)
    assert "no pareto plot" in fresh_cli.fails(5, "user", "report", "--plot", "pareto", "-o", "x.svg")


def test_one_launch_has_numbers_and_no_interval(fresh_cli: Cli) -> None:
    made = measurement(samples=[fixtures.timings(4_000_000, 300)])
    fill(fresh_cli.home, (run([made.job]), [made], []))
    fresh_cli("report", "--html", "page.html")
    assert "1 launch, 300 samples" in Path("page.html").read_text()
    (row,) = csv.DictReader(io.StringIO(fresh_cli("report", "--format", "csv").out))
    assert row["95 % of p50 ms"] == "-"
    assert fresh_cli.json("history", "digits")["lines"][0]["points"][0]["low"] is None
    assert fresh_cli.json("report", "--group", "device")["groups"][0]["cells"] == 1


def test_a_million_samples_of_a_launch_make_a_small_page(fresh_cli: Cli) -> None:
    made = measurement(samples=[[4_000_000 + at % 1000 for at in range(1_000_000)]])
    fill(fresh_cli.home, (run([made.job]), [made], []))
    fresh_cli("report", "--html", "page.html")
    assert Path("page.html").stat().st_size < 100_000
    assert fresh_cli.json("worst")["cells"][0]["value"] == 4_000_499


def test_hostile_names_are_text_in_every_form(fresh_cli: Cli) -> None:
    fill(fresh_cli.home, fixtures.hostile())
    fresh_cli("report", "--html", "page.html")
    texts = [Path("page.html").read_text()]
    forms = ("terminal", "markdown", "csv", "prometheus", "badge")
    texts += [fresh_cli("report", "--format", form).out for form in forms]
    questions = (("report", "--group", "device,model"), ("worst",), ("coverage",))
    texts += [fresh_cli(*words, code=None).out for words in questions]
    fresh_cli("report", "--plot", "latency", "-o", "plot.svg")
    texts.append(Path("plot.svg").read_text())
    for text in texts:
        assert not re.search("[\x1b\x07\u202e\ud800]", text)
    for markup in (texts[0], texts[-1]):
        assert "<script>alert" not in markup


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The time zone of this process can be set in a test."""
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def test_reports_are_the_same_in_every_time_zone(fleet: Cli, zone: pytest.MonkeyPatch) -> None:
    told: dict[str, list[str]] = {}
    for name in ("America/St_Johns", "Pacific/Kiritimati"):
        zone.setenv("TZ", name)
        time.tzset()
        fleet("report", "--html", "page.html", "--baseline", "20260701")
        fleet("export", "all", "--parquet", name)
        told[name] = [
            Path("page.html").read_text(),
            fleet("report").out,
            fleet("history", "digits").out,
            fleet("report", "--format", "prometheus").out,
            str(sorted(path.relative_to(name).parent.parent for path in Path(name).rglob("*.parquet"))),
        ]
    assert told["America/St_Johns"] == told["Pacific/Kiritimati"]
    assert "2026-08-01 10:15 UTC" in told["Pacific/Kiritimati"][0]


# --- groups ---------------------------------------------------------------------------------------


def test_groups_are_over_every_cell_as_it_was_measured_last(fleet: Cli) -> None:
    found = fleet.json("report", "--group", "target,runtime", "--metric", "latency.p50")
    assert found["metric"] == "latency.p50"
    assert sum(each["cells"] for each in found["groups"]) == 18
    kinds = {each["target"] for each in found["groups"]}
    assert kinds == {"raspberry-pi-5-8gb", "raspberry-pi-zero-2w", "linux-aarch64"}
    older = fleet.json("report", "20260701", "--group", "target,runtime", "--metric", "latency.p50")
    for new, old in zip(found["groups"], older["groups"], strict=True):
        assert 0.9 < old["median"] / new["median"] < 0.97


@pytest.mark.parametrize("form", ["table", "md", "csv", "json"])
def test_groups_come_in_every_form(fleet: Cli, form: str) -> None:
    out = fleet("report", "--group", "model,precision", "--metric", "memory_peak", "--format", form).out
    assert "mobilenet-v2" in out
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert len(rows) == 6
        assert rows[0]["median memory_peak"] == "61.0 MiB"
    if form == "md":
        assert out.splitlines()[1].startswith("| --- | --- | ---: |")


def test_groups_as_parquet(fleet: Cli) -> None:
    fleet(
        "report",
        "--group",
        "device",
        "--metric",
        "latency.p99",
        "--format",
        "parquet",
        "-o",
        "groups.parquet",
    )
    table = pq.read_table("groups.parquet").to_pylist()
    assert [each["device"] for each in table] == ["pi5-01", "pi5-02", "zero-01"]
    assert all(each["median"] > 100_000 for each in table)
    assert "-o FILE.parquet" in fleet("report", "--group", "device", "--format", "parquet", code=2).err


def test_unknown_keys_and_metrics_name_the_nearest(fleet: Cli) -> None:
    assert "runtime" in fleet.fails(2, "user", "report", "--group", "runtimes")
    assert "latency.p99" in fleet.fails(2, "user", "report", "--group", "device", "--metric", "latency.p999")


def test_csv_of_a_run_has_every_row(fleet: Cli) -> None:
    rows = list(csv.DictReader(io.StringIO(fleet("report", "--format", "csv").out)))
    assert len(rows) == 18
    assert {"device", "model", "p50 ms", "status"} <= set(rows[0])


# --- worst, coverage, history ---------------------------------------------------------------------


def test_the_worst_come_first(fleet: Cli) -> None:
    cells = fleet.json("worst", fixtures.RUN, "--metric", "latency.p50", "-n", "3")["cells"]
    assert [each["device"] for each in cells] == ["zero-01"] * 3
    assert cells[0]["value"] >= cells[1]["value"] >= cells[2]["value"]
    slowest = fleet.json("worst", "--metric", "throughput", "-n", "1")["cells"]
    assert slowest[0]["device"] == "zero-01"


def test_coverage_names_what_has_no_number_and_why(fleet: Cli) -> None:
    found = fleet.json("coverage", code=3)
    assert found["planned"] == 19
    assert found["valid"] == 18
    assert [(each["kind"], each["device"]) for each in found["gaps"]] == [("failed", "zero-01")]
    answer = fleet("coverage", code=3)
    assert "failed" in answer.out
    assert "13.4 MiB are needed" in answer.err
    assert "18 of 19" in answer.err


def test_history_marks_jumps_that_last(fresh_cli: Cli) -> None:
    for at, p50_ns in enumerate([4_000_000] * 4 + [4_600_000] * 4):
        made = measurement(job(), samples=[fixtures.timings(p50_ns, 60, seed=10 * at + k) for k in range(5)])
        stored = replace(
            run([made.job]), id=f"2026080{at + 1}-101500-abcd", created_utc=f"2026-08-0{at + 1}T10:15:00Z"
        )
        fill(fresh_cli.home, (stored, [made], []))
    fresh_cli("release", "create", "2.0", "--from", "20260805")
    found = fresh_cli.json("history", "digits")
    (line,) = found["lines"]
    assert len(line["points"]) == 8
    assert [(each["at"], round(each["ratio"], 2)) for each in line["jumps"]] == [(4, 1.15)]
    out = fresh_cli("history", "digits").out
    assert "2.0" in out
    assert "higher from here on" in out.replace("\n", " ") or "higher" in out
    fresh_cli("report", "--html", "page.html")
    assert "Over releases" in Path("page.html").read_text()


# --- JSON of questions ----------------------------------------------------------------------


def test_answers_are_as_their_schema_says(fleet: Cli) -> None:
    schema = json.loads((DOCS.parent / "questions.schema.json").read_text())
    checked = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    questions = [
        *(("report", "--group", "target,group", "--metric", metric) for metric in KNOWN),
        ("worst", "-n", "2"),
        ("history", "digits", "--device", "pi5-01"),
        ("coverage",),
    ]
    for words in questions:
        checked.validate(fleet.json(*words, code=None))
    assert schema["$defs"]["key"]["enum"] == list(KEYS)
    assert set(schema["$defs"]["metric"]["enum"]) == set(KNOWN)
    with pytest.raises(jsonschema.ValidationError):
        checked.validate(fleet.json("coverage", code=None) | {"more": 1})


# --- Parquet --------------------------------------------------------------------------------------


def _queries() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)


def _asked(query: str) -> list[Any]:
    return duckdb.sql(query).fetchall()


def test_the_queries_of_the_docs_answer(fleet: Cli) -> None:
    found = fleet.json("export", "all", "--parquet", "fleet")
    assert found["runs"] == 2
    assert found["files"] == 2 * 2 * 3
    fastest, apart, changes = map(_asked, _queries())
    assert len(fastest) == 3 * 2
    assert {row[4] for row in fastest} == {"int8"}
    assert apart == []  # the three boards are of three kinds
    assert len(changes) == 36
    assert sum(row[-1] is not None and 4 < row[-1] < 9 for row in changes) == 18
    again = fleet.json("export", "all", "--parquet", "fleet")
    assert again == found
    assert len(_asked("SELECT * FROM 'fleet/measurements/**/*.parquet'")) == 36


def test_sister_boards_lie_apart(fresh_cli: Cli) -> None:
    made = [measurement(job(device=f"pi5-0{at}"), p50_ns=4_000_000 + 400_000 * at) for at in range(1, 4)]
    made = [replace(one, job=replace(one.job, target="raspberry-pi-5-8gb")) for one in made]
    fill(fresh_cli.home, (run([one.job for one in made]), made, []))
    fresh_cli("export", "latest", "--parquet", "fleet")
    (row,) = _asked(_queries()[1])
    assert row[4] == 3
    assert row[5] == pytest.approx(5.2 / 4.4, rel=0.01)


def test_hostile_names_stay_in_the_folder(fresh_cli: Cli) -> None:
    made = measurement(job(model="../../x", device="a/b"))
    made = replace(made, job=replace(made.job, target="../../../etc"))
    fill(fresh_cli.home, (run([made.job]), [made], []))
    fresh_cli("export", "latest", "--parquet", "fleet")
    files = sorted(path.relative_to("fleet").parts[0] for path in Path("fleet").rglob("*.parquet"))
    assert files == ["launches", "measurements"]
    assert _asked(
        "SELECT DISTINCT target FROM read_parquet('fleet/measurements/**/*.parquet', hive_partitioning=true)"
    ) == [("../../../etc",)]


# --- other forms ----------------------------------------------------------------------------------


def test_a_single_plot_is_an_svg_of_its_own(fleet: Cli) -> None:
    fleet("report", "--plot", "pareto", "--out", "plot.svg")
    assert ET.parse("plot.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    (choice,) = re.findall(r"<title id=\"t-front1\">([^<]*)<", Path("plot.svg").read_text())
    fleet("choose", "--svg", "choice.svg", code=None)
    assert f">{choice}<" in Path("choice.svg").read_text()


def test_a_plot_of_a_cell_as_png(fleet: Cli) -> None:
    said = fleet.json("report", "--plot", "latency", "--cell", "zero-01", "--out", "plot.png")
    assert "zero-01" in said["plot"]
    assert said["others"] == 5
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")


def test_plots_that_cannot_be_made_say_why(fleet: Cli) -> None:
    assert "FILE.svg" in fleet.fails(2, "user", "report", "--plot", "pareto")
    assert ".svg or FILE.png" in fleet.fails(2, "user", "report", "--plot", "pareto", "-o", "x.gif")
    assert "no forest plot" in fleet.fails(5, "user", "report", "--plot", "forest", "-o", "x.svg")
    assert "--cell is for --plot" in fleet.fails(2, "user", "report", "--cell", "x")


def test_the_badge_says_the_gates_word(fleet: Cli) -> None:
    assert (
        "18 of" in fleet("report", "--format", "badge").out
        or "16 of" in fleet("report", "--format", "badge").out
    )
    Path("budgets.yaml").write_text(pages.BUDGETS)
    fleet("gate", fixtures.RUN, code=None)
    fleet("report", fixtures.RUN, "--format", "badge", "-o", "badge.svg")
    title = ET.parse("badge.svg").getroot()[0].text
    assert title is not None
    assert title.startswith("edgebench: fail ")


LINE = re.compile(r'^edgebench_[a-z0-9_]+(\{([a-z]+="(\\.|[^"\\\n])*",?)*\})? [-+.e0-9]+$')


def test_prometheus_text_has_no_series_twice_and_every_name_once(fleet: Cli) -> None:
    lines = fleet("report", "--format", "prometheus").out.splitlines()
    series = [line for line in lines if not line.startswith("#")]
    assert all(LINE.match(line) for line in series)
    names = [line.rsplit(" ", 1)[0] for line in series]
    assert len(names) == len(set(names))
    types = [line for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert sum(line.startswith("edgebench_latency_p50_seconds{") for line in series) == 18


def test_prometheus_takes_hostile_names(fresh_cli: Cli) -> None:
    fill(fresh_cli.home, fixtures.hostile())
    lines = fresh_cli("report", "--format", "prometheus").out.splitlines()
    assert all(LINE.match(line) for line in lines if not line.startswith("#"))


def test_markdown_fits_what_github_takes(fleet: Cli) -> None:
    whole = fleet("report", "--format", "markdown").out
    for fit in ("comment", "summary"):
        assert fleet("report", "--format", "markdown", "--fit", fit).out.rstrip() == whole.rstrip()
    assert "Markdown" in fleet("report", "--fit", "comment", code=2).err
