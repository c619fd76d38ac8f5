"""A gate as one JSON document: what `gate --json` prints, gate.json holds and a bundle keeps. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import msgspec
from msgspec.structs import asdict

from edgebench.budgets import Subject
from edgebench.gates.base import SCHEMA, Gate, Overall, Verdict

KEY_WORDS: Mapping[str, str] = {
    "metric": "what the limit is on",
    "kind": "max and min are absolute, regress is relative to the baseline",
    "verdict": "the answer to this limit of this cell",
    "reason": "the answer in one sentence, with its numbers",
    "next": "what to do or type; empty where nothing is left to do",
    "severity": "only block decides the exit code",
    "limit": "in the metric's unit (ns, bytes, 1/s, dB, mJ, shares); of regress the share",
    "limit_text": "the limit as the budgets file writes it",
    "origin": "file, line and budget that gave the limit",
    "observed": "the typical launch's figure, or the largest, in the metric's unit",
    "baseline": "the same of the baseline",
    "ratio": "candidate by baseline",
    "ci_low": "95 % interval: of the ratio for regress, else of observed",
    "ci_high": "95 % interval: of the ratio for regress, else of observed",
    "p_value": "how often so much is found where the true value lies on the limit",
    "q_value": "p among all cells (Benjamini and Hochberg)",
    "rule": "the test that spoke",
    "launches": "launches of a side, or pairs",
    "look": "the number of launches at which it was decided",
    "looks": "how many looks were planned",
    "alpha": "how often the look that decided may fail where the true value lies on the limit",
    "least_effect": "the smallest change that would have been found in 80 % of cases, as a ratio minus 1",
    "least_effect_at_last": "the same, as expected with 20 launches",
    "design": "launches of their own, or both models in one process",
    "foreign_load": "cores that other processes kept busy, median over the launches",
    "p50_over_p10": "how far half of the inferences lie above the undisturbed ones",
    "hodges_lehmann": "the shift by another estimate, as a logarithm: a cross-check",
    "waived": "until when, by whom and why a failure does not block; else empty",
    "cause": "why it is inconclusive",
}


def document(judged: Gate) -> dict[str, Any]:
    """Flat cells with a stable set of keys, and what was not judged."""
    cells, rest = document_parts(judged)
    return {**rest, "cells": list(cells)}


def document_parts(judged: Gate) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
    """The cells, one after the other, and all else."""
    rest = {
        "schema": judged.schema,
        "verdict": judged.verdict,
        "exit_code": judged.exit_code,
        "unmatched_budgets": list(judged.unmatched),
        "cells_without_budget": list(judged.unlimited),
    }
    return (_cell(each) for each in judged.cells), rest


def _cell(verdict: Verdict) -> dict[str, Any]:
    plain = asdict(verdict)
    subject = asdict(plain.pop("subject"))
    subject.pop("groups")
    return {**subject, "verdict": plain.pop("word"), **plain}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the document, as docs/gate.schema.json holds it."""
    subject, verdict = (_properties(each) for each in (Subject, Verdict))
    subject.pop("groups")
    verdict = {
        "verdict" if key == "word" else key: value for key, value in verdict.items() if key != "subject"
    }
    described = {key: {**value, "description": KEY_WORDS[key]} for key, value in verdict.items()}
    names = {"type": "array", "items": {"type": "string"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edgebench gate",
        **_closed(
            {
                "schema": {"const": SCHEMA, "description": "raised when a key changes its meaning or goes"},
                "verdict": {"enum": sorted(get_args(Overall)), "description": "the worst"},
                "exit_code": {"type": "integer", "description": "what `edgebench gate` ends with"},
                "unmatched_budgets": {**names, "description": "budgets that no cell matched"},
                "cells_without_budget": {**names, "description": "cells that no limit is for"},
                "cells": {"type": "array", "items": _closed(subject | described)},
            }
        ),
    }


def _properties(record: type) -> dict[str, Any]:
    """The JSON Schema of a record's fields; all of them are always there, so that none has a default."""
    found = msgspec.json.schema(record)["$defs"][record.__name__]["properties"]
    return {
        key: {name: part for name, part in value.items() if name != "default"} for key, value in found.items()
    }


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
