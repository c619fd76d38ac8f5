"""The page of a large run, groups over a large store, and how soon a page of 2,000 cells can be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edgebench.records import Measurement, replace
from edgebench.report.page import render
from edgebench.store import Store, sqlite_url
from tests import browser
from tests.bench.gates import TIMED, fill
from tests.bench.measure import Figure
from tests.report.fixtures import job, measurement, run, timings
from tests.report.pages import watched
from tests.report.test_page import fleet

DEVICES, MODELS, LAUNCHES, SAMPLES = 50, 20, 10, 200
REPORT_S, REPORT_MIB, GROUP_S, DUCKDB_S, INTERACTIVE_S = 10.0, 500.0, 3.0, 1.0, 1.0
PAIRS = 3
INVENTORY = "version: 1\ndevices:\n  local: {target: linux-x86_64, transport: local}\n"
GROUP = ("report", "--group", "target,runtime", "--metric", "latency.p99")
QUERY = (
    "SELECT target, runtime, median(latency_p99), min(latency_p99), max(latency_p99), count(*) "
    "FROM read_parquet('fleet/measurements/**/*.parquet', hive_partitioning = true) GROUP BY ALL"
)
UNTIL_QUIET = """Math.max(
  performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart,
  ...window.longTasks.map((each) => each[0] + each[1]))"""
ASKED = f"import duckdb; print(duckdb.sql({QUERY!r}).fetchall()[0][-1])"


def reports(group_devices: int = 100) -> Iterator[Figure]:
    """All figures of reports."""
    yield from page_of_a_large_run()
    yield from groups_over_a_large_store(group_devices)
    yield page_is_interactive()


def page_of_a_large_run() -> Iterator[Figure]:
    """Wall seconds and peak memory of `report --html`."""
    with tempfile.TemporaryDirectory(prefix="edgebench-report-") as folder:
        home = Path(folder)
        (home / "inventory.yaml").write_text(INVENTORY)
        _store_run(home)
        wall_s, cpu_s, peak_mib = _timed(home, "report", "--html", "page.html")
        size_kb = (home / "page.html").stat().st_size / 1000
    name = f"report --html over {DEVICES * MODELS:,} measurements of {LAUNCHES} launches"
    yield Figure(f"{name}, wall", wall_s, REPORT_S, "s", f"{cpu_s:.1f} s of processor time; {size_kb:.0f} kB")
    yield Figure(f"{name}, peak memory", peak_mib, REPORT_MIB, "MiB", "one process, from its start")


def _store_run(home: Path) -> None:
    base = [_measured(model) for model in range(MODELS)]
    with Store(sqlite_url(home / "store.sqlite")) as store:
        cells = [
            replace(one, id=f"{device}-{at}", job=replace(one.job, device=f"board-{device:03}"))
            for device in range(DEVICES)
            for at, one in enumerate(base)
        ]
        store.add_run(run([each.job for each in cells]))
        for each in cells:
            store.add_measurement(each)


def _measured(model: int) -> Measurement:
    samples = [timings(1_000_000 * (model + 1), SAMPLES, seed=100 * model + at) for at in range(LAUNCHES)]
    return watched(measurement(job(model=f"model-{model:02}"), samples=samples))


def groups_over_a_large_store(devices: int) -> Iterator[Figure]:
    """Wall seconds of `report --group` from SQLite, and of the same question to DuckDB."""
    with tempfile.TemporaryDirectory(prefix="edgebench-groups-") as folder:
        home = Path(folder)
        (home / "inventory.yaml").write_text(INVENTORY)
        fill(home / "store.sqlite", devices)
        wall_s, cpu_s, peak_mib = min(_timed(home, *GROUP) for _ in range(PAIRS))
        _timed(home, "export", "all", "--parquet", "fleet")
        walls = []
        for _ in range(PAIRS):
            began_s = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", ASKED], cwd=home, capture_output=True, text=True, check=True
            )
            walls.append(time.perf_counter() - began_s)
        cells = int(done.stdout)
    shown = f"least of {PAIRS}; {cpu_s:.1f} s of processor time, {peak_mib:.0f} MiB"
    yield Figure(f"report --group over {cells:,} stored measurements, wall", wall_s, GROUP_S, "s", shown)
    remark = f"least of {PAIRS}; with starting Python"
    yield Figure("the same from Parquet through DuckDB, wall", min(walls), DUCKDB_S, "s", remark)


def page_is_interactive() -> Figure:
    """Seconds from the navigation's start to the end of the last long task of a page of 2,000 cells."""
    with tempfile.TemporaryDirectory(prefix="edgebench-page-") as folder, browser.started() as chromium:
        path = Path(folder) / "page.html"
        path.write_text(render(fleet(100, 20)), encoding="utf-8")
        found = []
        for _ in range(PAIRS):
            tab = chromium.tab()
            tab.open(path.as_uri())
            tab.js("new Promise((done) => setTimeout(done, 1000))")
            found.append(tab.js(UNTIL_QUIET))
        size_kb = path.stat().st_size / 1000
    middle_s = sorted(found)[PAIRS // 2] / 1000
    remark = f"Chromium, end of the last long task, median of {PAIRS}; {size_kb:.0f} kB"
    return Figure("page of 2,000 cells until it can be used", middle_s, INTERACTIVE_S, "s", remark)


def _timed(home: Path, *words: str) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak MiB of one command in a process of its own."""
    environment = {**os.environ, "EDGEBENCH_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", TIMED, *words],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    status, wall_s, cpu_s, peak_kib = done.stderr.splitlines()[-1].split()
    if int(status) != 0:
        raise RuntimeError(done.stderr)
    return float(wall_s), float(cpu_s), int(peak_kib) / 1024


if __name__ == "__main__":
    for each in reports(int(sys.argv[1]) if len(sys.argv) > 1 else 100):
        print(json.dumps(each._asdict()))
