"""`edgebench verify`: an artifact's proof again, on this computer or on a device."""

from __future__ import annotations

from pathlib import Path

import click

from edgebench import model
from edgebench.bisection import Departure, first_departure
from edgebench.cli.folders import found_artifact
from edgebench.cli.output import emit_json, json_option, note, print_table, warn
from edgebench.cli.progress import Progress
from edgebench.cli.setup import (
    constant_option,
    inputs_option,
    inventory_option,
    read_inventory,
    read_settings,
    read_targets,
    shape_option,
    this_arch,
    workbench,
)
from edgebench.device.session import Lease
from edgebench.errors import EXIT_ERROR, EXIT_OK
from edgebench.model import flexible, images
from edgebench.pipeline import Cell, open_device, verify_artifact
from edgebench.records import Artifact, ParityReport, replace, to_json
from edgebench.units import significant


@click.command()
@click.argument("model_path", metavar="MODEL", type=click.Path())
@click.argument("artifact_name", metavar="ARTIFACT")
@click.option("--on", "device_name", metavar="DEVICE", help="Compute there; default: on this computer.")
@click.option("--bisect", is_flag=True, help="Where they differ, name the first layer that departs.")
@shape_option
@constant_option
@inputs_option
@inventory_option
@json_option
def verify(
    model_path: str,
    artifact_name: str,
    device_name: str | None,
    bisect: bool,
    shapes: tuple[str, ...],
    constants: tuple[str, ...],
    inputs: str | None,
    inventory: str | None,
    as_json: bool,
) -> int:
    """Compare what ARTIFACT computes with what MODEL computes in ONNX Runtime; exit 4 where they differ.

    ARTIFACT is a folder that `convert -o` wrote, or the beginning of a digest in the artifact store.
    """
    settings = read_settings(inventory)
    with (
        Progress({}) as progress,
        workbench(settings, progress) as bench,
        found_artifact(artifact_name, bench) as (artifact, folder),
    ):
        cell = Cell(
            model_path=model_path,
            runtime=artifact.runtime,
            precision=artifact.precision,
            shapes=tuple(model.parse_shape(shape) for shape in shapes),
            cut_nms=_ends_before_nms(model_path, artifact),
            flexible=flexible.from_options(artifact.options),
            images=images.from_options(artifact.options),
            constants=tuple(model.parse_constant(each) for each in constants),
            inputs=inputs,
        )
        if device_name is None:
            report = verify_artifact(cell, artifact, folder, bench)
        else:
            device = read_inventory(settings).device(device_name)
            target = read_targets(settings)[device.target]
            lease = Lease(run="verify", purpose="edgebench verify")
            session, facts = open_device(device, target, bench.home, lease)
            with session:
                report = verify_artifact(cell, artifact, folder, bench, session=session, facts=facts)
        departure = None
        if bisect and not report.passed:
            departure = first_departure(_at_one_shape(cell), bench)
    _show(report, departure, artifact, as_json=as_json)
    return EXIT_OK if report.passed else EXIT_ERROR


def _ends_before_nms(model_path: str, artifact: Artifact) -> bool:
    """Whether the artifact's model was cut before NonMaxSuppression, and the one named here was not."""
    was_cut = any(step.split(" ", 1)[0] == model.CUT_NMS_STEP for step in artifact.lineage)
    return was_cut and "NonMaxSuppression" in model.inspect(Path(model_path)).operators


def _at_one_shape(cell: Cell) -> Cell:
    """The cell taken as it is, with tensors of its default shapes: layers are tried one by one at those."""
    shapes = dict(cell.shapes) | {each.name: each.default for each in cell.flexible}
    plain = replace(cell, flexible=(), images=(), shapes=tuple(sorted(shapes.items())))
    return replace(plain, as_is=True, arch=this_arch())


def _show(report: ParityReport, departure: Departure | None, artifact: Artifact, *, as_json: bool) -> None:
    if as_json:
        told = None if departure is None else _document(departure)
        emit_json({"artifact": artifact.digest, "parity": to_json(report), "departure": told})
        return
    _show_outputs(report)
    if departure is not None:
        _show_departure(departure)


def _show_outputs(report: ParityReport) -> None:
    print_table(
        ["output", "parity", "max abs", "max rel", "cosine", "SNR", "needs", "reference range", "reason"],
        [
            (
                output.name,
                "pass" if output.passed else "FAIL",
                f"{output.max_abs:.3g}",
                f"{output.max_rel:.3g}",
                f"{output.cosine:.7f}",
                f"{significant(output.snr_db)} dB",
                f"{significant((output.bound or report.bound).min_snr_db)} dB",
                f"{output.reference_range:.4g}",
                output.reason,
            )
            for output in report.outputs
        ],
        right=(2, 3, 4, 5, 6, 7),
    )
    click.echo(
        f"{'pass' if report.passed else 'FAIL'} on {report.where}, against {report.reference}; "
        f"inputs: {report.inputs}; {_bounds(report)}"
    )
    for warning in report.warnings:
        warn(warning)


def _bounds(report: ParityReport) -> str:
    """What the outputs had to keep, in words."""
    noise = [output.bound.noise_db for output in report.outputs if output.bound and output.bound.noise_db]
    if noise:
        return (
            f"bound {report.bound.precision}: over the model's own noise floor, "
            f"{significant(min(noise))} dB when its values are rounded up or down at random"
        )
    bound = report.bound
    return (
        f"bound {bound.precision}: max abs {bound.max_abs_share:g} of the range, "
        f"SNR {bound.min_snr_db:g} dB, cosine {bound.min_cosine:g}"
    )


def _show_departure(found: Departure) -> None:
    if found.layer is None:
        click.echo(f"converted afresh, every layer that could be tried holds ({found.tried} conversions)")
    else:
        before = "the inputs" if found.before is None else f"{found.before.operator} {found.before.node}"
        click.echo(f"first layer that departs: {found.layer.operator} {found.layer.node}")
        click.echo(f"  {found.reason}\n  up to {before} all is well ({found.tried} conversions)")
    for layer in found.untried:
        note(f"not tried: {layer.operator} {layer.node}: the model cut there could not be converted")


def _document(found: Departure) -> dict[str, object]:
    return {
        "layer": found.layer and found.layer._asdict(),
        "reason": found.reason,
        "before": found.before and found.before._asdict(),
        "tried": found.tried,
        "untried": [layer._asdict() for layer in found.untried],
    }
