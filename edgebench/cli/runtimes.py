"""`edgebench runtimes`: what this computer can convert for, and what to type to get the rest."""

from __future__ import annotations

import click

from edgebench.cli.output import emit_json, json_option, note, print_table
from edgebench.cli.setup import processor_of, read_settings
from edgebench.compress.presets import Processor, preset
from edgebench.convert.tools import RuntimeStatus, available
from edgebench.errors import InfrastructureError
from edgebench.records import to_json
from edgebench.tools import find_pnnx, install_pnnx, pnnx_version

KINDS = {"x86_64-vnni": ("x86_64", True), "x86_64-no-vnni": ("x86_64", False), "aarch64": ("aarch64", None)}


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def runtimes(context: click.Context, as_json: bool) -> None:
    """What is installed, in which version, and what to type to get the rest."""
    if context.invoked_subcommand is not None:
        return
    found, here = available(read_settings().home), processor_of(None)
    if as_json:
        emit_json({"runtimes": [_document(status, here) for status in found]})
        return
    print_table(
        ["runtime", "state", "precisions", "versions, or what to type", "int8 here"],
        [_row(status, here) for status in found],
    )
    click.echo()
    for form in (preset(status.runtime, here) for status in found):
        click.echo(f"{form.name}: {form.form}; {form.why} ({form.known_from})")


def _row(status: RuntimeStatus, here: Processor) -> tuple[str, ...]:
    versions = ", ".join(f"{name} {version}" for name, version in status.versions.items())
    state = "ready" if status.ready else "missing"
    int8 = preset(status.runtime, here)
    kinds = ", ".join(status.precisions)
    return status.runtime, state, kinds, versions if status.ready else status.missing, int8.name


def _document(status: RuntimeStatus, here: Processor) -> dict[str, object]:
    """The status with the int8 form for this computer and for the other kinds of processor."""
    kinds = {"here": here, **{name: Processor(*kind) for name, kind in KINDS.items()}}
    return to_json(status) | {
        "int8": {name: to_json(preset(status.runtime, on)) for name, on in kinds.items()}
    }


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
