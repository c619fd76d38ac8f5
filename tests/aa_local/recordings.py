"""What was recorded, as one small file: the figures of launches, and of what machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

RECORDED = Path(__file__).with_name("recorded.json")


class LaunchRow(msgspec.Struct, frozen=True, array_like=True):
    """One separate launch. `counted`: it was not run again for the load of others."""

    pair: int
    is_candidate: bool
    counted: bool
    p10_ns: int
    p50_ns: int
    p90_ns: int
    foreign_load: float | None


class DuetRow(msgspec.Struct, frozen=True, array_like=True):
    """One launch of a duet; the times are the candidate's."""

    shift: float
    p10_ns: int
    p50_ns: int
    p90_ns: int
    foreign_load: float | None


class Comparison(msgspec.Struct, frozen=True):
    """The network beside one that is slower by that share, or beside itself."""

    slower_by: float
    separate: tuple[LaunchRow, ...]
    duets: tuple[DuetRow, ...]
    separate_s: float
    duets_s: float


class Condition(msgspec.Struct, frozen=True):
    """What was recorded under one kind of load."""

    name: str
    load: str
    comparisons: tuple[Comparison, ...]


class Recording(msgspec.Struct, frozen=True):
    """Everything, with the machine in words."""

    recorded: str
    processor: str
    cores: int
    runtime: str
    threads: int
    conditions: tuple[Condition, ...]
    schema: int = 1


def read(path: Path = RECORDED) -> Recording:
    """The recording of a file."""
    return msgspec.json.decode(path.read_bytes(), type=Recording)


def write(recording: Recording, path: Path = RECORDED) -> None:
    """Keep a recording: a line for each launch would be long, so it is one for each comparison."""
    text = msgspec.json.encode(recording).decode()
    path.write_text(text.replace('{"slower_by"', '\n{"slower_by"').replace('{"name"', '\n{"name"') + "\n")
