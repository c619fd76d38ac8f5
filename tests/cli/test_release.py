"""`edgebench release`, and releases as baselines."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.test_run_gate import board, simulated_facts, verdict_on
from tests.commands import DIGITS, Cli
from tests.fleet.simulated import Times, inventory, played

facts = simulated_facts
SIZE = """version: 1
{baseline}
budgets:
  - {{name: all, limits: {{artifact_size: {{max: {size}}}, latency.p50: {{regress: 5%}}}}}}
"""


@pytest.fixture
def fleet(cli: Cli, facts: Any) -> Any:
    (cli.folder / "inventory.yaml").write_text(inventory(1))

    def run(*arguments: str, times: Times | None = None, code: int | None = 0) -> Any:
        with played(facts, times or board(1.0, 0.004)):
            words = ("run", DIGITS, "--to", "onnxruntime", "--inventory", "inventory.yaml")
            return cli.json(*words, "--no-health-check", *arguments, code=code)

    return run


def budgets(cli: Cli, size: str = "60 MiB", baseline: str = "") -> None:
    (cli.folder / "budgets.yaml").write_text(SIZE.format(size=size, baseline=baseline))


def unique(cli: Cli, name: str) -> str:
    """Names are unique in a store that tests share."""
    return f"{name}-{abs(hash(cli.folder)) % 10**8}"


def test_from_a_run_to_the_latest_that_passed(cli: Cli, fleet: Any) -> None:
    budgets(cli)
    name, run = unique(cli, "v1"), fleet()["run"]
    cli("gate", run, code=3)  # no baseline yet: regress cannot be judged
    made = cli.json("release", "create", name, "--from", run, "--note", "first")
    assert (made["run"], made["passed_utc"], made["gate"]) == (run, "", "missing")
    promoted = cli.json("release", "promote", name, "--why", "the first one")
    assert promoted["passed_utc"] > made["created_utc"]
    assert cli.json("release", "show", "latest-passed")["name"] == name
    listed = {each["name"]: each for each in cli.json("release", "list")["releases"]}
    assert listed[name]["passed_why"] == "the first one"
    assert f"{name} (latest-passed)" in cli("release", "list").out
    shown = cli.json("release", "show", name)
    assert [cell["model"] for cell in shown["cells"]] == ["digits"]


def test_a_release_is_taken_where_a_run_is(cli: Cli, fleet: Any) -> None:
    budgets(cli)
    name, old = unique(cli, "taken"), fleet()["run"]
    cli("release", "create", name, "--from", old)
    new = fleet()["run"]
    assert cli.json("compare", name, new)["cells"]
    assert cli.json("report", name)["run"] == old
    judged = cli.json("gate", new, "--baseline", name, code=3)
    (latency,) = [each for each in judged["cells"] if each["metric"] == "latency.p50"]
    assert (latency["verdict"], latency["cause"]) == ("inconclusive", "no-history")


def test_a_gated_run_whose_gate_passed_is_fit_at_once(cli: Cli, fleet: Any) -> None:
    budgets(cli)
    first = fleet()["run"]
    second = fleet("--gate", "budgets.yaml", "--baseline", first)
    assert "byte for byte" in verdict_on(second)["reason"]
    made = cli.json("release", "create", unique(cli, "fit"), "--from", second["run"])
    assert (made["gate"], made["passed_why"]) == ("pass", "its gate passed")


def test_a_baseline_that_failed_its_own_gate_is_not_comparable(cli: Cli, fleet: Any) -> None:
    budgets(cli, size="1 KiB")
    name, old = unique(cli, "bad"), fleet()["run"]
    cli("gate", old, code=1)
    made = cli.json("release", "create", name, "--from", old)
    assert "failed its own gate" in made["problem"]
    assert "failed its own gate" in cli.fails(2, "user", "release", "promote", name, "--why", "because")
    budgets(cli)
    judged = cli.json("gate", fleet()["run"], "--baseline", name, code=3)
    (latency,) = [each for each in judged["cells"] if each["metric"] == "latency.p50"]
    assert latency["verdict"] == "not-comparable"
    assert f"the baseline {name} failed its own gate" in latency["reason"]


def test_the_baseline_of_the_budgets_file(cli: Cli, fleet: Any) -> None:
    name, old = unique(cli, "named"), fleet()["run"]
    cli("release", "create", name, "--from", old)
    budgets(cli, baseline=f"baseline: {name}")
    document = fleet("--gate", "budgets.yaml")
    assert "byte for byte" in verdict_on(document)["reason"]
    budgets(cli, baseline=f"baseline: {{release: {name}, mode: stored}}")
    stored = fleet("--gate", "budgets.yaml", code=3)
    assert verdict_on(stored)["cause"] == "no-history"
    budgets(cli, baseline="baseline: no-such-release")
    assert "no-such-release" in cli.fails(2, "user", "gate", old)
    budgets(cli, baseline="baseline: {release: x, mode: sideways}")
    assert "mode" in cli.fails(2, "user", "budgets", "check")


def test_a_stored_baseline_is_judged_with_the_noise_of_sessions(cli: Cli, fleet: Any, facts: Any) -> None:
    (cli.folder / "inventory.yaml").write_text(inventory(1).replace("sim-", "known-"))  # its noise is kept
    words = ("aa", DIGITS, "--on", "known-0000", "--to", "onnxruntime", "--inventory", "inventory.yaml")
    with played(facts, board(1.0, 0.004)):
        for _ in range(5):
            cli.json(*words, "--pairs", "10")
    name, old = unique(cli, "stored"), fleet()["run"]
    cli("release", "create", name, "--from", old)
    budgets(cli, baseline=f"baseline: {{release: {name}, mode: stored}}")
    assert verdict_on(fleet("--gate", "budgets.yaml"))["verdict"] == "pass"
    slow = fleet("--gate", "budgets.yaml", times=board(1.2, 0.004), code=1)
    assert verdict_on(slow)["verdict"] == "fail"


BAD_NAMES = ("latest", "latest-passed", "", "a b", "x/y", "v1.json", "20261126-005526-jscr", "-x", "a" * 65)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_read_as_something_else(cli: Cli, name: str) -> None:
    answer = cli("release", "create", "--from", "latest", "--", name, code=2)
    assert "Traceback" not in answer.err


def test_a_name_is_given_once(cli: Cli, fleet: Any) -> None:
    name, run = unique(cli, "once"), fleet()["run"]
    cli("release", "create", name, "--from", run)
    assert "already" in cli.fails(2, "user", "release", "create", name, "--from", run)
    assert name in cli.fails(2, "user", "release", "show", f"{name}x")


def test_without_any_release(fresh_cli: Cli) -> None:
    assert "release create" in fresh_cli("release", "list", code=5).err
    assert "no release yet" in fresh_cli.fails(2, "user", "release", "show", "latest-passed")
