"""The door: help everywhere, unknown words with the nearest known one, one message and one exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest

from edgebench.cli import main as door
from edgebench.cli.main import VERBS
from tests.commands import MAIN, Cli, finish

GROUPS = {
    "devices": ("list", "show", "scan", "doctor", "clean"),
    "targets": ("list", "check"),
    "runtimes": ("install",),
    "budgets": ("check", "explain", "suggest"),
    "release": ("create", "list", "show", "promote"),
}
EVERY = [(), *((verb,) for verb in VERBS), *((verb, sub) for verb, subs in GROUPS.items() for sub in subs)]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_of_every_command(cli: Cli, words: tuple[str, ...]) -> None:
    answer = cli(*words, "--help")
    assert answer.out.startswith("Usage: edgebench")
    assert answer.err == ""


WITHOUT_JSON = [(), ("devices",), ("targets",), ("budgets",), ("release",)]  # groups, which only hold others


@pytest.mark.parametrize("words", [words for words in EVERY if words not in WITHOUT_JSON])
def test_every_command_offers_json(cli: Cli, words: tuple[str, ...]) -> None:
    assert "--json" in cli(*words, "--help").out


def test_every_verb_of_the_issue_is_there() -> None:
    wanted = {"inspect", "convert", "verify", "run", "report", "devices", "targets", "runtimes", "demo"}
    assert wanted <= set(VERBS)


def test_help_as_a_process_imports_no_heavy_package(cli: Cli) -> None:
    script = (
        f"import sys, atexit; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr)); {MAIN}"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("Usage: edgebench")
    imported = {name.partition(".")[0] for name in done.stderr.split()}
    assert not imported & {
        "onnx",
        "onnxruntime",
        "openvino",
        "ncnn",
        "paramiko",
        "sqlalchemy",
        "numpy",
        "yaml",
    }


@pytest.mark.parametrize(
    ("wrong", "meant"), [("inspct", "inspect"), ("reprot", "report"), ("device", "devices")]
)
def test_an_unknown_verb_names_the_nearest(cli: Cli, wrong: str, meant: str) -> None:
    answer = cli(wrong, code=2)
    assert f'did you mean "{meant}"' in answer.err
    assert answer.out == ""
    error = cli.json(wrong, code=2)["error"]
    assert f'did you mean "{meant}"' in error["message"]
    assert (error["owner"], error["exit_code"]) == ("user", 2)


def test_an_unknown_verb_of_a_group_and_an_unknown_option(cli: Cli) -> None:
    assert "No such command" in cli("devices", "lst", code=2).err
    assert "--lanches" in cli("run", "--lanches", "3", code=2).err
    assert "Missing argument" in cli("inspect", code=2).err
    assert "Missing option '--to'" in cli("convert", "model.onnx", code=2).err


def test_the_version_and_no_command_at_all(cli: Cli) -> None:
    assert cli("--version").out.startswith("edgebench, version ")
    answer = cli(code=None)
    assert answer.code in (0, 2)
    assert "Usage: edgebench" in answer.out + answer.err


def test_as_a_process_errors_go_to_stderr_and_json_to_stdout(cli: Cli) -> None:
    plain = finish(cli.start("inspect", "nothing.onnx"))
    assert (plain.code, plain.out) == (2, "")
    assert "nothing.onnx" in plain.err
    structured = finish(cli.start("inspect", "nothing.onnx", "--json"))
    assert (structured.code, structured.err) == (2, "")
    assert structured.document["error"]["owner"] == "user"


def test_a_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    process = cli.start("targets", "list", "--json")
    assert process.stdout
    process.stdout.close()
    assert process.stderr
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


@click.command()
def broken() -> None:
    """Divides by zero."""
    raise ZeroDivisionError("\x1b[31mred")


def test_a_bug_is_reported_as_one(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VERBS, "broken", (f"{__name__}:broken", "Divides by zero."))
    assert door.run(["broken"]) == 70
    err = capsys.readouterr().err
    assert "error (bug): " in err
    assert "ZeroDivisionError" in err
    assert "please report it" in err
    assert "\x1b" not in err
    assert door.run(["broken", "--json"]) == 2  # it has no such option; the door still answers in JSON
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


@click.command()
def stopped() -> None:
    """Is interrupted."""
    raise KeyboardInterrupt


def test_an_interrupt_is_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERBS, "stopped", (f"{__name__}:stopped", "Is interrupted."))
    assert "interrupted" in cli("stopped", code=130).err


def test_a_home_that_cannot_be_made(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (cli.folder / "file").write_text("")
    monkeypatch.setenv("EDGEBENCH_HOME", str(cli.folder / "file" / "home"))
    assert "EDGEBENCH_HOME" in cli.fails(4, "infrastructure", "report")


def test_a_wrong_setting_names_its_file_line_and_the_nearest_key(cli: Cli) -> None:
    (cli.folder / "edgebench.toml").write_text('home = "x"\ninventry = "y"\n')
    told = cli.fails(2, "user", "devices", "list")
    assert "edgebench.toml:2:" in told
    assert 'did you mean "inventory"' in told
    assert os.listdir(cli.folder) == ["edgebench.toml"]
