"""Recipes at work: every variant a file in the artifact store, every step made once.

A step is kept by what went in: the digest of the model before it, its options, the data that it looks at, the
seed and the versions of the tools. Variants that begin alike share what they begin with.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from edgebench import compress, model
from edgebench.compress import Chosen
from edgebench.compress.base import SENSITIVITY_FILE, Sensitivity
from edgebench.compress.presets import Int8Options, Preset, Processor, preset, step_of
from edgebench.compress.recipe import Recipe, Variant, trainer
from edgebench.errors import EdgebenchError, UserError
from edgebench.model.dataset import samples_of
from edgebench.pipeline.base import CONTROLLER, MODEL_FILE, Step, Workbench, key_of
from edgebench.pipeline.preparing import info_of, keep_onnx
from edgebench.records import Artifact, ModelInfo, decode, to_json
from edgebench.tools import data_digest
from edgebench.units import format_duration
from edgebench.usercode import is_function_name


class Form(NamedTuple):
    """The int8 that one runtime gets of a variant; no artifact where its converter quantizes itself."""

    preset: Preset
    artifact: Artifact | None
    info: ModelInfo | None
    sensitivity: Sensitivity | None
    made_s: float | None


class Compressed(NamedTuple):
    """One variant of a recipe: its file, and the int8 forms that were asked for.

    `made_s` None: it was kept.
    """

    variant: Variant
    artifact: Artifact
    info: ModelInfo
    sensitivity: Sensitivity | None
    made_s: float | None
    forms: tuple[Form, ...] = ()


class Failed(NamedTuple):
    """A variant that cannot be made, and why."""

    variant: Variant
    error: EdgebenchError


class Source(NamedTuple):
    """The model that a recipe is for, and what it is."""

    path: Path
    info: ModelInfo


def compress_all(
    source: Path,
    recipe: Recipe,
    only: Sequence[str],
    on: Processor,
    runtimes: Sequence[str],
    bench: Workbench,
) -> list[Compressed | Failed]:
    """Every chosen variant of the model, with its int8 forms for runtimes on a processor.

    One that cannot be made is told and does not keep the others back. UserError where sets share samples.
    """
    chosen = recipe.chosen(only)
    begun = Source(source, model.inspect(source))
    refuse_shared(recipe, begun.info)
    made: list[Compressed | Failed] = []
    for each in chosen:
        try:
            done = compressed(begun, each, recipe, bench)
            made.append(done._replace(forms=_forms(done, recipe, on, runtimes, bench)))
        except EdgebenchError as error:
            made.append(Failed(each, error))
    return made


def compressed(source: Source, variant: Variant, recipe: Recipe, bench: Workbench) -> Compressed:
    """A variant's file: the model after its training and ONNX steps, named as the recipe names it."""
    started, fresh = time.monotonic(), False
    path, digest = source.path, source.info.digest
    if variant.training:
        path, digest, fresh = _trained(source, variant, recipe, bench)
    for each in variant.steps:
        bench.announce(Step("compress", CONTROLLER, f"{variant.name}: {each.step.name}"))
        stepped, new = _stepped(path, digest, each, recipe, bench)
        path, digest = bench.artifacts.path(stepped.digest) / MODEL_FILE, stepped.model_digest
        fresh = fresh or new
    named = _named(path, digest, source, variant, bench)
    made_s = time.monotonic() - started if fresh else None
    return Compressed(variant, named, info_of(named, bench), _sensitivity(named, bench), made_s)


def _stepped(
    path: Path, digest: str, chosen: Chosen, recipe: Recipe, bench: Workbench
) -> tuple[Artifact, bool]:
    """The model after one step, and whether it had to be made."""
    settings = _settings(recipe)
    data = [] if not chosen.step.needs_calibration else _digests(settings)
    asked = (chosen.step.name, to_json(chosen.options), data, recipe.seed)
    key = key_of("step", digest, *asked, compress.revision())
    known = bench.artifacts.lookup(key)
    if known is not None:
        return known, False
    with bench.scratch() as folder:
        info = compress.apply(path, [chosen], settings, out=folder / MODEL_FILE)
        return keep_onnx(folder, info, key, bench), True


def _settings(recipe: Recipe, arch: str = "x86_64") -> compress.Settings:
    calibration, validation = (
        None if path is None else Path(path) for path in (recipe.data.calibration, recipe.data.validation)
    )
    return compress.Settings(arch, calibration, validation, recipe.data.labels_key)


def _digests(settings: compress.Settings) -> list[str | None]:
    paths = (settings.calibration, settings.validation)
    return [data_digest(path) if path is not None and path.exists() else None for path in paths]


def _named(path: Path, digest: str, source: Source, variant: Variant, bench: Workbench) -> Artifact:
    """The file under the recipe's name for it; its sensitivity table comes along."""
    key = key_of("variant of a recipe", digest, source.info.name, variant.name, compress.revision())
    known = bench.artifacts.lookup(key)
    if known is not None:
        return known
    network = model.load(path)
    steps = model.lineage(network)
    with bench.scratch() as folder:
        out = folder / MODEL_FILE
        info = model.write(network, out, name=source.info.name, variant=variant.name, steps=steps)
        table = path.with_name(SENSITIVITY_FILE)
        if variant.steps and table.is_file():
            (folder / SENSITIVITY_FILE).write_bytes(table.read_bytes())
        return keep_onnx(folder, info, key, bench)


def _sensitivity(artifact: Artifact, bench: Workbench) -> Sensitivity | None:
    path = bench.artifacts.path(artifact.digest) / SENSITIVITY_FILE
    return decode(Sensitivity, path.read_bytes(), source=str(path)) if path.is_file() else None


# --- int8, a form for each runtime ----------------------------------------------------------------


def _forms(
    made: Compressed, recipe: Recipe, on: Processor, runtimes: Sequence[str], bench: Workbench
) -> tuple[Form, ...]:
    asked = made.variant.int8
    if asked is None:
        return ()
    return tuple(
        _form(made, asked, preset(runtime, on), recipe, on, bench)
        for runtime in asked.named_runtimes() or runtimes
    )


def _form(
    made: Compressed, asked: Int8Options, chosen: Preset, recipe: Recipe, on: Processor, bench: Workbench
) -> Form:
    """The file that a runtime's preset makes of the variant."""
    text = step_of(chosen.runtime, on, asked.text())
    if not text:
        return Form(chosen, None, None, None, None)
    bench.announce(Step("compress", CONTROLLER, f"{made.variant.name}: int8 for {chosen.name}"))
    settings, started = _settings(recipe, on.arch), time.monotonic()
    key = key_of("preset", made.artifact.digest, text, on.arch, _digests(settings), compress.revision())
    known, fresh = bench.artifacts.lookup(key), False
    if known is None:
        with bench.scratch() as folder:
            path = bench.artifacts.path(made.artifact.digest) / MODEL_FILE
            info = compress.apply(path, [text], settings, out=folder / MODEL_FILE)
            known, fresh = keep_onnx(folder, info, key, bench), True
    made_s = time.monotonic() - started if fresh else None
    return Form(chosen, known, info_of(known, bench), _sensitivity(known, bench), made_s)


# --- training -------------------------------------------------------------------------------------


def _trained(source: Source, variant: Variant, recipe: Recipe, bench: Workbench) -> tuple[Path, str, bool]:
    """The float32 file that training wrote, its digest, and whether anything had to be trained.

    Training keeps its steps itself, by what they are made of: code, weights, data, seed and tools.
    """
    package, asked = trainer(), recipe.training
    steps = [(each.name, each.options) for each in variant.training]
    settings = package.TrainSettings(
        work=bench.home / "training",
        seed=recipe.seed,
        device=asked.device,
        name=source.info.name,
        opset=asked.opset,
        threads=asked.threads,
    )

    def tell(progress: Any) -> None:
        note = f"{progress.step}: epoch {progress.epoch} of {progress.epochs}, loss {progress.loss:.4g}, "
        note += f"score {progress.score:.4g}, about {format_duration(progress.left_s)} left"
        bench.announce(Step("train", CONTROLLER, variant.name, note=note))

    with bench.scratch() as folder:
        elsewhere = _elsewhere(recipe, source.info, bench)
        out = folder / MODEL_FILE
        done = package.train(recipe.factory, steps, settings, out=out, tell=tell, elsewhere=elsewhere)
        info: ModelInfo = done.info
        made = keep_onnx(folder, info, key_of("trained", info.digest), bench)
    return bench.artifacts.path(made.digest) / MODEL_FILE, made.model_digest, done.reused < len(steps)


# --- the three sets -------------------------------------------------------------------------------


def _elsewhere(recipe: Recipe, info: ModelInfo, bench: Workbench) -> list[Any]:
    """The recipe's files as the factory's sets are compared with them: which kind of set each is of."""
    data = recipe.data
    kinds = (
        ("train", data.training),
        ("validation", data.calibration),
        ("validation", data.validation),
        ("test", data.test),
    )
    return [
        trainer().Elsewhere(kind, path, _samples(path, data.labels_key, info, bench))
        for kind, path in kinds
        if path is not None
    ]


def _samples(source: str, labels_key: str, info: ModelInfo, bench: Workbench) -> frozenset[bytes]:
    """What names each sample of a set; looked through once for all variants."""
    named = source if is_function_name(source) else data_digest(Path(source))
    key = (named, (labels_key, info.inputs))
    if key not in bench.samples:
        bench.samples[key] = frozenset(samples_of(source, labels_key, info))
    return bench.samples[key]


def refuse_shared(recipe: Recipe, info: ModelInfo) -> None:
    """UserError where two sets of the recipe that must be apart have a sample in common."""
    data = recipe.data
    sets = [
        ("training", data.training),
        ("calibration", data.calibration),
        ("validation", data.validation),
        ("test", data.test),
    ]
    named = [(name, path) for name, path in sets if path is not None]
    looked = cache(lambda source: samples_of(source, data.labels_key, info))  # each set is read once
    for (one, first), (other, second) in combinations(named, 2):
        if {one, other} == {"calibration", "validation"}:
            continue  # both choose; neither is reported on
        known, found = set(looked(first)), looked(second)
        shared = sum(each in known for each in found)
        if shared:
            raise UserError(
                f"{shared} of the {len(found)} {other} samples ({second}) are {one} samples too ({first})",
                hint="training, choosing (calibration, validation) and testing need samples of their own",
            )
