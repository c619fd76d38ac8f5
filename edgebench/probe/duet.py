"""A launch of two models in one process, timed in strict alternation: a candidate and its baseline.

What disturbs the board for longer than an inference disturbs both alike, so that their ratio can be trusted
where separate launches cannot. Both share one pool of threads: an idle model's own workers would keep
spinning and take cores from the other.
"""

import contextlib
import time
from array import array
from typing import Any, Callable, Dict, Iterator, List, Tuple

from .loading import blamed, import_runtime, read_inputs, timed
from .memory import Ladder
from .runtimes.base import adapter
from .timing import BLOCK, MAX_SAMPLES, Times, Warmth, settled, steady
from .wire import Json, Output, ProbeError

Run = Callable[[], Any]


def measure_both(task: Json, output: Output) -> Json:
    """A launch's raw numbers, and `baseline_ns` beside `samples_ns`; docs/probe-protocol.md has them."""
    spec = task["spec"]
    candidate = _Side("candidate", spec, "samples_ns")
    baseline = _Side("baseline", spec["beside"], "baseline_ns")
    turns = (baseline, candidate) if spec["baseline_first"] else (candidate, baseline)
    if candidate.runtime.program:
        raise ProbeError(
            "no_duet", "a duet needs both models in one process, and %s runs one alone" % spec["runtime"]
        )
    return _Duet(candidate, baseline, turns, output).measure(spec["workload"])


class _Side:
    """One of the two models: its adapter, and the field of the result that its times are."""

    def __init__(self, who: str, spec: Json, field: str) -> None:
        self.who, self.spec, self.field = who, spec, field
        with self.blamed("bad_request"):
            self.runtime = adapter(spec)

    @contextlib.contextmanager
    def blamed(self, kind: str) -> Iterator[None]:
        """Like `blamed`, and the message says which of the two it was."""
        try:
            with blamed(kind):
                yield
        except ProbeError as error:
            error.message = "the %s: %s" % (self.who, error.message)
            raise

    def load(self) -> None:
        """Load the model; `run` is one inference from then on. Each reads inputs of its own."""
        inputs = read_inputs(self.runtime, self.spec["samples"][0])
        with self.blamed("model_load"):
            self.load_ns = timed(self.runtime.clock, self.runtime.load)
            self.run: Run = self.runtime.bind(inputs)

    def infer(self) -> None:
        """The first inference."""
        with self.blamed("inference"):
            self.first_ns = timed(self.runtime.clock, self.run)


class _Duet:
    """The two, in the order of their turns."""

    def __init__(self, candidate: _Side, baseline: _Side, turns: Tuple[_Side, _Side], output: Output) -> None:
        self._candidate, self._baseline = candidate, baseline
        self._turns = turns
        self._output = output

    def measure(self, workload: Json) -> Json:
        """The result of the launch."""
        ladder = Ladder()
        result: Json = {"started_unix_s": time.time()}
        self._import(result)
        ladder.step("runtime")
        for side in self._turns:
            self._enter("load", side)
            side.load()
        ladder.step("model")
        for side in self._turns:
            self._enter("first", side)
            side.infer()
        ladder.step("first_inference")
        result.update(load_ns=self._candidate.load_ns, first_inference_ns=self._candidate.first_ns)
        with blamed("inference"):
            result.update(self._steady(workload, ladder))
            result["effective"] = self._candidate.runtime.effective()
        result["memory"] = ladder.to_json()
        self._enter("done", *self._turns)
        return result

    def _import(self, result: Json) -> None:
        """Import the runtime, and let the two share what they can."""
        candidate, baseline = self._candidate, self._baseline
        self._enter("import", *self._turns)
        result["import_ns"] = timed(
            candidate.runtime.clock, lambda: import_runtime(candidate.runtime, candidate.spec, result)
        )
        with baseline.blamed("runtime_missing"):
            import_runtime(baseline.runtime, baseline.spec, {})
        candidate.runtime.share_with(baseline.runtime)

    def _steady(self, workload: Json, ladder: Ladder) -> Json:
        clock = self._candidate.runtime.clock
        runs = [side.run for side in self._turns]
        own = self._turns.index(self._candidate)

        def warm() -> Warmth:
            times, stable = warm_up_both(runs, clock, workload)
            return times[own], stable

        def take() -> Dict[str, Times]:
            pairs = take_pairs(runs[0], runs[1], clock, workload)
            return {side.field: times for side, times in zip(self._turns, pairs)}

        return steady(warm, take, clock, lambda phase: self._enter(phase, *self._turns), ladder)

    def _enter(self, phase: str, *sides: _Side) -> None:
        """Tell the session that a phase begins; `<phase>_baseline` where it is the baseline's alone."""
        alone = len(sides) == 1 and sides[0] is self._baseline
        self._output.send({"phase": phase + "_baseline" if alone else phase})
        for side in sides:
            side.runtime.enter(phase)


def warm_up_both(runs: List[Run], clock: Any, workload: Json) -> Tuple[List[Times], bool]:
    """(times of each, stable): turn by turn as the samples, until both have settled as a launch's model does.

    It ends after `max_warmup_s` in any case, then as not stable.
    """
    tick, times = clock.tick, [array(clock.typecode) for _ in runs]
    wanted, limit = max(workload["warmup_samples"], 2 * BLOCK), workload["max_warmup_s"] * clock.ticks_per_s
    begin = end = tick()
    while end - begin < limit and len(times[0]) < MAX_SAMPLES:
        for run, own in zip(runs, times):
            start = tick()
            run()
            end = tick()
            own.append(end - start)
        done = len(times[0])
        if done >= wanted and done % BLOCK == 0 and all(settled(own) for own in times):
            return times, True
    return times, False


def take_pairs(first: Run, second: Run, clock: Any, workload: Json) -> Tuple[Times, Times]:
    """Times of both, taken turn by turn, until there are `min_samples` pairs and `min_duration_s` is over.

    At most `max_duration_s` and 200,000 pairs. Between two clock readings there is nothing but the call.
    """
    tick, ahead, behind = clock.tick, array(clock.typecode), array(clock.typecode)
    lead, follow, count = ahead.append, behind.append, 0
    least = min(workload["min_samples"], MAX_SAMPLES)
    soft, hard = (
        workload["min_duration_s"] * clock.ticks_per_s,
        workload["max_duration_s"] * clock.ticks_per_s,
    )
    begin = tick()
    while True:
        start = tick()
        first()
        end = tick()
        lead(end - start)
        start = tick()
        second()
        end = tick()
        follow(end - start)
        count += 1
        spent = end - begin
        if (count >= least and spent >= soft) or spent >= hard or count >= MAX_SAMPLES:
            return ahead, behind
