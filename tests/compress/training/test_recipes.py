"""Recipes with training steps, from the command line to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

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
