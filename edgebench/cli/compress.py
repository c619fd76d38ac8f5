"""`edgebench compress`: the variants of a recipe, and the list of steps."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click

from edgebench import model
from edgebench.cli.output import emit_json, json_option, note, print_pairs, print_table
from edgebench.cli.progress import Progress
from edgebench.cli.setup import processor_of, read_settings, runtimes_of, workbench
from edgebench.cli.showing import write_bytes
from edgebench.compress.base import Sensitivity
from edgebench.compress.recipe import OptionInfo, StepInfo, list_steps, read
from edgebench.errors import EXIT_ERROR, EXIT_OK, UserError
from edgebench.likeness import Share
from edgebench.pipeline import Workbench
from edgebench.pipeline.base import MODEL_FILE
from edgebench.pipeline.compressing import Compressed, Failed, Form, compress_all
from edgebench.pipeline.weighing import Difference, Weighed, Worth, weighed
from edgebench.records import Artifact, ModelInfo, to_json
from edgebench.units import format_bytes, format_duration, significant

LAYERS_SHOWN, PAIRS_SHOWN = 12, 15


@click.command()
@click.argument("model_path", metavar="MODEL", type=click.Path(), required=False)
@click.option("--recipe", metavar="FILE", type=click.Path(), help="Variants and their steps, in YAML.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this variant; may be repeated.")
@click.option(
    "--for",
    "runtimes",
    metavar="RUNTIME[,...]",
    default="onnxruntime",
    show_default=True,
    help="Runtimes that a variant's int8 is made for.",
)
@click.option(
    "--arch",
    type=click.Choice(["x86_64", "aarch64", "armv7l"]),
    help="Processor that int8 is made for; default: this one.",
)
@click.option("-o", "--output", type=click.Path(), metavar="DIR", help="Write the files there.")
@click.option(
    "--evaluate",
    is_flag=True,
    help="Compare the variants with MODEL and each other on the recipe's test samples, here.",
)
@click.option("--list-steps", is_flag=True, help="Every step with its options, what it takes and makes.")
@json_option
def compress(
    model_path: str | None,
    recipe: str | None,
    only: tuple[str, ...],
    runtimes: str,
    arch: str | None,
    output: str | None,
    evaluate: bool,
    list_steps: bool,
    as_json: bool,
) -> int:
    """Make the variants of MODEL that a recipe names; steps that were made before are kept."""
    if list_steps:
        return _show_steps(as_json=as_json)
    if model_path is None or recipe is None:
        raise UserError(
            "a model and a recipe are needed",
            hint="edgebench compress MODEL.onnx --recipe FILE; --list-steps shows what may stand in it",
        )
    settings, wanted = read_settings(), runtimes_of(runtimes)
    parsed = read(Path(recipe))
    if output is not None:
        _make_folder(Path(output))
    with Progress({}) as progress, workbench(settings, progress) as bench:
        made = compress_all(Path(model_path), parsed, only, processor_of(arch), wanted, bench)
        files = {} if output is None else _copy_out(made, Path(output), bench)
        good = [each for each in made if isinstance(each, Compressed)]
        worth = weighed(Path(model_path), good, parsed, bench) if evaluate and good else None
        return _show(made, _Told(files, worth), bench, as_json=as_json)


# --- the list of steps ----------------------------------------------------------------------------


def _show_steps(*, as_json: bool) -> int:
    steps = list_steps()
    if as_json:
        emit_json({"steps": [to_json(each) for each in steps]})
        return EXIT_OK
    for step in steps:
        _show_step(step)
    return EXIT_OK


def _show_step(step: StepInfo) -> None:
    """From what to what, what it does, and a line for each of its options."""
    takes, makes = ", ".join(step.takes), ", ".join(step.makes)
    needs = "".join(f", with {each}" for each in step.needs if each not in step.takes)
    options = map(_option_pair, step.options)
    print_pairs([(step.name, f"{takes}{needs} -> {makes}: {step.what}"), *options])
    click.echo()


def _option_pair(option: OptionInfo) -> tuple[str, str]:
    """`name = default`, and what it takes."""
    default = str(option.default).lower() if isinstance(option.default, bool) else option.default
    named = option.name if default in (None, "", (), {}) else f"{option.name} = {default}"
    return f"  {named}", option.kind


# --- files ----------------------------------------------------------------------------------------


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error.strerror}", hint="-o DIR") from error


def _copy_out(made: list[Compressed | Failed], folder: Path, bench: Workbench) -> dict[str, str]:
    """Digest of a file -> where it was written; beside it the table of its layers, if it has one."""
    written: dict[str, str] = {}
    for each in made:
        if isinstance(each, Failed):
            continue
        stem = f"{each.info.name}-{each.variant.name}"
        written[each.artifact.digest] = _write(each.artifact, each.sensitivity, folder / stem, bench)
        for form in each.forms:
            if form.artifact is not None:
                at = folder / f"{stem}.{form.preset.name}"
                written[form.artifact.digest] = _write(form.artifact, form.sensitivity, at, bench)
    return written


def _write(artifact: Artifact, table: Sensitivity | None, stem: Path, bench: Workbench) -> str:
    path = stem.with_name(f"{stem.name}.onnx")
    write_bytes(path, (bench.artifacts.path(artifact.digest) / MODEL_FILE).read_bytes())
    if table is not None:
        write_bytes(stem.with_name(f"{stem.name}.sensitivity.json"), model_json(table))
    return str(path)


def model_json(table: Sensitivity) -> bytes:
    """The table of layers as indented JSON."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n"


# --- the result -----------------------------------------------------------------------------------


class _Told(NamedTuple):
    """What is shown besides: digest of a file -> where it was written, and what the variants are worth."""

    files: dict[str, str]
    worth: Weighed | None


def _show(made: list[Compressed | Failed], told: _Told, bench: Workbench, *, as_json: bool) -> int:
    files = told.files
    failed = [each for each in made if isinstance(each, Failed)]
    good = [each for each in made if isinstance(each, Compressed)]
    if len(made) == 1 and failed:
        raise failed[0].error
    if as_json:
        emit_json(
            {
                "variants": [_document(each, files, bench) for each in good],
                "failures": [
                    {
                        "variant": each.variant.name,
                        "owner": each.error.owner,
                        "message": each.error.message,
                        "hint": each.error.hint,
                        "detail": each.error.detail,
                        "exit_code": each.error.exit_code,
                    }
                    for each in failed
                ],
                "evaluation": None if told.worth is None else to_json(told.worth),
            }
        )
        return EXIT_ERROR if failed else EXIT_OK
    columns = ["variant", "for", "precision", "size", "zeros", "made in", "file"]
    print_table(columns, [row for each in good for row in _rows(each, files, bench)], right=(3, 4))
    for each in good:
        for what, table in _tables(each):
            _show_layers(f"{each.variant.name}{what}", table)
    if told.worth is not None:
        _show_worth(told.worth)
    for one in failed:
        what = f"failed ({one.error.owner}): {one.variant.name}: {one.error.message}"
        note(f"{what}\n  next: {one.error.hint}")
    return EXIT_ERROR if failed else EXIT_OK


# --- what variants are worth ----------------------------------------------------------------------


def _show_worth(found: Weighed) -> None:
    """Each variant beside the model, and the pairs of variants that differ most surely."""
    click.echo()
    by = ", by which steps chose: the numbers flatter them" if found.chosen_by else ""
    click.echo(f"against the model, {found.n} samples of {found.source}{by}; 95 % intervals")
    columns = ["variant", "for", "top-1 %", "drop, points", "p", "agreement %", "SNR dB", "cosine"]
    print_table(columns, list(map(_worth_row, found.worths)), right=range(2, len(columns)))
    shown = sorted(found.differences, key=lambda each: each.found.p_value or 0.0)[:PAIRS_SHOWN]
    if not shown:
        return
    click.echo()
    click.echo("in pairs, by McNemar's exact test on the same samples")
    print_table(["variant", "is better than", "by, points", "p"], list(map(_pair_row, shown)), right=(2, 3))
    if len(shown) < len(found.differences):
        click.echo(f"and {len(found.differences) - len(shown)} more pairs that differ less surely")


def _worth_row(worth: Worth) -> tuple[str, ...]:
    found, alike = worth.accuracy, worth.likeness
    top1 = "" if found is None else _within(found.value, found.low, found.high, 100)
    drop = "" if found is None else _within(found.drop, found.drop_low, found.drop_high, 100)
    chance = "" if found is None or found.p_value is None else significant(found.p_value)
    return (
        worth.variant,
        worth.form,
        top1,
        drop,
        chance,
        "" if alike.agreement is None else _share(alike.agreement, 100),
        _share(alike.snr_db),
        f"{alike.cosine.value:.5f}",
    )


def _pair_row(each: Difference) -> tuple[str, ...]:
    found = each.found
    gain = _within(found.drop, found.drop_low, found.drop_high, 100)
    return each.one, each.other, gain, "" if found.p_value is None else significant(found.p_value)


def _share(share: Share, factor: float = 1.0) -> str:
    return _within(share.value, share.low, share.high, factor)


def _within(value: float | None, low: float | None, high: float | None, factor: float) -> str:
    """A number with its interval."""
    if value is None:
        return ""
    ends = "" if low is None or high is None else f" ({factor * low:.1f} to {factor * high:.1f})"
    return f"{factor * value + 0.0:.2f}{ends}"


def _rows(made: Compressed, files: dict[str, str], bench: Workbench) -> list[tuple[str, ...]]:
    rows = [_row(made.variant.name, "", made.artifact, made.info, made.made_s, files, bench)]
    for form in made.forms:
        if form.artifact is None or form.info is None:
            rows.append(
                (made.variant.name, form.preset.name, "int8", "", "", "", f"{form.preset.form}: convert")
            )
        else:
            what = form.preset.name
            rows.append(_row(made.variant.name, what, form.artifact, form.info, form.made_s, files, bench))
    return rows


def _row(
    name: str,
    what: str,
    artifact: Artifact,
    info: ModelInfo,
    made_s: float | None,
    files: dict[str, str],
    bench: Workbench,
) -> tuple[str, ...]:
    return (
        name,
        what,
        info.precision,
        format_bytes(info.size_bytes),
        f"{significant(100 * info.sparsity)} %",
        "kept" if made_s is None else _seconds(made_s),
        files.get(artifact.digest, str(bench.artifacts.path(artifact.digest) / MODEL_FILE)),
    )


def _seconds(value: float) -> str:
    return f"{significant(value, 2)} s" if value < 60 else format_duration(value)


def _tables(made: Compressed) -> list[tuple[str, Sensitivity]]:
    found = [("", made.sensitivity), *((f" for {each.preset.name}", each.sensitivity) for each in made.forms)]
    return [(what, table) for what, table in found if table is not None]


def _show_layers(what: str, table: Sensitivity) -> None:
    """What layers cost, the costliest first: those that stayed float, and the next ones."""
    kept = sum(each.kept_float for each in table.layers)
    click.echo()
    click.echo(f"{what}: {kept} of {len(table.layers)} layers stay float ({table.budget}); {_lost(table)}")
    shown = table.layers[: max(kept, LAYERS_SHOWN)]
    print_table(
        ["layer", "operator", "SNR where it alone is int8", "stays"],
        [
            (
                each.node,
                each.operator,
                f"{significant(each.snr_db)} dB",
                "float" if each.kept_float else "int8",
            )
            for each in shown
        ],
        right=(2,),
    )
    if len(shown) < len(table.layers):
        click.echo(f"and {len(table.layers) - len(shown)} more that cost less")


def _lost(table: Sensitivity) -> str:
    told = f"SNR {significant(table.snr_db)} dB"
    found = table.accuracy
    if found is None or found.drop is None or found.drop_low is None or found.drop_high is None:
        return told
    interval = f"95 % interval {significant(100 * found.drop_low)} to {significant(100 * found.drop_high)}"
    return f"{told}, top1 drops {significant(100 * found.drop)} pp ({interval}, {found.n} validation samples)"


def _document(made: Compressed, files: dict[str, str], bench: Workbench) -> dict[str, object]:
    return {
        "variant": made.variant.name,
        **_file(made.artifact, made.info, made.sensitivity, made.made_s, files, bench),
        "forms": [_form_document(each, files, bench) for each in made.forms],
    }


def _form_document(form: Form, files: dict[str, str], bench: Workbench) -> dict[str, object]:
    document: dict[str, object] = {"preset": to_json(form.preset)}
    if form.artifact is not None and form.info is not None:
        document |= _file(form.artifact, form.info, form.sensitivity, form.made_s, files, bench)
    return document


def _file(
    artifact: Artifact,
    info: ModelInfo,
    table: Sensitivity | None,
    made_s: float | None,
    files: dict[str, str],
    bench: Workbench,
) -> dict[str, object]:
    path = bench.artifacts.path(artifact.digest) / MODEL_FILE
    return {
        "file": files.get(artifact.digest, str(path)),
        "model": to_json(info),
        "lineage": model.lineage(model.load(path)),
        "sensitivity": None if table is None else to_json(table),
        "cached": made_s is None,
        "made_s": made_s,
    }
