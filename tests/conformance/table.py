"""Outcomes -> Markdown. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from tests.conformance.route import Outcome

VERDICTS = ("passed", "refused", "wrong", "crashed")
TOOLS = ("onnx", "onnxruntime", "openvino", "ncnn", "pnnx", "coremltools", "numpy")


INTRODUCTION = """\
The cases are those of `onnx.backend.test`, without strings, sequences, optionals, bfloat16, 8-bit floats,
4-bit integers, training, the `ml` and `preview` domains, and random outputs. Frozen: inputs that are
parameters by nature (axes, shapes, scales, weights ...) are constants of the model. Live: every input is fed
at run time.

Each case takes edgebench's own path: canonical form, functions written out where the runtime lacks them,
conversion, parity on the case's own inputs and on generated ones. The reference is ONNX Runtime with graph
optimisations off, and ONNX's own definition where that has no kernel or is known to err.

- **Passed**: an artifact came out and gives the case's expected outputs: rtol 1e-3, atol 1e-5, and never less
  than four float32 steps of the largest expected value (DFT and STFT expect 0 beside hundreds).
- **Refused**: no artifact came out, with a reason. The crash of a tool is a refusal with its log.
- **Wrong**: an artifact came out as passed and gives something else.
- **Crashed**: edgebench itself failed.
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


def document(outcomes: Sequence[Outcome], command: str) -> str:
    """The whole report."""
    return "\n".join(
        [
            "# ONNX's own conformance cases through edgebench",
            "",
            f"Made on {datetime.now(UTC):%Y-%m-%d} by `{command}` with {_versions()}.",
            *_sampled(outcomes),
            "",
            *INTRODUCTION,
            "",
            summary(outcomes),
            "",
            *_wrong(outcomes),
            "## By operator",
            "",
            "Passed of all cases; in brackets how many are wrong (w) or crashed (c), where there are any.",
            "",
            *_by_operator(outcomes),
            "",
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


def _groups(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((each.runtime, each.form) for each in outcomes))


def _versions() -> str:
    found = []
    for tool in TOOLS:
        try:
            found.append(f"{tool} {version(tool)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _wrong(outcomes: Sequence[Outcome]) -> list[str]:
    bad = [each for each in outcomes if each.verdict in ("wrong", "crashed")]
    if not bad:
        return []
    lines = ["## Wrong or crashed", "", "| runtime | form | case | what |", "|---|---|---|---|"]
    lines += [
        f"| {each.runtime} | {each.form} | {each.case} | {each.verdict}: {_cell(each.reason)} |"
        for each in bad
    ]
    return [*lines, ""]


def _by_operator(outcomes: Sequence[Outcome]) -> list[str]:
    groups = _groups(outcomes)
    lines = [
        "| operator | " + " | ".join(f"{runtime} {form}" for runtime, form in groups) + " |",
        "|---|" + "---|" * len(groups),
    ]
    for operator in sorted({each.operator for each in outcomes}):
        cells = []
        for runtime, form in groups:
            counts = Counter(
                each.verdict
                for each in outcomes
                if (each.operator, each.runtime, each.form) == (operator, runtime, form)
            )
            bad = " ".join(f"{counts[kind]}{kind[0]}" for kind in ("wrong", "crashed") if counts[kind])
            cells.append(f"{counts['passed']}/{counts.total()}" + (f" ({bad})" if bad else ""))
        lines.append(f"| {operator} | " + " | ".join(cells) + " |")
    return lines


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
    import re

    text = outcome.reason.replace(outcome.case, "MODEL")
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", re.sub(r'"[^"]*"', '"..."', text))[:160]


def _cell(text: str) -> str:
    return " ".join(text[:220].replace("|", "/").split())
