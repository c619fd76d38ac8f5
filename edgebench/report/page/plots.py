"""One chart of a page as an SVG file of its own, for a slide or a document. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from edgebench.report.base import clean, name
from edgebench.report.front import Limit, Option, by_device
from edgebench.report.page.base import Subjects
from edgebench.report.page.sections import sections
from edgebench.report.svg import pareto
from edgebench.report.svg.base import Chart, drawing, text

STYLES = Path(__file__).parent / "templates" / "page.css"
# what is typed -> how the charts' keys begin
KINDS = {
    "pareto": "front",
    "gain": "gain",
    "forest": "forest",
    "latency": "lat",
    "memory": "mem",
    "board": "time",
    "layers": "layers",
    "trend": "trend",
}
HEADING = 24.0
FONTS = "'DejaVu Sans','Liberation Sans','Noto Sans',Arial,Helvetica,Verdana,sans-serif"


class Plot(NamedTuple):
    """A chart with the cell or device that it is of."""

    title: str
    chart: Chart


def plots(subjects: Subjects, kind: str, words: str = "") -> list[Plot]:
    """The charts of a kind whose title has these words, in the order of the page."""
    wanted = re.compile(rf"{KINDS[kind]}\d*$")
    return [
        plot
        for plot in _all(subjects)
        if wanted.match(plot.chart.key) and words.lower() in plot.title.lower()
    ]


def _all(subjects: Subjects) -> Iterator[Plot]:
    for section in sections(subjects):
        yield from (Plot(clean(chart.title), chart) for chart in section.charts)
        for fold in section.folded:
            yield from (Plot(clean(f"{fold.title}: {chart.title}"), chart) for chart in fold.charts)


def standalone(chart: Chart) -> str:
    """The chart as a file: in light colours, which it brings along."""
    opened, rest = chart.svg.split(">", 1)
    width, height = _size(chart)
    head = f'{opened} xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}">'
    return f'{head}<style>{_style()}</style><rect width="100%" height="100%" fill="#ffffff"/>{rest}\n'


def fronts(options: Sequence[Option], limits: Sequence[Limit] = ()) -> str:
    """The fronts of every model on every device in one file, one below the other, with budgets as lines."""
    panels = [
        pareto.chart(f"front{number}", f"{name(model)} on {name(device)}", members, limits)
        for number, ((device, model), members) in enumerate(by_device(options).items(), 1)
        if any("p50" in each.figures for each in members)
    ]
    top, parts = 0.0, []
    for each in panels:
        parts.append(text(8, top + 18, each.title, "heading"))
        parts.append(_placed(each, top + HEADING))
        top += HEADING + _size(each)[1]
    if not parts:
        top, parts = HEADING, [text(8, 18, "nothing was measured", "label")]
    picture = drawing("fronts", "Pareto fronts", "; ".join(each.finding for each in panels), top, *parts)
    return standalone(Chart("fronts", "Pareto fronts", "", picture, (), ()))


def _placed(chart: Chart, top: float) -> Markup:
    """A chart inside another picture, at a height."""
    width, height = _size(chart)
    placed = f'<svg y="{top:g}" width="{width:g}" height="{height:g}" '
    return Markup(str(chart.svg).replace("<svg ", placed, 1))  # noqa: S704 - numbers of ours


def _size(chart: Chart) -> tuple[float, float]:
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart.svg)[0]
    return float(width), float(height)


@cache
def _style() -> str:
    """The page's rules for charts, without variables: not every program that shows SVG knows them."""
    text = STYLES.read_text(encoding="utf-8")
    light = dict(re.findall(r"(--[\w-]+):(#[0-9a-f]{6})", text[: text.index("}")]))
    rules = re.findall(r"^(svg [^{]+\{[^}]*\}(?:svg [^{]+\{[^}]*\})*)$", text, re.MULTILINE)
    light["--card"] = "#ffffff"
    plain = re.sub(r"var\((--[\w-]+)\)", lambda found: light[found[1]], "".join(rules))
    return re.sub(r"svg (?=[.\w*])", "", plain).replace("system-ui,sans-serif", FONTS)
