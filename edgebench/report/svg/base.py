"""What all charts share: escaped elements, scales with round ticks, the frame with titled axes. Pure.

Colours come by class from the page's style sheet, never as attributes; coordinates have one decimal. Every
text passes `clean` and is escaped here: names come from other machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from edgebench.report.base import clean
from edgebench.units import significant

WIDTH = 360.0  # a phone shows it at its full size, a desk three beside each other
LABEL_CHARACTERS = 34


class Chart(NamedTuple):
    """One drawing with its words: `finding` says what is to be seen, `rows` are its numbers as a table."""

    key: str
    title: str
    finding: str
    svg: Markup
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Scale(NamedTuple):
    """From values to coordinates, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value; what lies outside is drawn at the edge."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low * 1e-9)))
            if self.is_log
            else (self.low, self.high, value)
        )
        share = (value - low) / (high - low)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))

    def ticks(self) -> list[float]:
        """Three to eight round values inside."""
        if self.is_log and self.high / self.low > 8:
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]


def scale_of(
    values: Iterable[float], start: float, end: float, *, log: bool = False, zero: bool = False
) -> Scale:
    """The scale that shows all of these values with a little room; of equal values one around them."""
    known = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    low, high = min(known), max(known)
    if log:
        return Scale(low / 1.06, high * 1.06, start, end, is_log=True)
    if zero:
        return Scale(0.0, high * 1.05 if high > 0 else 1.0, start, end)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - room, high + room, start, end)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    found: list[float] = []
    for factors in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) <= 8:
            break
    return found[:: -(-len(found) // 8)] if found else []


# --- elements -------------------------------------------------------------------------------------


def element(name: str, /, *children: str, **attributes: str | float) -> Markup:
    """One element: attributes quoted and escaped ("class_" is class, "_" becomes "-"), children escaped."""
    told = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), _value(value))  # noqa: S704
        for key, value in attributes.items()
    )
    tag = Markup(name)  # noqa: S704 - a constant of ours
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, told, inside)


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, words: str, style: str = "label", anchor: str = "start") -> Markup:
    """Words at a place; clean."""
    return element("text", clean(words), x=x, y=y, class_=style, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def band(y: float, height: float) -> Markup:
    """A ground for a line of words inside a chart, so that no grid line crosses them."""
    return element("rect", x=0, y=y, width=WIDTH, height=height, class_="ground")


def path(points: Sequence[tuple[float, float]], style: str) -> Markup:
    """One polyline."""
    told = "".join(f"{'L' if at else 'M'}{_value(x)} {_value(y)}" for at, (x, y) in enumerate(points))
    return element("path", d=told, class_=style)


def titled(words: str, *children: str, style: str = "mark") -> Markup:
    """A mark with what it says when it is pointed at."""
    return element("g", element("title", clean(words)), *children, class_=style)


def cut(words: str, most: int = LABEL_CHARACTERS) -> str:
    """A name cut in its middle, so that its beginning and its end can be read."""
    plain = clean(words)
    if len(plain) <= most:
        return plain
    half = (most - 1) // 2
    return f"{plain[: most - 1 - half]}…{plain[-half:]}"


# --- the frame ------------------------------------------------------------------------------------


class Axis(NamedTuple):
    """A scale and what it shows, with its unit: "p50, ms"."""

    title: str
    scale: Scale

    def labels(self) -> list[tuple[float, str]]:
        """Ticks as places and words."""
        return [(self.scale(tick), significant(tick)) for tick in self.scale.ticks()]


def bottom(axis: Axis, top: float, floor: float) -> Markup:
    """A horizontal axis below a chart, with grid lines up to its top."""
    middle = (axis.scale.start + axis.scale.end) / 2
    parts = [
        Markup("").join((line(x, top, x, floor, "grid"), text(x, floor + 14, words, "tick", "middle")))
        for x, words in axis.labels()
    ]
    return Markup("").join([*parts, text(middle, floor + 31, axis.title, "axis-title", "middle")])


def side(axis: Axis, left: float, right: float) -> Markup:
    """A vertical axis at the left, with grid lines; its title stands above it."""
    parts = [
        Markup("").join((line(left, y, right, y, "grid"), text(left - 5, y + 4, words, "tick", "end")))
        for y, words in axis.labels()
    ]
    top = min(axis.scale.start, axis.scale.end)
    return Markup("").join([*parts, text(4, top - 8, axis.title, "axis-title")])


def drawing(key: str, title: str, told: str, height: float, *parts: str, width: float = WIDTH) -> Markup:
    """The whole picture, named for those who cannot see it."""
    return element(
        "svg",
        element("title", clean(title), id=f"t-{key}"),
        element("desc", clean(told), id=f"d-{key}"),
        *parts,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        role="img",
        aria_labelledby=f"t-{key} d-{key}",
    )
