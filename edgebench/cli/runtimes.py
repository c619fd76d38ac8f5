"""`edgebench runtimes`: what this computer can convert for, and what to type to get the rest."""

from __future__ import annotations

import click

from edgebench.cli.output import emit_json, json_option, note, print_table
from edgebench.cli.setup import read_settings
from edgebench.convert.tools import RuntimeStatus, available
from edgebench.errors import InfrastructureError
from edgebench.records import to_json
from edgebench.tools import find_pnnx, install_pnnx, pnnx_version


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def runtimes(context: click.Context, as_json: bool) -> None:
    """What is installed, in which version, and what to type to get the rest."""
    if context.invoked_subcommand is not None:
        return
    found = available(read_settings().home)
    if as_json:
        emit_json({"runtimes": [to_json(status) for status in found]})
        return
    print_table(["runtime", "state", "precisions", "versions, or what to type"], map(_row, found))


def _row(status: RuntimeStatus) -> tuple[str, ...]:
    versions = ", ".join(f"{name} {version}" for name, version in status.versions.items())
    state = "ready" if status.ready else "missing"
    return status.runtime, state, ", ".join(status.precisions), versions if status.ready else status.missing


@runtimes.command()
@click.argument("tool", type=click.Choice(["pnnx"]))
@json_option
def install(tool: str, as_json: bool) -> None:
    """Install TOOL into edgebench's own tool folder: pnnx (pinned) converts ONNX to NCNN."""
    home = read_settings().home
    try:
        found = {"name": tool, "version": pnnx_version(home), "path": str(find_pnnx(home))}
    except InfrastructureError:  # not there, or not whole: that is what this command mends
        found = to_json(install_pnnx(home))
    if as_json:
        emit_json(found)
    else:
        note(f"{tool} {found['version']} is in {found['path']}")
