"""A device -> findings: whether it is ready to be measured, and what to type where it is not.

Facts, conditions and the check-up are read without a lease. Then the lease is taken, where nobody has it:
that clears up after dead sessions, undoes their preparations, and lets runtimes be pushed and imported there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from edgebench.device.answers import Checkup
from edgebench.device.bundle import WHEELS, resolve
from edgebench.device.session import Lease, Session, open_session
from edgebench.errors import DeviceBusy, EdgebenchError
from edgebench.records import Conditions, Device, Facts, Target
from edgebench.targets import mismatches
from edgebench.units import format_bytes, format_duration

Level = Literal["ok", "warn", "wrong"]
LEVELS: tuple[Level, ...] = ("ok", "warn", "wrong")
Tell = Callable[[str], None]

NEAR_C = 10.0
LEAST_MEMORY_BYTES = 256 << 20
LEAST_MEMORY_SHARE = 0.1
NO_ROOM_BYTES, LITTLE_ROOM_BYTES = (
    64 << 20,
    1 << 30,
)  # a probe with inputs; the largest runtime, unpacked, twice
CLOCK_OFF_S = 60.0
BUSY_CORES = 0.1
BUSY_LOAD = 0.5
LEASE_S = 1800.0
SETTLED = "performance"
POWER = "a stronger power supply and a short cable; a reboot clears what is kept since boot"
ASK = "let the inventory ask for it"


class Finding(NamedTuple):
    """One thing the doctor looked at. `check` names it for programs; `next` is what to type or do."""

    check: str
    level: Level
    what: str
    next: str = ""


class Look(NamedTuple):
    """What was read of a device before it is judged. `skew_s`: its clock less the controller's."""

    device: Device
    target: Target
    facts: Facts
    now: Conditions
    checkup: Checkup
    skew_s: float


def examine(
    device: Device,
    target: Target,
    home: Path,
    *,
    tell: Tell = lambda _stage: None,
    opened: Callable[[Session], None] = lambda _session: None,
) -> list[Finding]:
    """Everything there is to say about one device, the worst last; what breaks on the way is a finding too.

    `tell` hears what is done, `opened` gets the session, so that somebody can abort it.
    """
    if device.quarantine:
        why = f"in quarantine: {device.quarantine}"
        return [Finding("quarantine", "warn", why, "remove quarantine from the inventory once it is well")]
    tell("connect")
    try:
        session = open_session(device, home=home)
    except EdgebenchError as error:
        return [Finding("reach", "wrong", error.message, error.hint)]
    findings: list[Finding] = []
    with session:
        opened(session)
        try:
            findings.extend(_examined(session, target, home, tell))
        except EdgebenchError as error:  # the connection broke, or the probe: what was found until then stays
            findings.append(Finding("session", "wrong", error.message, error.hint))
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def _examined(session: Session, target: Target, home: Path, tell: Tell) -> Iterator[Finding]:
    tell("look")
    look = _look(session, target)
    judged = list(judge(look))
    yield from judged
    fits = not any((finding.check, finding.level) == ("target", "wrong") for finding in judged)
    busy = _busy(session)
    if busy is None:
        yield from _cleared(session, look)
    else:
        yield busy
    for runtime in target.runtimes:
        tell(f"runtime {runtime}")
        yield from _runtime(runtime, session, look, home, may_push=busy is None and fits)


def _look(session: Session, target: Target) -> Look:
    facts, now = session.facts(), session.conditions()
    began_s = time.time()
    checkup = session.checkup(session.device.prepare)
    skew_s = checkup.unix_s - began_s
    late_s = time.time() - began_s  # the device answered at some time in between
    skew_s = 0.0 if 0 <= skew_s <= late_s else skew_s
    return Look(session.device, target, facts, now, checkup, skew_s)


# --- what needs the lease ------------------------------------------------------------------------


def _busy(session: Session) -> Finding | None:
    """None once the lease is ours."""
    try:
        session.lease(Lease(run="doctor", purpose="edgebench devices doctor", seconds=LEASE_S))
    except DeviceBusy as error:
        return Finding(
            "lease", "warn", error.message, "wait for it: run ... --wait 30min; imports were not tried"
        )
    return None


def _cleared(session: Session, look: Look) -> Iterator[Finding]:
    if look.checkup.leftovers:
        count = len(look.checkup.leftovers)
        what = f"{count} folder{'s' if count > 1 else ''} of sessions that died: removed now"
        yield Finding("leftovers", "ok", what)
    for note in session.notes:
        failed = "could not be" in note
        next_step = (
            "set it by hand there, and look at sudo's rights; the next lease tries again" if failed else ""
        )
        yield Finding("restore", "wrong" if failed else "ok", note, next_step)


def _runtime(runtime: str, session: Session, look: Look, home: Path, *, may_push: bool) -> Iterator[Finding]:
    """Whether a runtime of the target can be had there, and imported."""
    check = f"runtime {runtime}"
    if runtime == "tensorrt":
        yield _tensorrt(session, look.target)
        return
    if runtime not in WHEELS:
        return  # converted for the device, not measured on it
    local = session.device.transport == "local"
    try:
        bundle = None if local else resolve(runtime, look.facts, home)
        wheels = () if bundle is None else bundle.wheels
        if not may_push:
            yield Finding(
                check, "ok", f"{runtime}: {', '.join(_name(wheel.path) for wheel in wheels)} would fit"
            )
            return
        version = session.versions(runtime, session.install_runtime(runtime, look.facts)).get(runtime)
        yield Finding(check, "ok", f"{runtime} {version} is imported there")
    except EdgebenchError as error:
        level: Level = "warn" if local else "wrong"  # here it is the user's choice what is installed
        yield Finding(check, level, f"{runtime}: {error.message}", error.hint)


def _name(wheel: str) -> str:
    return " ".join(wheel.split("-")[:2])


def _tensorrt(session: Session, target: Target) -> Finding:
    """What the device's own trtexec says of its version: is it the one that the target is for?"""
    check = "runtime tensorrt"
    try:
        found = session.versions("tensorrt", None).get("tensorrt", "of an unknown version")
    except EdgebenchError as error:
        return Finding(check, "wrong", f"tensorrt: {error.message}", error.hint)
    wanted = target.runtimes["tensorrt"].options.get("tensorrt_version")
    if wanted is None or str(wanted) == found:
        return Finding(check, "ok", f"tensorrt {found} is there")
    hint = f'give the device a copy of the target file with tensorrt_version: "{found}"'
    return Finding(check, "wrong", f"tensorrt {found}, and target {target.name} is for {wanted}", hint)


# --- what is judged without touching the device -------------------------------------------------


def judge(look: Look) -> Iterator[Finding]:
    """The findings about a device as it was read."""
    for rule in (_board, _emulated, _target, _power_mode, _clocks, _governor, _throttle, _temperature):
        yield from rule(look)
    for rule in (_memory, _swap, _load, _disk, _clock, _preparation):
        yield from rule(look)


def _board(look: Look) -> Iterator[Finding]:
    facts = look.facts
    told = facts.board or facts.cpu or "unknown board"
    yield Finding("reach", "ok", f"{told}, {facts.os_release or facts.os}, Python {facts.python}")


def _emulated(look: Look) -> Iterator[Finding]:
    if look.facts.emulated:
        what = "emulated: outputs can be compared, its times and memory are no board's"
        yield Finding("emulated", "warn", what, "measure on the board itself")


def _target(look: Look) -> Iterator[Finding]:
    asked = look.device.prepare.power_mode if look.device.prepare else None
    for sentence in mismatches(look.target, look.facts):
        if asked is not None and asked == look.target.expects.power_mode and "power mode" in sentence:
            continue  # each lease sets it
        what, _, step = sentence.rpartition(": ")
        yield Finding("target", "wrong", what or sentence, step)


def _power_mode(look: Look) -> Iterator[Finding]:
    mode = look.facts.power_mode
    asked = look.device.prepare.power_mode if look.device.prepare else None
    if asked is not None:
        yield Finding("power mode", "ok", f"power mode {mode or 'unknown'}; each lease sets {asked}")
    elif mode is not None and look.facts.power_mode_pending:
        what = f"power mode {mode} is saved, cores and clocks are still those of another"
        yield Finding("power mode", "warn", what, "sudo reboot there: it waits for that")
    elif mode is not None:
        yield Finding("power mode", "ok", f"power mode {mode}")


def _clocks(look: Look) -> Iterator[Finding]:
    locked = look.now.clocks_locked
    if look.device.prepare is not None and look.device.prepare.clocks:
        yield Finding("clocks", "ok", f"clocks {_said(locked)}; each lease locks them")
    elif locked:
        yield Finding("clocks", "ok", "clocks are locked")
    elif locked is False and (look.facts.soc or "").startswith("tegra"):
        hint = f"sudo jetson_clocks, or {ASK}: prepare: {{clocks: locked}}"
        yield Finding("clocks", "warn", "clocks are not locked: figures will vary", hint)


def _said(locked: bool | None) -> str:
    return {True: "locked", False: "not locked", None: "unknown"}[locked]


def _governor(look: Look) -> Iterator[Finding]:
    governor = look.now.governor
    asked = look.device.prepare.governor if look.device.prepare else None
    if asked is not None:
        yield Finding("governor", "ok", f"governor {governor or 'unknown'}; each lease sets {asked}")
    elif governor == SETTLED or (governor is not None and look.now.clocks_locked):
        yield Finding("governor", "ok", f"governor {governor}")
    elif governor is not None:
        hint = (
            "echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor, "
            f"or {ASK}: prepare: {{governor: performance}}"
        )
        yield Finding("governor", "warn", f"governor is {governor}: clocks will move", hint)


def _throttle(look: Look) -> Iterator[Finding]:
    flags, live, kept = look.now.throttle_flags, look.now.throttle_now, look.now.throttle_since_boot
    if look.now.throttled:
        what = f"throttled now: {', '.join(live) or flags or 'the board says so'}"
        yield Finding(
            "throttle", "wrong", what, f"cool it; {POWER}" if live else "let it cool, check its power"
        )
    elif look.now.throttled is False:
        yield Finding("throttle", "ok", "not throttled now")
    if kept:
        yield Finding("throttle", "warn", f"since boot: {', '.join(kept)}", POWER)
    counted = {**look.now.over_current, **_alarms(flags or "")}
    events = [f"{name} {count}" for name, count in counted.items() if count]
    if events:
        hint = "a lower power mode, or a stronger power supply; only new events spoil a launch"
        yield Finding("throttle", "warn", f"over-current events since boot: {', '.join(events)}", hint)


def _alarms(flags: str) -> dict[str, int]:
    """What a Jetson Nano counts in its kernel's log alone."""
    return {name: int(count) for name, count in re.findall(r"\b(oc\w+)=(\d{1,18})\b", flags)}


def _temperature(look: Look) -> Iterator[Finding]:
    now_c, limit_c = look.now.temperature_c, look.target.limits.max_temperature_c
    if now_c is None:
        return
    if limit_c is None:
        yield Finding("temperature", "ok", f"{now_c:.0f} °C")
    elif now_c > limit_c:
        what = f"{now_c:.0f} °C, over the target's limit of {limit_c:.0f} °C"
        yield Finding("temperature", "wrong", what, "let it cool down, or give it a fan")
    else:
        near = now_c > limit_c - NEAR_C
        hint = "let it cool down before long runs, or give it a fan" if near else ""
        what = f"{now_c:.0f} °C, limit {limit_c:.0f} °C"
        yield Finding("temperature", "warn" if near else "ok", what, hint)


def _memory(look: Look) -> Iterator[Finding]:
    free, total = look.now.memory_available_bytes, look.facts.memory_bytes
    if free is None:
        return
    least = max(LEAST_MEMORY_BYTES, int(LEAST_MEMORY_SHARE * (total or 0)))
    what = f"{format_bytes(free)} of memory are free"
    if free < least:
        yield Finding("memory", "warn", what, "end what uses it: ps aux --sort=-rss | head")
    else:
        yield Finding("memory", "ok", what)


def _swap(look: Look) -> Iterator[Finding]:
    used = look.now.swap_used_bytes
    if used:
        hint = "sudo swapoff -a && sudo swapon -a, once memory is free"
        what = f"{format_bytes(used)} of swap are in use: launches that read from it are invalid"
        yield Finding("swap", "warn", what, hint)


def _load(look: Look) -> Iterator[Finding]:
    busiest = look.checkup.busiest
    cores = sum(each.cores for each in busiest)
    if cores >= BUSY_CORES:
        who = ", ".join(f"{each.name} (pid {each.pid}) {each.cores:.2g}" for each in busiest)
        hint = f"stop it, or measure at another time: ps -fp {','.join(str(each.pid) for each in busiest)}"
        yield Finding("load", "warn", f"others keep {cores:.2g} cores busy: {who}", hint)
    elif look.now.load_1m is not None and look.now.load_1m > BUSY_LOAD:
        what = f"load is {look.now.load_1m:.1f}, by nobody that is busy now"
        yield Finding("load", "warn", what, "wait a minute and ask again, or look there with top")
    else:
        yield Finding("load", "ok", "nothing else is busy there")


def _disk(look: Look) -> Iterator[Finding]:
    free, used = look.checkup.free_bytes, look.checkup.used_bytes
    quota = look.device.work_quota_bytes
    most = f" (at most {format_bytes(quota)})" if quota else ""
    ours = f"edgebench uses {format_bytes(used)}{most} in {look.device.work_dir}"
    what = f"{format_bytes(free)} of disk are free, {ours}"
    hint = f"free some, or: edgebench devices clean {look.device.name}"
    level: Level = "wrong" if free < NO_ROOM_BYTES else "warn" if free < LITTLE_ROOM_BYTES else "ok"
    yield Finding("disk", level, what, "" if level == "ok" else hint)


def _clock(look: Look) -> Iterator[Finding]:
    if abs(look.skew_s) > CLOCK_OFF_S:
        how = "ahead" if look.skew_s > 0 else "behind"
        off = f"its clock is {format_duration(abs(look.skew_s))} {how}"
        hint = "sudo timedatectl set-ntp true, or set it: sudo date -s @SECONDS"
        yield Finding("clock", "warn", f"{off}: latencies are right, dates of launches are not", hint)


def _preparation(look: Look) -> Iterator[Finding]:
    if look.device.prepare is None:
        return
    if look.checkup.prepare_problem:
        hint = "correct prepare in the inventory, or install what is missing there"
        yield Finding("preparation", "wrong", look.checkup.prepare_problem, hint)
    elif look.checkup.sudoers:
        what = "the inventory asks for a preparation that this login may not make"
        hint = f"grant it there (sudo visudo -f /etc/sudoers.d/edgebench): {look.checkup.sudoers}"
        yield Finding("preparation", "wrong", what, hint)
    else:
        yield Finding("preparation", "ok", "it can be prepared as the inventory asks")
