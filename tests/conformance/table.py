"""Outcomes -> Markdown. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from tests.conformance.boundary import Bounds
from tests.conformance.goals import OTHERS, goals, within
from tests.conformance.route import Outcome

VERDICTS = ("passed", "refused", "wrong", "crashed")
TOOLS = ("onnx", "onnxruntime", "openvino", "ncnn", "pnnx", "coremltools", "numpy")
Group = tuple[str, str]

INTRODUCTION = """\
The cases are those of `onnx.backend.test`, without strings, sequences, optionals, bfloat16, 8-bit floats,
4-bit integers, training, the `ml` and `preview` domains, and random outputs. Frozen: inputs that are
parameters by nature (axes, shapes, scales, weights ...) are constants of the model. Live: every input is fed
at run time. The counts that edgebench's goals come from had 1,701 cases, and by their list of operators
neither ReverseSequence (2) nor TfIdfVectorizer (7). Both take tensors of numbers, so they are here.

Each case takes edgebench's own path: canonical form, functions written out where the runtime lacks them,
conversion, parity on the case's own inputs and on generated ones. The reference is ONNX Runtime with graph
optimisations off, and ONNX's own definition where that has no kernel or is known to err.

- **Passed**: an artifact came out and gives the case's expected outputs: rtol 1e-3, atol 1e-5, and never less
  than four float32 steps of the largest expected value (DFT and STFT expect 0 beside hundreds).
- **Refused**: no artifact came out, with a reason. The crash of a tool is a refusal with its log.
- **Wrong**: an artifact came out as passed and gives something else.
- **Crashed**: edgebench itself failed.
""".splitlines()

OTHER_ROUTES = """\
**onnx2coreml** and **onnxsim** are not edgebench: onnx2coreml 1.1.0 and `export_coreml` of onnxsim 0.8.1
(after its `simplify`), from PyPI, asked for float32 and iOS 17 in the same run, without parity: they give
what they give. Their packages are evaluated by edgebench's interpreter, as edgebench's own are: a reading of
Core ML, not Core ML. A package that it cannot evaluate counts as refused, and the reason says so. Crashed:
their process died or took longer than 60 seconds.
""".splitlines()

BOUNDARY = """\
Some cases no package of Core ML and no network of ncnn can take, whatever is in between: their inputs or
outputs have element types or ranks that do not exist there. Of the frozen cases, counted by what they meet
(where the goals come from, other inputs were frozen: 1,461 cases within Core ML's boundary, 997 in ncnn's):
""".splitlines()


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line for each runtime and form."""
    lines = [
        "| runtime | form | cases | passed | refused | wrong | crashed |",
        "|---|---|---|---|---|---|---|",
    ]
    for runtime, form in _groups(outcomes):
        chosen = [each for each in outcomes if (each.runtime, each.form) == (runtime, form)]
        counts = Counter(each.verdict for each in chosen)
        cells = " | ".join(f"{counts[verdict]:,}" for verdict in VERDICTS)
        lines.append(f"| {runtime} | {form} | {len(chosen):,} | {cells} |")
    return "\n".join(lines)


def boundary_lines(outcomes: Sequence[Outcome], bounds: Bounds) -> list[str]:
    """How many passed of the frozen cases that the boundary of Core ML or ncnn allows."""
    lines = []
    for runtime, names, whose in (
        *((route, bounds.coreml, "Core ML's") for route in ("coreml", *OTHERS)),
        ("ncnn", bounds.ncnn, "ncnn's"),
    ):
        passed, taken = within(outcomes, runtime, names)
        if taken:
            lines.append(f"{runtime}: {passed:,} of {taken:,} frozen cases that {whose} boundary allows")
    return lines


def document(outcomes: Sequence[Outcome], bounds: Bounds, command: str) -> str:
    """The whole report."""
    others = any(each.runtime in OTHERS for each in outcomes)
    return "\n".join(
        [
            "# ONNX's own conformance cases through edgebench",
            "",
            f"Made on {datetime.now(UTC):%Y-%m-%d} by `{command}` with {_versions()}.",
            *_sampled(outcomes),
            "",
            *INTRODUCTION,
            "",
            *([*OTHER_ROUTES, ""] if others else []),
            summary(outcomes),
            "",
            *_goals(outcomes, bounds),
            *_boundary(outcomes, bounds),
            *_wrong(outcomes),
            *_by_operator(outcomes),
            *_reasons(outcomes),
        ]
    )


def _sampled(outcomes: Sequence[Outcome], whole: int = 1600) -> list[str]:
    """A word where not all cases were taken."""
    smallest = min(
        sum(1 for each in outcomes if (each.runtime, each.form) == group) for group in _groups(outcomes)
    )
    if smallest >= whole:
        return []
    return [
        "",
        "**A sample, the same cases each time; `make conformance` takes all of them (an hour or two).**",
    ]


def _groups(outcomes: Sequence[Outcome]) -> list[Group]:
    return list(dict.fromkeys((each.runtime, each.form) for each in outcomes))


def _versions() -> str:
    found = []
    for tool in TOOLS:
        try:
            found.append(f"{tool} {version(tool)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _goals(outcomes: Sequence[Outcome], bounds: Bounds) -> list[str]:
    reached = goals(outcomes, bounds)
    if not reached:
        return []
    lines = ["## Goals", "", "| what | wanted | found | |", "|---|---|---|---|"]
    lines += [
        f"| {goal.what} | {goal.wanted} | {goal.found} | {'holds' if goal.holds else '**DOES NOT HOLD**'} |"
        for goal in reached
    ]
    return [*lines, ""]


def _boundary(outcomes: Sequence[Outcome], bounds: Bounds) -> list[str]:
    lines = boundary_lines(outcomes, bounds)
    if not lines:
        return []
    limits = [f"| {limit} | {count:,} |" for limit, count in bounds.limits.items()]
    allowed = [
        f"| none: Core ML's boundary allows them | {len(bounds.coreml):,} of {bounds.cases:,} |",
        f"| ncnn's: float32 in and out, rank 1 to 4 | {len(bounds.ncnn):,} of {bounds.cases:,} |",
    ]
    table = ["| limit of Core ML | cases |", "|---|---|", *limits, *allowed]
    return [
        "## What the boundary allows",
        "",
        *BOUNDARY,
        "",
        *table,
        "",
        *(f"- {line}" for line in lines),
        "",
    ]


def _wrong(outcomes: Sequence[Outcome]) -> list[str]:
    bad = [each for each in outcomes if each.verdict in ("wrong", "crashed") and each.runtime not in OTHERS]
    if not bad:
        return []
    lines = ["## Wrong or crashed", "", "| runtime | form | case | what |", "|---|---|---|---|"]
    lines += [
        f"| {each.runtime} | {each.form} | {each.case} | {each.verdict}: {_cell(each.reason)} |"
        for each in bad
    ]
    return [*lines, ""]


def _by_operator(outcomes: Sequence[Outcome]) -> list[str]:
    lines = [
        "## By operator",
        "",
        "Passed of all cases; in brackets how many are wrong (w) or crashed (c), where there are any.",
        "",
    ]
    for form in dict.fromkeys(each.form for each in outcomes):
        lines += [f"### {form.capitalize()}", "", *_operators([e for e in outcomes if e.form == form]), ""]
    return lines


def _operators(outcomes: Sequence[Outcome]) -> list[str]:
    """The rows of one form."""
    runtimes = list(dict.fromkeys(each.runtime for each in outcomes))
    counts: dict[tuple[str, str], Counter[str]] = {}
    for each in outcomes:
        counts.setdefault((each.operator, each.runtime), Counter())[each.verdict] += 1
    lines = ["| operator | " + " | ".join(runtimes) + " |", "|---|" + "---|" * len(runtimes)]
    for operator in sorted({each.operator for each in outcomes}):
        cells = [_counted(counts.get((operator, runtime), Counter())) for runtime in runtimes]
        lines.append(f"| {operator} | " + " | ".join(cells) + " |")
    return lines


def _counted(verdicts: Counter[str]) -> str:
    bad = " ".join(f"{verdicts[kind]}{kind[0]}" for kind in ("wrong", "crashed") if verdicts[kind])
    return f"{verdicts['passed']}/{verdicts.total()}" + (f" ({bad})" if bad else "")


def _reasons(outcomes: Sequence[Outcome], most: int = 15) -> list[str]:
    """The commonest reasons of refusals, names and numbers taken out."""
    lines = ["## Why cases are refused", ""]
    for runtime, form in _groups(outcomes):
        reasons = Counter(
            _kind(each)
            for each in outcomes
            if (each.runtime, each.form, each.verdict) == (runtime, form, "refused")
        )
        lines += [f"### {runtime}, {form}", "", "| cases | reason |", "|---|---|"]
        lines += [f"| {count} | {_cell(reason)} |" for reason, count in reasons.most_common(most)]
        lines.append("")
    return lines


def _kind(outcome: Outcome) -> str:
    text = outcome.reason.replace(outcome.case, "MODEL")
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", re.sub(r'"[^"]*"|\'[^\']*\'', '"..."', text))[:160]


def _cell(text: str) -> str:
    return " ".join(text[:220].replace("|", "/").split())
