"""`edgebench report --plot KIND --out FILE`: one chart of a page as SVG or PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from edgebench.cli.output import emit_json, note
from edgebench.cli.showing import write_bytes
from edgebench.errors import NothingDone, UserError
from edgebench.report.page import Subjects
from edgebench.report.page.plots import FONTS, plots, standalone

ZOOM = 3.0  # a PNG for sharp screens


class Wish(NamedTuple):
    """What was typed: kind, words in the chart's title, a file that ends in .svg or .png."""

    kind: str
    words: str
    path: Path


def plot(subjects: Subjects, wish: Wish, *, as_json: bool) -> None:
    """Write the first chart that fits, and say of the others."""
    found = plots(subjects, wish.kind, wish.words)
    if not found:
        raise NothingDone(
            f"the run has no {wish.kind} plot" + (f' with "{wish.words}"' if wish.words else ""),
            hint="edgebench report --html FILE shows what there is",
        )
    svg = standalone(found[0].chart)
    write_bytes(wish.path, svg.encode() if wish.path.suffix == ".svg" else png(svg))
    if as_json:
        emit_json({"schema": 1, "file": str(wish.path), "plot": found[0].title, "others": len(found) - 1})
        return
    note(f"written: {wish.path} ({found[0].title})")
    if len(found) > 1:
        note(f"  {len(found) - 1} more; --cell TEXT chooses, such as: {found[1].title}")


def png(svg: str) -> bytes:
    """An SVG as a picture of dots; UserError where what draws it is not installed, or no font is."""
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(
            "PNG needs resvg-py", hint="pip install 'edgebench[plots]', or name a FILE.svg"
        ) from error
    if _drawn(resvg_py, "words") == _drawn(resvg_py, ""):
        raise UserError(
            "a PNG would have no words: there is no font on this computer",
            hint="install one (Debian: fonts-dejavu-core), or name a FILE.svg",
        )
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=ZOOM))


def _drawn(library: Any, words: str) -> bytes:
    """A picture with these words in it."""
    text = f'<text y="15" font-family="{FONTS}" font-size="12">{words}</text>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="60" height="20">{text}</svg>'
    return bytes(library.svg_to_bytes(svg_string=svg))
