"""`edgebench report [RUN]`: a stored run as text."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgebench.cli.output import emit_json, json_option, note
from edgebench.cli.setup import read_settings, results
from edgebench.cli.showing import build_report, render, write_whole
from edgebench.report.document import document


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
