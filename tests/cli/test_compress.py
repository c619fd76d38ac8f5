"""`edgebench compress` and `choose`: recipes from a file to a choice, and what is refused on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest

from tests.commands import DEMO, DIGITS, QUICK, Cli
from tests.disks import small_disk
from tests.fleet.simulated import Timing, facts_of_this_computer, inventory, played

__all__ = ["small_disk"]

CALIBRATION = DEMO / "digits-calibration.npz"
RECIPE = f"""\
version: 1
data: {{calibration: {CALIBRATION}, validation: val.npz, test: test.npz}}
variants:
  thin: [{{prune: {{share: 0.3}}}}]
  thin16: [{{from: thin}}, fp16]
  thin8: [{{from: thin}}, {{int8: {{max_drop: 2 pp, for: onnxruntime}}}}]
"""


@pytest.fixture
def recipe(cli: Cli) -> Path:
    """A recipe beside its three sets, in the working directory."""
    with np.load(DEMO / "digits-test.npz") as held_out:
        pictures, labels = held_out["image"], held_out["labels"]
    np.savez(cli.folder / "val.npz", image=pictures[:100], labels=labels[:100])
    np.savez(cli.folder / "test.npz", image=pictures[100:200], labels=labels[100:200])
    path = cli.folder / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def _changed(recipe: Path, old: str, new: str) -> Path:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))
    return recipe


# --- variants -----------------------------------------------------------------------------------------


def test_variants_share_what_they_begin_with(fresh_cli: Cli, tmp_path: Path) -> None:
    path = fresh_cli.folder / "recipe.yaml"
    path.write_text(RECIPE.split("data:")[0] + "variants:" + RECIPE.split("variants:")[1].split("  thin8")[0])
    first = fresh_cli("compress", DIGITS, "--recipe", path, "--only", "thin", "-o", tmp_path / "out")
    assert "compress thin: prune" in first.err
    made = fresh_cli.json("compress", DIGITS, "--recipe", path, "-o", tmp_path / "out")
    thin, half = made["variants"]
    assert thin["cached"]
    assert not half["cached"]
    assert [step["step"] for step in half["lineage"]] == ["prune", "fp16"]
    assert half["lineage"][0] == thin["lineage"][0]
    assert half["lineage"][1]["input"] != half["lineage"][0]["input"]
    assert half["model"]["variant"] == "thin16"
    again = fresh_cli.json("compress", DIGITS, "--recipe", path, "-o", tmp_path / "out")
    assert [each["cached"] for each in again["variants"]] == [True, True]
    assert Path(half["file"]) == tmp_path / "out" / "digits-thin16.onnx"
    told = fresh_cli("inspect", half["file"]).out
    assert "digits, variant thin16" in told
    assert "prune" in told
    assert "fp16" in told
    assert fresh_cli.leftovers() == []


def test_other_options_and_other_data_are_other_steps(cli: Cli, recipe: Path) -> None:
    one = cli.json("compress", DIGITS, "--recipe", recipe, "--only", "thin")["variants"][0]
    other = cli.json(
        "compress", DIGITS, "--recipe", _changed(recipe, "share: 0.3", "share: 0.4"), "--only", "thin"
    )
    assert one["model"]["digest"] != other["variants"][0]["model"]["digest"]


def test_int8_becomes_what_each_runtime_executes_well(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    _changed(recipe, "{max_drop: 2 pp, for: onnxruntime}", "{}")
    words = ("compress", DIGITS, "--recipe", recipe, "--only", "thin8", "--for", "onnxruntime,tensorrt,ncnn")
    (made,) = cli.json(*words, "-o", tmp_path / "out")["variants"]
    forms = {each["preset"]["runtime"]: each for each in made["forms"]}
    assert forms["ncnn"]["preset"]["step"] == ""
    assert "file" not in forms["ncnn"]
    assert forms["tensorrt"]["lineage"][-1]["settings"]["symmetric"] is True
    assert forms["onnxruntime"]["lineage"][-1]["settings"]["activation"] in ("uint8", "int8")
    arm = cli.json(*words, "--arch", "aarch64")["variants"][0]["forms"][0]
    assert arm["preset"]["name"] == "onnxruntime-arm"
    assert arm["lineage"][-1]["settings"]["activation"] == "int8"


def test_the_table_of_layers_lies_beside_the_variant(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    words = ("compress", DIGITS, "--recipe", recipe, "--only", "thin8", "-o", tmp_path / "out")
    shown = cli(*words).out
    assert "layers stay float (drop of top1 at most 2.00 pp)" in shown
    assert "100 validation samples" in shown
    (table,) = (tmp_path / "out").glob("*.sensitivity.json")
    saved = json.loads(table.read_text())
    document = cli.json(*words)["variants"][0]["forms"][0]["sensitivity"]
    assert saved == document
    assert saved["accuracy"]["n"] == 100
    assert saved["accuracy"]["drop_low"] <= saved["accuracy"]["drop"] <= saved["accuracy"]["drop_high"]


def test_what_exporters_note_of_their_computer_is_gone(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    noisy = onnx.load(DIGITS)
    noisy.doc_string = noisy.graph.doc_string = "/home/somebody/net.py"
    for entry in (*noisy.graph.node, *noisy.graph.initializer, *noisy.graph.input):
        entry.metadata_props.add(
            key="pkg.torch.onnx.stack_trace", value="/home/somebody/net.py:7 x = secret()"
        )
        entry.doc_string = "/home/somebody/net.py"
    noisy.graph.metadata_props.add(key="namespace", value="/home/somebody")
    noisy.metadata_props.add(key="owner", value="kept")
    onnx.save(noisy, tmp_path / "digits.onnx")
    (made,) = cli.json("compress", tmp_path / "digits.onnx", "--recipe", recipe, "--only", "thin")["variants"]
    data = Path(made["file"]).read_bytes()
    assert b"somebody" not in data
    assert b"stack_trace" not in data
    assert {each.key for each in onnx.load(made["file"]).metadata_props} >= {"owner", "edgebench.lineage"}


def test_the_list_of_steps(cli: Cli) -> None:
    listed = cli.json("compress", "--list-steps")["steps"]
    assert {"prune", "cluster", "int8", "int8-mixed"} <= {each["name"] for each in listed}
    shown = cli("compress", "--list-steps").out
    assert re.search(
        r"^int4-weights  fp32 -> mixed: .*\n(.*\n)?  block = 32 +whole number, >= 16", shown, re.M
    )
    assert re.search(r"^  ignore +list of text", shown, re.M)


def test_runtimes_show_their_form_of_int8(cli: Cli) -> None:
    shown = {each["runtime"]: each["int8"] for each in cli.json("runtimes")["runtimes"]}
    assert shown["onnxruntime"]["aarch64"]["name"] == "onnxruntime-arm"
    assert shown["onnxruntime"]["x86_64-no-vnni"]["step"].endswith("reduce_range=true")
    assert shown["tensorrt"]["here"]["name"] == "tensorrt"
    table = cli("runtimes").out
    assert "int8 here" in table
    assert "tensorrt: S8S8 QDQ, symmetric" in table


# --- evaluated ----------------------------------------------------------------------------------------


def test_variants_are_compared_with_the_model_and_each_other(cli: Cli, recipe: Path) -> None:
    _changed(recipe, "share: 0.3", "share: 0.6")
    _changed(recipe, "  thin8: [{from: thin}, {int8: {max_drop: 2 pp, for: onnxruntime}}]", "  half: [fp16]")
    words = ("compress", DIGITS, "--recipe", recipe, "--evaluate")
    found = cli.json(*words)["evaluation"]
    assert (found["n"], found["chosen_by"]) == (100, False)
    worths = {each["variant"]: each for each in found["worths"]}
    for name, worth in worths.items():
        alike, top1 = worth["likeness"], worth["accuracy"]
        assert alike["n"] == top1["n"] == 100, name
        assert alike["agreement"]["low"] <= alike["agreement"]["value"] <= alike["agreement"]["high"]
        assert alike["snr_db"]["low"] <= alike["snr_db"]["value"] <= alike["snr_db"]["high"]
        assert top1["drop_low"] <= top1["drop"] <= top1["drop_high"]
        assert top1["against"] == "fp32"
    assert worths["half"]["likeness"]["snr_db"]["value"] > worths["thin"]["likeness"]["snr_db"]["value"] + 20
    assert worths["half"]["likeness"]["agreement"]["value"] == 1.0
    pairs = {(each["one"], each["other"]): each["found"] for each in found["differences"]}
    assert set(pairs) == {("thin", "thin16"), ("thin", "half"), ("thin16", "half")}
    lost = pairs["thin", "half"]
    assert lost["drop"] < 0
    assert lost["p_value"] < 0.001
    shown = cli(*words).out
    assert "against the model, 100 samples of" in shown
    assert "in pairs, by McNemar's exact test" in shown


def test_without_a_test_set_the_samples_of_choosing_are_taken_and_said_so(cli: Cli, recipe: Path) -> None:
    _changed(recipe, ", test: test.npz", "")
    words = ("compress", DIGITS, "--recipe", recipe, "--only", "thin", "--evaluate")
    found = cli.json(*words)["evaluation"]
    assert (found["n"], found["chosen_by"]) == (100, True)
    assert "the numbers flatter them" in cli(*words).out
    _changed(recipe, ", validation: val.npz", "")
    found = cli.json(*words)["evaluation"]
    assert found["worths"][0]["accuracy"] is None
    assert found["worths"][0]["likeness"]["agreement"]["value"] > 0.5
    recipe.write_text(recipe.read_text().replace(f"data: {{calibration: {CALIBRATION}}}\n", ""))
    assert "names no samples" in cli.fails(2, "user", *words)


# --- refused ------------------------------------------------------------------------------------------


def test_a_variant_that_cannot_be_made_does_not_keep_the_others_back(cli: Cli, recipe: Path) -> None:
    with recipe.open("a") as file:
        file.write("  tight: [{int8-mixed: {min_snr: 150 dB}}]\n")
    made = cli.json("compress", DIGITS, "--recipe", recipe, code=4)
    assert [each["variant"] for each in made["variants"]] == ["thin", "thin16", "thin8"]
    (failure,) = made["failures"]
    assert (failure["variant"], failure["owner"]) == ("tight", "model")
    shown = cli("compress", DIGITS, "--recipe", recipe, code=4)
    assert "failed (model): tight" in shown.err


def test_recipes_that_are_none(cli: Cli, recipe: Path) -> None:
    assert "a model and a recipe" in cli.fails(2, "user", "compress", DIGITS)
    assert "no file" in cli.fails(2, "user", "compress", DIGITS, "--recipe", "none.yaml")
    told = cli.fails(2, "user", "compress", DIGITS, "--recipe", recipe, "--only", "thick")
    assert '"thin"' in told
    _changed(recipe, "prune: {share", "prune: {chare")
    told = cli.fails(2, "user", "compress", DIGITS, "--recipe", recipe)
    assert "recipe.yaml:4: the step prune has no option" in told
    assert '"share"' in told


@pytest.mark.parametrize("name", ["calibration", "validation"])
def test_samples_in_two_sets_are_found(cli: Cli, recipe: Path, name: str) -> None:
    """Five pictures of the test set are in the other too, in another order."""
    with np.load(cli.folder / "test.npz") as held_out:
        pictures, labels = held_out["image"][5:10][::-1], held_out["labels"][5:10][::-1]
    with np.load(cli.folder / "val.npz") as other:
        pictures = np.concatenate((other["image"], pictures))
        labels = np.concatenate((other["labels"], labels))
    np.savez(cli.folder / "mixed.npz", image=pictures, labels=labels)
    _changed(recipe, "val.npz" if name == "validation" else str(CALIBRATION), "mixed.npz")
    told = cli.fails(2, "user", "compress", DIGITS, "--recipe", recipe)
    assert "5 of the 100 test samples (" in told
    assert f"test.npz) are {name} samples too (" in told


def test_a_function_may_give_the_test_set(cli: Cli, recipe: Path) -> None:
    """The same pictures say the same, and are found in another set just so."""
    words = ("compress", DIGITS, "--recipe", recipe, "--only", "thin", "--evaluate")
    from_file = cli.json(*words)["evaluation"]
    (cli.folder / "held_out.py").write_text(
        "import numpy\n"
        "def pictures():\n"
        "    held = numpy.load('test.npz')\n"
        "    return {'image': held['image']}, held['labels']\n"
    )
    _changed(recipe, "test: test.npz", "test: 'held_out:pictures'")
    returned = cli.json(*words)["evaluation"]
    assert returned["source"] == "held_out:pictures"
    assert returned["n"] == 100
    assert {**returned, "source": ""} == {**from_file, "source": ""}
    _changed(recipe, "validation: val.npz", "validation: test.npz")
    told = cli.fails(2, "user", *words)
    assert "100 of the 100 test samples (held_out:pictures) are validation samples too" in told


def test_an_int8_file_is_not_quantized_again(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    (made,) = cli.json("compress", DIGITS, "--recipe", recipe, "--only", "thin8")["variants"]
    again = cli.fails(4, "model", "compress", made["forms"][0]["file"], "--recipe", recipe, "--only", "thin")
    assert "already" in again


def test_int8_of_an_int8_file_is_refused(cli: Cli, recipe: Path) -> None:
    (made,) = cli.json("compress", DIGITS, "--recipe", recipe, "--only", "thin8")["variants"]
    with recipe.open("a") as file:
        file.write("  again: [int8]\n  static: [int8-static]\n")
    for name in ("again", "static"):
        words = ("compress", made["forms"][0]["file"], "--recipe", recipe, "--only", name)
        assert "already" in cli.fails(4, "model", *words)


def test_samples_that_do_not_fit_are_named(cli: Cli, recipe: Path) -> None:
    np.savez(cli.folder / "wide.npz", image=np.zeros((5, 1, 9, 9), np.float32))
    np.savez(cli.folder / "other.npz", picture=np.zeros((5, 1, 8, 8), np.float32))
    kept = recipe.read_text()
    for name, told in (("wide.npz", "image"), ("other.npz", '"picture"'), ("gone.npz", "no file")):
        recipe.write_text(kept.replace(str(CALIBRATION), name))
        assert told in cli.fails(2, "user", "compress", DIGITS, "--recipe", recipe, "--only", "thin8")


def test_labels_beyond_the_classes_are_named(cli: Cli, recipe: Path) -> None:
    for name in ("val.npz", "test.npz"):
        with np.load(cli.folder / name) as held:
            pictures, labels = held["image"], held["labels"]
        np.savez(cli.folder / name, image=pictures, labels=labels + 3)
    words = ("compress", DIGITS, "--recipe", recipe)
    assert "a label is 12" in cli.fails(2, "user", *words, "--only", "thin8")
    assert "a label is 12" in cli.fails(2, "user", *words, "--only", "thin", "--evaluate")


def test_a_full_disk_is_told_and_leaves_nothing(cli: Cli, recipe: Path, small_disk: Path) -> None:
    (small_disk / "filled").write_bytes(b"x" * 900_000)
    words = ("compress", DIGITS, "--recipe", recipe, "--only", "thin")
    assert "cannot be written: No space" in cli.fails(4, "infrastructure", *words, "-o", small_disk / "out")
    assert [path.name for path in (small_disk / "out").iterdir()] == []


def test_a_folder_that_cannot_be_written(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = cli.fails(2, "user", "compress", DIGITS, "--recipe", recipe, "-o", tmp_path / "file" / "out")
    assert "cannot be made" in told


def test_training_steps_name_what_they_need(cli: Cli, recipe: Path) -> None:
    _changed(recipe, "[{from: thin}, fp16]", "[{distill: {}}, fp16]")
    told = cli.fails(2, "user", "compress", DIGITS, "--recipe", recipe)
    assert "edgebench[compress]" in told or "factory" in told


# --- run and choose -----------------------------------------------------------------------------------

PLAN = """\
version: 1
models:
  - {{path: {digits}, recipe: recipe.yaml, variants: [thin8]}}
runtimes: [onnxruntime]
workload: {{launches: 5, threads: 1, min_samples: 20, min_duration_s: 0.01}}
claims:
  - thin8 is 3x smaller than fp32
"""
BOARD = ("--inventory", "inventory.yaml", "--no-health-check")


@pytest.fixture(scope="session", name="facts")
def simulated_facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this computer says of itself."""
    return facts_of_this_computer(tmp_path_factory.mktemp("facts"))


@pytest.fixture
def board(cli: Cli, facts: dict[str, Any]) -> Iterator[None]:
    """A simulated board, on which small files are fast: its outputs are computed, its times are invented."""
    (cli.folder / "inventory.yaml").write_text(inventory(1))

    def times(file: Path, launch: int, _other: Path | None) -> Timing:
        return Timing([file.stat().st_size + 100 * launch + number for number in range(60)])

    with played(facts, times):
        yield


@pytest.mark.usefixtures("board")
def test_a_plan_measures_the_variants_of_a_recipe_and_one_is_chosen(cli: Cli, recipe: Path) -> None:
    plan = cli.folder / "plan.yaml"
    plan.write_text(PLAN.format(digits=DIGITS))
    document = cli.json("run", "--plan", plan, *BOARD)
    rows = {each["variant"]: each for each in document["measurements"]}
    assert set(rows) == {"fp32", "thin8"}
    assert rows["thin8"]["precision"] == "int8"
    assert all(each["accuracy"]["n"] == 100 for each in rows.values())
    assert rows["thin8"]["accuracy"]["against"] == "digits fp32"
    assert [each["verdict"] for each in document["claims"]] == ["verified"]

    chosen = cli.json("choose", document["run"], "--budget", "size <= 300 kB", "--prefer", "size")
    (choice,) = chosen["choices"]
    assert (choice["answer"], choice["name"], choice["runtime"]) == ("ship", "thin8→int8", "onnxruntime")
    assert "breaks size <= 300 kB" in choice["rejected"]["fp32 on onnxruntime"]
    assert {each["place"] for each in chosen["options"]} <= {"front", "unsure", "dominated"}

    picture, dots = cli.folder / "front.svg", cli.folder / "front.png"
    shown = cli("choose", document["run"], "--svg", picture, "--png", dots)
    assert "on the front" in shown.out
    assert dots.read_bytes().startswith(b"\x89PNG")
    assert ET.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "ship nothing" in cli("choose", document["run"], "--budget", "size <= 1 kB", code=1).out
    unsure = cli("choose", document["run"], "--budget", "energy <= 1 mJ", code=3).out
    assert "what was not measured" in unsure


@pytest.mark.usefixtures("board")
def test_flags_take_a_recipe_too(cli: Cli, recipe: Path) -> None:
    words = ("run", DIGITS, "--recipe", recipe, "--only", "thin", "--to", "onnxruntime", *BOARD, *QUICK)
    document = cli.json(*words)
    assert [each["variant"] for each in document["measurements"]] == ["fp32", "thin"]
    told = cli.fails(2, "user", "run", "--recipe", recipe, "--plan", "plan.yaml")
    assert "--recipe beside --plan" in told


BUDGETS = """version: 1
budgets:
  - {name: all, limits: {artifact_size: {max: 300 kB}, accuracy_drop: {max: 15 %}, latency.p50: {max: 2 ms}}}
"""


@pytest.mark.usefixtures("board")
def test_a_gate_judges_every_variant_of_a_recipe(cli: Cli, recipe: Path) -> None:
    (cli.folder / "budgets.yaml").write_text(BUDGETS)
    words = ("run", DIGITS, "--recipe", recipe, "--only", "thin8", "--to", "onnxruntime")
    document = cli.json(*words, *BOARD, "--gate", "budgets.yaml", code=1)
    cells = {(each["variant"], each["metric"]): each["verdict"] for each in document["gate"]["cells"]}
    assert {variant for variant, _ in cells} == {"fp32", "thin8"}
    assert [cells[variant, "artifact_size"] for variant in ("fp32", "thin8")] == ["fail", "pass"]
    assert {word for (_, metric), word in cells.items() if metric != "artifact_size"} == {"pass"}


def test_a_variant_of_a_plan_that_cannot_be_made_ends_it_before_a_device(cli: Cli, recipe: Path) -> None:
    _changed(recipe, "max_drop: 2 pp", "min_snr: 190 dB")
    words = ("run", DIGITS, "--recipe", recipe, "--only", "thin8", "--to", "onnxruntime", "--on", "local")
    document: Any = cli.json(*words, *QUICK, code=4)
    (failure,) = document["failures"]
    assert failure["owner"] == "model"
    assert "within the budget" in failure["message"]
    _changed(recipe, "share: 0.3", "share: 0.3, pattern: '2:4'")
    assert "2:4 zeroes a half" in cli.fails(2, "user", *words, *QUICK)


def test_calibrating_on_the_test_set_is_refused(cli: Cli, recipe: Path) -> None:
    words = ("run", DIGITS, "--precision", "int8", "--to", "onnxruntime", "--on", "local", *QUICK)
    document = cli.json(*words, "--calibration", "test.npz", "--dataset", "test.npz", code=2)
    (failure,) = document["failures"]
    assert "100 of the 100 samples of test.npz are in test.npz too" in failure["message"]


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("p50", "is no budget"),
        ("p5 <= 1 ms", "no metric p5"),
        ("p50 >= 1 ms", "asks for the worse"),
        ("accuracy <= 97 %", "asks for the worse"),
        ("p50 <= 1 MiB", "is not a time"),
        ("accuracy >= 970 %", "more than all"),
        ("energy <= 3 W", "is not an energy"),
    ],
)
def test_budgets_that_are_none(cli: Cli, budget: str, told: str) -> None:
    assert told in cli.fails(2, "user", "choose", "--budget", budget)
