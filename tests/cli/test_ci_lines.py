"""What docs/ci.md gives to CI systems works as it is written there: script lines, action, fixture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands import DIGITS, MAIN, Cli

DOCS = Path(__file__).parents[2] / "docs"
GOOD = "version: 1\nbudgets: [{name: a, limits: {latency.p50: {max: 10 s}, artifact_size: {max: 1 MiB}}}]\n"
FLAGS = "--to onnxruntime --launches 5 --min-samples 20 --threads 1"


def _script() -> str:
    """The script lines of the page."""
    _, _, rest = (DOCS / "ci.md").read_text().partition("```sh\n")
    return rest.partition("```")[0]


def _run(cli: Cli, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The lines in a shell that finds `edgebench` as an installed one."""
    tools = cli.folder / "bin"
    tools.mkdir(exist_ok=True)
    program = tools / "edgebench"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{MAIN}' \"$@\"\n")
    program.chmod(0o755)
    known = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(DOCS.parent)}
    given = {"MODELS": DIGITS, "ARGUMENTS": FLAGS, "BASELINE": "", "BUDGETS": "budgets.yaml", **environment}
    return subprocess.run(
        ["sh", "-c", script],
        cwd=cli.folder,
        env={**known, **given},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_lines_of_the_page_are_those_of_the_action() -> None:
    action = yaml.safe_load((DOCS / "action.yml").read_text())
    (step,) = action["runs"]["steps"]
    lines = [line for line in _script().splitlines() if not line.startswith("#")]
    assert step["run"].splitlines() == lines
    assert set(step["env"]) == {name.upper() for name in action["inputs"]}


def test_the_lines_run_judge_and_tell(cli: Cli) -> None:
    (cli.folder / "budgets.yaml").write_text(GOOD)
    summary = cli.folder / "step-summary.md"
    done = _run(cli, _script(), GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stderr
    assert "edgebench gate: pass" in summary.read_text()
    out = cli.folder / "edgebench-out"
    assert json.loads((out / "gate.json").read_text())["verdict"] == "pass"
    assert {path.name for path in out.iterdir()} >= {
        *("junit.xml", "metrics.txt", "measurements.json", "gate.zip"),
    }


def test_a_limit_that_is_exceeded_fails_the_job(cli: Cli) -> None:
    (cli.folder / "budgets.yaml").write_text(GOOD.replace("1 MiB", "1 KiB"))
    done = _run(cli, _script())
    assert done.returncode == 1
    assert "::error title=fail%3A artifact_size" in done.stdout


def test_a_run_that_cannot_begin_ends_the_job_with_its_own_code_and_message(cli: Cli) -> None:
    (cli.folder / "budgets.yaml").write_text(GOOD)
    done = _run(cli, f"set -e\n{_script()}", ARGUMENTS="--to nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(("limit", "status", "said"), [("10 s", 0, "1 passed"), ("1 ns", 1, "1 failed")])
def test_the_fixture_of_pytest(cli: Cli, limit: str, status: int, said: str) -> None:
    launches = [{"latency_ns": [1000 + n for n in range(40)]}] * 5
    names = dict.fromkeys(("model", "variant", "runtime", "precision", "device", "target", "session"), "x")
    file = {"schema": 1, "measurements": [{**names, "launches": launches}]}
    (cli.folder / "m.json").write_text(json.dumps(file))
    (cli.folder / "b.yaml").write_text(
        f"version: 1\nbudgets: [{{name: a, limits: {{latency.p50: {{max: {limit}}}}}}}]\n"
    )
    (cli.folder / "test_one.py").write_text(
        "def test_it(edgebench_budget):\n    edgebench_budget('m.json', budgets='b.yaml')\n"
    )
    known = {**os.environ, "PYTHONPATH": str(DOCS.parent)}
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_one.py",
    ]
    done = subprocess.run(argv, cwd=cli.folder, env=known, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout) == (status, True), done.stdout
