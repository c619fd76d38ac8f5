"""Accuracy and claims in reports: columns only where there is accuracy, verdicts from the stored plan."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from edgebench.records import Accuracy, Measurement, Run, replace
from edgebench.report import markdown, terminal
from edgebench.report.base import Report
from edgebench.report.build import build
from edgebench.report.document import document
from tests.report import fixtures

ACCURACY = Accuracy(
    metric="top1",
    n=500,
    value=0.994,
    dataset="ab" * 32,
    low=0.9825,
    high=0.998,
    top5=1.0,
    reference=0.996,
    against="digits fp32",
    drop=0.002,
    drop_low=-0.0076,
    drop_high=0.0127,
    only_reference=2,
    only_candidate=1,
    p_value=1.0,
)
CLAIMS = [
    "int8-static is 3x smaller",
    "int8-static is 2x faster than fp32",
    "int8-static loses less than 1 % accuracy",
]


def calm(*claims: str) -> tuple[Run, list[Measurement]]:
    run, made, _ = fixtures.calm()
    made = [replace(each, accuracy=ACCURACY) for each in made]
    return replace(run, plan=run.plan | {"plan": {"claims": list(claims)}}), made


def built(*claims: str) -> Report:
    return build(*calm(*claims), [])


def test_columns_only_where_there_is_accuracy() -> None:
    run, plain, _ = fixtures.calm()
    assert "accuracy" not in markdown.render(build(run, plain, []))
    page = markdown.render(built())
    assert "| accuracy % | 95 % of accuracy % | top-5 % | drop % | 95 % of drop % |" in page
    assert "| 99.40 | 98.25 to 99.80 | 100.00 | 0.20 | -0.76 to 1.27 |" in page
    assert "top1 on 500 labelled samples, computed on controller (runtime)" in page
    assert "digits fp32 as it was given" in page


def test_a_metric_of_ones_own_is_no_share() -> None:
    run, made = calm()
    own = replace(
        ACCURACY, metric="m:iou", value=31.25, drop=0.5, low=None, high=None, drop_low=None, drop_high=None
    )
    page = markdown.render(build(run, [replace(each, accuracy=own) for each in made], []))
    assert "| score | score drop |" in page
    assert "| 31.2 | 0.500 |" in page
    assert "accuracy %" not in page


def test_claims_are_judged_from_the_stored_plan() -> None:
    report = built(*CLAIMS, "a sentence of a newer edgebench")
    found = {(each.claim, each.device): each.verdict for each in report.claims}
    assert found == {
        (CLAIMS[0], "pi5-01"): "verified",
        (CLAIMS[0], "zero-01"): "verified",
        (CLAIMS[1], "pi5-01"): "verified",
        (CLAIMS[1], "zero-01"): "verified",
        (CLAIMS[2], "pi5-01"): "inconclusive",
        (CLAIMS[2], "zero-01"): "inconclusive",
    }
    page = markdown.render(report)
    assert "## Claims" in page
    assert "| int8-static is 3x smaller | digits · onnxruntime · pi5-01 | verified | 3.34x smaller |" in page
    for width in (40, 80, 200):
        text = terminal.render(report, width=width, colour=False)
        assert all(len(line) <= width for line in text.splitlines())
        assert "verified digits" in text


def test_the_document_follows_the_schema() -> None:
    made = document(built(*CLAIMS))
    schema = json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(made)
    assert made["measurements"][0]["accuracy"]["drop_high"] == 0.0127
    assert len(made["claims"]) == 6


def test_a_cell_that_failed_or_never_came_leaves_its_claims_open() -> None:
    run, made = calm(CLAIMS[1])
    lost = next(each.job for each in made if each.job.device == "pi5-01" and each.job.precision == "int8")
    failure = fixtures.failure(lost, "device", "push", "no space is left", "")
    kept = [each for each in made if each.job != lost and each.job.device == "pi5-01"]
    verdicts = {each.device: each for each in build(run, kept, [failure]).claims}
    assert verdicts["pi5-01"].verdict == "inconclusive"
    assert verdicts["pi5-01"].reason == "int8-static was not measured: no space is left"
    assert "did not come to it" in verdicts["zero-01"].reason
