"""`edgebench coverage [RUN]`: which cells of the plan have no valid number, and why."""

from __future__ import annotations

import click

from edgebench.cli.output import json_option, note
from edgebench.cli.setup import read_settings
from edgebench.cli.sheets import FORMATS, Answer, Wish, give
from edgebench.cli.sources import opened
from edgebench.errors import EXIT_INCONCLUSIVE, EXIT_NOTHING_DONE, EXIT_OK
from edgebench.report.base import label
from edgebench.report.fleet import causes
from edgebench.report.fleet import coverage as coverage_of
from edgebench.report.sheet import Sheet

MOST_CAUSES = 5


@click.command()
@click.argument("run_name", metavar="[RUN]", default="latest")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write there; default: stdout.")
@json_option
def coverage(run_name: str, form: str, output: str | None, as_json: bool) -> int:
    """Which planned cells of RUN have no valid number, and why: failed, not run, invalid, emulated.

    Exit code: 0 every cell has one, 3 some have none, 5 nothing was planned.
    """
    with opened(read_settings()) as sources:
        source = sources.named(run_name)
        found = coverage_of(cell for device in source.devices() for cell in source.of(device).candidates)
    sheet = Sheet(
        ("cell", "target", "why there is no number", "reason"),
        [(label(gap.subject), gap.subject.target, gap.kind, gap.why) for gap in found.gaps],
    )
    plain = [
        {
            "device": gap.subject.device,
            "target": gap.subject.target,
            "model": gap.subject.model,
            "variant": gap.subject.variant,
            "runtime": gap.subject.runtime,
            "precision": gap.subject.precision,
            "kind": gap.kind,
            "why": gap.why,
        }
        for gap in found.gaps
    ]
    head = {"planned": found.planned, "valid": found.valid}
    wish = Wish("json" if as_json else form, output)
    if found.gaps or wish.form != "table":
        give(Answer(sheet, "gaps", plain, head), wish)
    note(f"{found.valid} of {found.planned} planned cells have a valid number")
    for kind, why, count in causes(found)[:MOST_CAUSES]:
        note(f"  {count} {kind}: {why}")
    return EXIT_NOTHING_DONE if not found.planned else EXIT_INCONCLUSIVE if found.gaps else EXIT_OK
