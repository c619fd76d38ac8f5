"""`edgebench convert` and `edgebench verify`: artifacts and their proof."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from edgebench import model
from edgebench.artifacts import ArtifactStore
from edgebench.cli.output import emit_json, json_option, note, print_table, warn
from edgebench.cli.progress import Progress
from edgebench.cli.setup import (
    calibration_option,
    inputs_option,
    inventory_option,
    precisions_of,
    read_inventory,
    read_settings,
    read_targets,
    runtimes_of,
    shape_option,
    this_arch,
    workbench,
)
from edgebench.device.session import Lease
from edgebench.errors import (
    EXIT_ERROR,
    EXIT_OK,
    EdgebenchError,
    InfrastructureError,
    ModelError,
    UserError,
)
from edgebench.fleet.plan import own_precision
from edgebench.pipeline import (
    BUILT_ON_DEVICE,
    Cell,
    Prepared,
    Workbench,
    open_device,
    prepare,
    verify_artifact,
)
from edgebench.records import RUNTIMES, Artifact, ParityReport, Target, decode, encode, to_json
from edgebench.targets import find as find_target
from edgebench.units import format_bytes, format_duration, significant

MANIFEST = "edgebench.json"  # lies beside an artifact's files where `convert -o` wrote them


@click.command()
@click.argument("model_path", metavar="MODEL", type=click.Path())
@click.option("--to", "runtimes", required=True, metavar="RUNTIME[,RUNTIME]", help=f"{', '.join(RUNTIMES)}.")
@click.option("--precision", metavar="P", help="fp32, fp16, int8 or int8-dynamic; default: as the model is.")
@shape_option
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
@click.option(
    "-o", "--output", type=click.Path(), metavar="DIR", help="Copy the artifacts there, a folder each."
)
@json_option
def convert(
    model_path: str,
    runtimes: str,
    precision: str | None,
    shapes: tuple[str, ...],
    inputs: str | None,
    calibration: str | None,
    arch: str | None,
    target_name: str | None,
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
            shapes=tuple(model.parse_shape(shape) for shape in shapes),
            inputs=inputs,
            calibration=calibration,
            options=_options_of(target, runtime),
        )
        for runtime in wanted
        for one in chosen
    ]
    if not cells:
        raise UserError("no runtime was named", hint=f"--to {','.join(RUNTIMES)}")
    with Progress({}) as progress, workbench(settings, progress) as bench:
        made = [_convert(cell, target, bench) for cell in cells]
        folders = [_copy_out(each, bench, output) for each in made if isinstance(each, Prepared)]
    return _show(cells, made, folders, as_json=as_json)


def _arch_of(target: Target | None) -> str:
    known = target is not None and target.platform.arch != "any"
    return target.platform.arch if target is not None and known else this_arch()


def _options_of(target: Target | None, runtime: str) -> tuple[tuple[str, str], ...]:
    """What the target says about a runtime whose artifacts fit one kind of device only."""
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


def _convert(cell: Cell, target: Target | None, bench: Workbench) -> Prepared | EdgebenchError:
    try:
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
    if artifact.runtime in BUILT_ON_DEVICE:
        parts += [artifact.options["tensorrt_version"], f"cc{artifact.options['compute_capability']}"]
    name = "-".join(parts).replace("/", "_")
    return str(copy_artifact(artifact, source, Path(output) / name))


def copy_artifact(artifact: Artifact, source: Path, folder: Path) -> Path:
    """The artifact with its manifest in `folder`, complete or not at all; replaces an older one."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".edgebench-", dir=folder.parent) as scratch:
            staged = Path(scratch) / "new"
            shutil.copytree(source, staged, copy_function=shutil.copyfile)
            (staged / MANIFEST).write_bytes(encode(artifact))
            if folder.exists():
                _check_ours(folder)
                os.rename(folder, Path(scratch) / "old")
            os.rename(staged, folder)
    except OSError as error:
        raise InfrastructureError(
            f"the artifact cannot be written to {folder}: {error.strerror}",
            hint="choose another folder with -o, or free space",
        ) from error
    return folder


def _check_ours(folder: Path) -> None:
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder} is there already and is no artifact of ours", hint="choose another -o, or remove it"
        )


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
        "exit_code": error.exit_code,
    }


# --- verify -------------------------------------------------------------------------------------


@click.command()
@click.argument("model_path", metavar="MODEL", type=click.Path())
@click.argument("artifact_name", metavar="ARTIFACT")
@click.option("--on", "device_name", metavar="DEVICE", help="Compute there; default: on this computer.")
@shape_option
@inputs_option
@inventory_option
@json_option
def verify(
    model_path: str,
    artifact_name: str,
    device_name: str | None,
    shapes: tuple[str, ...],
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
    return _show_parity(report, artifact, as_json=as_json)


@contextmanager
def found_artifact(name: str, bench: Workbench) -> Iterator[tuple[Artifact, Path]]:
    """The artifact in a folder written by `convert -o`, or in the store, with its checked files.

    A folder's files never enter our artifact store: its manifest says what it likes.
    """
    if (Path(name) / MANIFEST).is_file():
        with bench.scratch() as scratch:
            yield _checked_copy(Path(name), scratch)
    elif Path(name).exists():
        raise UserError(
            f"{name} holds no artifact ({MANIFEST} is missing)", hint="edgebench convert MODEL -o DIR"
        )
    else:
        artifact = bench.artifacts.get(name)
        bench.artifacts.verify(artifact.digest)
        yield artifact, bench.artifacts.path(artifact.digest)


def _checked_copy(folder: Path, scratch: Path) -> tuple[Artifact, Path]:
    """The artifact of a folder and a copy of its files, which are those that its manifest names."""
    artifact = decode(Artifact, (folder / MANIFEST).read_bytes(), source=str(folder / MANIFEST))
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    if there == {MANIFEST, *(file.path for file in artifact.files)}:
        shutil.copytree(folder, scratch / "files", ignore=shutil.ignore_patterns(MANIFEST))
        store = ArtifactStore(scratch / "store")
        stored = store.put(scratch / "files", artifact)
        if stored.digest == artifact.digest:
            return stored, store.path(stored.digest)
    raise InfrastructureError(
        f"the files in {folder} are not those of its {MANIFEST}: they were changed afterwards",
        hint="run edgebench convert again",
    )


def _show_parity(report: ParityReport, artifact: Artifact, *, as_json: bool) -> int:
    if as_json:
        emit_json({"artifact": artifact.digest, "parity": to_json(report)})
    else:
        print_table(
            ["output", "parity", "max abs", "max rel", "cosine", "SNR", "reference range", "reason"],
            [
                (
                    output.name,
                    "pass" if output.passed else "FAIL",
                    f"{output.max_abs:.3g}",
                    f"{output.max_rel:.3g}",
                    f"{output.cosine:.7f}",
                    f"{significant(output.snr_db)} dB",
                    f"{output.reference_range:.4g}",
                    output.reason,
                )
                for output in report.outputs
            ],
            right=(2, 3, 4, 5, 6),
        )
        bound = report.bound
        click.echo(
            f"{'pass' if report.passed else 'FAIL'} on {report.where}, against {report.reference}; "
            f"inputs: {report.inputs}; "
            f"bound {bound.precision}: max abs {bound.max_abs_share:g} of the range, "
            f"SNR {bound.min_snr_db:g} dB, cosine {bound.min_cosine:g}"
        )
        for warning in report.warnings:
            warn(warning)
    return EXIT_OK if report.passed else EXIT_ERROR
