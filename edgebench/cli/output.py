"""Where commands print: one JSON document on stdout, or tables on stdout; progress and warnings on stderr."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from edgebench.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

C = TypeVar("C")

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def emit_json(document: Any) -> None:
    """Print one JSON document, indented."""
    plain = msgspec.json.encode(msgspec.to_builtins(document))
    click.echo(msgspec.json.format(plain, indent=2).decode())


def warn(text: str) -> None:
    """A warning on stderr."""
    click.echo(f"warning: {clean(text)}", err=True)


def note(text: str) -> None:
    """A remark on stderr: not part of the result."""
    for line in clean(text).splitlines():
        click.echo("\n".join(_wrapped(line)), err=True)


def _wrapped(line: str) -> list[str]:
    """The line broken between words where it is wider than the terminal; whole where there is none."""
    if not sys.stderr.isatty():
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    width = max(40, shutil.get_terminal_size().columns - 1)
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False) or [line]


def clean(text: str) -> str:
    """The text without control characters, so that nothing from outside steers the terminal."""
    return printable(text, lines=True)


def terminal_width() -> int:
    """Columns of the terminal; 120 where the output is no terminal."""
    return shutil.get_terminal_size((120, 40)).columns if sys.stdout.isatty() else 120


def console() -> Console:
    """A rich console on stdout: colour only on a terminal."""
    from rich.console import Console

    return Console(width=terminal_width(), highlight=False, markup=False, emoji=False)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values in two aligned columns; long values wrap under themselves."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, clean(value))
    console().print(table)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """A plain table; the columns whose numbers are in `right` are aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(clean(cell) for cell in row))
    console().print(table)
