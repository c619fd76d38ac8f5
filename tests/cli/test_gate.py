"""`gate`, `compare`, `export`, `budgets`: files in, verdicts out, in the formats of CI systems."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from edgebench.cli import workers
from tests.commands import DIGITS, QUICK, Cli

BUDGETS = 'version: 1\nbudgets: [{name: all, match: {model: "*"}, limits: {latency.p50: {regress: 2%}}}]\n'
CELL = {
    "model": "m",
    "variant": "fp32",
    "runtime": "onnxruntime",
    "precision": "fp32",
    "device": "d",
    "target": "linux-x86_64",
}


def _measurement(scale: float, session: str, seed: int, **changes: Any) -> dict[str, Any]:
    chance = random.Random(seed)
    launches = []
    for _ in range(10):
        level = 1e6 * scale * math.exp(chance.gauss(0, 0.004))
        launches.append({"latency_ns": [round(level * math.exp(chance.gauss(0, 0.01))) for _ in range(60)]})
    return {**CELL, "session": session, "launches": launches, **changes}


def _write(cli: Cli, name: str, *measurements: dict[str, Any]) -> Path:
    path = cli.folder / name
    path.write_text(json.dumps({"schema": 1, "measurements": measurements}))
    return path


@pytest.fixture
def files(cli: Cli) -> Cli:
    """A baseline, the same again, a tenth slower, and that from another day."""
    _write(cli, "A.json", _measurement(1.0, "s1", 1))
    _write(cli, "same.json", _measurement(1.0, "s1", 2))
    _write(cli, "slower.json", _measurement(1.1, "s1", 3))
    _write(cli, "later.json", _measurement(1.1, "s2", 3))
    (cli.folder / "budgets.yaml").write_text(BUDGETS)
    return cli


@pytest.mark.parametrize(
    ("name", "verdict", "code"),
    [("same.json", "pass", 0), ("slower.json", "fail", 1), ("later.json", "inconclusive", 3)],
)
def test_a_file_is_judged_against_a_baseline(files: Cli, name: str, verdict: str, code: int) -> None:
    document = files.json("gate", name, "--baseline", "A.json", code=code)
    assert document["verdict"] == verdict
    (cell,) = document["cells"]
    assert {key: cell[key] for key in CELL} == CELL
    assert cell["verdict"] == verdict
    assert cell["metric"] == "latency.p50"
    assert cell["limit"] == pytest.approx(0.02)
    assert cell["ci_low"] < cell["ratio"] < cell["ci_high"]
    assert 0 <= cell["p_value"] <= 1
    assert cell["reason"]
    shown = files("gate", name, "--baseline", "A.json", code=code).out
    assert f"gate: {verdict}" in shown


def test_the_same_question_has_the_same_answer(files: Cli) -> None:
    first = files("gate", "slower.json", "--baseline", "A.json", "--json", code=1).out
    assert files("gate", "slower.json", "--baseline", "A.json", "--json", code=1).out == first


def test_ci_systems_get_their_formats(files: Cli) -> None:
    out = files(
        *("gate", "slower.json", "--baseline", "A.json", "--junit", "j.xml", "--summary", "s.md"),
        *("--metrics", "m.txt", "-o", "gate.json", "--annotate"),
        code=1,
    ).out
    assert "::error title=fail%3A latency.p50" in out
    root = ET.parse(files.folder / "j.xml").getroot()
    (failure,) = root.findall("testsuite/testcase/failure")
    assert "95 % interval" in (failure.text or "")
    assert "| ❌ fail |" in (files.folder / "s.md").read_text()
    assert (files.folder / "m.txt").read_text().endswith("# EOF\n")
    assert json.loads((files.folder / "gate.json").read_text())["verdict"] == "fail"


def test_names_that_would_break_a_format_are_harmless(files: Cli) -> None:
    odd = 'a|b<c>&"d\\e'
    _write(files, "odd.json", _measurement(1.1, "s1", 3, model=odd), _measurement(1.1, "s1", 4, model=odd))
    _write(files, "base.json", _measurement(1.0, "s1", 1, model=odd))
    files(
        "gate",
        "odd.json",
        "--baseline",
        "base.json",
        "--junit",
        "j.xml",
        "--summary",
        "s.md",
        "--metrics",
        "m",
        code=1,
    )
    cases = ET.parse(files.folder / "j.xml").getroot().findall("testsuite/testcase")
    names = {(case.get("classname"), case.get("name")) for case in cases}
    assert len(names) == len(cases) == 2
    row = next(line for line in (files.folder / "s.md").read_text().splitlines() if "fail |" in line)
    assert row.replace("\\|", "").count("|") == 5
    assert '\\"d' in (files.folder / "m").read_text()


def test_two_files_are_compared(files: Cli) -> None:
    cells = files.json("compare", "A.json", "slower.json")["cells"]
    p50 = next(cell for cell in cells if cell["metric"] == "latency.p50")
    assert p50["verdict"] == "slower"
    assert p50["ratio"] == pytest.approx(1.1, rel=0.01)
    assert p50["ci_low"] < 1.1 < p50["ci_high"]
    assert p50["p_value"] < 0.001
    assert {cell["verdict"] for cell in files.json("compare", "A.json", "later.json")["cells"]} == {
        "inconclusive"
    }
    assert "slower" in files("compare", "A.json", "slower.json").out


def test_nothing_in_common_is_nothing_done(files: Cli) -> None:
    _write(files, "other.json", _measurement(1.0, "s1", 1, model="another"))
    assert files.json("compare", "A.json", "other.json", code=5)["cells"] == []


def test_what_is_inconclusive_can_count_otherwise(files: Cli) -> None:
    files("gate", "later.json", "--baseline", "A.json", "--inconclusive", "fail", code=1)
    files("gate", "later.json", "--baseline", "A.json", "--inconclusive", "pass", code=0)
    files("gate", "later.json", "--inconclusive", "pass", code=3)  # without a baseline nothing was judged


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"schema": 2, "measurements": []}', "schema 2"),
        ('{"schema": 1, "measurements": []}', "no measurements"),
        ('{"schema": 1', "no file of measurements"),
    ],
)
def test_a_file_that_cannot_be_judged_is_refused(files: Cli, content: str, said: str) -> None:
    (files.folder / "bad.json").write_text(content)
    assert said in files.fails(2, "user", "gate", "bad.json")


def test_a_file_or_run_that_is_not_there(files: Cli) -> None:
    files.fails(2, "user", "gate", "missing.json")
    files.fails(2, "user", "gate", "20991231-000000-none")


def test_limits_are_explained_with_their_lines_and_suggested(files: Cli) -> None:
    assert "budgets.yaml:2 (all)" in files("budgets", "explain", "A.json").out
    assert files.json("budgets", "check")["limits"] == 1
    text = files("budgets", "suggest", "A.json").out
    (files.folder / "suggested.yaml").write_text(text)
    files("budgets", "check", "suggested.yaml")
    document = files.json("gate", "same.json", "--baseline", "A.json", "--budgets", "suggested.yaml")
    assert document["verdict"] == "pass"


def test_a_run_of_ours_goes_out_as_a_file_and_is_judged_alike(fresh_cli: Cli) -> None:
    flags = ("--launches", "5", *QUICK[2:])
    run = fresh_cli.json("run", DIGITS, "--to", "onnxruntime", *flags)["run"]
    (fresh_cli.folder / "budgets.yaml").write_text(
        "version: 1\nbudgets: [{name: a, limits: {latency.p50: {max: 10 s}, artifact_size: {max: 1 MiB}}}]\n"
    )
    fresh_cli("export", run, "-o", "run.json")
    from_store, from_file = fresh_cli.json("gate", run), fresh_cli.json("gate", "run.json")
    assert from_store == from_file
    assert {cell["verdict"] for cell in from_store["cells"]} == {"pass"}


TWO = """\
version: 1
budgets:
  - name: all
    limits: {latency.p50: {regress: 2 %}}
  - name: lab
    match: {group: lab, target: "pi*"}
    limits: {latency.p50: {max: 9 ms}}
"""


def test_limits_of_a_cell_that_was_not_measured_are_explained(files: Cli) -> None:
    (files.folder / "budgets.yaml").write_text(TWO)
    (limits,) = files.json("budgets", "explain", "--target", "pi5", "--model", "m")["cells"].values()
    assert [each["kind"] for each in limits] == ["regress"]
    named = files.json("budgets", "explain", "--target", "pi5", "--model", "m", "--group", "lab")
    assert [each["text"] for each in named["cells"]["m · pi5 · lab"]] == ["9 ms", "2 %"]
    shown = files("budgets", "explain", "--target", "pi5", "--group", "lab").out
    assert "budgets.yaml:7 (lab)" in shown
    files.fails(2, "user", "budgets", "explain")
    files.fails(2, "user", "budgets", "explain", "A.json", "--model", "m")


def test_the_schema_for_editors_is_printed(files: Cli) -> None:
    assert files.json("budgets", "schema")["title"] == "edgebench budgets"


# --- a large fleet --------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "stored baseline"])
def test_several_processes_judge_as_one_does(
    fresh_cli: Cli, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    cli = fresh_cli
    (cli.folder / "budgets.yaml").write_text(BUDGETS)
    places = [{"device": f"d{device}", "model": f"m{model}"} for device in range(5) for model in range(2)]
    now = [_measurement(1.1, "s2" if not beside else "s1", 2 * n, **each) for n, each in enumerate(places)]
    before = [_measurement(1.0, "s1", 2 * n + 1, **each) for n, each in enumerate(places)]
    if beside:
        before = [each | {"role": "baseline"} for each in before]
    _write(cli, "before.json", *before)
    _write(cli, "now.json", *now, *(before if beside else ()))
    asked = ["gate", cli.json("import", "now.json")["run"]]
    if not beside:
        asked += ["--baseline", cli.json("import", "before.json")["run"]]
    alone = cli.json(*asked, code=1 if beside else 3)
    monkeypatch.setattr(workers, "LEAST_JOBS", 1)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    assert cli.json(*asked, code=1 if beside else 3) == alone
    assert len(alone["cells"]) == len(places)


def test_what_a_process_cannot_judge_is_told(fresh_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = fresh_cli
    (cli.folder / "budgets.yaml").write_text(BUDGETS)
    _write(cli, "now.json", *(_measurement(1.0, "s1", n, device=f"d{n}") for n in range(2)))
    run = cli.json("import", "now.json")["run"]
    with sqlite3.connect(cli.home / "store.sqlite") as store:
        store.execute("UPDATE figures SET document = '{'")
    alone = cli.fails(4, "infrastructure", "gate", run)
    monkeypatch.setattr(workers, "LEAST_JOBS", 1)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    assert cli.fails(4, "infrastructure", "gate", run) == alone
