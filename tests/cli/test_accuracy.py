"""`edgebench run --dataset` and `claims:` in a plan, up to the report, the gate and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import DEMO, DIGITS, QUICK, Cli, follows_schema

PRUNED = str(DEMO / "digits-pruned.onnx")
CALIBRATION = str(DEMO / "digits-calibration.npz")
N = 60


@pytest.fixture
def some(cli: Cli) -> str:
    """The first test pictures with their labels."""
    with np.load(DEMO / "digits-test.npz") as data:
        np.savez(cli.folder / "some.npz", image=data["image"][:N], digit=data["labels"][:N])
    return "some.npz"


PLAN = """\
version: 1
models:
  - {{path: {digits}, calibration: {calibration}, dataset: some.npz, labels_key: digit}}
  - {{path: {pruned}, dataset: some.npz, labels_key: digit, precisions: [fp32]}}
runtimes: [onnxruntime]
precisions: [fp32, int8]
on: local
workload: {{launches: 5, threads: 1, min_samples: 10, min_duration_s: 0.0, max_warmup_s: 0.2, max_invalid: 0}}
claims:
  - int8 is 3x smaller than fp32
  - int8 is 40x smaller than fp32
  - int8 is 1.01x faster than fp32
  - accuracy drop of int8 < 50 %
  - pruned-50 loses less than 0.001 % accuracy
"""


def plan(cli: Cli, text: str = PLAN) -> str:
    made = text.format(digits=DIGITS, pruned=PRUNED, calibration=CALIBRATION)
    (cli.folder / "plan.yaml").write_text(made)
    return "plan.yaml"


def by_claim(document: dict[str, Any]) -> dict[str, str]:
    return {each["claim"]: each["verdict"] for each in document["claims"]}


def test_a_plan_with_claims_from_run_to_report_and_gate(cli: Cli, some: str) -> None:
    document = cli.json("run", "--plan", plan(cli), code=None)
    follows_schema(document)
    found = {(each["variant"], each["precision"]): each["accuracy"] for each in document["measurements"]}
    assert set(found) == {("fp32", "fp32"), ("fp32", "int8"), ("pruned-50", "fp32")}
    for accuracy in found.values():
        assert (accuracy["n"], accuracy["metric"], accuracy["where"]) == (N, "top1", "controller")
        assert accuracy["against"] == "digits fp32"
        assert accuracy["drop_low"] < accuracy["drop"] < accuracy["drop_high"]
    verdicts = by_claim(document)
    assert verdicts.pop("int8 is 1.01x faster than fp32") in ("verified", "inconclusive", "refuted")
    assert verdicts == {
        "int8 is 3x smaller than fp32": "verified",
        "int8 is 40x smaller than fp32": "refuted",
        "accuracy drop of int8 < 50 %": "verified",
        "pruned-50 loses less than 0.001 % accuracy": "inconclusive",
    }
    again = cli.json("report", document["run"])
    assert (again["claims"], again["measurements"]) == (document["claims"], document["measurements"])
    shown = cli("report", document["run"]).out
    assert "Claims" in shown
    assert "refuted digits · onnxruntime · local: 3." in shown
    assert "accuracy" in shown
    assert "60 labelled samples" in shown
    written = cli("report", document["run"], "--format", "markdown").out
    assert "| accuracy % |" in written
    assert "| 95 % of drop % |" in written
    assert "## Claims" in written
    (cli.folder / "budgets.yaml").write_text(
        "version: 1\nbudgets: [{name: all, limits: {accuracy_drop: {max: 0.1 %}}}]\n"
    )
    gate = cli.json("gate", document["run"], code=3)
    assert {each["verdict"] for each in gate["cells"]} == {"inconclusive"}
    assert "samples would decide" in gate["cells"][0]["next"]


def test_flags_and_a_metric_of_ones_own(cli: Cli, some: str) -> None:
    module = f"mine_{abs(hash(str(cli.folder))):x}"
    (cli.folder / f"{module}.py").write_text(
        "def score(outputs, labels):\n    print('scoring')\n    return outputs['logits'].max(1)\n"
    )
    words = ("run", DIGITS, "--to", "onnxruntime", "--on", "local", *QUICK, "--labels-key", "digit")
    document = cli.json(*words, "--dataset", some, "--metric", f"{module}:score", "--accuracy-on-device")
    follows_schema(document)
    (measured,) = document["measurements"]
    assert measured["accuracy"]["where"] == "local"
    assert measured["accuracy"]["only_reference"] is None
    assert abs(measured["accuracy"]["drop"]) < 0.01
    shown = cli("report", document["run"]).out
    assert "score" in shown
    assert document["claims"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metric", "top1"), "--metric without labelled samples"),
        (("--accuracy-on-device",), "--accuracy-on-device without labelled samples"),
        (("--dataset", "some.npz", "--metric", "top7"), 'unknown metric "top7"'),
    ],
)
def test_flags_that_say_nothing_are_refused(cli: Cli, some: str, words: tuple[str, ...], said: str) -> None:
    assert said in cli.fails(2, "user", "run", DIGITS, "--on", "local", *words)


def test_flags_beside_a_plan_are_refused(cli: Cli, some: str) -> None:
    told = cli.fails(2, "user", "run", "--plan", plan(cli), "--dataset", some)
    assert "--dataset beside --plan" in told


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("int8 is 4x tinier than fp32", 'plan.yaml:10: "int8 is 4x tinier than fp32" is no claim'),
        ("int8 is 4x small than fp32", 'the nearest form is "int8 is 4x smaller than fp32"'),
        ("int9 is 4x smaller than fp32", 'the plan has no "int9"'),
    ],
)
def test_claims_that_cannot_be_judged_are_refused_before_anything_is_run(
    cli: Cli, some: str, claim: str, said: str
) -> None:
    path = plan(cli, PLAN.replace("int8 is 3x smaller than fp32", claim))
    assert said in cli.fails(2, "user", "run", "--plan", path)


def test_a_set_that_does_not_fit_is_a_failure_of_its_jobs_and_never_left_out(cli: Cli, some: str) -> None:
    words = ("run", DIGITS, "--to", "onnxruntime", "--on", "local", *QUICK, "--dataset", some)
    document = cli.json(*words, code=2)
    assert document["measurements"] == []
    (failure,) = document["failures"]
    assert (failure["owner"], failure["stage"]) == ("user", "prepare")
    assert '"digit", which are no inputs' in failure["message"]


def test_a_resumed_run_keeps_what_it_was_asked(cli: Cli, some: str) -> None:
    from edgebench.store import Store, sqlite_url

    words = ("run", DIGITS, "--to", "onnxruntime", "--on", "local", *QUICK, "--labels-key", "digit")
    document = cli.json(*words, "--dataset", some)
    with Store(sqlite_url(cli.home / "store.sqlite")) as store:
        planned = json.dumps(store.run(document["run"]).plan)
    assert '"dataset": "some.npz"' in planned
    assert Path(some).exists()
