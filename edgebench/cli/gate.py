"""`edgebench gate`: the verdict on a run or file, from its measurements alone; no device is touched."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from edgebench import budgets as budget_files
from edgebench.cli.output import emit_json, json_option
from edgebench.cli.showing import write_bytes, write_whole
from edgebench.cli.sources import cells_of, check_not_empty, measured
from edgebench.cli.verdicts import exit_code, print_gate
from edgebench.documents import read_text
from edgebench.evidence import Evidence, Inconclusive, Question, pack
from edgebench.gates import Gate, needs_samples
from edgebench.gates import gate as judge
from edgebench.gates.document import document
from edgebench.report import job_summary, openmetrics
from edgebench.report import junit as junit_xml


@click.command()
@click.argument("candidate", metavar="RUN|FILE.json")
@click.option("--baseline", metavar="RUN|FILE.json", help="What `regress` limits compare with.")
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
    as_json: bool,
) -> int:
    """Judge every cell of CANDIDATE by the budgets: pass, fail, or why it cannot be said.

    Exit code: 0 all passed, 1 a limit is exceeded with confidence, 3 something is inconclusive, 4 something
    has no valid measurement, 5 nothing was judged, 2 a mistake in what was typed or in the budgets.
    """
    text = read_text(Path(budgets_file))
    rules = budget_files.parse(text, budgets_file)
    file = measured(candidate)
    found = cells_of(file, with_samples=needs_samples(rules))
    check_not_empty(found.candidates, candidate)
    against = None if baseline is None else measured(baseline)
    before = found.baselines if against is None else cells_of(against).candidates
    today = datetime.now(UTC).date()
    judged = judge(found.candidates, rules, before, today=today, duets=found.duets)
    if bundle is not None:
        question = Question(
            day=today.isoformat(),
            budgets=budgets_file,
            candidate=candidate,
            baseline=baseline or "",
            inconclusive=inconclusive,
        )
        write_bytes(Path(bundle), pack(Evidence(question, text, file, against), judged))
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
    plain = msgspec.json.format(msgspec.json.encode(document(judged)), indent=2).decode()
    texts = (
        (files.output, plain),
        (files.junit, junit_xml.render(judged, inconclusive_fails=inconclusive_fails)),
        (files.summary, job_summary.render(judged)),
        (files.metrics, openmetrics.render(judged)),
    )
    for path, text in texts:
        if path is not None:
            write_whole(Path(path), text.rstrip("\n"))
