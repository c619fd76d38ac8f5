"""Ratios with their 95 % intervals, one a line, on a logarithmic scale around 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from edgebench.report.svg.base import (
    WIDTH,
    Axis,
    Chart,
    Scale,
    band,
    bottom,
    cut,
    drawing,
    element,
    line,
    text,
    titled,
)
from edgebench.units import significant

ROW = 34.0
ROOM = 58  # characters of a name and of what stands at the other end of its line
LABEL = 22
EDGE = 8.0
WIDEST = 1000.0  # a ratio beyond that is drawn at the edge


class Ratio(NamedTuple):
    """One line: `verdict` is its word, `short` what of it is drawn; `style` harm, gain or plain."""

    name: str
    value: float
    low: float | None
    high: float | None
    verdict: str
    style: str = "plain"
    short: str = ""


class Words(NamedTuple):
    """What a forest is called, what its axis says, and what there is to see."""

    title: str
    axis: str
    finding: str


def chart(key: str, words: Words, ratios: Sequence[Ratio]) -> Chart:
    """The ratios in the order given."""
    top, floor = 4.0, 4.0 + ROW * len(ratios)
    scale = _scale(ratios, EDGE, WIDTH - EDGE)
    marks = [_mark(each, scale, top + ROW * place) for place, each in enumerate(ratios)]
    picture = drawing(
        key,
        words.title,
        words.finding,
        floor + 38,
        bottom(Axis(words.axis, scale), top, floor),
        line(scale(1.0), top, scale(1.0), floor, "one"),
        *marks,
    )
    rows = tuple(
        (
            each.name,
            significant(each.value),
            "-" if each.low is None else significant(each.low),
            "-" if each.high is None else significant(each.high),
            each.verdict,
        )
        for each in ratios
    )
    return Chart(key, words.title, words.finding, picture, ("cell", "ratio", "low", "high", "verdict"), rows)


def _scale(ratios: Sequence[Ratio], left: float, right: float) -> Scale:
    """Wide enough for every value and for 1 with some room; intervals may reach the edge."""
    values = [value for each in ratios for value in (each.value, each.low, each.high) if value]
    high = min(WIDEST, max([1.0, *values]))
    low = max(1 / WIDEST, min([1.0, *values]))
    return Scale(low / 1.06, high * 1.06, left, right, is_log=True)


def _label(ratio: Ratio) -> str:
    """With three decimals near 1, where fewer would hide what there is."""
    value = f"{ratio.value:.3f}" if 0.5 < ratio.value < 2 else significant(ratio.value)
    return f"{value}× {ratio.short}".strip()


def _mark(ratio: Ratio, scale: Scale, y: float) -> Markup:
    """The name and the word above, the interval below them."""
    label = cut(_label(ratio), LABEL)
    parts = [
        band(y, 17),
        text(2, y + 13, cut(ratio.name, ROOM - len(label)), "label"),
        text(WIDTH - 2, y + 13, label, "label", "end"),
    ]
    y += 24
    told = f"{ratio.name}: {significant(ratio.value)}"
    if ratio.low is not None and ratio.high is not None:
        parts.append(line(scale(ratio.low), y, scale(ratio.high), y, "error"))
        told += f", 95 % {significant(ratio.low)} to {significant(ratio.high)}"
    x = scale(ratio.value)
    parts.append(element("rect", x=x - 4, y=y - 4, width=8, height=8, class_=f"square {ratio.style}"))
    return titled(f"{told}, {ratio.verdict}", *parts)
