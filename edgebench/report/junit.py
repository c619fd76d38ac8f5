"""A gate as JUnit XML, as GitLab, Jenkins and GitHub's actions read it.

GitLab shows the classname as the suite and keys tests on classname and name, so the two are unique together;
it ignores properties and cuts the message attribute, so the numbers stand in the text.
"""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree as ET

from edgebench.gates import Gate, Verdict
from edgebench.report.base import clean, name
from edgebench.report.gate_words import bound, figures

ERRORS = ("error", "invalid")
SKIPPED = ("inconclusive", "missing", "not-comparable")


def render(gate: Gate, *, inconclusive_fails: bool = False) -> str:
    """The XML text: one suite a target, one test a limit of a cell."""
    root = ET.Element("testsuites", name="edgebench")
    seen: Counter[tuple[str, str]] = Counter()
    suites: dict[str, ET.Element] = {}
    for verdict in gate.cells:
        target = name(verdict.subject.target)
        if target not in suites:
            suites[target] = ET.SubElement(root, "testsuite", name=f"edgebench/{target}")
        suites[target].append(_case(verdict, seen, inconclusive_fails))
    for each in (*suites.values(), root):
        _count(each)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _count(suite: ET.Element) -> None:
    """The numbers of a suite, or of all of them, as its attributes."""
    cases = list(suite.iter("testcase"))
    suite.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))


def _case(verdict: Verdict, seen: Counter[tuple[str, str]], inconclusive_fails: bool) -> ET.Element:
    subject = verdict.subject
    words = (
        subject.target,
        subject.device,
        subject.model,
        subject.variant,
        subject.runtime,
        subject.precision,
    )
    classname = ".".join(name(word).replace(".", "_") for word in words)
    title = bound(verdict)
    seen[classname, title] += 1
    again = f" ({seen[classname, title]})" if seen[classname, title] > 1 else ""
    case = ET.Element("testcase", classname=classname, name=title + again)
    text = "\n".join(figures(verdict))
    tag = _tag(verdict, inconclusive_fails)
    if tag == "skipped":
        ET.SubElement(case, tag, message=f"{verdict.word}: {clean(verdict.reason)}")
    elif tag:
        ET.SubElement(case, tag, message=clean(verdict.reason), type=verdict.word).text = text
    ET.SubElement(case, "system-out").text = text
    return case


def _tag(verdict: Verdict, inconclusive_fails: bool) -> str:
    if verdict.word == "pass":
        return ""
    if not verdict.blocks:
        return "skipped"
    if verdict.word in ERRORS:
        return "error"
    if verdict.word in SKIPPED:
        return "failure" if inconclusive_fails else "skipped"
    return "failure"
