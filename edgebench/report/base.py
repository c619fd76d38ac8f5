"""The report record, and what every rendering of it shares: columns, labels, wording, and clean text.

Everything a device, a model or a user named may reach a terminal or a web page from here, so no renderer
shows a text that did not pass `clean`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from edgebench.accuracy import TOP1
from edgebench.budgets import Subject
from edgebench.energy import Energy
from edgebench.errors import Owner
from edgebench.gates.claims import ClaimVerdict
from edgebench.records import (
    Accuracy,
    Conditions,
    Engine,
    Facts,
    Failure,
    Job,
    OutputParity,
    ParityReport,
    Prepared,
    Profile,
    Record,
    Run,
)
from edgebench.statistics import Summary
from edgebench.units import NS_PER_MS, format_bytes, significant

Status = Literal["ok", "partial", "invalid", "emulated"]

UNKNOWN = "-"
NAME_LIMIT = 300
TEXT_LIMIT = 2000
LABELS_SHOWN = 3


class Row(Record, frozen=True):
    """One measurement as a report shows it.

    Status: "ok", also where invalid launches were repeated until enough were valid; "partial", some launches
    are missing or unusable and the figures are those of the rest;
    "invalid", no figures; "emulated", no figures because they would not be the board's. `energy`, the highest
    temperature, the mean clock of the fastest cores and the GPU's mean load are those of the timed parts.
    `size_ratio` and `speedup` are how many times smaller and faster (p50) this is than fp32 on the same
    device and runtime, None where either is not there. `engine` is what the device built of the artifact and
    ran in its place.
    """

    id: str
    job: Job
    status: Status
    artifact_digest: str
    artifact_bytes: int | None
    summary: Summary
    controller_parity: ParityReport
    device_parity: ParityReport
    facts: Facts
    runtime_version: str
    effective: dict[str, str]
    before: Conditions
    after: Conditions
    unusable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    pushed_bytes: int = 0
    engine: Engine | None = None
    prepared: tuple[Prepared, ...] = ()
    size_ratio: float | None = None
    speedup: float | None = None
    energy: Energy | None = None
    temperature_max_c: float | None = None
    clock_khz: float | None = None
    gpu_load: float | None = None
    profile: Profile | None = None
    accuracy: Accuracy | None = None

    @property
    def run_bytes(self) -> int | None:
        """The size of what the runtime loads: of the engine, where the device built one."""
        return self.artifact_bytes if self.engine is None else self.engine.size_bytes


class DeviceSheet(Record, frozen=True):
    """One device during the run: its facts, the runtimes and governors seen, first and last temperature."""

    device: str
    target: str
    facts: Facts
    runtimes: dict[str, str]
    governors: tuple[str, ...] = ()
    temperature_before_c: float | None = None
    temperature_after_c: float | None = None
    prepared: tuple[Prepared, ...] = ()


class Counts(Record, frozen=True):
    """What became of the planned jobs, each counted once: all others but `failed_by` add up to `planned`.

    `refused` by their target, before a device was touched; `failed_by` is how many failed of each owner;
    `missing` were not run, or not to their end.
    """

    planned: int
    ok: int
    partial: int
    invalid: int
    emulated: int
    failed: int
    missing: int
    refused: int = 0
    failed_by: dict[Owner, int] = {}


class Report(Record, frozen=True):
    """One run, ready to be shown: sorted rows, failures, and the planned jobs that have neither."""

    run: Run
    counts: Counts
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    missing: tuple[Job, ...]
    devices: tuple[DeviceSheet, ...]
    claims: tuple[ClaimVerdict, ...] = ()


# --- clean text -----------------------------------------------------------------------------------


def clean(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text on one line with nothing in it that a terminal or a bidirectional layout would obey.

    Control, format (bidirectional overrides, zero width), surrogate, private and unassigned characters
    become visible escapes, white space one space; longer texts are cut at `limit` characters and end in
    "…".
    """
    cut = " ".join(text[: limit + 1].split())
    shown = cut if cut.isprintable() else "".join(_visible(character) for character in cut)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _visible(character: str) -> str:
    if unicodedata.category(character)[0] == "C":
        return character.encode("unicode_escape").decode("ascii")
    return character


def name(text: str) -> str:
    """A name, clean and bounded."""
    return clean(text, NAME_LIMIT)


# --- labels and wording ---------------------------------------------------------------------------


def form(job: Job | Subject) -> str:
    """Variant and precision in one word: "fp32", "int8-static", "pruned-50", "fp32→fp16"."""
    variant, precision = name(job.variant), name(job.precision)
    own = precision in (variant, variant.split("-")[0]) or (precision == "fp32" and "fp32" not in variant)
    return variant if own and variant else f"{variant}→{precision}" if variant else precision


def label(job: Job | Subject) -> str:
    """One job in one line: "digits int8-static · ncnn · pi5-01"."""
    return f"{name(job.model)} {form(job)} · {name(job.runtime)} · {name(job.device)}"


def outcome(counts: Counts) -> str:
    """The counts in words: "14 jobs: 11 measured, 1 invalid, 2 failed (1 device, 1 model)"."""
    words = (
        (counts.ok, "measured"),
        (counts.partial, "partly measured"),
        (counts.invalid, "invalid"),
        (counts.emulated, "emulated"),
        (counts.failed, f"failed{_owners(counts.failed_by)}"),
        (counts.refused, "refused"),
        (counts.missing, "not run"),
    )
    told = ", ".join(f"{count:,} {word}" for count, word in words if count)
    jobs = "1 job" if counts.planned == 1 else f"{counts.planned:,} jobs"
    return f"{jobs}: {told}" if told else jobs


def _owners(failed_by: Mapping[Owner, int]) -> str:
    """Whose the failures are: " (2 device, 1 model)"."""
    told = ", ".join(f"{count} {owner}" for owner, count in sorted(failed_by.items()))
    return f" ({told})" if told else ""


def not_run(report: Report) -> tuple[str, ...]:
    """Why jobs were not run, where that is known, and what runs them: a line each."""
    why = (name(report.run.stopped),) if report.run.stopped else ()
    return (*why, f"next: edgebench run --resume {name(report.run.id)}")


def headline(run: Run) -> str:
    """Which run this is: id, state, time to the minute."""
    when = re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)[:.\d]*(?:Z|\+00:00)$", r"\1 \2 UTC", run.created_utc)
    return " · ".join(name(part) for part in (run.id, run.status, when))


def origin(run: Run) -> str:
    """Where the run was started, and by which edgebench."""
    return f"run from {name(run.controller)} with edgebench {name(run.edgebench_version)}"


NEXT_STEPS: dict[Owner, str] = {
    "user": "correct the command or the file it names",
    "model": "change the model, or choose a runtime and precision that take it",
    "device": "edgebench devices doctor DEVICE",
    "infrastructure": "look at the controller: its tools, its network, its disk",
    "bug": "report it, with what was typed",
}


def next_step(failure: Failure) -> str:
    """What to do about a failure: its own hint, or its owner's usual next step."""
    return clean(failure.hint or NEXT_STEPS[failure.owner].replace("DEVICE", name(failure.job.device)))


STATUS_MEANINGS: dict[Status, str] = {
    "partial": "some launches are missing or unusable; the numbers are those of the others",
    "invalid": "it cannot be used, see the warnings; nothing may be concluded from it",
    "emulated": "an emulator ran it: outputs were compared, times and memory are not a board's",
}

CAUTION_TITLES = {
    "unusable": "Launches left out",
    "emulated": "Emulated processor",
    "throttled": "Throttled",
    "foreign-load": "Other processes were busy",
    "drift": "Drift during a launch",
    "two-modes": "Two speeds in one launch",
    "spread": "Launches disagree by more than 5 %",
    "autocorrelation": "Launches drift",
    "warm-up": "Warm-up did not settle",
    "few-launches": "Too few launches",
    "p99": "p99 needs more samples",
    "parity": "Parity proves little",
    "other": "Also noted",
}


# what to do about it, said once under its title
CAUTION_ADVICE = {
    "foreign-load": "stop the other work (edgebench devices doctor shows it), or measure at another hour",
    "drift": "lock the clocks or cool the board (prepare: in the inventory); measure longer warm-ups",
    "two-modes": "lock the clocks (prepare: in the inventory) or fix the threads (--threads)",
    "spread": "measure more launches (--launches 20), or compare side by side (run --gate)",
    "autocorrelation": "the interval is too narrow: pause between launches (--cooldown), or run --gate",
    "warm-up": "give it longer (max_warmup_s), and look at the board's clocks and heat",
    "few-launches": "five launches are the least that say anything (--launches 5)",
    "p99": "take more samples (--min-samples 662)",
}


class Concern(NamedTuple):
    """One sentence and the jobs it is about."""

    detail: str
    jobs: tuple[str, ...]

    def who(self) -> str:
        """The first jobs by name, the others as a number."""
        shown = "; ".join(self.jobs[:LABELS_SHOWN])
        more = len(self.jobs) - LABELS_SHOWN
        return f"{shown}; and {more} more" if more > 0 else shown


def grouped(failures: Iterable[Failure]) -> list[tuple[Failure, Concern]]:
    """Failures that say the same once, with all their jobs: a bad model fails on every board."""
    found: dict[tuple[str, str, str, str], list[Failure]] = {}
    for failure in failures:
        said = (failure.owner, failure.stage, clean(failure.message), next_step(failure))
        found.setdefault(said, []).append(failure)
    return [
        (same[0], Concern(clean(same[0].message), tuple(label(each.job) for each in same)))
        for same in found.values()
    ]


def concerns(rows: Iterable[Row]) -> list[tuple[str, list[Concern]]]:
    """All warnings of all rows: title with advice, what was said and of which jobs; the gravest first."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for kind, detail in dict.fromkeys(_remarks(row)):
            found.setdefault(kind, {}).setdefault(clean(detail), []).append(label(row.job))
    return [
        (_advised(kind, title), [Concern(detail, tuple(jobs)) for detail, jobs in found[kind].items()])
        for kind, title in CAUTION_TITLES.items()
        if kind in found
    ]


def _advised(kind: str, title: str) -> str:
    return f"{title}: {CAUTION_ADVICE[kind]}" if kind in CAUTION_ADVICE else title


def _remarks(row: Row) -> Iterable[tuple[str, str]]:
    yield from (("unusable", reason) for reason in row.unusable)
    yield from ((caution.kind, caution.detail) for caution in row.summary.cautions)
    for parity in (row.controller_parity, row.device_parity):
        yield from (("parity", warning) for warning in parity.warnings)
    yield from (("other", warning) for warning in row.warnings)


def device_line(sheet: DeviceSheet) -> str:
    """What a device is and how it was: board, processor, memory, system, runtimes, governor, temperature."""
    facts = sheet.facts
    cores = f" ×{facts.cores}" if facts.cores else ""
    processor = f"{facts.cpu or facts.arch}{cores}"
    memory = format_bytes(facts.memory_bytes) if facts.memory_bytes else None
    system = f"{facts.os_release or facts.os}, kernel {facts.kernel}"
    runtimes = ", ".join(f"{runtime} {version}" for runtime, version in sorted(sheet.runtimes.items()))
    governor = f"governor {', '.join(sheet.governors)}" if sheet.governors else None
    emulated = "emulated" if facts.emulated else None
    power = " · ".join(_power(facts)) or None
    readied = f"prepared: {', '.join(map(prepared_text, sheet.prepared))}" if sheet.prepared else None
    parts = (
        facts.board or facts.soc,
        emulated,
        processor,
        memory,
        system,
        runtimes,
        power,
        governor,
        readied,
    )
    return " · ".join([name(part) for part in parts if part] + _temperature(sheet))


def prepared_text(prepared: Prepared) -> str:
    """One thing that a board was prepared in: "governor ondemand → performance"."""
    what = prepared.what.replace("_", " ")
    if prepared.before == prepared.after:
        return f"{what} {prepared.after} already"
    return f"{what} {prepared.before or 'unknown'} → {prepared.after}"


def _power(facts: Facts) -> Iterable[str]:
    if facts.power_mode:
        pending = " (waits for a reboot)" if facts.power_mode_pending else ""
        yield f"power mode {facts.power_mode}{pending}"
    if facts.rails:
        yield f"power of {', '.join(facts.rails)} by {facts.power_method}"


def _temperature(sheet: DeviceSheet) -> list[str]:
    before, after = sheet.temperature_before_c, sheet.temperature_after_c
    if before is None and after is None:
        return []
    return [f"{_celsius(before)} → {_celsius(after)} °C"]


def _celsius(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


# --- columns --------------------------------------------------------------------------------------


class Column(NamedTuple):
    """One column of the result table: the lower its rank, the longer it stays when there is little room."""

    title: str
    unit: str
    rank: int
    numeric: bool
    text: Callable[[Row], str]

    @property
    def heading(self) -> str:
        """Title and unit on one line."""
        return f"{self.title} {self.unit}".strip()


def columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns of a table of these rows, left to right; sizes get the unit that suits the largest."""
    size_unit, size_bytes = _size_unit(row.run_bytes or 0 for row in rows)

    def size(row: Row) -> str:
        return UNKNOWN if row.run_bytes is None else significant(row.run_bytes / size_bytes)

    return (
        Column("variant", "", 0, False, lambda row: form(row.job)),
        Column("runtime", "", 0, False, lambda row: name(row.job.runtime)),
        Column("p50", "ms", 0, True, _p50),
        Column("95 % of p50", "ms", 4, True, _interval),
        Column("p90", "ms", 9, True, lambda row: _ms(row.summary.p90_ns)),
        Column("p99", "ms", 5, True, _p99),
        Column("min", "ms", 16, True, lambda row: _ms(row.summary.min_ns)),
        Column("max", "ms", 17, True, lambda row: _ms(row.summary.max_ns)),
        Column("mean", "ms", 15, True, lambda row: _ms(row.summary.mean_ns)),
        Column("inputs", "per s", 10, True, lambda row: _figure(row.summary.throughput_per_s)),
        Column("speed-up", "×", 1, True, lambda row: _ratio(row.speedup)),
        Column("size", size_unit, 2, True, size),
        Column("smaller", "×", 7, True, lambda row: _ratio(row.size_ratio)),
        Column("memory", "MiB", 3, True, lambda row: _mib(row.summary.memory.peak_bytes)),
        Column("+model", "MiB", 11, True, lambda row: _mib(row.summary.memory.model_bytes)),
        Column("+runtime", "MiB", 13, True, lambda row: _mib(row.summary.memory.runtime_bytes)),
        Column("build", "s", 8, True, _build),
        Column("load", "ms", 8, True, lambda row: _ms(row.summary.load_ns)),
        Column("first", "ms", 12, True, lambda row: _ms(row.summary.first_inference_ns)),
        Column("energy", "mJ", 4, True, lambda row: _figure(row.energy.net_mj if row.energy else None)),
        Column("gross", "mJ", 10, True, lambda row: _figure(row.energy.gross_mj if row.energy else None)),
        Column("heat", "°C", 8, True, lambda row: _whole(row.temperature_max_c)),
        Column("clock", "MHz", 12, True, lambda row: _whole(row.clock_khz and row.clock_khz / 1000)),
        Column(
            "GPU", "%", 14, True, lambda row: _whole(None if row.gpu_load is None else 100 * row.gpu_load)
        ),
        Column("accuracy", "%", 2, True, lambda row: _share(row, "value")),
        Column("95 % of accuracy", "%", 10, True, lambda row: _ends(row, "low", "high")),
        Column("top-5", "%", 11, True, lambda row: _share(row, "top5")),
        Column("score", "", 2, True, lambda row: _score(row, "value")),
        Column("95 % of score", "", 10, True, lambda row: _score_ends(row, "low", "high")),
        Column("drop", "%", 3, True, lambda row: _share(row, "drop")),
        Column("95 % of drop", "%", 6, True, lambda row: _ends(row, "drop_low", "drop_high")),
        Column("score drop", "", 3, True, lambda row: _score(row, "drop")),
        Column("95 % of score drop", "", 6, True, lambda row: _score_ends(row, "drop_low", "drop_high")),
        Column("parity", "dB", 2, True, _parity),
        Column("launches", "", 6, True, _launches),
        Column("samples", "", 14, True, lambda row: str(row.summary.samples)),
        Column("status", "", 0, False, lambda row: row.status),
    )


LEGEND = {
    "variant": "variant→precision: the runtime was asked for another precision than the variant's own",
    "p50, p99": "median over launches of each launch's own quantile; 95 %: t interval over launches",
    "speed-up": "p50 against fp32 of the same model on the same device and runtime; smaller: its size",
    "parity": "signal-to-noise ratio of the device's worst output to the reference; ✗ out of bounds",
    "memory": "peak of the launch's process; +model, +runtime: what loading each of them added",
}
BUILT = "seconds the device took to build the engine, now or when it was kept; size is the engine's"
ROUGH = "fewer samples in a launch than a p99 needs"
ENERGY = (
    "of one inference, above that of the idle board; gross: in all; from the rails that the device line names"
)
HEAT = "while samples were taken: highest temperature of a launch; mean clock of the fastest cores"


def legend(rows: Sequence[Row]) -> dict[str, str]:
    """What the words and marks in these rows mean: word -> meaning."""
    if not rows:
        return {}
    words = dict(LEGEND)
    if not any("→" in form(row.job) for row in rows):
        del words["variant"]
    if any(row.engine is not None for row in rows):
        words["build"] = BUILT
    if any(row.energy for row in rows):
        words["energy"] = ENERGY
    if any(row.accuracy for row in rows):
        words["accuracy"] = _accuracy_meaning(rows)
    if any(row.temperature_max_c or row.clock_khz for row in rows):
        words["heat, clock"] = HEAT
    if any(_p99(row).startswith("~") for row in rows):
        words["~"] = ROUGH
    seen = {row.status for row in rows} - {"ok"}
    words.update((status, text) for status, text in STATUS_MEANINGS.items() if status in seen)
    return words


def _accuracy_meaning(rows: Sequence[Row]) -> str:
    """What the accuracy of these rows is of."""
    known = [row.accuracy for row in rows if row.accuracy]
    metrics = ", ".join(dict.fromkeys(name(each.metric) for each in known))
    samples = ", ".join(f"{each}" for each in dict.fromkeys(each.n for each in known))
    places = ", ".join(dict.fromkeys(f"{name(each.where)} ({each.computed_by})" for each in known))
    against = ", ".join(dict.fromkeys(name(each.against) for each in known if each.against))
    return (
        f"{metrics} on {samples} labelled samples, computed on {places}; drop: how much lower than that of "
        f"{against or 'the reference'} as it was given, on the same samples"
    )


CLAIM_HEADINGS = ("claim", "where", "verdict", "found")


def claim_lines(report: Report) -> list[tuple[str, str, str, str]]:
    """Every verdict on a claim in words: the claim, where, the verdict, what was found."""
    return [
        (
            clean(each.claim, NAME_LIMIT),
            f"{name(each.model)} · {name(each.runtime)} · {name(each.device)}",
            each.verdict,
            clean(each.reason),
        )
        for each in report.claims
    ]


def worst_output(parity: ParityReport) -> OutputParity | None:
    """The output furthest from its reference: a failed one first, then the lowest signal-to-noise ratio."""

    def order(output: OutputParity) -> tuple[bool, float]:
        return output.passed, -math.inf if math.isnan(output.snr_db) else output.snr_db

    return min(parity.outputs, key=order, default=None)


def _of_accuracy(row: Row, field: str, *, top1: bool) -> float | None:
    """A figure of the accuracy; None where the row has none, or it is of the other kind of metric."""
    if row.accuracy is None or (row.accuracy.metric == TOP1) != top1:
        return None
    value: float | None = getattr(row.accuracy, field)
    return value


def _share(row: Row, field: str) -> str:
    value = _of_accuracy(row, field, top1=True)
    return UNKNOWN if value is None else f"{100 * value + 0.0:.2f}"


def _ends(row: Row, low: str, high: str) -> str:
    ends = _share(row, low), _share(row, high)
    return UNKNOWN if UNKNOWN in ends else " to ".join(ends)


def _score(row: Row, field: str) -> str:
    value = _of_accuracy(row, field, top1=False)
    return UNKNOWN if value is None else significant(value)


def _score_ends(row: Row, low: str, high: str) -> str:
    ends = _score(row, low), _score(row, high)
    return UNKNOWN if UNKNOWN in ends else " to ".join(ends)


def _build(row: Row) -> str:
    return UNKNOWN if row.engine is None else _figure(row.engine.build_s)


def _p50(row: Row) -> str:
    return row.status if row.status in ("invalid", "emulated") else _ms(row.summary.p50_ns)


def _interval(row: Row) -> str:
    low, high = row.summary.p50_low_ns, row.summary.p50_high_ns
    return UNKNOWN if low is None or high is None else f"{_ms(low)}–{_ms(high)}"


def _p99(row: Row) -> str:
    rough = row.summary.p99_ns is not None and row.summary.p99_note
    return f"~{_ms(row.summary.p99_ns)}" if rough else _ms(row.summary.p99_ns)


def _parity(row: Row) -> str:
    worst = worst_output(row.device_parity)
    if worst is None:
        return UNKNOWN
    figure = "exact" if worst.max_abs == 0 else _figure(worst.snr_db)
    return figure if row.device_parity.passed else f"✗ {figure}"


def _launches(row: Row) -> str:
    return f"{row.summary.launches}/{max(row.job.workload.launches, _launched(row))}"


def _launched(row: Row) -> int:
    return row.summary.launches + row.summary.launches_unusable


def _ms(value_ns: float | None) -> str:
    return UNKNOWN if value_ns is None else significant(value_ns / NS_PER_MS)


def _mib(value: int | None) -> str:
    return UNKNOWN if value is None else significant(value / 1024**2)


def _ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _figure(value: float | None) -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else significant(value)


def _whole(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"


def _size_unit(sizes: Iterable[int]) -> tuple[str, int]:
    largest = max(sizes, default=0)
    return ("MiB", 1024**2) if largest >= 1024**2 else ("KiB", 1024)
