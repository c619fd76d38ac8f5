"""`edgebench run --gate`: launches until the budgets are decided, on simulated boards whose times are known.

The boards are simulated (tests/fleet/simulated.py): their outputs are computed, their times drawn from a
seeded noise around a known truth. Everything else is edgebench itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.records import ROLES, Measurement
from edgebench.store import Store, sqlite_url
from tests.commands import DEMO, DIGITS, Cli
from tests.fleet.simulated import Times, Timing, facts_of_this_computer, inventory, played

PRUNED = str(DEMO / "digits-pruned.onnx")
SAMPLES = 60
BUDGETS = """version: 1
budgets:
  - {name: all, limits: {latency.p50: {regress: %s}, artifact_size: {max: 60 MiB}}}
"""

Play = Callable[..., Any]


def board(
    ratio: float,
    sd: float = 0.0,
    *,
    inner_sd: float = 0.002,
    foreign: Callable[[int], float] = lambda _: 0.0,
    seed: int = 20261126,
) -> Times:
    """The candidate (the whole digits network) takes `ratio` times as long as the pruned one.

    `sd`: of the logarithms of launches; a duet's two models share what their launch has of it.
    """
    chance = random.Random(seed)

    def times(file: Path, launch: int, other: Path | None) -> Timing:
        level = 1e6 * 2.718281828 ** chance.gauss(0, sd)
        drawn = [level * (1 + abs(chance.gauss(0, inner_sd))) for _ in range(SAMPLES)]
        own = [int(each * (ratio if _is_candidate(file) else 1.0)) for each in drawn]
        beside = None
        if other is not None:
            beside = [int(each * (1 + chance.gauss(0, inner_sd))) for each in drawn]
        return Timing(own, foreign(launch), beside)

    return times


def _is_candidate(file: Path) -> bool:
    return file.stat().st_size == Path(DIGITS).stat().st_size or "pruned" not in _origin(file)


def _origin(file: Path) -> str:
    return "pruned" if file.read_bytes().count(b"pruned") else ""


@pytest.fixture(scope="session", name="facts")
def simulated_facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return facts_of_this_computer(tmp_path_factory.mktemp("facts"))


@pytest.fixture
def gated(cli: Cli, facts: dict[str, Any]) -> Play:
    """Calls `run --gate` on a simulated board: truth, limit and further arguments."""
    (cli.folder / "inventory.yaml").write_text(inventory(1))

    def call(times: Times, limit: str, *arguments: str, code: int | None = None) -> Any:
        (cli.folder / "budgets.yaml").write_text(BUDGETS % limit)
        with played(facts, times):
            return cli.json(
                *("run", DIGITS, "--to", "onnxruntime", "--inventory", "inventory.yaml"),
                *("--no-health-check", "--gate", "budgets.yaml", "--baseline", PRUNED),
                *arguments,
                code=code,
            )

    return call


def verdict_on(document: Any, metric: str = "latency.p50") -> Any:
    (found,) = [each for each in document["gate"]["cells"] if each["metric"] == metric]
    return found


def launched(cli: Cli, document: Any) -> dict[str, Measurement]:
    with Store(sqlite_url(cli.home / "store.sqlite")) as store:
        return {each.role: each for each in store.measurements(document["run"], ROLES)}


def test_no_change_passes_at_the_first_look(gated: Play, cli: Cli) -> None:
    document = gated(board(1.0, 0.004), "3%", code=0)
    found = verdict_on(document)
    assert (found["verdict"], found["look"], found["launches"], found["design"]) == ("pass", 5, 5, "separate")
    sides = launched(cli, document)
    assert {role: len(each.launches) for role, each in sides.items()} == {"candidate": 5, "baseline": 5}


def test_pairs_are_taken_in_turns(gated: Play, cli: Cli) -> None:
    sides = launched(cli, gated(board(1.0, 0.004), "3%", code=0))
    order = sorted(
        (launch.started_utc, role, launch.pair) for role, side in sides.items() for launch in side.launches
    )
    assert "".join(role[0] for _, role, _ in order) == "bccbbccbbc"
    assert [pair for _, _, pair in order] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_slowdown_fails_at_the_first_look(gated: Play) -> None:
    found = verdict_on(gated(board(1.10, 0.004), "2%", code=1))
    assert (found["verdict"], found["look"]) == ("fail", 5)
    assert 1.08 < found["ci_low"] < 1.10 < found["ci_high"] < 1.12


def test_a_change_on_the_limit_is_looked_at_to_the_end(gated: Play, cli: Cli) -> None:
    document = gated(board(1.02, 0.006), "2%", "--mode", "separate", code=3)
    found = verdict_on(document)
    assert (found["verdict"], found["look"], found["cause"]) == ("inconclusive", 20, "low-power")
    assert found["least_effect"] > 0.02
    assert len(launched(cli, document)["baseline"].launches) == 20


def test_noise_between_launches_calls_for_a_duet(gated: Play, cli: Cli) -> None:
    document = gated(board(1.0, 0.25), "3%", code=0)
    found = verdict_on(document)
    assert (found["verdict"], found["design"]) == ("pass", "duet")
    assert found["reason"].startswith("duet: ")
    sides = launched(cli, document)
    assert (len(sides["candidate"].launches), len(sides["duet"].launches)) == (5, 5)
    assert sides["duet"].alpha == pytest.approx(0.025)
    assert [each.pair for each in sides["duet"].launches] == [0, 1, 2, 3, 4]


def test_a_duet_finds_a_slowdown_that_separate_launches_cannot(gated: Play) -> None:
    assert verdict_on(gated(board(1.10, 0.25, seed=2), "2%", code=1))["design"] == "duet"
    separate = verdict_on(gated(board(1.10, 0.25, seed=2), "2%", "--mode", "separate", code=3))
    assert (separate["verdict"], separate["design"]) == ("inconclusive", "separate")
    assert separate["least_effect"] > 0.10


def test_under_load_a_duet_fails_and_never_passes(gated: Play) -> None:
    def busy(_launch: int) -> float:
        return 1.0

    passing = verdict_on(gated(board(1.0, 0.25, foreign=busy), "3%", code=3))
    assert (passing["cause"], passing["design"]) == ("load-dilution", "duet")
    assert "would pass" in passing["reason"]
    assert "stop the other work" in passing["next"]
    assert verdict_on(gated(board(1.10, 0.25, foreign=busy), "3%", code=1))["verdict"] == "fail"


def test_a_launch_beside_other_work_is_run_again(gated: Play, cli: Cli) -> None:
    document = gated(board(1.0, 0.004, foreign=lambda launch: 0.4 if launch == 3 else 0.0), "3%", code=0)
    candidate = launched(cli, document)["candidate"]
    spoilt = [each for each in candidate.launches if not each.valid]
    assert [each.invalid_reason for each in spoilt] == ["other processes kept 0.40 cores busy: run again"]
    assert [each.pair for each in candidate.launches if each.valid] == [0, 1, 2, 3, 4]


def test_steady_load_is_not_waited_out(gated: Play, cli: Cli) -> None:
    document = gated(board(1.10, 0.004, foreign=lambda _launch: 0.4), "2%", "--mode", "separate", code=1)
    reruns = [sum(not each.valid for each in side.launches) for side in launched(cli, document).values()]
    assert reruns == [4, 4]  # two launches of each side, twice; then they are taken as they are


def test_the_same_artifact_is_not_compared_with_itself(gated: Play, cli: Cli) -> None:
    document = gated(board(1.0, 0.004), "1%", "--baseline", DIGITS, code=0)
    assert "byte for byte" in verdict_on(document)["reason"]
    assert len(launched(cli, document)["baseline"].launches) == 0


def test_a_stored_run_is_measured_again_beside_the_candidate(
    cli: Cli, gated: Play, facts: dict[str, Any]
) -> None:
    with played(facts, board(1.0)):
        old = cli.json(
            *("run", PRUNED, "--to", "onnxruntime"), *("--inventory", "inventory.yaml", "--no-health-check")
        )
    document = gated(board(1.10, 0.004), "2%", "--baseline", old["run"], code=None)
    # another model by name: the run has no such cell
    assert verdict_on(document)["verdict"] == "missing"
    with played(facts, board(1.0)):
        same = cli.json(
            *("run", DIGITS, "--to", "onnxruntime"), *("--inventory", "inventory.yaml", "--no-health-check")
        )
    document = gated(board(1.10, 0.004), "2%", "--baseline", same["run"], code=0)
    assert "byte for byte" in verdict_on(document)["reason"]


def test_the_verdict_from_the_store_is_the_same(cli: Cli, gated: Play) -> None:
    document = gated(board(1.10, 0.004), "2%", code=1)
    again = cli.json("gate", document["run"], code=1)
    assert again["cells"] == document["gate"]["cells"]


def test_a_run_that_was_interrupted_goes_on(cli: Cli, gated: Play, facts: dict[str, Any]) -> None:
    times, seen = board(1.10, 0.004), []

    def until_the_fourth(file: Path, launch: int, other: Path | None) -> Timing:
        seen.append(launch)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return times(file, launch, other)

    gated(until_the_fourth, "2%", code=130)
    with played(facts, times):
        document = cli.json("run", "--resume", "latest", "--inventory", "inventory.yaml", code=1)
    assert verdict_on(document)["verdict"] == "fail"
    sides = launched(cli, document)
    assert [sum(each.valid for each in sides[role].launches) for role in ("baseline", "candidate")] == [5, 6]


def test_precision_ends_when_the_interval_is_narrow(cli: Cli, facts: dict[str, Any]) -> None:
    (cli.folder / "inventory.yaml").write_text(inventory(1))
    words = ("run", DIGITS, "--to", "onnxruntime", "--inventory", "inventory.yaml", "--no-health-check")
    with played(facts, board(1.0, 0.02)):
        wide = cli.json(*words, "--precision", "as-is", "--precision", "0.8%")
        never = cli.json(*words, "--precision", "0.01%")
    assert wide["measurements"][0]["launches"] == 12
    assert never["measurements"][0]["launches"] == 20
    assert "±0.010 % was asked for" in str(never["measurements"][0]["warnings"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--gate", "none.yaml"), "none.yaml"),
        (("--gate", "budgets.yaml", "--baseline", "none.onnx"), "none.onnx"),
        (("--gate", "budgets.yaml", "--baseline", "no-such-run"), "no-such-run"),
        (("--gate", "budgets.yaml", "--launches", "3"), "leave one of them out"),
        (("--gate", "budgets.yaml", "--precision", "1%"), "leave one of them out"),
        (("--baseline", "x"), "--gate budgets.yaml"),
        (("--precision", "0%"), "cannot be meant"),
        (("--precision", "150 %"), "cannot be meant"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    cli: Cli, arguments: tuple[str, ...], told: str
) -> None:
    (cli.folder / "budgets.yaml").write_text(BUDGETS % "2%")
    assert told in cli.fails(2, "user", "run", DIGITS, *arguments)


def test_a_duet_is_in_the_bundle_and_judged_again_from_it(gated: Play, cli: Cli) -> None:
    document = gated(board(1.0, 0.15), "3%", "--mode", "duet")
    found = verdict_on(document)
    assert found["design"] == "duet"
    code = document["gate"]["exit_code"]
    judged = cli.json("gate", document["run"], "--bundle", "d.zip", code=code)
    assert judged["cells"] == document["gate"]["cells"]
    assert cli.json("replay", "d.zip", code=code)["gate"] == judged
