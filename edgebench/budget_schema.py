"""The JSON Schema of budgets.yaml, made from what `budgets` reads: for editors and generators."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from edgebench.budgets import METRICS, VERSION, BudgetsFile, Metric, Severity
from edgebench.units import BYTE_UNITS, TIME_UNITS

METRIC_WORDS: Mapping[str, str] = {
    "latency.p50": "median time of one inference; 5 samples a launch are the least",
    "latency.p90": "time that 90 % of inferences keep; 29 samples a launch are the least",
    "latency.p95": "time that 95 % of inferences keep; 59 samples a launch are the least",
    "latency.p99": "time that 99 % of inferences keep; 299 samples a launch are the least",
    "throughput": "inputs a second: batch by mean time of an inference",
    "load_time": "time from the start of a process until its model is ready",
    "first_inference": "time of the first inference of a process",
    "memory_peak": "largest resident memory of any launch",
    "artifact_size": "bytes of the files that the runtime loads",
    "accuracy_drop": "accuracy of the baseline less that of the candidate",
    "parity.snr": "how close the converted outputs are to the reference's, as a signal-to-noise ratio",
    "energy_per_inference": "energy of one inference above the idle board",
    "deadline_misses": "share of inferences that take longer than `period`",
}
KEY_WORDS: Mapping[str, Mapping[str, str]] = {
    "BudgetsFile": {
        "version": "the version of this format",
        "budgets": "limits and whom they are for; the match with more literal characters is the stronger one",
        "defaults": "what holds where a budget says nothing else",
        "baseline": "what `regress` compares with: a release's name, or latest-passed",
    },
    "BaselineEntry": {
        "release": "a release's name, or latest-passed",
        "mode": "interleaved measures it again beside the candidate, stored takes what was measured then",
    },
    "DefaultsEntry": {"severity": "block decides the exit code, warn and info are shown"},
    "BudgetEntry": {
        "name": "shown beside each verdict, and for `extends`",
        "match": "the cells it is for; all where left out",
        "limits": "metric to its limits",
        "severity": "block decides the exit code, warn and info are shown",
        "extends": "budgets above whose limits it takes over and may change",
        "waive": "lets failures of these cells through until a day",
    },
    "WaiverEntry": {
        "until": "the last day, as 2027-01-31",
        "reason": "why",
        "owner": "who answers for it",
    },
}
_NUMBER = r"[0-9]+(\.[0-9]+)?"


def json_schema() -> dict[str, Any]:
    """The JSON Schema, as docs/budgets.schema.json holds it."""
    made: dict[str, Any] = msgspec.json.schema(BudgetsFile)
    parts = made["$defs"]
    del parts["LimitEntry"]
    for name, words in KEY_WORDS.items():
        for key, text in words.items():
            parts[name]["properties"][key]["description"] = text
    parts["BudgetsFile"]["properties"]["version"]["const"] = VERSION
    parts["BudgetsFile"]["properties"]["budgets"]["minItems"] = 1
    parts["BudgetEntry"]["properties"]["limits"] = {
        "description": KEY_WORDS["BudgetEntry"]["limits"],
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _limits(name, metric) for name, metric in METRICS.items()},
    }
    parts["WaiverEntry"]["properties"]["until"]["pattern"] = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edgebench budgets",
        **made,
    }


def _limits(name: str, metric: Metric) -> dict[str, Any]:
    """The keys that a metric takes."""
    kinds = ["max", "min", *(["regress"] if metric.relative else [])]
    example, pattern = _form(metric)
    words = {"max": "at most", "min": "at least"}
    keys: dict[str, Any] = {
        kind: {
            "type": "string",
            "description": f"{text}, with its unit: {example}",
            "pattern": pattern,
            "examples": [example],
        }
        for kind, text in words.items()
    }
    if metric.relative:
        keys["regress"] = {
            "type": "string",
            "description": "how much worse than the baseline at most",
            "pattern": _pattern(["%"]),
            "examples": ["3 %"],
        }
    keys["severity"] = {"enum": list(get_args(Severity)), "description": "block where left out"}
    if name == "deadline_misses":
        keys["period"] = {
            "type": "string",
            "description": "the time between two frames",
            "pattern": _pattern(TIME_UNITS),
            "examples": ["33 ms"],
        }
    return {
        "type": "object",
        "description": METRIC_WORDS[name],
        "properties": keys,
        "additionalProperties": False,
        "anyOf": [{"required": [kind]} for kind in kinds],
        **({"required": ["period"]} if name == "deadline_misses" else {}),
    }


def _form(metric: Metric) -> tuple[str, str]:
    """An example of an absolute limit, and the pattern of all of them."""
    forms: Mapping[str, tuple[str, str]] = {
        "time": ("12 ms", _pattern(TIME_UNITS)),
        "bytes": ("60 MiB", _pattern(BYTE_UNITS)),
        "ratio": ("1 %", _pattern(["%", "pp"])),
        "per-second": ("30 /s", _pattern(["/s"], space=" +")),
        "dB": ("30 dB", _pattern(["dB"], space=" +")),
        "mJ": ("90 mJ", _pattern(["mJ"], space=" +")),
    }
    return forms[metric.unit]


def _pattern(units: list[str] | tuple[str, ...], space: str = r"\s*") -> str:
    return rf"^\s*{_NUMBER}{space}({'|'.join(map(re.escape, units))})\s*$"
