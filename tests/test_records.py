"""Records to and from JSON: exactly, and from many threads at once."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from edgebench.errors import InfrastructureError
from edgebench.records import Conditions, OutputParity, decode_exact, encode_exact

ROOT = Path(__file__).parents[1]

# as eager to switch threads as Python can be, and with types that nobody has decoded before
CROWD = """
import sys, threading
from edgebench.records import Measurement, decode_exact, encode_exact
from tests.store.records import launch, measurement
sys.setswitchinterval(1e-6)
text = encode_exact(measurement(launches=(launch(),)))
start = threading.Barrier(4)
def decode():
    start.wait()
    decode_exact(Measurement, text, source="text")
threads = [threading.Thread(target=decode) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_may_decode_a_type_for_the_first_time_together() -> None:
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", CROWD], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.1, 1e308, 5e-324])
def test_exact_json_keeps_every_float(value: float) -> None:
    record = OutputParity(
        name="y", max_abs=0.0, max_rel=value, cosine=1.0, snr_db=value, reference_range=1.0, passed=True
    )
    assert decode_exact(OutputParity, encode_exact(record), source="it") == record


def test_exact_json_keeps_odd_texts_and_nan() -> None:
    record = Conditions(governor="a\x00b\udcff", temperature_c=math.nan)
    text = encode_exact(record)
    assert text.isascii()
    back = decode_exact(Conditions, text, source="it")
    assert back.governor == record.governor
    assert back.temperature_c is not None
    assert math.isnan(back.temperature_c)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"unknown": 1}', b"\xff", "[" * 100_000, '{"clock_khz": 1}']
)
def test_damaged_json_is_told(text: str | bytes) -> None:
    with pytest.raises(InfrastructureError, match="file x does not hold a valid Conditions"):
        decode_exact(Conditions, text, source="file x")
