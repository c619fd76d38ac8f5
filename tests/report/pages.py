"""Runs whose pages have every section: gated, with a baseline, boards that were watched, claims, profiles."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import date

from edgebench import budgets, exchange
from edgebench.gates import Observed, gate, observed
from edgebench.gates.compare import compare
from edgebench.records import (
    Accuracy,
    LayerTime,
    Measurement,
    NoiseFloor,
    Profile,
    Run,
    Spread,
    Track,
    replace,
    to_json,
)
from edgebench.report.build import build
from edgebench.report.details import detail
from edgebench.report.differences import Side, before
from edgebench.report.front import options
from edgebench.report.history import History, Line, Point, Sister, drifts, odd_ones, with_jumps
from edgebench.report.page import Subjects, worth_drawing
from tests.report.fixtures import Example, failure, job, measurement, run

BUDGETS = """
version: 1
budgets:
  - name: all
    limits:
      latency.p50: {max: 2 ms}
      memory_peak: {max: 80 MiB}
  - name: small-boards
    match: {device: "zero-*"}
    limits:
      latency.p50: {max: 3.4 ms}
"""


def watched(one: Measurement, *, hot: bool = False) -> Measurement:
    """The measurement with a sampler's readings: clocks fall where it gets hot."""
    launches = []
    for place, launch in enumerate(one.launches):
        times = tuple(0.5 * at for at in range(20))
        warm = [52 + 2 * place + (30 if hot else 6) * (1 - math.exp(-at / 8)) for at in range(20)]
        clock = [2.4e6 if value < 80 else 1.5e6 for value in warm]
        is_throttled = max(warm) > 80
        track = Track(
            interval_s=0.5,
            from_s=1.0,
            to_s=9.0,
            times_s=times,
            series={"temperature_c": tuple(warm), "clock:cpu0": tuple(clock)},
            temperature_max_c=max(warm),
            clocks_khz={"cpu0": Spread(readings=20, low=min(clock), mean=sum(clock) / 20, high=max(clock))},
            throttled=is_throttled,
            throttle_events=("frequency capped",) if is_throttled else (),
        )
        started = f"2026-08-01T10:{15 + place // 4:02d}:{15 * (place % 4):02d}Z"
        changed = replace(launch, track=track, started_utc=started)
        if is_throttled:
            changed = replace(changed, valid=False, invalid_reason="throttled: frequency capped")
        launches.append(changed)
    return replace(one, launches=tuple(launches))


def profile() -> Profile:
    """Thirty layers, two of them slow."""
    layers = [
        LayerTime(
            name=f"node_{at}", kind="Conv" if at % 3 else "Relu", mean_ns=900_000 // (at + 1), unit="CPU"
        )
        for at in range(30)
    ]
    return Profile(
        runtime_version="1.22.1",
        method="ONNX Runtime's own profiler",
        repeats=50,
        layers=tuple(layers),
        total_ns=3_900_000,
    )


def full() -> tuple[Example, dict[str, Profile]]:
    """Two models in several forms on three boards, one of them too hot; one job failed, one was not run."""
    made = []
    for device, factor in (("pi5-01", 1.0), ("zero-01", 9.0), ("pi5-02", 1.04)):
        for model, base in (("digits", 400_000), ("mobilenet-v2", 2_600_000)):
            for variant, precision, speed, size, top1 in (
                ("fp32", "fp32", 1.0, 250_000, 0.972),
                ("fp32", "fp16", 0.8, 126_000, 0.9715),
                ("int8-static", "int8", 0.52, 74_000, 0.961),
            ):
                cell = job(model=model, variant=variant, precision=precision, device=device)
                one = measurement(cell, p50_ns=round(base * factor * speed), size_bytes=size)
                accuracy = Accuracy(
                    metric="top1", n=1000, value=top1, dataset="ab", low=top1 - 0.008, high=top1 + 0.006
                )
                one = watched(
                    replace(one, accuracy=accuracy), hot=device == "zero-01" and precision == "int8"
                )
                made.append(one)
    lost = job(model="mobilenet-v2", runtime="ncnn", device="zero-01")
    never = job(model="mobilenet-v2", runtime="ncnn", device="pi5-01")
    failures = [
        failure(
            lost, "device", "push", "zero-01 has 3.1 MiB free, 13.4 MiB are needed", "free some space there"
        )
    ]
    jobs = [one.job for one in made] + [lost, never]
    claims = ["int8 is 1.5x faster than fp32", "int8 is 5x smaller than fp32"]
    plan = {"jobs": [to_json(one) for one in jobs], "plan": {"claims": claims}}
    return (replace(run(jobs), plan=plan), made, failures), {made[0].id: profile()}


def cells(measurements: Sequence[Measurement]) -> list[Observed]:
    """What gates and comparisons see of measurements."""
    return [observed(exchange.entry(each)) for each in measurements]


def earlier(example: Example) -> Example:
    """The run before: other kernels and an older runtime, a little faster."""
    now, made, failures = example
    chance = random.Random(3)
    older = [
        replace(
            one,
            facts=replace(one.facts, kernel="6.6.31+rpt-rpi-2712"),
            launches=tuple(
                replace(
                    launch,
                    runtime_version="1.21.0",
                    samples_ns=tuple(
                        round(value * chance.uniform(0.93, 0.95)) for value in launch.samples_ns
                    ),
                )
                for launch in one.launches
            ),
        )
        for one in made
    ]
    return (
        replace(
            now, id="20260701-091500-2b7c", created_utc="2026-07-01T09:15:00Z", edgebench_version="0.0.9"
        ),
        older,
        failures,
    )


def history() -> History:
    """Eight releases of one cell with a jump, a drifting board, one slow board of five."""
    values = [5.0, 5.02, 4.98, 5.01, 5.61, 5.6, 5.63, 5.59]
    points = tuple(
        Point(
            run=f"r{at}",
            label=f"1.{at}",
            created_utc=f"2026-0{at + 1}-01T00:00:00Z",
            value=value * 1e6,
            low=value * 0.99e6,
            high=value * 1.01e6,
        )
        for at, value in enumerate(values)
    )
    line = Line(
        name="digits fp32 · onnxruntime · pi5-01", device="pi5-01", target="pi5", cell="digits", points=points
    )
    floors = [
        NoiseFloor(
            id=f"f{at}",
            run="r",
            device="pi5-02",
            target="pi5",
            measured_utc=f"2026-0{at + 1}-02T00:00:00Z",
            model="digits",
            artifact_digest="ab",
            runtime="onnxruntime",
            runtime_version="1.22.1",
            pairs=20,
            level=math.log(4e6) + 0.02 * at,
            launch_sd=0.01,
            pair_sd=0.01,
            least_effect=0.01,
            false_alarms=0.05,
        )
        for at in range(6)
    ]
    sisters = [
        Sister(device=f"pi5-0{at}", target="raspberry-pi-5-8gb", cell="digits fp32", value=4e6 * factor)
        for at, factor in enumerate((1.0, 1.004, 0.997, 1.13, 1.002), 1)
    ]
    return History(
        metric="latency.p50",
        lines=(with_jumps(line),),
        drifts=drifts(floors),
        odd=odd_ones(sisters),
        others={
            "memory_peak": (
                replace(line, points=tuple(replace(p, value=61e6, low=None, high=None) for p in points)),
            )
        },
    )


def subjects(
    example: Example | None = None, profiles: dict[str, Profile] | None = None, *, judged: bool = True
) -> Subjects:
    """Everything that a page is made of, from records alone."""
    if example is None:
        example, profiles = full()
    stored, made, failures = example
    report = build(stored, made, failures, profiles or {})
    rules = budgets.parse(BUDGETS, "budgets.yaml")
    found = gate(cells(made), rules, [], today=date(2026, 8, 2)) if judged else None
    old = earlier(example)
    against = before(Side("1.3", build(*old, profiles or {})), report, compare(cells(old[1]), cells(made)))
    drawn = worth_drawing(report, found)
    return Subjects(
        report=report,
        gate=found,
        releases=("1.4",) if judged else (),
        before=against if judged else None,
        details={each.id: detail(each) for each in made if each.id in drawn},
        history=history() if judged else None,
        options=options(report.rows, {each.id: each for each in made}),
    )


def plain(example: Example) -> Subjects:
    """A page of a run alone: no gate, no baseline."""
    return subjects(example, judged=False)


def quiet() -> Run:
    """A run that planned nothing."""
    return run()
