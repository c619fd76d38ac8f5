"""`edgebench report [RUN]`: a stored run as text."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from edgebench.cli.output import emit_json, json_option, note, terminal_width
from edgebench.cli.setup import read_settings, results
from edgebench.errors import InfrastructureError
from edgebench.report import markdown, terminal
from edgebench.report.base import Report
from edgebench.report.build import build
from edgebench.report.document import document
from edgebench.store import Store


@click.command()
@click.argument("run_name", metavar="[RUN]", default="latest")
@click.option("--format", "form", type=click.Choice(["terminal", "markdown", "json"]), default="terminal")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write there; default: stdout.")
@json_option
def report(run_name: str, form: str, output: str | None, as_json: bool) -> None:
    """Show RUN (an id, its beginning, or "latest") as a terminal table, Markdown or JSON."""
    with results(read_settings()) as store:
        built = build_report(store, run_name)
    if as_json and output is None:
        emit_json(document(built))
        return
    text = render(built, "json" if as_json else form, colour=output is None and sys.stdout.isatty())
    if output is None:
        click.echo(text)
    else:
        write_whole(Path(output), text)
        note(f"written: {output}")


def build_report(store: Store, run_name: str) -> Report:
    """The report of a stored run."""
    run = store.run(run_name)
    return build(run, store.measurements(run.id), store.failures(run.id))


def render(built: Report, form: str, *, colour: bool = False) -> str:
    """The report in one of its forms."""
    if form == "markdown":
        return markdown.render(built)
    if form == "json":
        import msgspec

        return msgspec.json.format(msgspec.json.encode(document(built)), indent=2).decode()
    return terminal.render(built, width=terminal_width(), colour=colour)


def write_whole(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InfrastructureError(
            f"{path} cannot be written: {error.strerror}", hint="choose another file with -o"
        ) from error
