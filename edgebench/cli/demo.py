"""`edgebench demo`: the main job on a real trained network, on this computer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

import edgebench
from edgebench.cli.output import json_option, note
from edgebench.cli.paging import Against, subjects
from edgebench.cli.run import Wish, new_run
from edgebench.cli.setup import read_settings
from edgebench.cli.showing import render, write_whole
from edgebench.cli.sources import opened
from edgebench.convert.tools import available
from edgebench.fleet.plan import Plan, PlannedModel, WorkloadChanges
from edgebench.inventory import this_target
from edgebench.report.page import render as render_page
from edgebench.settings import Settings
from edgebench.targets import find

DATA = Path(edgebench.__file__).parent / "demo"
PRECISIONS = ("fp32", "fp16", "int8", "int8-dynamic")


@click.command()
@click.option("--launches", type=int, default=3, show_default=True, help="Fresh processes per job.")
@json_option
def demo(launches: int, as_json: bool) -> int:
    """Handwritten digits: a trained network in five forms, converted, proven equal and measured here."""
    settings = replace(read_settings(), inventory=None)  # this computer, whatever the fleet is
    built, code = new_run(_plan(settings, launches), settings, Wish(skip_unsupported=True, as_json=as_json))
    folder = settings.home / "reports"
    write_whole(folder / f"{built.run.id}.md", render(built, "markdown"))
    path = folder / f"{built.run.id}.html"
    with opened(settings) as sources:
        page = render_page(subjects(built.run.id, Against(), sources))
    write_whole(path, page.rstrip("\n"))
    note(f"report: {path}") if as_json else click.echo(f"report: {path}")
    return code


def _plan(settings: Settings, launches: int) -> Plan:
    """The digits network as it is and pruned, on every runtime that is installed."""
    inputs, calibration = str(DATA / "digits-test.npz"), str(DATA / "digits-calibration.npz")
    digits = PlannedModel(path=str(DATA / "digits.onnx"), inputs=inputs, calibration=calibration)
    pruned = PlannedModel(
        path=str(DATA / "digits-pruned.onnx"),
        inputs=inputs,
        calibration=calibration,
        precisions=("fp32", "int8"),
    )
    return Plan(
        models=(digits, pruned),
        runtimes=_runtimes(settings),
        precisions=PRECISIONS,
        on="local",
        workload=WorkloadChanges(launches=launches, threads=1),
    )


def _runtimes(settings: Settings) -> tuple[str, ...]:
    """The runtimes that are installed and run on this computer."""
    here = find(this_target())
    return tuple(
        each.runtime for each in available(settings.home) if each.ready and each.runtime in here.runtimes
    )
