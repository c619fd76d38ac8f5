"""`edgebench report [RUN]`: a stored run as text or as a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import click

from edgebench.cli.output import emit_json, json_option, note
from edgebench.cli.setup import read_settings, results
from edgebench.cli.showing import build_report, render, write_whole
from edgebench.errors import EXIT_OK, UserError
from edgebench.report.document import document

FORMATS = ("terminal", "table", "markdown", "md", "csv", "json", "parquet")
RUN_FORMATS = {"table": "terminal", "md": "markdown"} | {
    each: each for each in FORMATS if each not in ("table", "md")
}
GROUP_FORMATS = {"terminal": "table", "markdown": "md"} | {
    each: each for each in FORMATS[1:] if each != "markdown"
}


@click.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), default="terminal", show_default=True)
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write there; default: stdout.")
@click.option("--group", "keys", metavar="KEY,...", help="A metric by target, runtime, device, ... instead.")
@click.option("--metric", metavar="METRIC", help="For --group; default: latency.p50.")
@click.option("--html", type=click.Path(), metavar="FILE", help="Write one HTML file that needs no network.")
@click.option(
    "--budgets", type=click.Path(), metavar="FILE", help="For --html: limits that cells are judged by."
)
@click.option("--baseline", metavar="RUN|RELEASE", help="For --html: what cells are compared with.")
@json_option
def report(
    run_name: str | None,
    form: str,
    output: str | None,
    keys: str | None,
    metric: str | None,
    html: str | None,
    budgets: str | None,
    baseline: str | None,
    as_json: bool,
) -> int:
    """Show RUN (an id, its beginning, a release; default: the latest) as a table, Markdown, JSON or HTML.

    --group takes all cells of RUN, and without RUN every cell of the fleet as it was measured last; its
    formats are table, md, csv, json and parquet (docs/reports.md).
    """
    if keys is not None:
        from edgebench.cli.grouping import Grouping, group
        from edgebench.cli.sheets import Wish

        shape = "json" if as_json else GROUP_FORMATS[form]
        return group(Grouping(keys, metric or "latency.p50", run_name), Wish(shape, output))
    if metric is not None:
        raise UserError(
            "--metric is for --group", hint="edgebench report --group target,runtime --metric ..."
        )
    run_name = run_name or "latest"
    if html is not None:
        _write_page(run_name, Path(html), Page(budgets, baseline), as_json=as_json)
        return EXIT_OK
    if budgets is not None or baseline is not None:
        raise UserError("--budgets and --baseline are for --html", hint="edgebench gate RUN --budgets FILE")
    if form == "parquet":
        raise UserError("a run's report has no Parquet form", hint="edgebench export RUN --parquet FOLDER")
    with results(read_settings()) as store:
        built = build_report(store, run_name)
    if as_json and output is None:
        emit_json(document(built))
        return EXIT_OK
    text = render(
        built, "json" if as_json else RUN_FORMATS[form], colour=output is None and sys.stdout.isatty()
    )
    if output is None:
        click.echo(text)
    else:
        write_whole(Path(output), text)
        note(f"written: {output}")
    return EXIT_OK


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
