"""The JSON Schema of budgets: it is that of the code, and takes and refuses what the reader does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from edgebench import budgets
from edgebench.budget_schema import METRIC_WORDS, json_schema
from edgebench.errors import ConfigError

DOCS = Path(__file__).parents[1] / "docs"


def takes(document: Any) -> bool:
    """Whether schema and reader take the document; they must agree."""
    by_schema = jsonschema.Draft202012Validator(json_schema()).is_valid(document)
    try:
        budgets.parse(json.dumps(document), "budgets.yaml")
        by_reader = True
    except ConfigError:
        by_reader = False
    assert by_schema == by_reader, document
    return by_schema


def limits(**metrics: Any) -> dict[str, Any]:
    named = {name.replace("__", "."): value for name, value in metrics.items()}
    return {"version": 1, "budgets": [{"name": "a", "limits": named}]}


def test_the_published_schema_is_that_of_the_code() -> None:
    published = (DOCS / "budgets.schema.json").read_text()
    assert json.loads(published) == json.loads(json.dumps(json_schema()))


def test_every_metric_is_described_and_no_other() -> None:
    assert set(METRIC_WORDS) == set(budgets.METRICS)


def test_the_examples_of_the_page_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / "gates.md").read_text(), re.S)
    found = [yaml.load(each, yaml.BaseLoader) for each in blocks]
    assert found
    for document in found:
        document["version"] = int(document["version"])
        assert takes(document)


@pytest.mark.parametrize("metric", sorted(budgets.METRICS))
def test_the_example_of_every_metric_is_valid(metric: str) -> None:
    part = json_schema()["$defs"]["BudgetEntry"]["properties"]["limits"]["properties"][metric]
    examples = {key: each["examples"][0] for key, each in part["properties"].items() if "examples" in each}
    period = {key: text for key, text in examples.items() if key == "period"}
    for key, text in examples.items():
        if key != "period":
            assert takes(limits(**{metric: {key: text, **period}}))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"version": 1},
        {"version": 2, "budgets": [{"name": "a", "limits": {"load_time": {"max": "1 s"}}}]},
        {"version": 1, "budgets": []},
        {"version": 1, "budgets": [{"limits": {"load_time": {"max": "1 s"}}}]},
        {"version": 1, "budgets": [], "more": 1},
        limits(latency__p51={"max": "1 ms"}),
        limits(latency__p50={}),
        limits(latency__p50={"max": "1"}),
        limits(latency__p50={"max": 1}),
        limits(latency__p50={"max": "1 MiB"}),
        limits(latency__p50={"max": "1 ms", "period": "1 ms"}),
        limits(latency__p50={"regress": "1 ms"}),
        limits(latency__p50={"max": "1 ms", "severity": "fatal"}),
        limits(latency__p50={"most": "1 ms"}),
        limits(accuracy_drop={"regress": "1 %"}),
        limits(parity__snr={"max": "30dB"}),
        limits(deadline_misses={"max": "1 %"}),
        {"version": 1, "budgets": [{"name": "a", "waive": {"until": "soon", "reason": "r", "owner": "o"}}]},
        {"version": 1, "budgets": [{"name": "a", "waive": {"until": "2027-01-31"}}]},
    ],
)
def test_what_the_reader_refuses_the_schema_refuses(document: dict[str, Any]) -> None:
    assert not takes(document)
