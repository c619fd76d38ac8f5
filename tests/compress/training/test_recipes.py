"""Recipes with training steps, from the command line to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from examples.samples import digits
from tests.commands import DIGITS, Cli, fresh_cli, shared_home

__all__ = ["fresh_cli", "shared_home"]

RECIPE = """\
version: 1
factory: tests.compress.training.factories:residual
data: {calibration: calibration.npz}
training: {device: cpu, threads: 1}
variants:
  tuned: [{fine-tune: {epochs: 1}}]
  pruned: [{from: tuned}, {channel-prune: {ratio: 0.5}}, {fine-tune: {epochs: 1, teacher: original}}]
  pruned8: [{from: pruned}, {qat: {epochs: 1}}, int8]
"""


def _recipe(folder: Path) -> Path:
    np.savez(folder / "calibration.npz", image=digits().validation[0][:32].numpy())
    path = folder / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_training_steps_of_a_recipe_are_made_once_and_quantized_in_the_end(fresh_cli: Cli) -> None:
    recipe = _recipe(fresh_cli.folder)
    out = fresh_cli.folder / "out"
    first = fresh_cli("compress", DIGITS, "--recipe", recipe, "--only", "pruned", "-o", out)
    assert "controller: train pruned" in first.err
    made = fresh_cli.json("compress", DIGITS, "--recipe", recipe, "-o", out)
    variants = {each["variant"]: each for each in made["variants"]}
    assert [step["step"] for step in variants["pruned8"]["lineage"]] == [
        "fine-tune",
        "channel-prune",
        "fine-tune",
        "qat",
    ]
    assert variants["pruned"]["cached"]
    operators = {node.op_type for path in out.rglob("*.onnx") for node in onnx.load(path).graph.node}
    assert "QuantizeLinear" in operators


@pytest.mark.parametrize(
    ("key", "theirs", "told"),
    [
        ("test", "train", "5 of the 400 samples of its train set are in"),
        ("test", "validation", "5 of the 200 samples of its validation set are in"),
        ("validation", "test", "5 of the 300 samples of its test set are in"),
        ("calibration", "train", "5 of the 400 samples of its train set are in"),
        ("training", "test", "5 of the 300 samples of its test set are in"),
    ],
)
def test_files_of_a_recipe_share_no_sample_with_other_sets_of_the_factory(
    fresh_cli: Cli, key: str, theirs: str, told: str
) -> None:
    recipe = _recipe(fresh_cli.folder)
    pictures, labels = (each[100:105].numpy() for each in getattr(digits(), theirs))
    labelled = {} if key == "calibration" else {"labels": labels}
    np.savez(fresh_cli.folder / "shared.npz", image=pictures, **labelled)
    recipe.write_text(RECIPE.replace("{calibration: calibration.npz}", f"{{{key}: shared.npz}}"))
    said = fresh_cli.fails(2, "user", "compress", DIGITS, "--recipe", recipe, "--only", "tuned")
    assert told in said
    assert "shared.npz" in said


def test_the_same_sets_in_files_and_factory_are_fine(fresh_cli: Cli) -> None:
    recipe = _recipe(fresh_cli.folder)
    split = digits()
    for name in ("validation", "test"):
        pictures, labels = (each[:200].numpy() for each in getattr(split, name))
        np.savez(fresh_cli.folder / f"{name}.npz", image=pictures, labels=labels)
    data = "{calibration: calibration.npz, validation: validation.npz, test: test.npz}"
    recipe.write_text(RECIPE.replace("{calibration: calibration.npz}", data))
    words = ("compress", DIGITS, "--recipe", recipe, "--only", "tuned", "--evaluate")
    found = fresh_cli.json(*words)["evaluation"]["worths"]
    assert found[0]["accuracy"]["n"] == 200


def test_a_step_that_the_network_cannot_take_fails_its_variant_alone(fresh_cli: Cli) -> None:
    recipe = _recipe(fresh_cli.folder)
    recipe.write_text(RECIPE + "  heads: [{head-prune: {ratio: 0.5}}]\n")
    answer = fresh_cli(
        "compress", DIGITS, "--recipe", recipe, "--only", "tuned", "--only", "heads", code=None
    )
    assert answer.code != 0
    assert "finds no attention" in answer.out + answer.err


def test_unknown_options_of_training_steps_are_told_by_line(fresh_cli: Cli) -> None:
    recipe = _recipe(fresh_cli.folder)
    recipe.write_text(RECIPE.replace("{ratio: 0.5}", "{ration: 0.5}"))
    answer = fresh_cli("compress", DIGITS, "--recipe", recipe, code=2)
    assert "recipe.yaml:7" in answer.err
    assert 'did you mean "ratio"?' in answer.err
