"""`edgebench targets`: the kinds of device."""

from __future__ import annotations

from pathlib import Path

import click

from edgebench.cli.output import emit_json, json_option, print_table
from edgebench.cli.setup import read_settings, read_targets
from edgebench.documents import read_text
from edgebench.errors import EXIT_USAGE, ConfigError
from edgebench.records import Target, to_json
from edgebench.targets import parse


@click.group()
def targets() -> None:
    """The kinds of device: one YAML file each."""


@targets.command("list")
@json_option
def list_targets(as_json: bool) -> None:
    """All targets, shipped and your own (the folder in the setting `targets`)."""
    known = read_targets(read_settings())
    if as_json:
        emit_json({"targets": [to_json(target) for target in known.values()]})
        return
    print_table(["target", "processor", "runtimes", "what"], [_row(target) for target in known.values()])


def _row(target: Target) -> tuple[str, ...]:
    runtimes = "; ".join(f"{name} {'/'.join(one.precisions)}" for name, one in target.runtimes.items())
    return target.name, f"{target.platform.os} {target.platform.arch}", runtimes, target.summary


@targets.command("check")
@click.argument("files", nargs=-1, type=click.Path())
@json_option
def check(files: tuple[str, ...], as_json: bool) -> int:
    """Check FILES (default: all known targets) against the schema; exit 2 when one is wrong."""
    if not files:
        checked = [{"file": name, "ok": True, "error": ""} for name in read_targets(read_settings())]
    else:
        checked = [_check(file) for file in files]
    if as_json:
        emit_json({"checked": checked})
    else:
        for each in checked:
            click.echo(f"ok     {each['file']}" if each["ok"] else f"wrong  {each['error']}")
    return 0 if all(each["ok"] for each in checked) else EXIT_USAGE


def _check(file: str) -> dict[str, object]:
    try:
        parse(read_text(Path(file)), file)
    except ConfigError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return {"file": file, "ok": False, "error": f"{error.message}{hint}"}
    return {"file": file, "ok": True, "error": ""}
