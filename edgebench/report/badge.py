"""The word of the last gate as a small SVG for a wiki page or a README. Pure."""

from __future__ import annotations

from markupsafe import escape

from edgebench.records import Judgement
from edgebench.report.base import Counts, name

LABEL = "edgebench"
COLOURS = {"pass": "#1a6b34", "fail": "#a3231b", "error": "#a3231b", "invalid": "#a3231b"}
OPEN = "#6b4c00"
CHARACTER, PAD, HEIGHT = 6.6, 8.0, 20


def render(judgement: Judgement | None, counts: Counts) -> str:
    """A badge: the gate's word with its counts; without a gate how many cells were measured."""
    word, told = _words(judgement, counts)
    left, right = (PAD * 2 + CHARACTER * len(text) for text in (LABEL, told))
    colour = COLOURS.get(word, OPEN)
    width, middle = left + right, left + right / 2
    said = escape(f"{LABEL}: {told}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{HEIGHT}" role="img" '
        f'aria-label="{said}"><title>{said}</title>'
        f'<rect width="{left:.0f}" height="{HEIGHT}" fill="#3a3f47"/>'
        f'<rect x="{left:.0f}" width="{right:.0f}" height="{HEIGHT}" fill="{colour}"/>'
        '<g fill="#ffffff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="{left / 2:.0f}" y="14">{LABEL}</text>'
        f'<text x="{middle:.0f}" y="14">{escape(told)}</text></g></svg>\n'
    )


def _words(judgement: Judgement | None, counts: Counts) -> tuple[str, str]:
    if judgement is None:
        return "", f"{counts.ok} of {counts.planned} measured"
    passed = judgement.counts.get("pass", 0)
    return judgement.verdict, f"{name(judgement.verdict)[:20]} {passed}/{sum(judgement.counts.values())}"
