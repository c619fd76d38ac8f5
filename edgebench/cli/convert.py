"""`edgebench convert`: artifacts and their proof."""

from __future__ import annotations

from pathlib import Path

import click

from edgebench import model
from edgebench.cli.folders import copy_artifact
from edgebench.cli.output import emit_json, json_option, note, print_table, warn
from edgebench.cli.progress import Progress
from edgebench.cli.setup import (
    calibration_option,
    constant_option,
    cut_nms_option,
    inputs_option,
    ort_format_option,
    precisions_of,
    processor_of,
    read_settings,
    runtimes_of,
    shape_option,
    this_arch,
    workbench,
)
from edgebench.convert.onnxruntime import format_options
from edgebench.errors import (
    EXIT_ERROR,
    EXIT_OK,
    EdgebenchError,
    ModelError,
    UserError,
)
from edgebench.fleet.plan import own_precision
from edgebench.pipeline import (
    BUILT_ON_DEVICE,
    Cell,
    Prepared,
    Workbench,
    prepare,
)
from edgebench.records import ORT_FORMATS, RUNTIMES, ParityReport, Target, to_json
from edgebench.targets import find as find_target
from edgebench.units import format_bytes, format_duration, significant

WITH_BOUNDARY = ("coreml",)  # runtimes whose artifacts have open sizes and image inputs


@click.command()
@click.argument("model_path", metavar="MODEL", type=click.Path())
@click.option("--to", "runtimes", required=True, metavar="RUNTIME[,RUNTIME]", help=f"{', '.join(RUNTIMES)}.")
@click.option("--precision", metavar="P", help="fp32, fp16, int8 or int8-dynamic; default: as the model is.")
@shape_option
@constant_option
@cut_nms_option
@click.option(
    "--flexible",
    multiple=True,
    metavar="NAME=1..8,3,64..512,64..512",
    help="Core ML: leave sizes open within ranges, or list shapes: NAME=1,3,224,224|1,3,448,448.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="NAME=rgb,scale=1/255,bias=R:G:B",
    help="Core ML: an input takes pixels (rgb, bgr, gray) and scales them; --inputs holds pixels then.",
)
@inputs_option
@calibration_option
@click.option(
    "--arch",
    type=click.Choice(["x86_64", "aarch64", "armv7l"]),
    help="Processor that int8 is made for; default: this one.",
)
@click.option(
    "--target", "target_name", metavar="NAME", help="The kind of device it is for; tensorrt needs one."
)
@ort_format_option
@click.option(
    "-o", "--output", type=click.Path(), metavar="DIR", help="Copy the artifacts there, a folder each."
)
@json_option
def convert(
    model_path: str,
    runtimes: str,
    precision: str | None,
    shapes: tuple[str, ...],
    cut_nms: bool,
    flexible: tuple[str, ...],
    images: tuple[str, ...],
    constants: tuple[str, ...],
    inputs: str | None,
    calibration: str | None,
    arch: str | None,
    target_name: str | None,
    ort_format: str,
    output: str | None,
    as_json: bool,
) -> int:
    """Turn MODEL into what each RUNTIME runs, and prove on this computer that it still computes the same."""
    settings = read_settings()
    wanted = runtimes_of(runtimes)
    chosen = precisions_of(precision) or ("as-is",)
    target = None if target_name is None else find_target(target_name, settings.targets)
    own = own_precision(model.inspect(Path(model_path)))
    cells = [
        Cell(
            model_path=model_path,
            runtime=runtime,
            precision=own if one == "as-is" else one,
            as_is=one == "as-is",
            arch=arch or _arch_of(target),
            vnni=processor_of(arch if target is None else arch or _arch_of(target)).vnni,
            shapes=tuple(model.parse_shape(shape) for shape in shapes),
            cut_nms=cut_nms,
            flexible=tuple(model.parse_flexible(text) for text in flexible),
            images=tuple(model.parse_image(text) for text in images),
            constants=tuple(model.parse_constant(each) for each in constants),
            inputs=inputs,
            calibration=calibration,
            options=_options(runtime, target, arch or _arch_of(target), ort_format),
        )
        for runtime in wanted
        for one in chosen
    ]
    if ort_format != ORT_FORMATS[0] and "onnxruntime" not in wanted:
        raise UserError(
            f"--ort-format {ort_format} is for onnxruntime, and --to does not name it",
            hint=f"--to {','.join((*wanted, 'onnxruntime'))}, or leave --ort-format out",
        )
    if not cells:
        raise UserError("no runtime was named", hint=f"--to {','.join(RUNTIMES)}")
    with Progress({}) as progress, workbench(settings, progress) as bench:
        made = [_convert(cell, target, bench) for cell in cells]
        folders = [_copy_out(each, bench, output) for each in made if isinstance(each, Prepared)]
    return _show(cells, made, folders, as_json=as_json)


def _arch_of(target: Target | None) -> str:
    known = target is not None and target.platform.arch != "any"
    return target.platform.arch if target is not None and known else this_arch()


def _options(runtime: str, target: Target | None, arch: str, ort_format: str) -> tuple[tuple[str, str], ...]:
    """ONNX Runtime's format; what the target says of a runtime whose artifacts fit one kind of device."""
    if runtime == "onnxruntime":
        return format_options(ort_format, arch)
    profile = None if target is None else target.runtimes.get(runtime)
    if profile is None or profile.build_on != "device":
        return ()
    return tuple(sorted((name, str(value)) for name, value in profile.options.items()))


def _demand_offer(cell: Cell, target: Target | None) -> None:
    """ModelError when the kind of device does not take that runtime or precision."""
    if target is None:
        if cell.runtime in BUILT_ON_DEVICE:
            raise UserError(
                f"a {cell.runtime} artifact fits one kind of device, and none was named",
                hint="--target jetson-orin-nano (edgebench targets list shows all)",
            )
        return
    profile = target.runtimes.get(cell.runtime)
    if profile is None:
        raise ModelError(
            f"target {target.name} does not offer {cell.runtime}",
            hint=f"it offers {', '.join(target.runtimes)}",
        )
    if cell.precision not in profile.precisions:
        raise ModelError(
            f"{cell.runtime} on target {target.name} does not take {cell.precision}",
            hint=f"--precision {' or '.join(profile.precisions)} of the float model",
        )


def _demand_boundary(cell: Cell) -> None:
    """UserError when open sizes or image inputs are asked of a runtime whose artifacts have none."""
    asked = [flag for flag, given in (("--flexible", cell.flexible), ("--image", cell.images)) if given]
    if asked and cell.runtime not in WITH_BOUNDARY:
        raise UserError(
            f"{' and '.join(asked)}: {cell.runtime} artifacts have fixed shapes and take tensors",
            hint=f"--to {WITH_BOUNDARY[0]} alone, or --shape NAME=1,3,224,224",
        )


def _convert(cell: Cell, target: Target | None, bench: Workbench) -> Prepared | EdgebenchError:
    try:
        _demand_boundary(cell)
        _demand_offer(cell, target)
        return prepare(cell, bench)
    except EdgebenchError as error:
        return error


def _copy_out(made: Prepared, bench: Workbench, output: str | None) -> str:
    """The folder the artifact was copied to, or where it lies in the artifact store."""
    source = bench.artifacts.path(made.artifact.digest)
    if output is None:
        return str(source)
    artifact = made.artifact
    parts = [artifact.model, artifact.variant, artifact.precision, artifact.runtime]
    if "format" in artifact.options:
        parts.append(artifact.options["format"])
    if artifact.runtime in BUILT_ON_DEVICE:
        parts += [artifact.options["tensorrt_version"], f"cc{artifact.options['compute_capability']}"]
    name = "-".join(parts).replace("/", "_")
    return str(copy_artifact(artifact, source, Path(output) / name))


def _show(
    cells: list[Cell], made: list[Prepared | EdgebenchError], folders: list[str], *, as_json: bool
) -> int:
    good = [each for each in made if isinstance(each, Prepared)]
    failed = [
        (cell, each) for cell, each in zip(cells, made, strict=True) if isinstance(each, EdgebenchError)
    ]
    if len(made) == 1 and failed:
        raise failed[0][1]
    if as_json:
        emit_json(
            {
                "artifacts": [_document(each, folder) for each, folder in zip(good, folders, strict=True)],
                "failures": [_failure(cell, error) for cell, error in failed],
            }
        )
    else:
        print_table(
            ["artifact", "runtime", "precision", "size", "parity", "worst SNR", "made in", "parity in"],
            map(_row, good),
            right=(3, 5, 6, 7),
        )
        for each, folder in zip(good, folders, strict=True):
            for remark in (*each.artifact.notes, *each.parity.warnings):
                warn(f"{each.artifact.runtime}: {remark}")
            click.echo(f"{each.artifact.runtime} {each.artifact.precision}: {folder}")
        for cell, error in failed:
            if error.detail:
                note(error.detail.rstrip())
            note(
                f"failed ({error.owner}): {cell.runtime} {cell.precision}: {error.message}\n"
                f"  next: {error.hint}"
            )
    return EXIT_ERROR if failed else EXIT_OK


def _row(each: Prepared) -> tuple[str, ...]:
    worst = min((output.snr_db for output in each.parity.outputs), default=0.0)
    made_in = "kept" if each.conversion.cached else _seconds(each.conversion.total_s)
    return (
        each.artifact.digest[:12],
        each.artifact.runtime,
        each.artifact.precision,
        format_bytes(each.artifact.size_bytes),
        _verdict(each.parity),
        f"{significant(worst)} dB",
        made_in,
        _seconds(each.parity_s),
    )


def _verdict(report: ParityReport) -> str:
    if not report.passed:
        return "FAIL"
    return "pass" if report.computed_by == "runtime" else "pass (reference-verified)"


def _seconds(value: float) -> str:
    return f"{significant(value, 2)} s" if value < 60 else format_duration(value)


def _document(each: Prepared, folder: str) -> dict[str, object]:
    return {
        "artifact": to_json(each.artifact),
        "folder": folder,
        "cached": each.conversion.cached,
        "convert_s": each.conversion.total_s,
        "tool_s": each.conversion.tool_s,
        "parity_s": each.parity_s,
        "parity": to_json(each.parity),
    }


def _failure(cell: Cell, error: EdgebenchError) -> dict[str, object]:
    return {
        "runtime": cell.runtime,
        "precision": cell.precision,
        "owner": error.owner,
        "message": error.message,
        "hint": error.hint,
        "detail": error.detail,
        "exit_code": error.exit_code,
    }
