"""`edgebench report [RUN]`: a stored run as text or as a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from edgebench.cli.grouping import Grouping, group
from edgebench.cli.output import emit_json, json_option, note
from edgebench.cli.setup import read_settings, results
from edgebench.cli.showing import build_report, render, write_whole
from edgebench.errors import EXIT_OK, UserError
from edgebench.report import badge, markdown
from edgebench.report.document import document

if TYPE_CHECKING:
    from edgebench.cli.plotting import Wish
    from edgebench.report.page import Subjects

FORMATS = ("terminal", "table", "markdown", "md", "csv", "json", "parquet", "prometheus", "badge")
SAME = {"table": "terminal", "md": "markdown"}
OF_GROUPS = {"terminal": "table", "markdown": "md"} | {
    each: each for each in ("table", "md", "csv", "json", "parquet")
}
GITHUB = {"summary": 1_000_000, "comment": 65_000}  # bytes; it takes 1 MiB, and 65,536 characters
KINDS = ("pareto", "gain", "forest", "latency", "memory", "board", "layers", "trend")


@click.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), default="terminal", show_default=True)
@click.option(
    "-o", "--output", "--out", type=click.Path(), metavar="FILE", help="Write there; default: stdout."
)
@click.option(
    "--fit",
    type=click.Choice(tuple(GITHUB)),
    help="Markdown within what GitHub takes: a job's summary or a comment.",
)
@click.option("--group", "keys", metavar="KEY,...", help="A metric by target, runtime, device, ... instead.")
@click.option("--metric", metavar="METRIC", help="For --group; default: latency.p50.")
@click.option("--html", type=click.Path(), metavar="FILE", help="Write one HTML file that needs no network.")
@click.option("--plot", "kind", type=click.Choice(KINDS), help="One chart, into -o FILE.svg or FILE.png.")
@click.option("--cell", "words", metavar="TEXT", help="For --plot: words in the chart's title.")
@click.option("--budgets", type=click.Path(), metavar="FILE", help="For a page or plot: limits of cells.")
@click.option("--baseline", metavar="RUN|RELEASE", help="For a page or plot: what cells are compared with.")
@json_option
def report(
    run_name: str | None,
    form: str,
    output: str | None,
    fit: str | None,
    keys: str | None,
    metric: str | None,
    html: str | None,
    kind: str | None,
    words: str | None,
    budgets: str | None,
    baseline: str | None,
    as_json: bool,
) -> int:
    """Show RUN (an id, its beginning, a release; default: the latest) as a table, Markdown, JSON or HTML.

    --group takes all cells of RUN, and without RUN every cell of the fleet as it was measured last; its
    formats are table, md, csv, json and parquet (docs/reports.md).
    """
    _check(Given(keys, metric, html, kind, words, budgets, baseline))
    if keys is not None:
        return _group(Grouping(keys, metric or "latency.p50", run_name), "json" if as_json else form, output)
    if html is not None or kind is not None:
        wish = None if kind is None else _plot_wish(kind, words or "", output)
        made = _subjects(run_name or "latest", budgets, baseline)
        if html is not None:
            _write_page(made, Path(html), as_json=as_json)
        if wish is not None:
            _write_plot(made, wish, as_json=as_json)
        return EXIT_OK
    _show(run_name or "latest", SAME.get(form, form), Place(output, fit), as_json=as_json)
    return EXIT_OK


class Given(NamedTuple):
    """Options that stand only beside others."""

    keys: str | None
    metric: str | None
    html: str | None
    kind: str | None
    words: str | None
    budgets: str | None
    baseline: str | None


def _check(given: Given) -> None:
    if given.metric is not None and given.keys is None:
        raise UserError(
            "--metric is for --group", hint="edgebench report --group target,runtime --metric ..."
        )
    if given.words is not None and given.kind is None:
        raise UserError("--cell is for --plot", hint="edgebench report --plot pareto --cell TEXT -o FILE.svg")
    compares = given.budgets is not None or given.baseline is not None
    if compares and given.html is None and given.kind is None:
        raise UserError(
            "--budgets and --baseline are for --html and --plot", hint="edgebench gate RUN --budgets FILE"
        )


def _group(asked: Grouping, form: str, output: str | None) -> int:
    from edgebench.cli.sheets import Wish

    if form not in OF_GROUPS:
        raise UserError(f"groups have no form {form}", hint=f"one of {', '.join(OF_GROUPS)}")
    return group(asked, Wish(OF_GROUPS[form], output))


class Place(NamedTuple):
    """Where a text goes, None is stdout, and what it must fit there."""

    output: str | None
    fit: str | None


def _show(run_name: str, form: str, place: Place, *, as_json: bool) -> None:
    output = place.output
    if place.fit is not None and form != "markdown":
        raise UserError("--fit is for Markdown", hint=f"edgebench report --format markdown --fit {place.fit}")
    if form == "parquet":
        raise UserError("a run's report has no Parquet form", hint="edgebench export RUN --parquet FOLDER")
    with results(read_settings()) as store:
        built = build_report(store, run_name)
        judgement = store.judgement(built.run.id)
    if as_json and output is None:
        emit_json(document(built))
        return
    if form == "badge" and not as_json:
        text = badge.render(judgement, built.counts).rstrip("\n")
    elif place.fit is not None and not as_json:
        text = markdown.fitted(built, GITHUB[place.fit]).rstrip("\n")
    else:
        text = render(built, "json" if as_json else form, colour=output is None and sys.stdout.isatty())
    if output is None:
        click.echo(text)
    else:
        write_whole(Path(output), text)
        note(f"written: {output}")


def _subjects(run_name: str, budgets_file: str | None, baseline: str | None) -> Subjects:
    """What the page of a run is made of."""
    from edgebench import budgets
    from edgebench.cli.paging import Against, subjects
    from edgebench.cli.sources import opened
    from edgebench.documents import read_text

    rules = None if budgets_file is None else budgets.parse(read_text(Path(budgets_file)), budgets_file)
    with opened(read_settings()) as sources:
        return subjects(run_name, Against(rules, baseline), sources)


def _write_page(made: Subjects, path: Path, *, as_json: bool) -> None:
    from edgebench.report.page import render as render_page

    write_whole(path, render_page(made).rstrip("\n"))
    if as_json:
        emit_json({"schema": 1, "run": made.report.run.id, "html": str(path)})
    else:
        click.echo(f"report: {path}")


def _plot_wish(kind: str, words: str, output: str | None) -> Wish:
    """What was typed of a plot, looked at before anything is read."""
    from edgebench.cli.plotting import Wish

    if output is None:
        raise UserError("a plot needs a file", hint=f"edgebench report --plot {kind} -o FILE.svg")
    path = Path(output)
    if path.suffix not in (".svg", ".png"):
        raise UserError(f'no plot ends in "{path.suffix}"', hint="name a FILE.svg or FILE.png")
    return Wish(kind, words, path)


def _write_plot(made: Subjects, wish: Wish, *, as_json: bool) -> None:
    from edgebench.cli.plotting import plot

    plot(made, wish, as_json=as_json)
