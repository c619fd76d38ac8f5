"""One process that takes cells of the table: a line of JSON in (`Task`), a line of JSON out (`Row`).

A cell takes edgebench's own path (`pipeline.prepare`: canonical form, compression, conversion, parity). What
comes out as proven is then proven again by other means: the file as it was given in ONNX Runtime, run by this
module alone, against the artifact, on inputs that edgebench has not seen.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgebench import model, parity
from edgebench.convert.run import Limits
from edgebench.device.session import save_inputs
from edgebench.errors import BugError, EdgebenchError
from edgebench.pipeline import Cell, Prepared, Workbench, prepare
from tests.models import feeds

LIMITS = Limits(time_s=400.0, memory_bytes=8 << 30)
PARITY_SEEDS = range(50, 54)
CALIBRATION_SEEDS = range(100, 108)
OTHER_SEEDS = range(4711, 4715)
FEWER_SEEDS = OTHER_SEEDS[:1]
OTHER_INPUTS = 2.0  # one value may err that much more than on the inputs that parity was settled on
MANY_MACS = 1_000_000_000  # a network that takes long
MAX_REASON = 260


class Task(msgspec.Struct, frozen=True):
    """One cell: a network (`path`, made static by `shapes`) for one runtime in one precision.

    `feed` is a word of `feeds.FEEDS`, "" for what edgebench generates. `constants` are inputs that are set.
    `as_is`: the file has that precision already.
    """

    network: str
    path: str
    shapes: dict[str, tuple[int, ...]]
    runtime: str
    precision: str
    feed: str = ""
    constants: dict[str, int] = {}
    as_is: bool = False


class Row(msgspec.Struct, frozen=True):
    """What became of a cell: pass, refused, WRONG (given out, other inputs say no) or BROKEN (our own fault).

    `snr_db` is the worst output against the same variant in ONNX Runtime, `float_snr_db` against the file as
    it was given, on other inputs. `owner` and `reason` say why there is no artifact.
    """

    network: str
    runtime: str
    precision: str
    outcome: str
    day: str
    seconds: float = 0.0
    snr_db: float | None = None
    float_snr_db: float | None = None
    owner: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()


def main() -> None:
    """Take cells until stdin ends; one workbench for each network."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    root, bench, open_for = Path(sys.argv[1]), None, ""
    for line in sys.stdin.buffer:
        task = msgspec.json.decode(line, type=Task)
        if bench is None or open_for != task.network:
            if bench is not None:
                bench.close()
            bench, open_for = workbench(root, task.network), task.network
        answers.write(msgspec.json.encode(judged(task, bench)) + b"\n")
    if bench is not None:
        bench.close()


def workbench(root: Path, network: str) -> Workbench:
    """A workbench in a home of its own, with the tools of `root`."""
    home = root / network
    home.mkdir(exist_ok=True)
    if not (home / "tools").exists():
        (home / "tools").symlink_to(root / "tools")
    return Workbench(home, limits=LIMITS)


def judged(task: Task, bench: Workbench) -> Row:
    """The row of a cell; never raises for anything the network does."""
    started = time.monotonic()
    try:
        told = _through(task, bench)
    except BugError as error:
        told = {"outcome": "BROKEN", "owner": "bug", "reason": _shown(error.message)}
    except EdgebenchError as error:
        told = {"outcome": "refused", "owner": error.owner, "reason": _shown(error.message)}
    except Exception as error:  # noqa: BLE001 - what edgebench should have turned into its own error
        told = {"outcome": "BROKEN", "owner": "bug", "reason": _shown(repr(error))}
        traceback.print_exc()
    return broken_or(task, time.monotonic() - started, told)


def broken_or(task: Task, seconds: float, told: dict[str, Any]) -> Row:
    """The row of a task with what is told of it."""
    return Row(
        network=task.network,
        runtime=task.runtime,
        precision=task.precision,
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        seconds=round(seconds, 1),
        **told,
    )


def _through(task: Task, bench: Workbench) -> dict[str, Any]:
    cell = Cell(
        model_path=task.path,
        runtime=task.runtime,
        precision=task.precision,
        name=task.network,
        as_is=task.as_is,
        shapes=tuple(task.shapes.items()),
        constants=tuple(task.constants.items()),
    )
    if task.feed:
        cell = msgspec.structs.replace(cell, inputs=str(_samples(task, bench.home, PARITY_SEEDS)))
    if task.precision == "int8" and not task.as_is:
        cell = msgspec.structs.replace(cell, calibration=str(_samples(task, bench.home, CALIBRATION_SEEDS)))
    prepared = prepare(cell, bench)
    snr_db = min(output.snr_db for output in prepared.parity.outputs)
    reason, float_snr_db = again(task, prepared, bench)
    return {
        "outcome": "WRONG" if reason else "pass",
        "owner": "bug" if reason else "",
        "reason": _shown(reason),
        "snr_db": round(snr_db, 1),
        "float_snr_db": round(float_snr_db, 1),
        "notes": tuple(_shown(note) for note in (*prepared.parity.warnings, *prepared.artifact.notes)),
    }


def again(task: Task, prepared: Prepared, bench: Workbench) -> tuple[str, float]:
    """Why the artifact is wrong on other inputs ("" where it is right), and its SNR to the file as given.

    The given file has to agree unless edgebench made it int8: what that loses is the variant's.
    """
    seeds = FEWER_SEEDS if (prepared.info.macs or 0) > MANY_MACS else OTHER_SEEDS
    samples = [feeds.sample(task.feed, prepared.info, seed) for seed in seeds]
    inputs = save_inputs(samples, bench.home)
    artifact = prepared.artifact
    outputs = bench.infer(artifact, bench.artifacts.path(artifact.digest), inputs)
    told = model.fixed_inputs(Path(task.path), shapes=task.shapes, constants=task.constants)
    given = _computed(Path(task.path), [sample | told for sample in samples])
    # a quantized network has a noise floor of its own on these inputs
    bounds = bench.bounds(prepared.variant, inputs, artifact.runtime, artifact.precision)
    general = msgspec.structs.replace(
        bounds.general, max_abs_share=OTHER_INPUTS * bounds.general.max_abs_share
    )
    if task.precision == "int8" and prepared.variant.precision == "fp32":
        general = parity.RUIN  # against the float network, as every other runtime's int8
    how: dict[str, Any] = {"where": "again", "reference_name": "ONNX Runtime", "own_bounds": bounds.own}
    to_given = parity.judge(given, outputs, general, **how)
    wanted = bench.reference(prepared.variant, inputs).samples
    to_variant = parity.judge(wanted, outputs, general, **how)
    lossy = task.precision == "int8" and not task.as_is
    against = [to_variant] if lossy else [to_given, to_variant]
    wrong = [
        f'"{each.name}": {each.reason}' for report in against for each in report.outputs if not each.passed
    ]
    return "; ".join(wrong), min(output.snr_db for output in to_given.outputs)


def _computed(path: Path, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the file computes in ONNX Runtime, without anything of edgebench."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(None, sample), strict=True)) for sample in samples]


def _samples(task: Task, home: Path, seeds: range) -> Path:
    """Samples one behind the other, as `edgebench convert --inputs` and `--calibration` take them."""
    path = home / f"samples-{seeds.start}.npz"
    if not path.is_file():
        static = home / "static.onnx"
        info = model.prepare(Path(task.path), shapes=task.shapes, constants=task.constants, out=static)
        made = [feeds.sample(task.feed, info, seed) for seed in seeds]
        arrays: dict[str, Any] = {name: np.stack([each[name] for each in made]) for name in made[0]}
        np.savez(path, **arrays)
    return path


def _shown(text: str) -> str:
    """The first sentence, in one line."""
    line = " ".join(text.split())
    first = line.split(". ")[0]
    return first if len(first) <= MAX_REASON else first[: MAX_REASON - 3].rstrip() + "..."


if __name__ == "__main__":
    main()
