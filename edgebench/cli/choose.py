"""`edgebench choose [RUN]`: what is worth having on each device, and what to ship within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgebench.cli.output import emit_json, json_option, note, print_table
from edgebench.cli.plotting import png
from edgebench.cli.setup import read_settings, results
from edgebench.cli.showing import build_report, write_bytes, write_whole
from edgebench.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK, NothingDone
from edgebench.records import to_json
from edgebench.report.front import (
    METRICS,
    Choice,
    Limit,
    Metric,
    Option,
    choose,
    figures_of,
    options,
    parse_budget,
)
from edgebench.report.page.plots import fronts


@click.command(name="choose")
@click.argument("run_name", metavar="[RUN]", default="latest")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="TEXT",
    help='What the choice must keep: "p99 <= 20 ms, size <= 5 MiB, drop <= 1 pp"; may be repeated.',
)
@click.option(
    "--prefer",
    type=click.Choice(METRICS),
    default="p50",
    show_default=True,
    help="Of those that keep the budgets, the best by this.",
)
@click.option("--svg", "svg_file", type=click.Path(), metavar="FILE", help="Write the front as a picture.")
@click.option("--png", "png_file", type=click.Path(), metavar="FILE", help="The same as PNG.")
@json_option
def choose_(
    run_name: str,
    budgets: tuple[str, ...],
    prefer: Metric,
    svg_file: str | None,
    png_file: str | None,
    as_json: bool,
) -> int:
    """The Pareto front of RUN on every device, and the variant to ship for each kind of device and why.

    Exit code 0 where there is one for each, 1 where budgets leave none, 3 where intervals are too wide.
    """
    limits = [limit for text in budgets for limit in parse_budget(text)]
    with results(read_settings()) as store:
        built = build_report(store, run_name)
        measured = {each.id: each for each in store.measurements(built.run.id)}
    found = options(built.rows, measured)
    if not found:
        raise NothingDone(
            f"run {built.run.id} has nothing to choose from: no job was measured",
            hint=f"edgebench report {built.run.id} says why",
        )
    chosen = choose(found, limits, prefer)
    drawn = fronts(found, limits)
    if svg_file is not None:
        write_whole(Path(svg_file), drawn)
    if png_file is not None:
        write_bytes(Path(png_file), png(drawn))
    if as_json:
        emit_json(_document(built.run.id, found, chosen))
    else:
        _show(found, chosen, limits)
        for file in filter(None, (svg_file, png_file)):
            note(f"written: {file}")
    return exit_code(chosen)


def exit_code(chosen: tuple[Choice, ...]) -> int:
    """The worst answer."""
    answers = {each.answer for each in chosen}
    if "nothing" in answers:
        return EXIT_GATE_FAILED
    return EXIT_INCONCLUSIVE if "inconclusive" in answers else EXIT_OK


def _document(run: str, found: tuple[Option, ...], chosen: tuple[Choice, ...]) -> dict[str, Any]:
    return {
        "schema": 1,
        "run": run,
        "options": [to_json(each) for each in found],
        "choices": [to_json(each) for each in chosen],
    }


def _show(found: tuple[Option, ...], chosen: tuple[Choice, ...], limits: list[Limit]) -> None:
    for device, model in dict.fromkeys((each.device, each.model) for each in found):
        group = [each for each in found if (each.device, each.model) == (device, model)]
        ordered = sorted(group, key=_order)
        headings, figures = figures_of(ordered)
        click.echo(f"{model} on {device}")
        rows = [_row(each, cells) for each, cells in zip(ordered, figures, strict=True)]
        print_table(["option", *headings, "on the front"], rows, right=range(1, len(headings) + 1))
        click.echo()
    for choice in chosen:
        _show_choice(choice, limits)


def _order(option: Option) -> tuple[int, float]:
    p50 = option.figures.get("p50")
    return ("front", "unsure", "dominated").index(option.place), 0.0 if p50 is None else p50.value


def _row(option: Option, cells: tuple[str, ...]) -> tuple[str, ...]:
    words = {"front": "yes", "unsure": f"unsure: {option.by} may be better", "dominated": f"no: {option.by}"}
    return f"{option.name} · {option.runtime}", *cells, words[option.place]


def _show_choice(choice: Choice, limits: list[Limit]) -> None:
    where = f"{choice.target} ({', '.join(choice.devices)})"
    asked = f" within {', '.join(limit.text for limit in limits)}" if limits else ""
    if not choice.name:
        click.echo(f"{where}: ship nothing of {choice.model}{asked}: {choice.reason}")
    else:
        word = "ship" if choice.answer == "ship" else "perhaps"
        click.echo(
            f"{where}: {word} {choice.model} {choice.name} on {choice.runtime}{asked}: {choice.reason}"
        )
    for holding in choice.holdings:
        click.echo(f"  {holding.budget} on {holding.device}: {holding.kept}, {holding.told}")
    for name, why in choice.rejected.items():
        click.echo(f"  not {name}: {why}")
