"""`make conformance`: ONNX's own cases through edgebench and other makers' routes, and the page of it.

    python -m tests.conformance [--runtime R]... [--only PATTERN] [--live | --frozen] [--sample N] [--jobs N]
    python -m tests.conformance --read OUTCOMES.json... --write

Without --sample, --only or --runtime it takes everything and writes docs/conformance.md, and every outcome to
docs/conformance.json (which is not kept in the repository). --read takes outcomes of earlier runs instead; of
a case that is in several, the last counts.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import sys
from pathlib import Path

import msgspec

from edgebench.errors import EdgebenchError, InfrastructureError
from edgebench.tools import find_pnnx, install_pnnx
from tests.conformance import boundary, cases, others, table
from tests.conformance.pool import Pool, judged, processors
from tests.conformance.progress import Progress
from tests.conformance.route import Outcome, threads_of_one

OURS = ("onnxruntime", "openvino", "ncnn", "coreml")
RUNTIMES = (*OURS, *others.ROUTES)
FORMS = ("frozen", "live")
DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
Work = list[tuple[cases.Case, str]]


def main() -> int:
    """Judge what was asked for; the exit status says whether anything of ours was wrong or crashed."""
    asked = _arguments()
    threads_of_one()
    outcomes = _read(asked.read) if asked.read else _made(asked)
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes), indent=1))
    bounds = boundary.bounds(cases.cases("frozen", cases.cache_folder()))
    print(table.summary(outcomes))
    print("\n".join(table.boundary_lines(outcomes, bounds)))
    bad = [each for each in outcomes if each.runtime in OURS and each.verdict in ("wrong", "crashed")]
    for each in bad:
        print(f"{each.verdict:8} {each.runtime:12} {each.form:7} {each.case}: {each.reason[:300]}")
    if asked.write:
        DOCUMENT.write_text(table.document(outcomes, bounds, _command()), "utf-8")
        print(f"written: {DOCUMENT}")
    return int(bool(bad))


def _made(asked: argparse.Namespace) -> list[Outcome]:
    """The outcomes, in the order of forms, runtimes and cases."""
    work = _work(asked)
    _take_tools(asked.runtime)
    progress = Progress(len(work))
    made: list[Outcome] = []
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(Pool(cases.cache_folder())) for _ in range(asked.jobs)]
        for outcome in judged(pools, work):
            made.append(outcome)
            progress.step(outcome)
            if asked.verbose:
                reason = outcome.reason[:200]
                print(f"{outcome.seconds:7.2f} {outcome.verdict:8} {outcome.case} {reason}", flush=True)
        progress.end()
        deaths = sum(pool.deaths for pool in pools)
    print(f"{deaths} workers of edgebench died and were replaced", file=sys.stderr)
    return made


def _work(asked: argparse.Namespace) -> Work:
    work: Work = []
    for form in asked.forms:
        known = cases.cases(form, cases.cache_folder())
        chosen = cases.sample([case for case in known if _matches(case, asked.only)], asked.sample)
        work += [(case, runtime) for runtime in asked.runtime for case in chosen]
    return work


def _take_tools(runtimes: list[str]) -> None:
    """Whatever has to be downloaded, before hours of work."""
    if not set(runtimes).isdisjoint(others.ROUTES):
        others.environment(cases.cache_folder())
    if "ncnn" in runtimes:
        try:
            find_pnnx(cases.cache_folder())
        except InfrastructureError:
            install_pnnx(cases.cache_folder())


def _read(files: list[Path]) -> list[Outcome]:
    """The outcomes of earlier runs in the order of the page."""
    found = {}
    for file in files:
        for outcome in msgspec.json.decode(file.read_bytes(), type=list[Outcome]):
            found[FORMS.index(outcome.form), RUNTIMES.index(outcome.runtime), outcome.case] = outcome
    return [found[key] for key in sorted(found)]


def _matches(case: cases.Case, pattern: str) -> bool:
    return not pattern or fnmatch.fnmatch(case.name, pattern) or case.operator == pattern


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument("--only", default="", help="a pattern of case names, or an operator")
    parser.add_argument("--live", dest="forms", action="append_const", const="live")
    parser.add_argument("--frozen", dest="forms", action="append_const", const="frozen")
    parser.add_argument("--sample", type=int, default=0, help="only so many cases, the same each time")
    parser.add_argument("--jobs", type=int, default=processors(), help="cases at a time")
    parser.add_argument("--read", action="append", type=Path, help="outcomes of an earlier run (--json)")
    parser.add_argument("--json", type=Path, help="where to keep every outcome")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md whatever was asked")
    asked = parser.parse_args()
    if asked.jobs < 1:
        parser.error("--jobs must be at least 1")
    everything = not (asked.runtime or asked.only or asked.sample or asked.forms or asked.read)
    asked.write = asked.write or everything
    if asked.write and asked.json is None and not asked.read:
        asked.json = DOCUMENT.with_suffix(".json")
    asked.runtime = asked.runtime or list(RUNTIMES)
    asked.forms = asked.forms or list(FORMS)
    return asked


def _command() -> str:
    """What was typed, with the names of files alone."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["python -m tests.conformance", *words])


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except EdgebenchError as error:
        raise SystemExit(f"{error.message}\n{error.detail}\n{error.hint}") from error
