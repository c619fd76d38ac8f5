"""`edgebench gate`: the verdict on a run or file, from its measurements alone; no device is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from edgebench import budgets as budget_files
from edgebench.cli.judging import answered, evidence, keep, question
from edgebench.cli.output import emit_json, json_option
from edgebench.cli.setup import read_settings
from edgebench.cli.showing import write_bytes, write_parts, write_whole
from edgebench.cli.sources import check_not_empty, opened
from edgebench.cli.verdicts import exit_code, print_gate
from edgebench.cli.workers import answered_together
from edgebench.documents import read_text
from edgebench.evidence import Inconclusive, pack
from edgebench.gates import Gate
from edgebench.gates.document import document, document_parts
from edgebench.report import job_summary, openmetrics
from edgebench.report import junit as junit_xml


@click.command()
@click.argument("candidate", metavar="RUN|RELEASE|FILE.json")
@click.option("--baseline", metavar="RUN|RELEASE|FILE.json", help="What `regress` limits compare with.")
@click.option(
    "--budgets", "budgets_file", type=click.Path(), default="budgets.yaml", show_default=True, metavar="FILE"
)
@click.option("--junit", type=click.Path(), metavar="FILE", help="JUnit XML, for GitLab and Jenkins.")
@click.option("--summary", type=click.Path(), metavar="FILE", help="Markdown, for a job's summary.")
@click.option("--metrics", type=click.Path(), metavar="FILE", help="OpenMetrics.")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="gate.json: what --json prints.")
@click.option("--bundle", type=click.Path(), metavar="FILE.zip", help="All that led to it, for `replay`.")
@click.option("--annotate", is_flag=True, help="Print GitHub's annotations.")
@click.option(
    "--inconclusive",
    type=click.Choice(["keep", "fail", "pass"]),
    default="keep",
    show_default=True,
    help="What an inconclusive cell is for the exit code: 3, 1 or 0.",
)
@click.option(
    "--keep/--no-keep",
    "keep_it",
    default=True,
    help="Note the verdict with the stored run, so that its release knows.",
)
@json_option
def gate(
    candidate: str,
    baseline: str | None,
    budgets_file: str,
    junit: str | None,
    summary: str | None,
    metrics: str | None,
    output: str | None,
    bundle: str | None,
    annotate: bool,
    inconclusive: Inconclusive,
    keep_it: bool,
    as_json: bool,
) -> int:
    """Judge every cell of CANDIDATE by the budgets: pass, fail, or why it cannot be said.

    Exit code: 0 all passed, 1 a limit is exceeded with confidence, 3 something is inconclusive, 4 something
    has no valid measurement, 5 nothing was judged, 2 a mistake in what was typed or in the budgets.
    """
    text = read_text(Path(budgets_file))
    rules = budget_files.parse(text, budgets_file)
    settings = read_settings()
    with opened(settings) as sources:
        asked = question(candidate, baseline, rules, sources)
        check_not_empty(asked.candidate.devices(), candidate)
        judged = answered_together(asked, sources, settings) or answered(asked, sources.store)
        if keep_it:
            keep(judged, asked, sources.store)
        if bundle is not None:
            write_bytes(Path(bundle), pack(evidence(asked, text, inconclusive, sources), judged))
    _write(judged, Files(junit, summary, metrics, output), inconclusive_fails=inconclusive == "fail")
    if annotate:
        click.echo(job_summary.workflow_commands(judged), nl=False, err=as_json)  # GitHub reads both
    if as_json:
        emit_json(document(judged))
    else:
        print_gate(judged)
    return exit_code(judged, inconclusive)


class Files(NamedTuple):
    """Where a gate is written besides."""

    junit: str | None = None
    summary: str | None = None
    metrics: str | None = None
    output: str | None = None


def _write(judged: Gate, files: Files, *, inconclusive_fails: bool) -> None:
    if files.output is not None:
        write_parts(Path(files.output), gate_json(judged))
    made: tuple[tuple[str | None, Callable[[], str]], ...] = (
        (files.junit, lambda: junit_xml.render(judged, inconclusive_fails=inconclusive_fails)),
        (files.summary, lambda: job_summary.render(judged)),
        (files.metrics, lambda: openmetrics.render(judged)),
    )
    for path, render in made:
        if path is not None:
            write_whole(Path(path), render().rstrip("\n"))


def gate_json(judged: Gate) -> Iterator[bytes]:
    """gate.json piece by piece, a cell a line: a large fleet's is never in memory as a whole."""
    cells, rest = document_parts(judged)
    head = msgspec.json.encode(rest)[:-1]
    yield head + b', "cells": ['
    for number, cell in enumerate(cells):
        yield (b"\n " if not number else b",\n ") + msgspec.json.encode(cell)
    yield b"\n]}\n"
