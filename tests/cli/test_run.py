"""`edgebench run` and `edgebench report` on this computer: the whole path, and its interruptions."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.commands import (
    DEMO,
    DIGITS,
    LONG,
    QUICK,
    Answer,
    Cli,
    finish,
    follows_schema,
    read_until,
    started_run,
    stored,
    wait_until,
)
from tests.models import generate

RUN = ("run", DIGITS, "--to", "onnxruntime", "--on", "local", *QUICK)
CELL = ("model", "variant", "runtime", "precision", "device", "target")


def work_folder() -> Path:
    return Path.home() / ".edgebench"


def probe_processes() -> list[str]:
    """Command lines of living probes whose work folder is this test's."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            folder = str((entry / "cwd").readlink())
        except OSError:
            continue
        if "probe-" in line and str(Path.home().parent) in line + folder:
            found.append(line)
    return found


def assert_clean(cli: Cli) -> None:
    """No probe runs any more, and nothing half-written lies about, here or in the device's folder."""
    wait_until(lambda: not probe_processes(), "the end of all probes")
    for work in (work_folder(), cli.home):
        assert [path.name for path in (work / "runs").glob("*")] == []
        assert not (work / "lease.json").exists()
    assert cli.leftovers() == []


# --- the whole path ------------------------------------------------------------------------------


def test_a_run_in_json_follows_its_schema(cli: Cli) -> None:
    answer = cli(*RUN, "--json")
    follows_schema(answer.document)
    (measured,) = answer.document["measurements"]
    assert [measured[key] for key in CELL] == [
        "digits",
        "fp32",
        "onnxruntime",
        "fp32",
        "local",
        "linux-x86_64",
    ]
    assert measured["launches"] == 2
    assert measured["samples"] >= 40
    assert measured["status"] == "ok"
    assert 0 < measured["latency_ms"]["min"] <= measured["latency_ms"]["p50"] <= measured["latency_ms"]["max"]
    assert measured["load_ms"] > 0
    assert measured["first_inference_ms"] > 0
    assert measured["memory"]["peak_bytes"] > 1 << 20
    assert measured["facts"]
    assert answer.document["failures"] == []


def test_the_devices_own_parity_is_in_the_document(cli: Cli) -> None:
    (measured,) = cli.json(*RUN)["measurements"]
    assert "local" in json.dumps(measured["parity"])


def test_progress_is_a_line_a_launch_on_stderr(cli: Cli) -> None:
    for extra in ((), ("--json",)):
        lines = cli(*RUN, *extra).err.splitlines()
        launches = [line for line in lines if line.startswith("local: launch ")]
        assert [line.split(",")[0] for line in launches] == [
            f"local: launch {number}/2 digits fp32 on onnxruntime" for number in (1, 2)
        ]
        assert "left" in launches[1]
        assert len(lines) == len(set(lines))


def test_the_workload_is_printed(cli: Cli) -> None:
    said = cli(*RUN).err
    for words in ("2 launches", "at least 20 samples", "0.01 s", "threads 1", "batch 1", "cool-down 0 s"):
        assert words in said


def test_reports_of_a_run_in_every_form(cli: Cli) -> None:
    run = cli.json(*RUN)["run"]
    table = cli("report").out
    assert cli("report", run).out == table
    assert cli("report", run[:-2]).out == table
    assert run in table
    assert "digits" in table
    assert cli("report", run, "--format", "markdown").out.startswith("# ")
    assert "| " in cli("report", run, "--format", "markdown").out
    document = cli.json("report", run)
    follows_schema(document)
    assert cli("report", run, "--format", "json").document == document
    answer = cli("report", run, "--format", "markdown", "-o", "deep/report.md")
    assert answer.out == ""
    written = (cli.folder / "deep" / "report.md").read_text()
    assert written == cli("report", run, "--format", "markdown").out
    cli("report", run, "--json", "-o", "report.json")
    assert json.loads((cli.folder / "report.json").read_text()) == document


def test_a_report_that_cannot_be_written(cli: Cli) -> None:
    cli(*RUN)
    (cli.folder / "file").write_text("kept")
    assert "-o" in cli.fails(4, "infrastructure", "report", "-o", "file/report.md")
    assert (cli.folder / "file").read_text() == "kept"


def test_a_report_of_a_run_that_is_not_there(fresh_cli: Cli) -> None:
    assert "20200101" in fresh_cli.fails(2, "user", "report", "20200101-000000-aaaa")
    assert "edgebench run" in fresh_cli.fails(2, "user", "report")


def test_a_plan_file_with_paths_beside_it(cli: Cli) -> None:
    (cli.folder / "plans").mkdir()
    generate.write(cli.folder / "plans", "conv_net")
    (cli.folder / "plans" / "plan.yaml").write_text(
        "version: 1\n"
        "models:\n"
        "  - conv_net.onnx\n"
        f"  - {{path: {DIGITS}, name: numbers, inputs: {DEMO / 'digits-test.npz'}}}\n"
        "runtimes: [onnxruntime]\n"
        "precisions: [fp32, int8-dynamic]\n"
        'on: "target:*"\n'.replace('on: "target:*"', "on: local")
        + "workload: {launches: 1, min_samples: 20, min_duration_s: 0.01, threads: 1}\n"
    )
    document = cli.json("run", "--plan", "plans/plan.yaml")
    follows_schema(document)
    cells = [(each["model"], each["precision"]) for each in document["measurements"]]
    assert cells == [(name, one) for name in ("conv_net", "numbers") for one in ("fp32", "int8-dynamic")]
    assert {each["launches"] for each in document["measurements"]} == {1}


def test_a_wrong_plan_names_line_and_nearest_key(cli: Cli) -> None:
    (cli.folder / "plan.yaml").write_text(f"version: 1\nmodels: [{DIGITS}]\nruntimse: [ncnn]\n")
    told = cli.fails(2, "user", "run", "--plan", "plan.yaml")
    assert "plan.yaml:3:" in told
    assert 'did you mean "runtimes"' in told
    assert "takes neither MODEL" in cli.fails(2, "user", "run", DIGITS, "--plan", "plan.yaml")
    assert "nothing.yaml" in cli.fails(2, "user", "run", "--plan", "nothing.yaml")


def test_several_models_shapes_and_a_batch(cli: Cli) -> None:
    paths = [generate.write(cli.folder, name) for name in ("conv_net", "conv_net_dynamic")]
    document = cli.json("run", *paths, "--to", "onnxruntime", "--batch", "2", *QUICK, code=2)
    assert [each["model"] for each in document["measurements"]] == ["conv_net_dynamic"]
    (failure,) = document["failures"]
    assert "batch is fixed at 1" in failure["message"]
    assert (failure["owner"], failure["exit_code"]) == ("user", 2)


# --- what is wrong is said before anything is done -----------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "no model was named"),
        ((DIGITS, "--to", "onxruntime"), 2, 'did you mean "onnxruntime"'),
        ((DIGITS, "--precision", "fp23"), 2, 'did you mean "fp32"'),
        ((DIGITS, "--on", "locl"), 2, 'did you mean "local"'),
        ((DIGITS, "--on", "group:lab"), 2, "matches no device"),
        ((DIGITS, "--on", "gruop:lab"), 2, "is no selector"),
        ((DIGITS, "--launches", "0"), 2, "launches"),
        ((DIGITS, "--min-duration", "soon"), 2, "soon"),
        ((DIGITS, "--wait", "5 parsecs"), 2, "parsecs"),
        ((DIGITS, DIGITS), 2, "both called"),
        ((DIGITS, "--inventory", "nothing.yaml"), 2, "nothing.yaml"),
        (("--resume", "20200101-000000-aaaa"), 2, "20200101"),
        (("--resume", "latest", DIGITS), 2, "takes neither MODEL"),
    ],
)
def test_wrong_words(fresh_cli: Cli, arguments: tuple[str, ...], code: int, told: str) -> None:
    assert told in fresh_cli.fails(code, "user", "run", *arguments)
    assert fresh_cli.leftovers() == []
    assert not work_folder().exists()


def test_an_open_shape_needs_its_flag(fresh_cli: Cli) -> None:
    path = generate.write(fresh_cli.folder, "conv_net_dynamic_size")
    (failure,) = fresh_cli.json("run", path, "--to", "onnxruntime", *QUICK, code=2)["failures"]
    assert (failure["owner"], failure["stage"]) == ("user", "prepare")
    assert "--shape image=" in failure["message"] + failure["hint"]
    assert not work_folder().exists()
    document = fresh_cli.json("run", path, "--to", "onnxruntime", "--shape", "image=1,3,16,16", *QUICK)
    assert document["counts"]["ok"] == 1


def _narrow_target(cli: Cli) -> None:
    """This computer as a target whose ncnn takes no dynamic int8."""
    text = (Path(__file__).parents[2] / "targets" / "linux-x86_64.yaml").read_text()
    (cli.folder / "targets").mkdir()
    lines = [
        line.replace(", int8-dynamic", "") if line.lstrip().startswith("ncnn:") else line
        for line in text.replace("name: linux-x86_64", "name: narrow").splitlines()
    ]
    (cli.folder / "targets" / "narrow.yaml").write_text("\n".join(lines) + "\n")
    (cli.folder / "edgebench.toml").write_text('targets = "targets"\n')
    (cli.folder / "inventory.yaml").write_text(
        "version: 1\ndevices:\n  here: {transport: local, target: narrow}\n"
    )


def test_a_cell_that_the_target_does_not_offer_is_refused_with_what_would_work(cli: Cli) -> None:
    _narrow_target(cli)
    document = cli.json(
        "run", DIGITS, "--to", "onnxruntime,ncnn", "--precision", "int8-dynamic", *QUICK, code=4
    )
    (failure,) = document["failures"]
    assert failure["runtime"] == "ncnn"
    assert "does not take int8-dynamic" in failure["message"]
    assert "onnxruntime" in failure["hint"]
    assert document["counts"]["ok"] == 1


def test_unsupported_cells_can_be_left_out(cli: Cli) -> None:
    _narrow_target(cli)
    wanted = ("run", DIGITS, "--precision", "int8-dynamic", "--skip-unsupported", *QUICK)
    answer = cli(*wanted, "--to", "onnxruntime,ncnn", "--json")
    assert "left out 1 of 2 jobs: ncnn on target narrow does not take int8-dynamic" in answer.err
    assert answer.document["failures"] == []
    assert answer.document["counts"]["planned"] == 1
    told = cli.fails(5, "user", *wanted, "--to", "ncnn")
    assert "no job is left" in told
    assert "int8-dynamic works with onnxruntime" in told


def test_quarantined_devices_are_never_scheduled(cli: Cli) -> None:
    (cli.folder / "inventory.yaml").write_text(
        "version: 1\ndevices:\n  here: {transport: local}\n  sick: {transport: local, quarantine: no fan}\n"
    )
    answer = cli("run", DIGITS, "--to", "onnxruntime", *QUICK, "--json")
    assert "sick is in quarantine and left out: no fan" in answer.err
    assert [each["device"] for each in answer.document["measurements"]] == ["here"]
    told = cli.fails(5, "user", "run", DIGITS, "--on", "sick")
    assert "quarantine" in told


def test_a_device_that_is_not_what_its_target_says(cli: Cli) -> None:
    (cli.folder / "inventory.yaml").write_text(
        "version: 1\ndevices:\n  here: {transport: local, target: raspberry-pi-4}\n"
    )
    (failure,) = cli.json("run", DIGITS, "--to", "onnxruntime", *QUICK, code=4)["failures"]
    assert failure["owner"] == "device"
    assert "is not what its target raspberry-pi-4 says" in failure["message"]


# --- interruptions -------------------------------------------------------------------------------


def interrupted(cli: Cli, number: signal.Signals) -> tuple[str, Answer]:
    """A run that gets a signal in its second launch."""
    process: subprocess.Popen[str] = cli.start(*LONG, "--launches", "4")
    seen = read_until(process, "local: launch 2/4")
    process.send_signal(number)
    answer = finish(process)
    return started_run(seen), answer


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_cleans_up_and_continues(fresh_cli: Cli, number: signal.Signals, code: int) -> None:
    run, answer = interrupted(fresh_cli, number)
    assert answer.code == code
    assert answer.out == ""
    assert f"edgebench run --resume {run}" in answer.err
    assert "Traceback" not in answer.err
    assert_clean(fresh_cli)
    assert fresh_cli.json("report", run)["status"] == "interrupted"
    (before,) = stored(fresh_cli, run)
    document = fresh_cli.json("run", "--resume", run)
    follows_schema(document)
    assert document["status"] == "done"
    assert document["measurements"][0]["launches"] == 4
    after = stored(fresh_cli, run)
    assert [launch.number for launch in after] == [1, 2, 3, 4]
    assert after[0] == before
    assert len({launch.session for launch in after}) == 2
    assert "no open jobs" in fresh_cli.fails(2, "user", "run", "--resume", run)


def test_a_killed_run_loses_only_the_launch_in_flight(fresh_cli: Cli) -> None:
    process = fresh_cli.start(*LONG, "--launches", "4", "--json")
    run = started_run(read_until(process, "local: launch 3/4"))
    process.kill()
    finish(process)
    before = stored(fresh_cli, run)
    assert [launch.number for launch in before] == [1, 2]
    wait_until(lambda: not probe_processes(), "the end of the probe without its controller")
    document = fresh_cli.json("run", "--resume", run[:-1])
    assert document["measurements"][0]["launches"] == 4
    assert stored(fresh_cli, run)[:2] == before
    assert_clean(fresh_cli)


def test_an_interrupt_while_preparing(fresh_cli: Cli) -> None:
    process = fresh_cli.start("run", DIGITS, "--to", "openvino", *QUICK)
    read_until(process, "controller: convert")
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert answer.code == 130
    assert answer.out == ""
    assert_clean(fresh_cli)


# --- a board has one user at a time --------------------------------------------------------------


def test_a_busy_device_is_75_and_names_the_holder_and_waiting_helps(fresh_cli: Cli) -> None:
    first = fresh_cli.start(*LONG, "--launches", "5")
    run = started_run(read_until(first, "local: launch 1/5"))
    (failure,) = fresh_cli.json(*RUN, code=75)["failures"]
    assert failure["owner"] == "device"
    assert f"run {run}" in failure["message"]
    assert "--wait" in failure["hint"]
    assert fresh_cli.json(*RUN, "--wait", "60 s")["counts"]["ok"] == 1
    assert finish(first).code == 0
    assert_clean(fresh_cli)
