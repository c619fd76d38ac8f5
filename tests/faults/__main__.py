"""`make faults`: more than 200 injected faults against real SSH servers, and what must hold after each.

    python -m tests.faults                 all of them, on several boards at once; writes docs/faults.md
    python -m tests.faults --list          their numbers, kinds and stages
    python -m tests.faults --only 17,40    some of them, exactly as in the whole run (with the same --seed)

Exit 1 on any violation.
"""

from __future__ import annotations

import argparse
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.board import Board
from tests.faults.cases import Case, cases
from tests.faults.controllers import Controllers
from tests.faults.run import SIDE, Bench, Outcome, run_case
from tests.faults.table import markdown, totals
from tests.fleet.netns import Fleet, MissingTool, Spec, available_kind

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
SEED = 20261125


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments pick; 0 when everything held."""
    options = _parser().parse_args(argv)
    picked = cases(options.seed)
    if options.list:
        for case in sorted(picked):
            print(f"{case.number:4d}  {case.name}")
        return 0
    everything = not options.only and not options.kind
    picked = [case for case in picked if not options.only or case.number in options.only]
    picked = [case for case in picked if options.kind in case.kind]
    began = time.monotonic()
    try:
        outcomes = run_all(picked, options.boards, Path(options.keep) if options.keep else None)
    except MissingTool as missing:
        print(f"missing tool: {missing}", file=sys.stderr)
        return 2
    table = markdown(outcomes)
    minutes = (time.monotonic() - began) / 60
    print(table)
    print("\n".join(totals(outcomes)))
    for each in outcomes:
        for wrong in each.violations:
            print(f"VIOLATION {each.case.number} ({each.case.name}): {wrong}")
    if everything and not options.no_document:
        _write(table, outcomes, options, minutes)
    return int(any(each.violations for each in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help="decides order and what faults leave open")
    parser.add_argument("--only", type=_numbers, default=(), metavar="N[,N]", help="these faults alone")
    parser.add_argument("--kind", default="", metavar="WORDS", help="faults whose kind holds these words")
    parser.add_argument("--list", action="store_true", help="print all faults")
    parser.add_argument("--boards", type=int, default=4, help="boards at work at once (default 4)")
    parser.add_argument("--keep", default="", metavar="DIR", help="keep what the commands printed there")
    parser.add_argument("--no-document", action="store_true", help="do not write docs/faults.md")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def run_all(picked: Sequence[Case], boards: int, keep: Path | None = None) -> list[Outcome]:
    """The outcomes, in the order of their numbers."""
    if available_kind() != "netns":
        raise MissingTool("network namespaces (root, iproute2)")
    outcomes: list[Outcome] = []
    waiting: queue.Queue[Case] = queue.Queue()
    for case in picked:
        waiting.put(case)
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgebench-faults-")))
        folder.mkdir(parents=True, exist_ok=True)
        fleet = stack.enter_context(Fleet([Spec(home_mib=600, options=("MaxSessions 20",))] * boards))
        bench = stack.enter_context(_bench(folder))
        made = [Board(server) for server in fleet.devices]
        for each in made:
            stack.callback(each.close)
        _warm(made, bench)
        threads = [
            threading.Thread(target=_work, args=(board, bench, waiting, outcomes, len(picked)))
            for board in made
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sorted(outcomes)


class _bench:
    """The bench with its forker; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        environ = {
            "HOME": str(folder / "user"),
            "EDGEBENCH_HOME": str(folder / "home"),
            "EDGEBENCH_LEASE": "board",
            "OMP_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        }
        self._controllers = Controllers(environ)

    def __enter__(self) -> Bench:
        (self._folder / "user").mkdir(exist_ok=True)
        wide = self._folder / "wide.onnx"
        _make_wide(wide)
        return Bench(self._controllers.__enter__(), self._folder / "home", self._folder / "runs", wide)

    def __exit__(self, *exception: object) -> None:
        self._controllers.__exit__(*exception)


def _make_wide(path: Path) -> None:
    """A network with little to do and much to carry."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    path.write_bytes(made.SerializeToString())


def _warm(boards: Sequence[Board], bench: Bench) -> None:
    """Every board gets the runtime, and the network is converted, before the first fault."""
    from tests.commands import DIGITS, QUICK

    shutil.rmtree(bench.folder, ignore_errors=True)
    bench.folder.mkdir(parents=True)
    for board in boards:  # one after another: the first one fills the caches of this computer
        path = bench.folder / f"{board.server.name}.yaml"
        path.write_text(board.inventory())
        command = bench.controllers.start(
            bench.folder / f"warm-{board.server.name}",
            *("run", DIGITS, "--to", "onnxruntime", *QUICK, "--json"),
            EDGEBENCH_INVENTORY=str(path),
        )
        if not command.wait(600) or command.status != 0:
            raise RuntimeError(f"no fault, and yet: {command.status}\n{command.err}\n{command.out[-3000:]}")
        seen, overlaps = board.witnessed()
        if seen < 3 or overlaps:
            raise RuntimeError(f"the witness saw {seen} launch processes and {overlaps} overlaps")
        print(f"{board.server.name} is ready", flush=True)


def _work(
    board: Board, bench: Bench, waiting: queue.Queue[Case], outcomes: list[Outcome], total: int
) -> None:
    while True:
        try:
            case = waiting.get_nowait()
        except queue.Empty:
            return
        outcome = run_case(case, board, bench)
        outcomes.append(outcome)
        words = "; ".join(outcome.violations) or "nothing violated"
        print(
            f"{len(outcomes)}/{total}  {case.number} {case.name}: {outcome.ended}, {words} "
            f"({outcome.seconds:.1f} s)",
            flush=True,
        )
        if outcome.violations:
            (bench.folder / f"{case.number}.txt").write_text(outcome.detail)
            print(outcome.detail, file=sys.stderr, flush=True)


def _write(table: str, outcomes: Sequence[Outcome], options: argparse.Namespace, minutes: float) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    head = [
        "# Faults",
        "",
        (
            f"Made by `make faults` (`python -m tests.faults --seed {options.seed}`) on "
            f"{datetime.now(UTC).date().isoformat()}, commit {commit}, {platform.system()} "
            f"{platform.machine()}, {options.boards} boards at once, {minutes:.0f} minutes."
        ),
        "",
        *totals(outcomes),
        "",
    ]
    DOCUMENT.write_text("\n".join(head) + table + "\n")


if __name__ == "__main__":
    sys.exit(main())
