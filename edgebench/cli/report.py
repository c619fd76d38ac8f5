"""`edgebench report [RUN]`: a stored run as text or as a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import click

from edgebench.cli.output import emit_json, json_option, note
from edgebench.cli.setup import read_settings, results
from edgebench.cli.showing import build_report, render, write_whole
from edgebench.errors import UserError
from edgebench.report.document import document


@click.command()
@click.argument("run_name", metavar="[RUN]", default="latest")
@click.option("--format", "form", type=click.Choice(["terminal", "markdown", "json"]), default="terminal")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write there; default: stdout.")
@click.option("--html", type=click.Path(), metavar="FILE", help="Write one HTML file that needs no network.")
@click.option(
    "--budgets", type=click.Path(), metavar="FILE", help="For --html: limits that cells are judged by."
)
@click.option("--baseline", metavar="RUN|RELEASE", help="For --html: what cells are compared with.")
@json_option
def report(
    run_name: str,
    form: str,
    output: str | None,
    html: str | None,
    budgets: str | None,
    baseline: str | None,
    as_json: bool,
) -> None:
    """Show RUN (an id, its beginning, a release, or "latest") as a terminal table, Markdown, JSON or HTML."""
    if html is not None:
        _write_page(run_name, Path(html), Page(budgets, baseline), as_json=as_json)
        return
    if budgets is not None or baseline is not None:
        raise UserError("--budgets and --baseline are for --html", hint="edgebench gate RUN --budgets FILE")
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


class Page(NamedTuple):
    """What a page compares with, as it was typed."""

    budgets_file: str | None = None
    baseline: str | None = None


def _write_page(run_name: str, path: Path, wish: Page, *, as_json: bool) -> None:
    """Write the page, and say where it is."""
    from edgebench import budgets
    from edgebench.cli.paging import Against, subjects
    from edgebench.cli.sources import opened
    from edgebench.documents import read_text
    from edgebench.report.page import render as render_page

    rules = None
    if wish.budgets_file is not None:
        rules = budgets.parse(read_text(Path(wish.budgets_file)), wish.budgets_file)
    with opened(read_settings()) as sources:
        made = subjects(run_name, Against(rules, wish.baseline), sources)
    write_whole(path, render_page(made).rstrip("\n"))
    if as_json:
        emit_json({"schema": 1, "run": made.report.run.id, "html": str(path)})
    else:
        click.echo(f"report: {path}")
