"""`gate --bundle` and `replay`: the verdict again from one file, or a clear refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebench.records import Failure, replace
from edgebench.store import Store, sqlite_url
from tests.cli.test_gate import BUDGETS, _measurement, _write
from tests.commands import DIGITS, QUICK, Cli


@pytest.fixture
def bundled(cli: Cli) -> Cli:
    """A tenth slower than its baseline, judged, with the bundle."""
    _write(cli, "A.json", _measurement(1.0, "s1", 1))
    _write(cli, "slower.json", _measurement(1.1, "s1", 3))
    _write(cli, "later.json", _measurement(1.1, "s2", 3))
    (cli.folder / "budgets.yaml").write_text(BUDGETS)
    cli("gate", "slower.json", "--baseline", "A.json", "--bundle", "slower.zip", code=1)
    return cli


def test_a_bundle_is_enough_to_judge_again(bundled: Cli) -> None:
    before = bundled.json("gate", "slower.json", "--baseline", "A.json", code=1)
    for name in ("A.json", "slower.json", "budgets.yaml"):
        (bundled.folder / name).unlink()
    found = bundled.json("replay", "slower.zip", code=1)
    assert found["identical"] is True
    assert found["gate"] == before
    assert "identical to the verdict of" in bundled("replay", "slower.zip", code=1).err


def test_the_same_question_gives_the_same_bytes(bundled: Cli) -> None:
    bundled("gate", "slower.json", "--baseline", "A.json", "--bundle", "again.zip", code=1)
    assert (bundled.folder / "again.zip").read_bytes() == (bundled.folder / "slower.zip").read_bytes()


@pytest.mark.parametrize(("counts_as", "code"), [("keep", 3), ("fail", 1), ("pass", 0)])
def test_the_exit_code_is_that_of_the_gate(bundled: Cli, counts_as: str, code: int) -> None:
    flags = ("--baseline", "A.json", "--inconclusive", counts_as, "--bundle", "later.zip")
    bundled("gate", "later.json", *flags, code=code)
    bundled("replay", "later.zip", code=code)


def _changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_a_changed_or_truncated_bundle_is_refused(bundled: Cli) -> None:
    path = bundled.folder / "slower.zip"
    whole = path.read_bytes()
    _changed(path)
    assert "no sound bundle" in bundled.fails(2, "user", "replay", "slower.zip")
    path.write_bytes(whole[:-30])
    assert "cut off" in bundled.fails(2, "user", "replay", "slower.zip")
    bundled.fails(2, "user", "replay", "A.json")
    bundled.fails(2, "user", "replay", "nowhere.zip")
    bundled.fails(2, "user", "replay", ".")


def test_a_run_with_a_failed_cell_replays_without_its_store(fresh_cli: Cli) -> None:
    flags = ("--launches", "5", *QUICK[2:])
    run = fresh_cli.json("run", DIGITS, "--to", "onnxruntime", *flags)["run"]
    with Store(sqlite_url(fresh_cli.home / "store.sqlite")) as store:
        (measured,) = store.measurements(run)
        job = replace(measured.job, variant="pruned")
        store.plan_jobs(run, [job])
        store.add_failure(
            Failure(
                run=run, job=job, owner="device", stage="measure", message="went away", hint="", exit_code=4
            )
        )
    (fresh_cli.folder / "budgets.yaml").write_text(
        "version: 1\nbudgets: [{name: a, limits: {latency.p50: {max: 10 s}, artifact_size: {max: 1 MiB}}}]\n"
    )
    before = fresh_cli.json("gate", run, "--bundle", "run.zip", code=4)
    assert {cell["verdict"] for cell in before["cells"]} == {"pass", "error"}
    fresh_cli("export", run, "-o", "run.json")
    assert fresh_cli.json("gate", "run.json", code=4) == before
    (fresh_cli.home / "store.sqlite").unlink()
    assert fresh_cli.json("replay", "run.zip", code=4)["gate"] == before
