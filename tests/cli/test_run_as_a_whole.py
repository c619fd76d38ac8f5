"""What a run says of itself as a whole: before it (--dry-run), where it stops early, and at its end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgebench.store import Store, sqlite_url
from tests.commands import DIGITS, QUICK, Cli, follows_schema, stored
from tests.models import generate

HERE = ("run", DIGITS, "--to", "onnxruntime", *QUICK)
TARGETS = Path(__file__).parents[2] / "targets"


def write_fleet(cli: Cli, *devices: str) -> None:
    """Devices by name and target: "here", or "wrong: raspberry-pi-4"; all of them are this computer."""
    lines = []
    for device in devices:
        name, _, target = device.partition(": ")
        lines.append(f"  {name}: {{transport: local{', target: ' + target if target else ''}}}")
    (cli.folder / "inventory.yaml").write_text("version: 1\ndevices:\n" + "\n".join(lines) + "\n")


def small_target(cli: Cli) -> None:
    """This computer as a target that may have 1 MiB of memory."""
    (cli.folder / "targets").mkdir()
    text = (TARGETS / "linux-x86_64.yaml").read_text().replace("name: linux-x86_64", "name: small")
    text = text.replace("  max_foreign_cores: 4096", "  memory_mib: 1\n  max_foreign_cores: 4096")
    (cli.folder / "targets" / "small.yaml").write_text(text)
    (cli.folder / "edgebench.toml").write_text('targets = "targets"\n')


def runs(cli: Cli) -> int:
    with Store(sqlite_url(cli.home / "store.sqlite")) as store:
        return len(store.runs())


# --- every job is counted ------------------------------------------------------------------------


def test_every_kind_of_end_adds_up(cli: Cli) -> None:
    """Measured, invalid, failed by device and by user, refused: in JSON, on the terminal, in the report."""
    small_target(cli)
    write_fleet(cli, "here", "small: small", "wrong: raspberry-pi-4")
    open_shape = generate.write(cli.folder, "conv_net_dynamic_size")
    answer = cli("run", DIGITS, open_shape, "--to", "onnxruntime,coreml", *QUICK, "--json", code=4)
    document = answer.document
    follows_schema(document)
    counts = document["counts"]
    assert counts == {
        "planned": 12,
        "ok": 1,
        "partial": 0,
        "invalid": 1,
        "emulated": 0,
        "failed": 4,
        "missing": 0,
        "refused": 6,
        "failed_by": {"user": 3, "device": 1},
    }
    assert len(document["failures"]) == counts["failed"] + counts["refused"]
    (said,) = re.findall(r"^12 jobs: .*$", cli("report").out, re.MULTILINE)
    assert said == "12 jobs: 1 measured, 1 invalid, 4 failed (1 device, 3 user), 6 refused"
    assert said in cli("report", "--format", "markdown").out
    assert cli.json("report")["counts"] == counts


def test_a_model_too_large_for_a_board_is_launched_once(cli: Cli) -> None:
    """Another launch would not be smaller."""
    small_target(cli)
    write_fleet(cli, "small: small")
    document = cli.json(*HERE, code=4)
    (launch,) = stored(cli, document["run"])
    assert "over the target's limit of 1 MiB" in launch.invalid_reason
    assert document["measurements"][0]["status"] == "invalid"


# --- stopping early ------------------------------------------------------------------------------


def test_fail_fast_counts_what_was_not_run_and_resume_runs_it(cli: Cli) -> None:
    write_fleet(cli, "wrong: raspberry-pi-4", "here", "there")
    answer = cli(*HERE, "--fail-fast", "--json", code=4)
    document = answer.document
    follows_schema(document)
    assert document["status"] == "interrupted"
    assert document["stopped"] == "stopped by --fail-fast after digits fp32 on onnxruntime failed on wrong"
    assert document["counts"]["failed"] == 1
    assert document["counts"]["missing"] == 2
    assert document["counts"]["planned"] == 3
    assert [each["device"] for each in document["missing"]] == ["here", "there"]
    told = cli("report").out
    assert "3 jobs: 1 failed (1 device), 2 not run" in told
    assert document["stopped"] in " ".join(told.split())
    run = document["run"]
    assert f"edgebench run --resume {run}" in told
    again = cli.json("run", "--resume", run, code=4)
    assert (again["counts"]["ok"], again["counts"]["failed"], again["counts"]["missing"]) == (2, 1, 0)
    assert (again["status"], again["stopped"]) == ("done", "")
    third = cli.json("run", "--resume", run, "--retry-failed", code=4)
    assert third["counts"] == again["counts"]
    assert len(third["failures"]) == 1


def test_fail_fast_while_preparing_touches_no_device(cli: Cli) -> None:
    write_fleet(cli, "here")
    open_shape = generate.write(cli.folder, "conv_net_dynamic_size")
    document = cli.json("run", open_shape, DIGITS, "--to", "onnxruntime", *QUICK, "--fail-fast", code=2)
    assert document["counts"]["missing"] == 1
    assert document["measurements"] == []
    assert "conv_net_dynamic_size" in document["stopped"]


def test_retry_failed_needs_a_run(fresh_cli: Cli) -> None:
    assert "--resume" in fresh_cli.fails(2, "user", "run", DIGITS, "--retry-failed")


# --- before it -----------------------------------------------------------------------------------


def test_a_dry_run_touches_nothing_and_says_what_it_does_not_know(fresh_cli: Cli) -> None:
    write_fleet(fresh_cli, "here")
    document = fresh_cli.json(
        *HERE, "--dry-run", "--launches", "4", "--cooldown", "2 s", "--min-duration", "1 s"
    )
    (job,) = document["jobs"]
    assert (job["is_converted"], job["push_bytes"], job["measured_before"]) == (False, None, False)
    assert job["seconds"] == 4 * 1.0 + 3 * 2.0
    assert runs(fresh_cli) == 0
    assert not (Path.home() / ".edgebench").exists()
    table = fresh_cli(*HERE, "--dry-run").out
    assert "to be converted" in table
    assert "unknown until converted" in " ".join(table.split())


def test_a_dry_run_knows_what_is_converted_and_how_long_it_took(fresh_cli: Cli) -> None:
    write_fleet(fresh_cli, "here")
    measured = fresh_cli.json(*HERE, "--precision", "int8-dynamic")["measurements"][0]
    again = (*HERE, "--precision", "int8-dynamic", "--launches", "10", "--dry-run")
    (job,) = fresh_cli.json(*again)["jobs"]
    assert (job["is_converted"], job["measured_before"]) == (True, True)
    assert job["push_bytes"] == measured["artifact_bytes"]
    assert job["seconds"] > 10 * 0.01
    assert "(as last time)" in fresh_cli(*again).out
    assert runs(fresh_cli) == 1
    other = fresh_cli.json(*HERE, "--precision", "fp16", "--dry-run")["jobs"][0]
    assert (other["is_converted"], other["measured_before"]) == (False, False)


def test_a_dry_run_of_an_ssh_device_says_what_only_the_device_knows(fresh_cli: Cli) -> None:
    key = f"SHA256:{'A' * 43}"
    (fresh_cli.folder / "inventory.yaml").write_text(
        f'version: 1\ndevices:\n  nano: {{target: linux-x86_64, address: nano.invalid, host_key: "{key}"}}\n'
    )
    assert "unknown until connected" in fresh_cli(*HERE, "--dry-run").out


def test_a_dry_run_says_what_would_fail(fresh_cli: Cli) -> None:
    write_fleet(fresh_cli, "here")
    answer = fresh_cli("run", DIGITS, "--to", "onnxruntime,coreml", "--dry-run", code=4)
    assert "refused" in answer.out
    assert "does not offer coreml" in " ".join(answer.out.split())
    document = fresh_cli.json("run", DIGITS, "--to", "onnxruntime,coreml", "--dry-run", code=4)
    assert [each["job"]["runtime"] for each in document["refused"]] == ["coreml"]
    skipped = fresh_cli.json("run", DIGITS, "--to", "onnxruntime,coreml", "--skip-unsupported", "--dry-run")
    assert skipped["refused"] == []


def test_a_dry_run_of_the_rest_changes_nothing(cli: Cli) -> None:
    write_fleet(cli, "wrong: raspberry-pi-4", "here")
    run = cli.json(*HERE, "--fail-fast", code=4)["run"]
    before = cli.json("report", run)
    (job,) = cli.json("run", "--resume", run, "--dry-run")["jobs"]
    assert job["job"]["device"] == "here"
    assert cli.json("report", run) == before
    assert "--retry-failed" in cli.fails(2, "user", "run", "--resume", run, "--dry-run", "--retry-failed")


# --- health --------------------------------------------------------------------------------------


def test_this_computer_is_checked_only_when_asked(cli: Cli) -> None:
    write_fleet(cli, "here-to-check")

    def checks() -> int:
        with Store(sqlite_url(cli.home / "store.sqlite")) as store:
            return len(store.health_checks("here-to-check"))

    cli(*HERE)
    assert checks() == 0
    answer = cli(*HERE, "--health-check")
    assert checks() == 1
    assert "health check" in answer.err


@pytest.mark.parametrize("number", ["-1", "1001"])
def test_repeats_have_bounds(fresh_cli: Cli, number: str) -> None:
    assert "max_invalid" in fresh_cli.fails(2, "user", *HERE, "--max-invalid", number)
