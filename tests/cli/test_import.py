"""`edgebench import`: what others measured, stored, reported, gated and exported again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench import importing
from edgebench.exchange import LaunchEntry, MeasurementEntry, entry
from tests.commands import Cli

SMALLEST = {
    "model": "m",
    "variant": "fp32",
    "runtime": "onnxruntime",
    "precision": "fp32",
    "device": "phone",
    "target": "pixel",
    "session": "s1",
}


def write(cli: Cli, *cells: dict[str, Any], name: str = "in.json") -> str:
    (cli.folder / name).write_text(json.dumps({"schema": 1, "measurements": cells}))
    return name


def launches(ms: float, count: int = 5) -> list[dict[str, Any]]:
    def sample(place: int, number: int) -> int:
        return round(1e6 * ms * (1 + 0.001 * place + 1e-5 * number))

    times = [[sample(place, number) for number in range(60)] for place in range(count)]
    return [{"latency_ns": each} for each in times]


def test_the_smallest_file_is_reported_with_what_it_does_not_tell_unknown(fresh_cli: Cli) -> None:
    cli = fresh_cli
    made = cli.json("import", write(cli, {**SMALLEST, "launches": launches(2.0)}))
    assert made["new"] is True
    answer = cli("report", made["run"])
    assert "phone (pixel)" in answer.out
    document = cli.json("report", made["run"])
    (row,) = document["measurements"]
    assert row["status"] == "ok"
    assert row["artifact_bytes"] is None
    assert row["parity"]["device"]["outputs"] == []
    assert row["latency_ms"]["p50"] == pytest.approx(2.0, rel=0.01)
    assert "unknown" not in answer.out.partition("Devices")[0]


def test_the_same_file_makes_one_run(fresh_cli: Cli) -> None:
    file = write(fresh_cli, {**SMALLEST, "launches": launches(2.0)})
    first, second = fresh_cli.json("import", file), fresh_cli.json("import", file)
    assert (first["run"], first["new"], second["new"]) == (second["run"], True, False)


def test_imported_runs_are_gated_compared_released_and_exported(fresh_cli: Cli) -> None:
    cli = fresh_cli
    old = cli.json("import", write(cli, {**SMALLEST, "launches": launches(2.0)}, name="a.json"))["run"]
    new = cli.json("import", write(cli, {**SMALLEST, "launches": launches(2.4)}, name="b.json"))["run"]
    (cli.folder / "budgets.yaml").write_text(
        "version: 1\nbudgets: [{name: a, limits: {latency.p50: {regress: 5%, max: 3 ms}}}]"
    )
    from_store = cli.json("gate", new, "--baseline", old, code=1)
    from_files = cli.json("gate", "b.json", "--baseline", "a.json", code=1)
    assert from_store["cells"] == from_files["cells"]
    assert cli.json("compare", old, new)["cells"] == cli.json("compare", "a.json", "b.json")["cells"]
    assert cli.json("release", "create", "v1", "--from", old)["run"] == old
    cli("export", new, "-o", "again.json")
    again = json.loads((cli.folder / "again.json").read_text())
    assert again["measurements"] == json.loads((cli.folder / "b.json").read_text())["measurements"]


def test_failed_cells_are_failures(fresh_cli: Cli) -> None:
    cli = fresh_cli
    good = {**SMALLEST, "launches": launches(2.0)}
    bad = {**SMALLEST, "model": "other", "launches": [], "failure": "the app crashed"}
    run = cli.json("import", write(cli, good, bad))["run"]
    document = cli.json("report", run)
    assert [each["message"] for each in document["failures"]] == ["the app crashed"]
    assert document["counts"]["planned"] == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "in.json"),
        ('{"schema": 1, "measurements": []}', "holds no measurements"),
        ('{"schema": 2, "measurements": []}', "schema 2"),
        ('{"schema": 1, "measurements": [{', "in.json"),
        ('{"schema": 1, "measurements": [{"model": "m", "latency": NaN}]}', "in.json"),
    ],
)
def test_what_is_no_file_of_measurements(cli: Cli, text: str, told: str) -> None:
    (cli.folder / "in.json").write_text(text)
    assert told in cli.fails(2, "user", "import", "in.json")


def test_a_file_that_is_not_there(cli: Cli) -> None:
    assert "none.json" in cli.fails(2, "user", "import", "none.json")


TIMES = st.lists(st.integers(1, 10**12), max_size=5).map(tuple)
NUMBERS = st.none() | st.integers(0, 10**9)


@st.composite
def entries(draw: st.DrawFn) -> MeasurementEntry:
    names = {name: draw(st.sampled_from(["a", "b"])) for name in ("model", "variant", "device", "session")}
    made = []
    for pair in range(draw(st.integers(0, 3))):
        times = draw(TIMES)
        made.append(
            LaunchEntry(
                latency_ns=times,
                valid=draw(st.booleans()),
                invalid_reason=draw(st.sampled_from(["", "hot"])),
                load_ns=draw(NUMBERS),
                peak_bytes=draw(NUMBERS),
                energy_mj=draw(st.none() | st.floats(0, 1e6)),
                foreign_load=draw(st.none() | st.floats(0, 64)),
                started_utc=draw(st.sampled_from(["", "2026-11-26T00:00:00Z"])),
                pair=draw(st.none() | st.just(pair)),
                baseline_ns=tuple(reversed(times)) if draw(st.booleans()) else (),
            )
        )
    return MeasurementEntry(
        **names,
        runtime="ncnn",
        precision="fp32",
        target="t",
        launches=tuple(made),
        groups=draw(st.sampled_from([(), ("lab",)])),
        batch=draw(st.integers(1, 64)),
        looks=draw(st.sampled_from([(), (5, 10, 20)])),
        status=draw(st.sampled_from(["ok", "invalid", "partial"])),
        artifact_digest=draw(st.sampled_from(["", "ab"])),
        artifact_bytes=draw(NUMBERS),
        inputs=draw(st.sampled_from(["", "x float32 1x3"])),
        parity_snr_db=draw(st.none() | st.floats(-10, 200)),
        accuracy=draw(st.none() | st.floats(0, 1)),
        environment=draw(st.dictionaries(st.sampled_from(["board", "kernel", "soc"]), st.just("x"))),
        role=draw(st.sampled_from(["candidate", "baseline", "duet"])),
        alpha=draw(st.sampled_from([0.05, 0.025])),
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(entries(), max_size=6))
def test_what_is_imported_is_exported_again(cells: list[MeasurementEntry]) -> None:
    stored = importing.imported(cells, "run")
    assert [entry(each) for each in stored] == cells
    keys = [(each.job, each.role) for each in stored]
    assert len(set(keys)) == len(keys)  # none takes the place of another
