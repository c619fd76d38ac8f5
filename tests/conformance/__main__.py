"""`make conformance`: ONNX's own cases through edgebench, and the table of what became of them.

    python -m tests.conformance [--runtime R]... [--only PATTERN] [--live | --frozen] [--sample N]

Without --sample, --only or --runtime it takes everything and writes docs/conformance.md, and every outcome to
docs/conformance.json (which is not kept in the repository).
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from pathlib import Path

import msgspec

from edgebench.errors import InfrastructureError
from edgebench.tools import find_pnnx, install_pnnx
from tests.conformance import cases, table
from tests.conformance.pool import Pool
from tests.conformance.route import Outcome, threads_of_one

RUNTIMES = ("onnxruntime", "openvino", "ncnn", "coreml")
DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"


def main() -> int:
    """Judge what was asked for; the exit status says whether anything was wrong or crashed."""
    asked = _arguments()
    threads_of_one()
    outcomes = judged(asked)
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes), indent=1))
    print(table.summary(outcomes))
    for each in outcomes:
        if each.verdict in ("wrong", "crashed"):
            print(f"{each.verdict:8} {each.runtime:12} {each.form:7} {each.case}: {each.reason[:300]}")
    if asked.write:
        DOCUMENT.write_text(table.document(outcomes, _command()), "utf-8")
        print(f"written: {DOCUMENT}")
    return int(any(each.verdict in ("wrong", "crashed") for each in outcomes))


def judged(asked: argparse.Namespace) -> list[Outcome]:
    """The outcomes, in the order of runtimes, forms and cases."""
    made: list[Outcome] = []
    if "ncnn" in asked.runtime:
        _take_pnnx()
    with Pool(cases.cache_folder()) as pool:
        for form in asked.forms:
            chosen = [case for case in cases.cases(form, cases.cache_folder()) if _matches(case, asked.only)]
            chosen = cases.sample(chosen, asked.sample)
            for runtime in asked.runtime:
                started = time.monotonic()
                for case in chosen:
                    made.append(pool.judge(case, runtime))
                    if asked.verbose:
                        last = made[-1]
                        print(
                            f"{last.seconds:7.2f} {last.verdict:8} {last.case} {last.reason[:200]}",
                            flush=True,
                        )
                seconds = time.monotonic() - started
                note = f"{runtime} {form}: {len(chosen)} cases in {seconds:.0f} s, {pool.deaths} workers died"
                print(note, file=sys.stderr, flush=True)
    return made


def _take_pnnx() -> None:
    try:
        find_pnnx(cases.cache_folder())
    except InfrastructureError:
        install_pnnx(cases.cache_folder())


def _matches(case: cases.Case, pattern: str) -> bool:
    return not pattern or fnmatch.fnmatch(case.name, pattern) or case.operator == pattern


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--runtime", action="append", choices=list(RUNTIMES))
    parser.add_argument("--only", default="", help="a pattern of case names, or an operator")
    parser.add_argument("--live", dest="forms", action="append_const", const="live")
    parser.add_argument("--frozen", dest="forms", action="append_const", const="frozen")
    parser.add_argument("--sample", type=int, default=0, help="only so many cases, the same each time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md whatever was asked")
    asked = parser.parse_args()
    everything = not (asked.runtime or asked.only or asked.sample or asked.forms)
    asked.write = asked.write or everything
    if asked.write and asked.json is None:
        asked.json = DOCUMENT.with_suffix(".json")
    asked.runtime = asked.runtime or list(RUNTIMES)
    asked.forms = asked.forms or ["frozen", "live"]
    return asked


def _command() -> str:
    return " ".join(["python -m tests.conformance", *sys.argv[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
