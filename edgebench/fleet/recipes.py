"""Recipes in a plan: each variant becomes a model of it, measured beside the one that it was made of."""

from __future__ import annotations

from pathlib import Path

from edgebench import model as models
from edgebench.compress.recipe import Recipe, read
from edgebench.errors import EdgebenchError
from edgebench.fleet.plan import AS_IS, Plan, PlannedModel
from edgebench.pipeline import Workbench
from edgebench.pipeline.base import MODEL_FILE
from edgebench.pipeline.compressing import Compressed, Source, compressed, refuse_shared
from edgebench.records import replace


def with_variants(plan: Plan, bench: Workbench) -> Plan:
    """The plan with the variants of its recipes, made or kept; itself where it names none.

    The first variant that cannot be made ends it, before any device is touched.
    """
    if all(model.recipe is None for model in plan.models):
        return plan
    return replace(plan, models=tuple(each for model in plan.models for each in _of_model(model, bench)))


def _of_model(model: PlannedModel, bench: Workbench) -> tuple[PlannedModel, ...]:
    if model.recipe is None:
        return (model,)
    recipe = read(Path(model.recipe))
    source = Source(Path(model.path), models.inspect(Path(model.path)))
    refuse_shared(recipe, source.info)
    begun = _with_data(replace(model, recipe=None, variants=()), recipe)
    made = []
    for variant in recipe.chosen(model.variants):
        try:
            made.append(_planned(begun, compressed(source, variant, recipe, bench), recipe, bench))
        except EdgebenchError as error:
            error.message = f"variant {variant.name}: {error.message}"
            raise
    return (begun, *made)


def _with_data(model: PlannedModel, recipe: Recipe) -> PlannedModel:
    """The model with the recipe's data where the plan names none."""
    data = recipe.data
    made = replace(model, calibration=model.calibration or data.calibration)
    if model.dataset is None and data.test is not None:
        made = replace(made, dataset=data.test, labels_key=data.labels_key)
    return made


def _planned(model: PlannedModel, made: Compressed, recipe: Recipe, bench: Workbench) -> PlannedModel:
    """The variant as a model of the plan: as it is, or in the int8 form of each runtime."""
    asked = made.variant.int8
    path = bench.artifacts.path(made.artifact.digest) / MODEL_FILE
    variant = replace(
        model,
        path=str(path),
        reference=model.reference or (model.path if model.dataset is not None else None),
        precisions=(AS_IS,),
    )
    if asked is None:
        return variant
    return replace(
        variant,
        precisions=("int8",),
        runtimes=asked.named_runtimes(),
        int8=asked.text(),
        validation=recipe.data.validation,
        validation_labels_key=recipe.data.labels_key,
    )
