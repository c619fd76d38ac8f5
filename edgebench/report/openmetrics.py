"""A gate in the text format of OpenMetrics 1.0, as GitLab's metrics report and Prometheus read it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from edgebench.budgets import METRICS
from edgebench.gates import Gate, Verdict
from edgebench.report.base import name

# metric of a budget -> (name without its unit, unit as OpenMetrics names it, factor from ours)
_UNITS = {
    "time": ("seconds", 1e-9),
    "bytes": ("bytes", 1.0),
    "ratio": ("ratio", 1.0),
    "per-second": ("hertz", 1.0),
    "dB": ("decibels", 1.0),
    "mJ": ("joules", 1e-3),
}


def render(gate: Gate) -> str:
    """Gauges by metric: the observed value, and whether each limit is kept; no series twice."""
    lines: list[str] = []
    for metric in METRICS:
        found = [each for each in gate.cells if each.metric == metric and _known(each)]
        if found:
            lines += _family(metric, found)
    lines += ["# TYPE edgebench_gate_passed gauge", "# HELP edgebench_gate_passed 1 where the limit is kept."]
    passed = {_labels(each, True): int(each.word == "pass") for each in gate.cells}
    lines += [f"edgebench_gate_passed{{{labels}}} {value}" for labels, value in passed.items()]
    return "\n".join([*lines, "# EOF", ""])


def _known(verdict: Verdict) -> bool:
    return verdict.observed is not None and math.isfinite(verdict.observed)


def _family(metric: str, found: list[Verdict]) -> Iterator[str]:
    unit, factor = _UNITS[METRICS[metric].unit]
    stem = f"edgebench_{re.sub(r'[^a-z0-9]', '_', metric)}_{unit}"
    yield f"# TYPE {stem} gauge"
    yield f"# UNIT {stem} {unit}"
    seen: set[str] = set()
    for each in found:
        labels = _labels(each, False)
        if labels not in seen and each.observed is not None:
            seen.add(labels)
            yield f"{stem}{{{labels}}} {each.observed * factor:.9g}"


def _labels(verdict: Verdict, with_limit: bool) -> str:
    subject = verdict.subject
    pairs = {
        "device": subject.device,
        "target": subject.target,
        "model": subject.model,
        "variant": subject.variant,
        "runtime": subject.runtime,
        "precision": subject.precision,
    }
    pairs |= {"metric": verdict.metric, "kind": verdict.kind, "verdict": verdict.word} if with_limit else {}
    return ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs.items())


def _escaped(text: str) -> str:
    return name(text).replace("\\", "\\\\").replace('"', '\\"')
