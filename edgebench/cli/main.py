"""The door: finds the command, runs it, and turns whatever goes wrong into one message and one exit code."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

from edgebench import __version__
from edgebench.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TERMINATED,
    EdgebenchError,
    Interrupted,
    did_you_mean,
    printable,
)

# Verb -> where it lives, and its line in the help. Modules are imported on use, so help is instant.
VERBS = {
    "inspect": (
        "edgebench.cli.inspect:inspect",
        "What a model is: shapes, operators, precision, size, sparsity.",
    ),
    "compress": (
        "edgebench.cli.compress:compress",
        "Make a model smaller by recipes: prune, quantize, cluster, and their combinations.",
    ),
    "convert": (
        "edgebench.cli.convert:convert",
        "Turn a model into what a runtime runs, and prove it equal.",
    ),
    "verify": (
        "edgebench.cli.verify:verify",
        "Prove an artifact equal to its model again, here or on a device.",
    ),
    "run": (
        "edgebench.cli.run:run",
        "Convert, prove, push, measure: every model x runtime x precision x device.",
    ),
    "report": (
        "edgebench.cli.report:report",
        "Show a run as a table, Markdown, JSON or an HTML file; the fleet in groups.",
    ),
    "history": ("edgebench.cli.history:history", "A model's numbers over releases and runs, jumps marked."),
    "worst": ("edgebench.cli.worst:worst", "The worst cells of a run by a metric."),
    "coverage": ("edgebench.cli.coverage:coverage", "Which planned cells have no valid number, and why."),
    "gate": (
        "edgebench.cli.gate:gate",
        "Judge a run or file by budgets: pass, fail, or why it cannot be said.",
    ),
    "choose": (
        "edgebench.cli.choose:choose_",
        "What is worth having on each device, and what to ship within a budget.",
    ),
    "release": ("edgebench.cli.release:release", "Give a run a name, and say which may be a baseline."),
    "replay": ("edgebench.cli.replay:replay", "Recompute a gate's verdict from its bundle alone."),
    "aa": (
        "edgebench.cli.aa:aa",
        "How noisy a board is: one artifact measured against itself.",
    ),
    "budgets": ("edgebench.cli.budgets:budgets", "Check, explain and suggest limits for releases."),
    "compare": ("edgebench.cli.compare:compare", "How one run or file differs from another, with intervals."),
    "import": (
        "edgebench.cli.importing:import_",
        "Store measurements that were made elsewhere, as a run.",
    ),
    "export": ("edgebench.cli.compare:export", "A run's measurements with all samples, as a file."),
    "devices": (
        "edgebench.cli.devices:devices",
        "List, show, scan, check and clean the boards of the fleet.",
    ),
    "targets": ("edgebench.cli.targets:targets", "List and check the kinds of device."),
    "runtimes": ("edgebench.cli.runtimes:runtimes", "What is installed, and what to type to get the rest."),
    "demo": ("edgebench.cli.demo:demo", "The main job on a real trained network, on this computer."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports them on use."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The verbs in the order of work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb; an unknown verb is a usage error that names the nearest."""
        if cmd_name not in VERBS:
            raise click.UsageError(f'no command "{cmd_name}"; {did_you_mean(cmd_name, VERBS)}', ctx)
        module, _, name = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs from the table alone: nothing is imported for help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="edgebench")
def edgebench() -> None:
    """Does the compressed model still compute the same, is it really smaller and faster, and on which boards?

    edgebench converts ONNX models for edge runtimes, proves them equal, measures them on real devices
    over SSH, and answers with numbers that were measured.
    """


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime reads it at import; our children inherit it
    status = run(sys.argv[1:])
    _flush()
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """The exit code of one command line; every error ends here as a message."""
    try:
        result = edgebench.main(arguments, prog_name="edgebench", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        return _say_usage(error, as_json="--json" in arguments)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted", "", "user", EXIT_INTERRUPTED, as_json="--json" in arguments)
        return EXIT_INTERRUPTED
    except SystemExit:
        return EXIT_OK  # what click makes of a reader that went away, as `head` does
    except EdgebenchError as error:
        _say_error(error, as_json="--json" in arguments)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is reported, never a bare traceback
        return _say_bug(error, as_json="--json" in arguments)
    return result if isinstance(result, int) else EXIT_OK


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    stop = Interrupted("stopped by SIGTERM")
    stop.exit_code = EXIT_TERMINATED
    raise stop


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # keeps the exit itself quiet


def _say_error(error: EdgebenchError, *, as_json: bool) -> None:
    if error.detail and not as_json:
        click.echo(printable(error.detail.rstrip(), lines=True), err=True)
    _say(error.message, error.hint, error.owner, error.exit_code, as_json=as_json, detail=error.detail)


def _say_usage(error: click.ClickException, *, as_json: bool) -> int:
    if as_json:
        _say(error.format_message(), "edgebench --help", "user", error.exit_code, as_json=True)
    else:
        error.show(sys.stderr)
    return error.exit_code


def _say_bug(error: Exception, *, as_json: bool) -> int:
    import traceback

    trace = "".join(traceback.format_exception(error))
    hint = f"please report it with the lines above (edgebench {__version__}, Python {sys.version.split()[0]})"
    if not as_json:
        click.echo(printable(trace.rstrip(), lines=True), err=True)
    message = f"edgebench met a case it does not know: {type(error).__name__}: {error}"
    _say(message, hint, "bug", EXIT_BUG, as_json=as_json, detail=trace)
    return EXIT_BUG


def _say(message: str, hint: str, owner: str, code: int, *, as_json: bool, detail: str = "") -> None:
    if as_json:
        import json

        said: dict[str, Any] = {"message": message, "hint": hint, "owner": owner, "exit_code": code}
        click.echo(json.dumps({"error": {**said, "detail": detail}}))
        return
    click.echo(f"error ({owner}): {printable(message, lines=True)}", err=True)
    if hint:
        click.echo(f"  next: {printable(hint, lines=True)}", err=True)
