"""A gate as one JSON document: what `gate --json` prints, gate.json holds and a bundle keeps. Pure."""

from __future__ import annotations

from typing import Any

from edgebench.gates.base import Gate, Verdict
from edgebench.records import to_json


def document(judged: Gate) -> dict[str, Any]:
    """Flat cells with a stable set of keys, and what was not judged."""
    return {
        "schema": judged.schema,
        "verdict": judged.verdict,
        "exit_code": judged.exit_code,
        "cells": [_cell(each) for each in judged.cells],
        "unmatched_budgets": list(judged.unmatched),
        "cells_without_budget": list(judged.unlimited),
    }


def _cell(verdict: Verdict) -> dict[str, Any]:
    plain = to_json(verdict)
    subject = plain.pop("subject")
    subject.pop("groups")
    return {**subject, "verdict": plain.pop("word"), **plain}
