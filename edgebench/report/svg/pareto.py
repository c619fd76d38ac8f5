"""One model's forms on one device: latency against accuracy (or size) with intervals, the front marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from edgebench.accuracy import TOP1
from edgebench.report.front import METRICS, Limit, Metric, Option, Place, cell, figures_of, title, unit
from edgebench.report.svg.base import (
    WIDTH,
    Axis,
    Chart,
    Scale,
    bottom,
    cut,
    drawing,
    element,
    line,
    path,
    scale_of,
    side,
    text,
    titled,
)
from edgebench.units import NS_PER_MS, format_bytes

LEFT, TOP, FLOOR = 48.0, 26.0, 220.0
LEGEND_ROW = 16.0
LISTED = 40
STYLES: dict[Place, str] = {"front": "front", "unsure": "maybe", "dominated": "dot"}
ORDER: tuple[Place, ...] = ("front", "unsure", "dominated")
ENDINGS: dict[Place, str] = {"front": " · front", "unsure": " · perhaps", "dominated": ""}


class Height(NamedTuple):
    """What a point's height is of: accuracy, or size where none was measured; `factor` makes it `title`'s."""

    metric: Metric
    title: str
    factor: float

    def of(self, option: Option) -> float:
        """The figure in the axis' unit."""
        return option.figures[self.metric].value * self.factor

    def ends(self, option: Option) -> tuple[float, float]:
        """Its interval in the axis' unit."""
        low, high = option.figures[self.metric].ends
        return low * self.factor, high * self.factor


class View(NamedTuple):
    """The scales, what the height is of, and where dots are and numbers stand already."""

    across: Scale
    up: Scale
    height: Height
    dots: list[tuple[float, float]]
    taken: list[tuple[float, float]]


def chart(key: str, heading: str, options: Sequence[Option], limits: Sequence[Limit] = ()) -> Chart:
    """The options of a model on a device as points, each in the place that it has been given."""
    timed = [each for each in options if "p50" in each.figures]
    height = _height(timed)
    shown = [each for each in timed if height.metric in each.figures]
    shown.sort(key=lambda each: each.figures["p50"].value)
    view = _view(shown, height)
    told = _finding(shown, height, len(timed) - len(shown))
    view.dots.extend(_at(option, view) for option in shown)
    ranked = sorted(enumerate(shown, 1), key=lambda each: ORDER.index(each[1].place))
    marks = [_mark(option, number, view) for number, option in ranked]  # the front has the best places
    picture = drawing(
        key,
        heading,
        told,
        FLOOR + 44 + LEGEND_ROW * min(len(shown), LISTED + 1),
        bottom(Axis("p50, ms (logarithmic)", view.across), TOP, FLOOR),
        side(Axis(height.title, view.up), LEFT, WIDTH - 16),
        *_limit_lines(limits, view),
        _front_line(shown, view),
        *reversed(marks),
        *_legend(shown),
    )
    return Chart(key, heading, told, picture, *_table(shown))


def _height(options: Sequence[Option]) -> Height:
    known = [each.accuracy for each in options if each.accuracy and "accuracy" in each.figures]
    if not known:
        sizes = [each.figures["size"].value for each in options if "size" in each.figures]
        unit, factor = ("MiB", 1024.0**2) if max(sizes, default=0) >= 1024**2 else ("KiB", 1024.0)
        return Height("size", f"size, {unit} (logarithmic)", 1 / factor)
    metrics = list(dict.fromkeys(each.metric for each in known))
    if metrics == [TOP1]:
        return Height("accuracy", "accuracy, %", 100.0)
    return Height("accuracy", f"{', '.join(metrics)}, score", 1.0)


def _view(shown: Sequence[Option], height: Height) -> View:
    times = [end / NS_PER_MS for each in shown for end in _drawn_ends(each, "p50")]
    heights = [end * height.factor for each in shown for end in _drawn_ends(each, height.metric)]
    return View(
        scale_of(times, LEFT, WIDTH - 16, log=True),
        scale_of(heights, FLOOR, TOP, log=height.metric == "size"),
        height,
        [],
        [],
    )


def _drawn_ends(option: Option, metric: Metric) -> tuple[float, ...]:
    figure = option.figures[metric]
    return (figure.value, *figure.ends)


# --- points ---------------------------------------------------------------------------------------


def _at(option: Option, view: View) -> tuple[float, float]:
    return view.across(option.figures["p50"].value / NS_PER_MS), view.up(view.height.of(option))


def _mark(option: Option, number: int, view: View) -> Markup:
    x, y = _at(option, view)
    left, right = (view.across(end / NS_PER_MS) for end in option.figures["p50"].ends)
    low, high = (view.up(end) for end in view.height.ends(option))
    bars = [line(left, y, right, y, "error")] if right > left else []
    bars += [line(x, low, x, high, "error")] if low != high else []
    dot = element("circle", cx=x, cy=y, r=_radius(option), class_=STYLES[option.place])
    return titled(f"{number} {_told(option)}", *bars, dot, text(*_free(view, x, y), str(number), "label"))


def _radius(option: Option) -> float:
    """Larger for larger files: from 100 kB to 100 MB a dot grows from 4 to 10."""
    size = option.figures.get("size")
    return 4.0 if size is None else min(10.0, max(4.0, 4.0 + 2.0 * math.log10(max(1.0, size.value) / 1e5)))


def _told(option: Option) -> str:
    figures = ", ".join(
        f"{metric} {cell(option, metric)} {unit(option, metric)}".strip()
        for metric in METRICS
        if metric in option.figures
    )
    return f"{title(option)}: {figures}; on the front: {_place(option)}"


def _place(option: Option) -> str:
    """Whether it is on the front, and what it is that speaks against it."""
    if option.place == "dominated":
        return f"no: {option.by} is better"
    return f"perhaps: {option.by} may be better" if option.place == "unsure" else "yes"


def _free(view: View, x: float, y: float) -> tuple[float, float]:
    """A place for a number beside a dot where no dot and no other number is; noted in `taken`."""
    around = [
        (across, down)
        for reach in (0, 12, 24, 36)
        for down in (-5, 12, 4, -16, 22)
        for across in (8 + reach, -18 - reach)
    ]
    places = [(x + across, y + down) for across, down in around]
    free = [place for place in places if _is_free(view, place)]
    view.taken.append((free or places)[0])
    return view.taken[-1]


def _is_free(view: View, place: tuple[float, float]) -> bool:
    x, y = place
    apart = all(abs(x - other[0]) > 13 or abs(y - other[1]) > 10 for other in view.taken)
    seen = all(abs(x + 5 - dot[0]) > 10 or abs(y - 4 - dot[1]) > 9 for dot in view.dots)
    return apart and seen and LEFT < x < WIDTH - 16 and TOP < y < FLOOR


# --- lines ----------------------------------------------------------------------------------------


def _front_line(shown: Sequence[Option], view: View) -> Markup:
    """The step line of the front in the two dimensions that are drawn."""
    better: Callable[[float, float], bool] = (
        (lambda one, other: one > other)
        if view.height.metric == "accuracy"
        else (lambda one, other: one < other)
    )
    steps: list[tuple[float, float]] = []
    best: float | None = None
    for option in shown:
        value = view.height.of(option)
        if option.place != "front" or (best is not None and not better(value, best)):
            continue
        x, y = _at(option, view)
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
        best = value
    return path(steps, "front-line") if len(steps) > 1 else Markup("")


def _limit_lines(limits: Iterable[Limit], view: View) -> Iterator[Markup]:
    """The budgets that lie within the picture, with their words."""
    for limit in limits:
        if limit.metric == "p50" and _is_inside(value := limit.value / NS_PER_MS, view.across):
            x = view.across(value)
            yield line(x, TOP, x, FLOOR, "limit")
            yield text(x + 4, TOP + 10, limit.text, "tick")
        if limit.metric == view.height.metric and _is_inside(
            value := limit.value * view.height.factor, view.up
        ):
            y = view.up(value)
            yield line(LEFT, y, WIDTH - 16, y, "limit")
            yield text(LEFT + 4, y - 4, limit.text, "tick")


def _is_inside(value: float, scale: Scale) -> bool:
    return scale.low <= value <= scale.high


# --- words ----------------------------------------------------------------------------------------


def _legend(shown: Sequence[Option]) -> Iterator[Markup]:
    """The names below the axis."""
    lines = [
        f"{number} {cut(title(option), 32)}{_size(option)}{ENDINGS[option.place]}"
        for number, option in enumerate(shown[:LISTED], 1)
    ]
    if len(shown) > LISTED:
        lines.append(f"and {len(shown) - LISTED} more")
    for place, words in enumerate(lines):
        yield text(4, FLOOR + 52 + LEGEND_ROW * place, words, "label")


def _size(option: Option) -> str:
    return f" · {format_bytes(option.figures['size'].value)}" if "size" in option.figures else ""


def _finding(shown: Sequence[Option], height: Height, without: int) -> str:
    told = f"On the front: {_names(shown, 'front') or 'none'}."
    if unsure := _names(shown, "unsure"):
        told += f" Perhaps: {unsure}."
    if height.metric == "size":
        told += " Accuracy was not measured (--dataset)."
    if without:
        told += f" {without} without a measured accuracy {'is' if without == 1 else 'are'} not drawn."
    return told


def _names(shown: Sequence[Option], place: Place, most: int = 4) -> str:
    found = [title(each) for each in shown if each.place == place]
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def _table(shown: Sequence[Option]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Every figure that is known of any, with its interval, and each one's place."""
    headings, figures = figures_of(shown)
    rows = zip(shown, figures, strict=True)
    return ("form", *headings, "on the front"), tuple(
        (title(each), *cells, _place(each)) for each, cells in rows
    )
