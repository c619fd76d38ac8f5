"""One chart of a page as an SVG file of its own, for a slide or a document. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from edgebench.report.base import clean
from edgebench.report.page.base import Subjects
from edgebench.report.page.sections import sections
from edgebench.report.svg.base import Chart

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
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', opened)[0]
    head = f'{opened} xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
    return f'{head}<style>{_style()}</style><rect width="100%" height="100%" fill="#ffffff"/>{rest}\n'


@cache
def _style() -> str:
    """The page's rules for charts, without variables: not every program that shows SVG knows them."""
    text = STYLES.read_text(encoding="utf-8")
    light = dict(re.findall(r"(--[\w-]+):(#[0-9a-f]{6})", text[: text.index("}")]))
    rules = re.findall(r"^(svg [^{]+\{[^}]*\}(?:svg [^{]+\{[^}]*\})*)$", text, re.MULTILINE)
    plain = re.sub(r"var\((--[\w-]+)\)", lambda found: light[found[1]], "".join(rules))
    return re.sub(r"svg (?=[.\w*])", "", plain).replace("system-ui,sans-serif", FONTS)
