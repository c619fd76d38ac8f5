"""A gate as one JSON document: what `gate --json` prints, gate.json holds and a bundle keeps. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import asdict

from edgebench.gates.base import Gate, Verdict


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
