"""Units are parsed and printed here and nowhere else: ns, ms, bytes, percent.

Inside edgebench the unit stands in the name (`p50_ns`, `peak_bytes`, `cooldown_s`).
"""

from __future__ import annotations

import math
import re

from edgebench.errors import UserError

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

_TIME_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": NS_PER_MS, "s": NS_PER_S, "min": 60 * NS_PER_S}
_BYTES = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
TIME_UNITS, BYTE_UNITS = tuple(_TIME_NS), tuple(_BYTES)
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ%]+)\s*")


def parse_time_ns(text: str) -> int:
    """Nanoseconds of a text such as "12 ms" or "1.5 s"; a number without a unit is a UserError."""
    return round(_parse(text, _TIME_NS, "a time"))


def parse_bytes(text: str) -> int:
    """Bytes of a text such as "60 MiB" or "900 kB"; a number without a unit is a UserError."""
    return round(_parse(text, _BYTES, "a size"))


def parse_percent(text: str) -> float:
    """The ratio of a text such as "3 %": 0.03."""
    return _parse(text, {"%": 0.01}, "a percentage")


def _parse(text: str, factors: dict[str, float] | dict[str, int], what: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in factors:
        raise UserError(f'"{text}" is not {what}', hint=f"a number and a unit, one of: {', '.join(factors)}")
    value = float(match[1]) * factors[match[2]]
    if not math.isfinite(value):
        raise UserError(f'"{text[:20]}..." is larger than any number', hint="remove some digits")
    return value


def format_ms(value_ns: float | None) -> str:
    """Milliseconds with three significant digits: "12.3 ms", "0.0123 ms"; unknown is "-"."""
    if value_ns is None:
        return "-"
    return f"{significant(value_ns / NS_PER_MS)} ms"


def format_bytes(value: float | None) -> str:
    """Binary units with three significant digits: "11.8 MiB"; unknown is "-"."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "KiB", "MiB"):
        if abs(amount) < 1024:
            return f"{significant(amount)} {unit}"
        amount /= 1024
    return f"{significant(amount)} GiB"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: "8 s", "3 min 20 s", "2 h 5 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def significant(value: float, digits: int = 3) -> str:
    """A plain decimal with so many significant digits, never in exponent form: 0.0123, 12.3, 1230."""
    if value == 0:
        return "0"
    text = f"{value:#.{digits}g}"  # with its trailing zeros; 123 has a point at its end
    if "e" not in text:
        return text.removesuffix(".")
    exponent = int(text.partition("e")[2])
    return f"{float(text):.{max(0, digits - 1 - exponent)}f}"
